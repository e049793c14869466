"""Octave convolution, against its four convolutions in torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from dense_checks import F64, assert_equal, counted_macs, draw, gradcheck
from torch import nn

from sparseconv import SparseOctaveConv2d
from sparseconv.dense_ops import OctaveConv2d, octave_conv2d
from sparseconv.dense_ops.octave import average_cells, repeat_cells


def reference(layer: OctaveConv2d, high, low):
    """The paper's equations with torch's pooling, upsampling and convolution."""

    def run(conv, x):
        return (
            None
            if conv is None or x is None
            else F.conv2d(x, conv.weight, conv.bias, 1, conv.padding, conv.dilation, conv.groups)
        )

    def pool(x):
        return None if x is None else F.avg_pool2d(x, 2)

    if layer.stride == 2:
        high = pool(high)
    hh, lh = run(layer.conv_hh, high), run(layer.conv_lh, low)
    if layer.stride == 1 and lh is not None:
        lh = F.interpolate(lh, scale_factor=2, mode="nearest")
    hl = run(layer.conv_hl, pool(high)) if layer.conv_hl is not None else None
    ll = run(layer.conv_ll, low if layer.stride == 1 else pool(low)) if layer.conv_ll is not None else None
    total = [[part for part in pair if part is not None] for pair in ((hh, lh), (hl, ll))]
    return tuple(sum(parts) if parts else None for parts in total)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("alpha_in", "alpha_out"),
    [(0.5, 0.5), (0, 0.5), (0.5, 0), (0.25, 0.75), (1, 0.5), (0.5, 1), (1, 1), (0, 0), (1, 0)],
)
def test_it_is_four_convolutions(alpha_in, alpha_out, stride, bias) -> None:
    layer = OctaveConv2d(8, 12, 3, alpha_in, alpha_out, stride, 1, bias=bias).double()
    low_channels = int(alpha_in * 8)
    high = None if alpha_in == 1 else draw(2, 8 - low_channels, 12, 8)
    low = draw(2, low_channels, 6, 4) if low_channels else None
    expected = reference(layer, high, low)
    alone = low if high is None else high
    out = layer(alone if high is None or low is None else (high, low))
    if alpha_out == 0:
        assert isinstance(out, torch.Tensor)
        out = (out, None)
    for ours, theirs in zip(out, expected, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert_equal(ours, theirs)


@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_equal_torch(stride) -> None:
    layer = OctaveConv2d(4, 6, 3, stride=stride, padding=1, bias=True).double()
    high, low = draw(1, 2, 8, 4).requires_grad_(), draw(1, 2, 4, 2).requires_grad_()
    leaves = [high, low, *layer.parameters()]
    ours, theirs = layer((high, low)), reference(layer, high, low)
    mine = torch.autograd.grad(sum(t.square().sum() for t in ours), leaves)
    for one, other in zip(mine, torch.autograd.grad(sum(t.square().sum() for t in theirs), leaves), strict=True):
        assert_equal(one, other, 10)


def test_derivatives() -> None:
    def run(*tensors):
        high, low = octave_conv2d(*tensors, 1, 1)
        return torch.cat([high.flatten(), low.flatten()])

    weights = draw(2, 1, 3, 3), draw(2, 2, 3, 3), draw(1, 1, 3, 3), draw(1, 2, 3, 3)
    gradcheck(run, draw(1, 1, 4, 2), draw(1, 2, 2, 1), *weights, draw(2), draw(1))


def test_pooling_and_its_inverse_equal_torch() -> None:
    x = draw(2, 3, 6, 8)
    assert_equal(average_cells(x), F.avg_pool2d(x, 2))
    assert_equal(average_cells(x, 1), x)
    assert_equal(repeat_cells(x), F.interpolate(x, scale_factor=2, mode="nearest"))


def test_without_low_channels_it_is_a_convolution() -> None:
    layer = OctaveConv2d(4, 6, 3, 0, 0, bias=True).double()
    x = draw(2, 4, 7, 5)
    assert_equal(layer(x), F.conv2d(x, layer.conv_hh.weight, layer.conv_hh.bias))


def test_a_constant_image_has_the_plain_interior() -> None:
    weight = draw(6, 4, 3, 3)
    layer = OctaveConv2d(4, 6, 3, padding=1).double()
    with torch.no_grad():
        for conv, rows, columns in (
            (layer.conv_hh, slice(0, 3), slice(0, 2)),
            (layer.conv_lh, slice(0, 3), slice(2, 4)),
            (layer.conv_hl, slice(3, 6), slice(0, 2)),
            (layer.conv_ll, slice(3, 6), slice(2, 4)),
        ):
            conv.weight.copy_(weight[rows, columns])
    high, low = layer((torch.ones(1, 2, 16, 16, dtype=F64), torch.ones(1, 2, 8, 8, dtype=F64)))
    assert_equal(high[0, :, 8, 8], weight.sum((1, 2, 3))[:3])
    assert_equal(low[0, :, 4, 4], weight.sum((1, 2, 3))[3:])


def test_depthwise_keeps_the_frequencies_apart() -> None:
    layer = OctaveConv2d(8, 8, 3, padding=1, groups=8).double()
    assert layer.conv_lh is None and layer.conv_hl is None
    assert (layer.conv_hh.groups, layer.conv_ll.groups) == (4, 4)
    high, low = draw(1, 4, 4, 4), draw(1, 4, 2, 2)
    out = layer((high, low))
    assert_equal(out[0], F.conv2d(high, layer.conv_hh.weight, padding=1, groups=4))
    assert_equal(out[1], F.conv2d(low, layer.conv_ll.weight, padding=1, groups=4))


def test_layers_chain_from_first_to_last() -> None:
    net = nn.Sequential(
        OctaveConv2d(3, 8, 3, 0, 0.5, padding=1),
        OctaveConv2d(8, 8, 3, padding=1, stride=2),
        OctaveConv2d(8, 5, 3, 0.5, 0, padding=1),
    )
    assert net(torch.randn(2, 3, 16, 12)).shape == (2, 5, 8, 6)


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 0.75])
def test_flops_by_formula_and_by_map(alpha, monkeypatch) -> None:
    layer = OctaveConv2d(8, 16, 3, alpha, alpha, padding=1)
    share = 1 - 0.75 * alpha * (2 - alpha)
    assert layer.flops((2, 8, 12, 8)) == (2 * 96 * 8 * 16 * 9 * share, 8 * 16 * 9)
    for stride in (1, 2):
        point = OctaveConv2d(8, 16, 1, alpha, alpha, stride)
        low = int(alpha * 8)
        pair = (torch.zeros(2, 8 - low, 12, 8), torch.zeros(2, low, 6, 4) if low else None)
        with counted_macs(monkeypatch) as calls:
            point(pair)
        assert point.flops((2, 8, 12, 8)).macs == sum(calls)


@pytest.mark.parametrize(("alpha", "low"), [(0.07, 7), (0.29, 29), (0.57, 57), (0.58, 58), (0.255, 25)])
def test_a_share_means_its_decimal(alpha, low) -> None:
    """0.07 * 100 is 7.000000000000001 in binary, and 0.57 * 100 is 56.99999999999999."""
    for cls in (OctaveConv2d, SparseOctaveConv2d):
        layer = cls(100, 100, 3, alpha_in=alpha, alpha_out=alpha, groups=100)
        assert (layer.conv_hh.groups, layer.conv_ll.groups) == (100 - low, low)
        assert (layer.conv_hh.in_channels, layer.conv_ll.in_channels) == (100 - low, low)


def test_groups_of_the_paths() -> None:
    for cls in (OctaveConv2d, SparseOctaveConv2d):
        layer = cls(10000, 10000, 1, alpha_in=0.07, alpha_out=0.07, groups=100)
        assert (layer.conv_hh.groups, layer.conv_ll.groups) == (93, 7)
        # A depthwise layer of 10 channels, 2 of them low.
        layer = cls(10, 10, 3, alpha_in=0.25, alpha_out=0.25, groups=10)
        assert (layer.conv_hh.groups, layer.conv_ll.groups) == (8, 2)


def test_bad_input_is_named() -> None:
    layer = OctaveConv2d(4, 4, 3, padding=1)
    with pytest.raises(ValueError, match=r"multiples of 2 here, got \[7, 6\]"):
        layer((torch.zeros(1, 2, 7, 6), torch.zeros(1, 2, 3, 3)))
    with pytest.raises(ValueError, match="low frequency must have 2 channels, got 0"):
        layer(torch.zeros(1, 2, 8, 6))
    with pytest.raises(ValueError, match="stride must be 1 or 2"):
        OctaveConv2d(4, 4, 3, stride=3)
    with pytest.raises(ValueError, match="alpha_in"):
        OctaveConv2d(4, 4, 3, 1.5)
