"""Difference and circle convolutions against their formulas, voxel by voxel, in one to three dimensions."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from tolerance import assert_close
from torch import Tensor
from variant_layers import CHANNELS, layer_class, scene
from voxel_walk import Voxels, grouped, over, plus, steps, strided_sites, taps_of

from sparseconv import SparseConv3d, SubMConv3d
from sparseconv import functional as F

WIDTH = 6
THETA = 0.7


def difference(voxels: Voxels, weight: Tensor, sample: int, plus_at, minus_at, share: float, missing: str):
    """``w ((1 - theta) x_a + theta share (x_a - x_b))``, the parts of a pair; ``b`` None: no difference."""
    first = voxels.at(sample, plus_at)
    second = None if minus_at is None else voxels.at(sample, minus_at)
    zero = torch.zeros_like(voxels.features[0])
    if minus_at is None:
        return weight @ ((1 - THETA) * share * (zero if first is None else first))
    if missing == "zero":
        a, b = (zero if one is None else one for one in (first, second))
        return weight @ (share * (a - THETA * b))
    if first is None:
        return weight @ zero
    if second is None:
        return weight @ ((1 - THETA) * share * first)
    return weight @ (share * (first - THETA * second))


def run_taps(voxels: Voxels, sites, weight: Tensor, taps, stride: int, shift: int, dilation: int, missing: str):
    """``taps``: for each weight its step, and the steps that it subtracts with their shares."""
    by_tap = taps_of(weight)

    def value(sample: int, place) -> Tensor:
        centre = tuple(stride * p + shift for p in place)
        total = torch.zeros(weight.shape[0], dtype=torch.float64)
        for kernel, (step, others) in zip(by_tap, taps, strict=True):
            a = plus(centre, step, dilation)
            for other, share in others or [(None, 1.0)]:
                b = None if other is None else plus(centre, other, dilation)
                total = total + difference(voxels, kernel, sample, a, b, share, missing)
        return total

    return over(sites, weight.shape[0], value)


def central(ndim: int):
    centre = (0,) * ndim
    return [(step, [] if step == centre else [(centre, 1.0)]) for step in steps(3, ndim)]


def cross(ndim: int, direction: str):
    chosen = [s for s in steps(3, ndim) if sum(map(abs, s)) in ((0, 1) if direction == "hv" else (0, ndim))]
    centre = (0,) * ndim
    return [(step, [] if step == centre else [(centre, 1.0)]) for step in chosen]


def radial(ndim: int):
    directions = [step for step in steps(3, ndim) if any(step)]
    return [((0,) * ndim, [])] + [(plus(d, d), [(d, 1.0)]) for d in directions]


def angular(ndim: int):
    ring = [(-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1)]
    taps = []
    for step in steps(3, ndim):
        following = []
        for first, second in itertools.combinations(range(ndim), 2):
            flat = (step[first], step[second])
            if flat in ring and all(s == 0 for axis, s in enumerate(step) if axis not in (first, second)):
                after = list(step)
                after[first], after[second] = ring[(ring.index(flat) + 1) % 8]
                following.append(tuple(after))
        taps.append((step, [(other, 1 / len(following)) for other in following]))
    return taps


CASES = {
    "central": ("CentralDifferenceConv", {}, central, 1, (1, 2, 3)),
    "cross_hv": ("CrossCentralDifferenceConv", {"direction": "hv"}, lambda d: cross(d, "hv"), 1, (1, 2, 3)),
    "cross_dg": ("CrossCentralDifferenceConv", {"direction": "dg"}, lambda d: cross(d, "dg"), 1, (2, 3)),
    "cpdc": ("PixelDifferenceConv", {"kind": "CPDC"}, central, 1, (3,)),
    "apdc": ("PixelDifferenceConv", {"kind": "APDC"}, angular, 1, (2, 3)),
    "rpdc": ("PixelDifferenceConv", {"kind": "RPDC"}, radial, 2, (1, 2, 3)),
}
DIMENSIONS = [(name, ndim) for name, case in CASES.items() for ndim in case[4]]


@pytest.mark.parametrize("missing", ["zero", "ignore"])
@pytest.mark.parametrize(("case", "ndim"), DIMENSIONS)
def test_submanifold_differences_follow_the_formula(backend: str, case: str, ndim: int, missing: str) -> None:
    name, kwargs, taps, _, _ = CASES[case]
    x = scene(ndim, count=35)
    for dilation in (1, 2):
        layer = layer_class("SubM" + name, ndim)(
            CHANNELS, WIDTH, theta=THETA, missing=missing, dilation=dilation, bias=True, **kwargs
        ).double()
        voxels = Voxels(x)
        expected = run_taps(voxels, voxels.sites, layer.weight, taps(ndim), 1, 0, dilation, missing)
        output = layer(x)
        assert output.coordinates is x.coordinates
        assert_close(output.features, expected + layer.bias, 1000)


@pytest.mark.parametrize("missing", ["zero", "ignore"])
@pytest.mark.parametrize(("case", "ndim"), DIMENSIONS)
def test_strided_differences_follow_the_formula(backend: str, case: str, ndim: int, missing: str) -> None:
    name, kwargs, taps, reach, _ = CASES[case]
    x = scene(ndim, count=25, bounded=False)
    layer = layer_class("Sparse" + name, ndim)(
        CHANNELS, WIDTH, stride=2, theta=THETA, missing=missing, **kwargs
    ).double()
    voxels = Voxels(x)
    sites = strided_sites(voxels, 2 * reach + 1, 2, reach)
    output = layer(x)
    assert [tuple(row) for row in output.indices.tolist()] == sites
    expected = run_taps(voxels, sites, layer.weight, taps(ndim), 2, 0, 1, missing)
    assert_close(output.features, expected, 1000)


def test_the_two_treatments_of_absent_voxels_differ_and_meet_on_a_full_grid() -> None:
    x = scene(3)
    weight = torch.randn(5, 3, 3, 3, CHANNELS, dtype=torch.float64)
    both = [F.central_difference_conv(x, weight, subm=True, missing=m).features for m in ("zero", "ignore")]
    assert float((both[0] - both[1]).abs().max()) > 0.1
    lone = scene(3, count=1)  # no neighbour: only the centre's own term is left
    ignored = F.central_difference_conv(lone, weight, subm=True, missing="ignore", theta=1.0)
    assert_close(ignored.features, torch.zeros_like(ignored.features), 10)
    constant = x.replace_feature(torch.ones_like(x.features))
    flat = F.central_difference_conv(constant, weight, subm=True, missing="ignore", theta=1.0)
    assert_close(flat.features, torch.zeros_like(flat.features), 1000)


def test_only_the_pairs_of_a_cross_are_multiplied() -> None:
    x = scene(3)
    voxels = Voxels(x)
    for direction, taps in (("hv", cross(3, "hv")), ("dg", cross(3, "dg"))):
        layer = layer_class("SubMCrossCentralDifferenceConv", 3)(CHANNELS, WIDTH, direction=direction)
        pairs = sum(voxels.at(s[0], plus(s[1:], step)) is not None for s in voxels.sites for step, _ in taps)
        assert layer.macs(x) == pairs * CHANNELS * WIDTH
    centre_only = layer_class("SubMCrossCentralDifferenceConv", 3)(CHANNELS, WIDTH)
    assert centre_only.macs(x) < SubMConv3d(CHANNELS, WIDTH, 3).kernel_map(x).macs(CHANNELS, WIDTH)


def moved(step, radius_of) -> tuple[float, ...]:
    length = math.sqrt(sum(s * s for s in step))
    if sum(1 for s in step if s) < 2:
        return tuple(map(float, step))
    ring = math.floor(length + 1e-12)
    return tuple(s / length * radius_of.get(ring, ring) for s in step)


@pytest.mark.parametrize(
    ("ndim", "side", "radius"),
    [(1, 5, None), (2, 3, math.sqrt(2)), (2, 7, {2: 1.5}), (3, 3, None), (3, 3, 0.6), (3, 5, {1: 0.5, 2: 1.7})],
)
def test_circles_and_balls_sample_between_voxels(backend: str, ndim: int, side: int, radius) -> None:
    x = scene(ndim, count=30)
    layer = layer_class("SubMCircleConv", ndim)(CHANNELS, WIDTH, side, radius=radius, groups=2).double()
    radius_of = dict.fromkeys(range(1, 9), radius) if isinstance(radius, float) else radius or {}
    voxels, kernels = Voxels(x), taps_of(layer.weight)
    places = [moved(step, radius_of) for step in steps(side, ndim)]

    def value(sample: int, place) -> Tensor:
        samples = [voxels.between(sample, plus(place, step)) for step in places]
        parts = [grouped(kernel, one, 2) for kernel, one in zip(kernels, samples, strict=True)]
        return sum(parts) + layer.bias.detach()

    assert_close(layer(x).features, over(voxels.sites, WIDTH, value), 1000)


def test_a_ball_matrix_is_an_interpolation() -> None:
    for side, ndim in ((3, 2), (5, 2), (7, 2), (3, 3), (5, 3), (7, 3), (3, 4)):
        matrix = F.ball_matrix(side, ndim)
        torch.testing.assert_close(matrix.sum(1), torch.ones(side**ndim, dtype=torch.float64))
        assert (matrix >= 0).all()
        # As many taps on one side as on the other.
        assert torch.allclose(matrix.flip(0).flip(1), matrix)
    assert torch.equal(F.ball_matrix(3, 2, math.sqrt(2)).round(decimals=12), torch.eye(9, dtype=torch.float64))
    a = 1 / math.sqrt(3)  # the corner of a cube moves to radius 1
    corner = F.ball_matrix(3, 3)[0].reshape(3, 3, 3)
    assert float(corner[0, 0, 0]) == pytest.approx(a**3)
    assert float(corner[1, 0, 0]) == pytest.approx(a * a * (1 - a))
    assert float(corner[1, 1, 1]) == pytest.approx((1 - a) ** 3)


FOLDING = {
    "central": ("CentralDifferenceConv", {"groups": 2}),
    "cross": ("CrossCentralDifferenceConv", {"direction": "dg"}),
    "apdc": ("PixelDifferenceConv", {"kind": "APDC", "theta": 0.5}),
    "rpdc": ("PixelDifferenceConv", {"kind": "RPDC"}),
    "circle": ("CircleConv", {"kernel_size": 5, "padding": 2, "groups": 2}),
}


@pytest.mark.parametrize("family", ["SubM", "Sparse"])
@pytest.mark.parametrize("case", FOLDING)
def test_folding_gives_a_plain_layer_on_the_same_sites(backend: str, family: str, case: str) -> None:
    name, kwargs = FOLDING[case]
    window = {"stride": 2} if family == "Sparse" else {"dilation": 2}
    layer = layer_class(family + name, 3)(CHANNELS, WIDTH, **{**kwargs, **window, "bias": True}).double()
    plain = layer.to_conv()
    x = scene(3)
    expected, found = layer(x), plain(x)
    assert found.coordinates.same_sites(expected.coordinates)
    assert_close(found.features, expected.features, 2000)
    assert plain.subm == (family == "SubM")
    twin = (SubMConv3d if family == "SubM" else SparseConv3d)(
        CHANNELS,
        WIDTH,
        plain.kernel_size,
        plain.stride,
        plain.padding,
        plain.dilation,
        plain.groups,
        dtype=torch.float64,
    )
    twin.load_state_dict(plain.state_dict())
    assert_close(twin(x).features, expected.features, 2000)


def test_what_does_not_fold_says_so() -> None:
    with pytest.raises(ValueError, match="only missing='zero'"):
        layer_class("SubMCentralDifferenceConv", 3)(4, 4, missing="ignore").to_conv()


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("CentralDifferenceConv", {"kernel_size": (3, 4, 3)}, "odd"),
        ("CentralDifferenceConv", {"missing": "skip"}, "missing must be"),
        ("CrossCentralDifferenceConv", {"direction": "up"}, "direction must be"),
        ("CrossCentralDifferenceConv", {"kernel_size": 5}, "kernel_size must be 3"),
        ("PixelDifferenceConv", {"kind": "XPDC"}, "kind must be"),
        ("PixelDifferenceConv", {"kernel_size": (3, 3, 5)}, "kernel_size must be 3"),
        ("CircleConv", {"kernel_size": 4}, "odd"),
        ("CircleConv", {"radius": 2.0}, "inside the kernel"),
        ("CircleConv", {"kernel_size": 5, "radius": 1.0}, "mapping from ring"),
        ("CircleConv", {"radius": {3: 1.0}}, "rings"),
        ("CircleConv", {"radius": -1.0}, "at least 0"),
        ("CircleConv", {"angles": "even"}, "2D"),
        ("CentralDifferenceConv", {"stride": 2}, "stride must be 1"),
        ("CentralDifferenceConv", {"groups": 3}, "groups must divide"),
    ],
)
def test_refusals_at_construction(name: str, kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layer_class("SubM" + name, 3)(4, 4, **kwargs)


def test_refusals_of_the_functions() -> None:
    x = scene(3)
    with pytest.raises(ValueError, match="APDC"):
        layer_class("SubMPixelDifferenceConv", 1)(4, 4, kind="APDC")
    with pytest.raises(ValueError, match="kernel axes"):
        F.central_difference_conv(x, torch.zeros(4, 3, 3, CHANNELS))
    with pytest.raises(ValueError, match=r"\[C_out, 1, 1, 7, C_in / groups\]"):
        F.cross_central_difference_conv(x, torch.zeros(4, 1, 1, 5, CHANNELS).double())
    with pytest.raises(ValueError, match="equal sides"):
        F.circle_conv(x, torch.zeros(4, 3, 3, 5, CHANNELS).double())
    with pytest.raises(TypeError, match="SparseTensor"):
        F.pixel_difference_conv(x.features, torch.zeros(4, 3, 3, 3, CHANNELS))
    with pytest.raises(ValueError, match="kernel axes"):
        layer_class("SubMCentralDifferenceConv", 2)(CHANNELS, 4).double()(x)
