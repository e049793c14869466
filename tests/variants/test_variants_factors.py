"""Separable, flattened, inception and coordinate convolutions, voxel by voxel; and what folds to one kernel."""

from __future__ import annotations

import itertools

import pytest
import torch
from tolerance import assert_close
from torch import Tensor
from variant_layers import CHANNELS, full_grid, layer_class, scene
from voxel_walk import Voxels, grouped, over, plus, steps, strided_sites, taps_of

import sparseconv
from sparseconv import SparseTensor
from sparseconv import functional as F

WIDTH = 6


def convolved(voxels: Voxels, sites, weight: Tensor, groups: int = 1, stride: int = 1) -> Tensor:
    """A plain centred convolution with a kernel of any sides."""
    kernels = taps_of(weight)
    places = list(itertools.product(*(range(-(side // 2), side // 2 + 1) for side in weight.shape[1:-1])))

    def value(sample: int, place) -> Tensor:
        centre = tuple(stride * p for p in place)
        pairs = zip(kernels, places, strict=True)
        return sum(grouped(k, voxels.value(sample, plus(centre, step)), groups) for k, step in pairs)

    return over(sites, weight.shape[0], value)


@pytest.mark.parametrize("ndim", [2, 3])
def test_stages_that_make_their_sites_are_one_convolution(backend: str, ndim: int) -> None:
    x = scene(ndim, count=20, bounded=False)
    order = list(range(ndim))[::-1]
    layer = layer_class("SparseSpatiallySeparableConv", ndim)(CHANNELS, WIDTH, 3, 4, 2, order=order).double()
    plain = layer.to_conv()
    # The product kernel, tap by tap.
    for tap in itertools.product(range(3), repeat=ndim):
        product = torch.eye(CHANNELS, dtype=torch.float64)
        for stage, axis in zip(layer.stages(), order, strict=True):
            product = stage.weight.detach().flatten(1, -2)[:, tap[axis]] @ product
        assert_close(plain.weight[(slice(None), *tap)], product, 100)
    voxels = Voxels(x)
    sites = strided_sites(voxels, 3, 2, 1)
    output = layer(x)
    assert [tuple(row) for row in output.indices.tolist()] == sites
    assert_close(output.features, convolved(voxels, sites, plain.weight, 1, 2) + layer.stages()[-1].bias, 1000)


def test_submanifold_stages_are_another_operator(backend: str) -> None:
    x = scene(3, count=40)
    layer = sparseconv.SubMSpatiallySeparableConv3d(CHANNELS, WIDTH, 3, 4).double()
    rows = x.features
    for stage in layer.stages():
        voxels = Voxels(x.replace_feature(rows))
        rows = convolved(voxels, voxels.sites, stage.weight.detach())
    assert_close(layer(x).features, rows + layer.third.bias, 1000)
    twin = sparseconv.SparseSpatiallySeparableConv3d(CHANNELS, WIDTH, 3, 4).double()
    twin.load_state_dict(layer.state_dict())
    product = F.subm_conv(x, twin.to_conv().weight, layer.third.bias)
    assert not torch.allclose(product.features, layer(x).features, atol=1e-3)
    with pytest.raises(TypeError, match="path over an absent voxel"):
        layer.to_conv()
    with pytest.raises(TypeError, match="path over an absent voxel"):
        sparseconv.SubMFlattenedConv3d(CHANNELS, WIDTH, 3, bias=False).to_conv()


@pytest.mark.parametrize(
    ("name", "args", "kwargs"),
    [
        ("SpatiallySeparableConv", (CHANNELS, WIDTH, (3, 1, 5), 4), {"dilation": (1, 1, 2)}),
        ("SpatiallySeparableConv", (CHANNELS, CHANNELS, 3), {"depthwise": True, "stride": (2, 1, 2)}),
        ("SpatiallySeparableConv", (CHANNELS, WIDTH, 2, 4, 2, 0), {"order": (1, 2, 0), "bias": False}),
        ("FlattenedConv", (CHANNELS, WIDTH, 3, 2), {"bias": False}),
        ("DepthwiseSeparableConv", (CHANNELS, WIDTH, 3, 2), {"multiplier": 3}),
    ],
)
def test_factors_fold_on_the_same_sites(backend: str, name: str, args: tuple, kwargs: dict) -> None:
    x = scene(3, count=30)
    layer = layer_class("Sparse" + name, 3)(*args, **kwargs).double()
    expected, found = layer(x), layer.to_conv()(x)
    assert found.coordinates.same_sites(expected.coordinates)
    assert_close(found.features, expected.features, 2000)


def test_a_depthwise_separable_layer_folds_on_its_own_sites_too(backend: str) -> None:
    x = scene(3, count=30)
    layer = sparseconv.SubMDepthwiseSeparableConv3d(CHANNELS, WIDTH, dilation=2).double()
    assert_close(layer.to_conv()(x).features, layer(x).features, 1000)


def test_a_flattened_set_with_biases_folds_in_the_interior_only() -> None:
    layer = sparseconv.SparseFlattenedConv3d(CHANNELS, WIDTH, 3, padding=0).double()
    with pytest.raises(ValueError, match="bias=False"):
        layer.to_conv()
    plain = layer.to_conv(interior_only=True)
    solid = full_grid(torch.randn(1, CHANNELS, 4, 5, 6, dtype=torch.float64))
    assert_close(plain(solid).features, layer(solid).features, 1000)
    holes = scene(3)
    assert not torch.allclose(plain(holes).features, layer(holes).features, atol=1e-3)
    two = sparseconv.SparseFlattenedConv3d(CHANNELS, WIDTH, 3, num_sets=2)
    with pytest.raises(ValueError, match="only one set"):
        two.to_conv()


def test_functions_equal_the_layers(backend: str) -> None:
    x = scene(3, count=30)
    for family, subm in (("SubM", True), ("Sparse", False)):
        layer = layer_class(family + "SpatiallySeparableConv", 3)(CHANNELS, WIDTH, 3, 4).double()
        stages = layer.stages()
        out = F.spatially_separable_conv(
            x, [stage.weight for stage in stages], stages[-1].bias, padding=1, subm=subm
        )
        assert torch.equal(out.features, layer(x).features)
        flat = layer_class(family + "FlattenedConv", 3)(CHANNELS, WIDTH, 3).double()
        lateral, *along = flat.sets[0].stages()
        out = F.flattened_conv(
            x,
            lateral.weight,
            [stage.weight for stage in along],
            lateral.bias,
            [stage.bias for stage in along],
            padding=1,
            subm=subm,
        )
        assert torch.equal(out.features, flat(x).features)
        factors = layer_class(family + "DepthwiseSeparableConv", 3)(CHANNELS, WIDTH).double()
        first, second = factors.depthwise, factors.pointwise
        out = F.depthwise_separable_conv(
            x, first.weight, second.weight, first.bias, second.bias, padding=1, subm=subm
        )
        assert torch.equal(out.features, factors(x).features)


PATTERNS = {"(0, 0, 0)": 2, "(1, 0, 2)": 2, "(0, 1, 0)": 2}
DILATIONS = [(1, 1, 1)] * 2 + [(2, 1, 3)] * 2 + [(1, 2, 1)] * 2


@pytest.mark.parametrize("family", ["SubM", "Sparse"])
def test_every_output_channel_has_its_own_dilation(backend: str, family: str) -> None:
    x = scene(3, count=40, bounded=False)
    stride = 1 if family == "SubM" else 2
    layer = layer_class(family + "ICConv", 3)(PATTERNS, CHANNELS, WIDTH, 3, stride, bias=True).double()
    voxels = Voxels(x)
    output = layer(x)
    if family == "SubM":
        sites = voxels.sites
    else:
        reached = set()
        for (sample, *place), dilation, step in itertools.product(voxels.sites, set(DILATIONS), steps(3, 3)):
            fine = [p - d * s for p, d, s in zip(place, dilation, step, strict=True)]
            if all(c % 2 == 0 for c in fine):
                reached.add((sample, *(c // 2 for c in fine)))
        sites = sorted(reached)
    assert [tuple(row) for row in output.indices.tolist()] == sites

    def value(sample: int, place) -> Tensor:
        centre = [stride * p for p in place]
        total = layer.bias.detach().clone()
        for kernel, step in zip(taps_of(layer.weight), steps(3, 3), strict=True):
            for channel, dilation in enumerate(DILATIONS):
                at = [c + d * s for c, d, s in zip(centre, dilation, step, strict=True)]
                total[channel] += kernel[channel] @ voxels.value(sample, at)
        return total

    assert_close(output.features, over(sites, WIDTH, value), 1000)
    # The plain layer: the same values at these sites, and its bias at the others.
    plain = layer.to_conv()(x)
    rows = plain.coordinates.lookup(output.indices)
    assert (rows >= 0).all()
    assert_close(plain.features[rows], output.features, 2000)
    others = torch.ones(len(plain), dtype=torch.bool).index_fill(0, rows, False)
    assert_close(plain.features[others], layer.bias.expand(int(others.sum()), -1), 2000)


def test_inception_with_groups_folds() -> None:
    x = scene(3)
    layer = sparseconv.SubMICConv3d(PATTERNS, CHANNELS, WIDTH, 3, groups=2).double()
    assert_close(layer.to_conv()(x).features, layer(x).features, 1000)
    assert layer.macs(x) == sum(m.n_pairs * 4 * 2 for m in layer.kernel_maps(x))
    with pytest.raises(TypeError, match="kernel_maps"):
        layer.kernel_map(x)


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_search_finds_the_dilation_that_a_supernet_holds(backend: str, ndim: int) -> None:
    """A supernet whose weights vanish off one pattern loses nothing there, and the layer is the supernet."""
    hidden = [(1,) * ndim, (2,) * ndim, tuple(1 + axis % 2 for axis in range(ndim)), (1,) * ndim]
    supernet = torch.zeros(4, *(5,) * ndim, CHANNELS, dtype=torch.float64)
    for channel, dilation in enumerate(hidden):
        for step in steps(3, ndim):
            place = tuple(2 + d * s for d, s in zip(dilation, step, strict=True))
            supernet[(channel, *place)] = torch.randn(CHANNELS, dtype=torch.float64)
    x = scene(ndim, count=50)
    for criterion in ("expectation", "mean_abs"):
        found = F.search_dilation(supernet, x, 2, criterion=criterion)
        assert found.dilations == hidden, criterion
        layer = layer_class("SubMICConv", ndim)(found.pattern_dist, CHANNELS, 4, 3).double()
        with torch.no_grad():
            layer.weight.copy_(found.weight)
        expected = F.subm_conv(x, supernet).features[:, found.order]
        assert_close(layer(x).features, expected, 1000)


def test_search_scores_are_what_they_say(backend: str) -> None:
    x = scene(2, count=50)
    supernet = torch.randn(WIDTH, 5, 5, CHANNELS // 2, dtype=torch.float64)
    whole = F.subm_conv(x, supernet, groups=2).features
    for criterion in ("expectation", "mean_abs"):
        found = F.search_dilation(supernet, x, 2, criterion=criterion, groups=2)
        for dilation in itertools.product((1, 2), repeat=2):
            kept = supernet[:, 2 - dilation[0] : 3 + dilation[0] : dilation[0]]
            kept = kept[:, :, 2 - dilation[1] : 3 + dilation[1] : dilation[1]]
            lost = whole - F.subm_conv(x, kept.contiguous(), None, dilation, 2).features
            score = lost.mean(0).abs() if criterion == "expectation" else lost.abs().mean(0)
            assert_close(found.errors[:, dilation[0] - 1, dilation[1] - 1], score, 1000)
    with pytest.raises(ValueError, match="criterion"):
        F.search_dilation(supernet, x, 2, criterion="l2")
    with pytest.raises(ValueError, match="must have shape"):
        F.search_dilation(supernet, x, 3)


@pytest.mark.parametrize("ndim", [1, 2, 3, 4])
def test_coordinates_are_appended(ndim: int) -> None:
    x = scene(ndim, count=15)
    for order in ("xy", "yx"):
        for extent in ("grid", "sample"):
            out = F.add_coords(x, True, order, extent=extent).features
            assert torch.equal(out[:, :CHANNELS], x.features)
            for row, (sample, *place) in zip(out[:, CHANNELS:].tolist(), x.indices.tolist(), strict=True):
                wanted = []
                for axis, p in enumerate(place):
                    low, high = 0, x.spatial_shape[axis] - 1
                    if extent == "sample":
                        mine = [s[1 + axis] for s in x.indices.tolist() if s[0] == sample]
                        low, high = min(mine), max(mine)
                    wanted.append(2 * (p - low) / (high - low) - 1 if high > low else 0.0)
                radius = sum(c * c for c in wanted) ** 0.5
                wanted = wanted[::-1] if order == "xy" else wanted
                assert row == pytest.approx([*wanted, radius])


def test_coordinates_need_an_extent() -> None:
    x = scene(3, bounded=False)
    with pytest.raises(ValueError, match="extent='sample'"):
        F.add_coords(x)
    one = SparseTensor(torch.ones(1, 2), torch.tensor([[0, 0, 5]]).int(), [1, 9])
    assert F.add_coords(one).features.tolist() == [[1.0, 1.0, 0.25, 0.0]]
    with pytest.raises(ValueError, match="order"):
        F.add_coords(one, order="zx")
    with pytest.raises(ValueError, match="extent"):
        sparseconv.SparseAddCoords(extent="scan")
    with pytest.raises(TypeError, match="SparseAddCoords"):
        sparseconv.SubMCoordConv3d(4, 4, 3).to_conv()


@pytest.mark.parametrize("family", ["SubM", "Sparse"])
def test_a_coord_layer_is_a_convolution_of_both_parts(backend: str, family: str) -> None:
    x = scene(3)
    layer = layer_class(family + "CoordConv", 3)(CHANNELS, WIDTH, 3, padding=1, with_r=True).double()
    coords = F.add_coords(x.replace_feature(x.features[:, :0]), True)
    run = F.subm_conv if family == "SubM" else lambda *args: F.sparse_conv(*args, padding=1)
    image = run(x, layer.weight[..., :CHANNELS].contiguous(), layer.bias)
    place = run(coords, layer.weight[..., CHANNELS:].contiguous())
    assert_close(layer(x).features, image.features + place.features, 1000)
    onto = layer.onto(x, layer(x)) if family == "Sparse" else None
    assert onto is None or torch.allclose(onto.features, layer(x).features)
    added = sparseconv.SparseAddCoords(True)(x)
    assert torch.equal(
        F.coord_conv(x, layer.weight, padding=1, with_r=True, subm=family == "SubM").features,
        run(added, layer.weight).features,
    )


@pytest.mark.parametrize(
    ("name", "args", "kwargs", "message"),
    [
        ("SpatiallySeparableConv", (4, 4, 3), {"order": (0, 0, 1)}, "order must name"),
        ("SpatiallySeparableConv", (4, 4, 3), {"order": "hw"}, "order must name"),
        ("SpatiallySeparableConv", (4, 5, 3), {"depthwise": True}, "depthwise needs"),
        ("SpatiallySeparableConv", (4, 4, 3), {"stride": 2}, "stride must be 1"),
        ("FlattenedConv", (4, 4, 3), {"num_sets": 0}, "num_sets"),
        ("FlattenedConv", (4, 4, 3), {"stride": 2}, "stride must be 1"),
        ("DepthwiseSeparableConv", (4, 4), {"multiplier": 0}, "multiplier"),
        ("DepthwiseSeparableConv", (4, 4), {"stride": 2}, "stride must be 1"),
        ("ICConv", ({"(0, 0)": 4}, 4, 4, 3), {}, "pattern_dist maps 3"),
        ("ICConv", ({"(0, 0, x)": 4}, 4, 4, 3), {}, "pattern_dist maps 3"),
        ("ICConv", ({"(0, 0, 0)": 3}, 4, 4, 3), {}, "must sum to planes"),
        ("ICConv", ({(0, 0, 0): 3, (0, 0, 1): 1}, 4, 4, 3), {"groups": 2}, "divide by groups"),
        ("ICConv", ({(0, 0, 0): 4}, 4, 4, (3, 2, 3)), {}, "odd"),
        ("CoordConv", (4, 4, 3), {"order": "up"}, "order"),
        ("CoordConv", (4, 4, 3), {"stride": 2}, "stride must be 1"),
    ],
)
def test_refusals_at_construction(name: str, args: tuple, kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layer_class("SubM" + name, 3)(*args, **kwargs)


def test_refusals_of_the_functions() -> None:
    x = scene(3)
    weights = [torch.zeros(4, 3, 1, 1, CHANNELS).double()] * 3
    with pytest.raises(ValueError, match=r"\[C_out, 1, k, 1, C_in / groups\]"):
        F.spatially_separable_conv(x, weights)
    with pytest.raises(ValueError, match="one weight is needed for each of the 3 axes"):
        F.spatially_separable_conv(x, weights[:2])
    with pytest.raises(ValueError, match="must have one tap"):
        F.flattened_conv(x, weights[0], weights)
    with pytest.raises(ValueError, match="must have one tap"):
        F.depthwise_separable_conv(x, weights[0], weights[0])
    with pytest.raises(ValueError, match="must sum to 4"):
        F.ic_conv(x, torch.zeros(4, 3, 3, 3, CHANNELS).double(), [((1, 1, 1), 3)])
    with pytest.raises(ValueError, match="kernel sides must be odd"):
        F.ic_conv(x, torch.zeros(4, 2, 3, 3, CHANNELS).double(), [((1, 1, 1), 4)])
