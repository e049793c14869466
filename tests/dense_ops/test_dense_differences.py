"""Central, cross and pixel differences, against their definitions pixel by pixel."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from dense_checks import F64, assert_equal, assert_folds, counted_macs, draw, gradcheck
from torch import Tensor

from sparseconv.dense_ops import (
    CentralDifferenceConv2d,
    CrossCentralDifferenceConv2d,
    PixelDifferenceConv2d,
    central_difference_conv2d,
    conv2d,
    cross_central_difference_conv2d,
    pixel_difference_conv2d,
)

CROSSES = {"hv": [(-1, 0), (0, -1), (0, 0), (0, 1), (1, 0)], "dg": [(-1, -1), (-1, 1), (0, 0), (1, -1), (1, 1)]}
KINDS = ["CPDC", "APDC", "RPDC"]


def shifted(x: Tensor, dy: int, dx: int, stride: int = 1) -> Tensor:
    """``x[.., s oy + dy, s ox + dx]``, zeros outside."""
    height, width = x.shape[2:]
    padded = F.pad(x, (8, 8, 8, 8))
    return padded[:, :, 8 + dy : 8 + dy + height : stride, 8 + dx : 8 + dx + width : stride]


def per_tap(x: Tensor, weight: Tensor) -> Tensor:
    return torch.einsum("oc,nchw->nohw", weight, x)


def constant_in_the_interior(layer, margin: int) -> Tensor:
    out = layer(torch.full((1, 2, 12, 12), 3.0, dtype=F64))
    return out[:, :, margin:-margin, margin:-margin]


@pytest.mark.parametrize("theta", [0.0, 0.7, 1.0])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2), (3, 2)])
def test_central_difference_is_its_definition(theta, stride, dilation) -> None:
    x, weight = draw(2, 3, 9, 10), draw(4, 3, 3, 3)
    centre = shifted(x, 0, 0, stride)
    expected = -theta * per_tap(centre, weight.sum((2, 3)))
    for u in range(3):
        for v in range(3):
            neighbour = shifted(x, (u - 1) * dilation, (v - 1) * dilation, stride)
            expected = expected + per_tap(neighbour, weight[:, :, u, v])
    ours = central_difference_conv2d(x, weight, None, stride, dilation, dilation, theta=theta)
    assert_equal(ours, expected)
    if theta == 0:
        assert_equal(ours, F.conv2d(x, weight, None, stride, dilation, dilation))


@pytest.mark.parametrize(
    "arguments", [{"groups": 2}, {"stride": 2, "bias": True}, {"kernel_size": 5, "padding": 2}]
)
def test_central_difference_folds(arguments) -> None:
    assert_folds(CentralDifferenceConv2d(4, 6, **arguments).double(), draw(2, 4, 9, 8))


def test_central_difference_of_a_constant() -> None:
    layer = CentralDifferenceConv2d(2, 3, theta=1.0).double()
    assert constant_in_the_interior(layer, 1).abs().max() < 1e-12
    # Zeros in the padding are values; copies are not a difference.
    assert layer(torch.ones(1, 2, 5, 5, dtype=F64))[0, :, 0, 0].abs().max() > 1e-3
    for mode in ("reflect", "replicate"):
        whole = CentralDifferenceConv2d(2, 3, theta=1.0, padding_mode=mode).double()
        assert whole(torch.ones(1, 2, 5, 5, dtype=F64)).abs().max() < 1e-12


@pytest.mark.parametrize("direction", ["hv", "dg"])
@pytest.mark.parametrize("theta", [0.0, 0.8])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 2)])
def test_cross_difference_is_its_definition(direction, theta, stride, dilation) -> None:
    x, weight = draw(2, 3, 9, 10), draw(4, 3, 1, 5)
    expected = -theta * per_tap(shifted(x, 0, 0, stride), weight.sum((2, 3)))
    for tap, (dy, dx) in enumerate(CROSSES[direction]):
        expected = expected + per_tap(shifted(x, dy * dilation, dx * dilation, stride), weight[:, :, 0, tap])
    ours = cross_central_difference_conv2d(
        x, weight, None, stride, dilation, dilation, theta=theta, direction=direction
    )
    assert_equal(ours, expected)


@pytest.mark.parametrize("direction", ["hv", "dg"])
def test_cross_difference_folds_and_costs_five_taps(direction, monkeypatch) -> None:
    layer = CrossCentralDifferenceConv2d(4, 6, groups=2, bias=True, direction=direction).double()
    assert_folds(layer, draw(2, 4, 7, 8))
    assert layer.flops((4, 7, 8)) == (56 * 5 * 2 * 6, 5 * 2 * 6 + 6)
    bare = CrossCentralDifferenceConv2d(4, 6, padding=0, direction=direction)
    with counted_macs(monkeypatch) as calls:
        bare(torch.zeros(1, 4, 7, 8))
    assert bare.flops((4, 7, 8)).macs == sum(calls) == 30 * 5 * 24


def test_both_crosses_span_the_plain_convolution() -> None:
    x, hv, dg = draw(1, 2, 6, 6), draw(3, 2, 1, 5), draw(3, 2, 1, 5)
    plain = torch.zeros(3, 2, 9, dtype=F64)
    plain[:, :, [1, 3, 4, 5, 7]] += hv[:, :, 0]
    plain[:, :, [0, 2, 4, 6, 8]] += dg[:, :, 0]
    both = sum(
        cross_central_difference_conv2d(x, w, None, 1, 1, theta=0.0, direction=d)
        for w, d in ((hv, "hv"), (dg, "dg"))
    )
    assert_equal(both, conv2d(x, plain.unflatten(2, (3, 3)), padding=1))


@pytest.mark.parametrize("theta", [1.0, 0.6, 0.0])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (1, 2), (2, 1)])
@pytest.mark.parametrize("kind", KINDS)
def test_pixel_difference_is_its_definition(kind, theta, stride, dilation) -> None:
    x, weight = draw(2, 3, 11, 10), draw(4, 3, 3, 3)
    w = weight.flatten(2)
    at = {(dy, dx): shifted(x, dy * dilation, dx * dilation, stride) for dy in range(-2, 3) for dx in range(-2, 3)}
    expected = torch.zeros(())
    if kind == "RPDC":
        # Each weight but the first takes the pixel two steps out minus the one a step out, in its own direction.
        directions = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]
        for tap, (dy, dx) in enumerate(directions, start=1):
            expected = expected + per_tap(at[2 * dy, 2 * dx] - theta * at[dy, dx], w[:, :, tap])
        expected = expected + (1 - theta) * per_tap(at[0, 0], w[:, :, 0])
    else:
        clockwise = [(-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1)]
        after = dict(zip(clockwise, clockwise[1:] + clockwise[:1], strict=True))
        for tap in range(9):
            place = (tap // 3 - 1, tap % 3 - 1)
            second = at[0, 0] if kind == "CPDC" else at[after.get(place, (0, 0))]
            expected = expected + per_tap(at[place] - theta * second, w[:, :, tap])
    ours = pixel_difference_conv2d(x, weight, None, stride, dilation, dilation, kind=kind, theta=theta)
    assert_equal(ours, expected)


@pytest.mark.parametrize("kind", [*KINDS, "cd", "ad", "rd"])
@pytest.mark.parametrize(
    "arguments", [{}, {"groups": 2, "dilation": 2, "bias": True}, {"theta": 0.5, "stride": 2}]
)
def test_pixel_difference_folds(kind, arguments) -> None:
    layer = PixelDifferenceConv2d(4, 6, kind=kind, **arguments).double()
    assert_folds(layer, draw(2, 4, 9, 8))
    if "stride" not in arguments:
        assert layer(draw(1, 4, 9, 8)).shape == (1, 6, 9, 8)


@pytest.mark.parametrize("kind", KINDS)
def test_pixel_difference_of_a_constant_is_zero(kind) -> None:
    layer = PixelDifferenceConv2d(2, 3, kind=kind).double()
    assert constant_in_the_interior(layer, 2).abs().max() < 1e-12
    assert layer.to_conv2d().weight.sum((2, 3)).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("kind", "theta", "taps"), [("cd", 1, 9), ("ad", 1, 8), ("ad", 0.5, 9), ("rd", 1, 16), ("rd", 0.5, 17)]
)
def test_pixel_difference_costs_the_taps_that_it_runs(kind, theta, taps, monkeypatch) -> None:
    layer = PixelDifferenceConv2d(4, 6, padding=0, kind=kind, theta=theta)
    assert layer.flops((2, 4, 9, 8)) == (2 * 7 * 6 * taps * 24, 9 * 24)
    # RPDC pads its fifth row and column by itself; run it on the padded image.
    bare = PixelDifferenceConv2d(4, 6, padding=0, kind=kind, theta=theta)
    if kind == "rd":
        monkeypatch.setattr(bare, "padding", (0, 0))
    with counted_macs(monkeypatch) as calls:
        bare(torch.zeros(2, 4, 9, 8))
    assert sum(calls) <= layer.flops((2, 4, 9, 8)).macs
    assert (sum(calls) == layer.flops((2, 4, 9, 8)).macs) == (kind != "rd")


def test_derivatives() -> None:
    x = draw(1, 2, 4, 3)
    gradcheck(
        lambda *t: central_difference_conv2d(*t, 1, 1, padding_mode="replicate"), x, draw(2, 2, 3, 3), draw(2)
    )
    for direction in CROSSES:
        gradcheck(
            lambda *t, d=direction: cross_central_difference_conv2d(*t, 2, 1, direction=d),
            x,
            draw(2, 2, 1, 5),
            draw(2),
        )
    for kind in KINDS:
        gradcheck(lambda *t, k=kind: pixel_difference_conv2d(*t, 1, 1, kind=k), x, draw(2, 2, 3, 3), draw(2))


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="must be odd"):
        CentralDifferenceConv2d(1, 1, 4)
    with pytest.raises(ValueError, match="direction must be 'hv'"):
        CrossCentralDifferenceConv2d(1, 1, direction="vh")
    with pytest.raises(ValueError, match="kernel_size must be 3, got 5"):
        CrossCentralDifferenceConv2d(1, 1, 5)
    with pytest.raises(ValueError, match="'CPDC', 'APDC' or 'RPDC'"):
        PixelDifferenceConv2d(1, 1, kind="LPDC")
    with pytest.raises(ValueError, match=r"\[O, C / groups, 1, 5\]"):
        cross_central_difference_conv2d(draw(1, 1, 4, 4), draw(1, 1, 3, 3))
    with pytest.raises(ValueError, match="3, 3"):
        pixel_difference_conv2d(draw(1, 1, 4, 4), draw(1, 1, 5, 5))
