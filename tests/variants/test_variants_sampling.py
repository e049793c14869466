"""Involution, deformation and octaves, voxel by voxel; and what the counter sees of every variant."""

from __future__ import annotations

import itertools

import pytest
import torch
from tolerance import assert_close
from torch import Tensor
from variant_layers import CHANNELS, layer_class, scene, settled
from voxel_walk import Voxels, grouped, over, per_sample, plus, steps, taps_of

import sparseconv
from sparseconv import SparseTensor
from sparseconv import functional as F
from sparseconv.flops import count_forward
from sparseconv.functional.variants import deformable

WIDTH = 6


@pytest.mark.parametrize(
    ("ndim", "stride"), [*itertools.product((1, 2, 3), (1, 2, 3)), (2, (3, 1)), (3, (1, 2, 2)), (3, (2, 1, 3))]
)
def test_involution(backend: str, ndim: int, stride: int | tuple[int, ...]) -> None:
    x = scene(ndim, count=30)
    layer = layer_class("SubMInvolution" if stride == 1 else "SparseInvolution", ndim)(
        CHANNELS, 3, stride, group_channels=4, dilation=2 if stride == 1 else 1
    ).double()
    each = (stride,) * ndim if isinstance(stride, int) else stride
    layer.norm.running_mean.normal_()
    layer.eval()
    voxels = Voxels(x)
    output = layer(x)
    if stride == 1:
        sites = voxels.sites
        own = {site: voxels.features[row] for site, row in voxels.rows.items()}
    else:
        children: dict[tuple, list] = {}
        for (sample, *place), row in voxels.rows.items():
            cell = (p // s for p, s in zip(place, each, strict=True))
            children.setdefault((sample, *cell), []).append(voxels.features[row])
        sites = sorted(children)
        own = {site: torch.stack(rows).mean(0) for site, rows in children.items()}
        assert output.spatial_shape == [-(-side // s) for side, s in zip(x.spatial_shape, each, strict=True)]
    assert [tuple(row) for row in output.indices.tolist()] == sites
    first = layer.conv1.weight.detach().flatten(1)
    second, bias = layer.conv2.weight.detach().flatten(1), layer.conv2.bias.detach()
    scale = layer.norm.weight.detach() / (layer.norm.running_var + layer.norm.eps).sqrt()
    pairs = 0

    def value(sample: int, place) -> Tensor:
        nonlocal pairs
        hidden = (first @ own[(sample, *place)] - layer.norm.running_mean) * scale + layer.norm.bias.detach()
        kernel = (second @ hidden.relu() + bias).reshape(2, 3**ndim)
        total = torch.zeros(CHANNELS, dtype=torch.float64)
        for tap, step in enumerate(steps(3, ndim)):
            at = plus(tuple(s * p for p, s in zip(place, each, strict=True)), step, 2 if stride == 1 else 1)
            pairs += voxels.at(sample, at) is not None
            total += kernel[:, tap].repeat_interleave(4) * voxels.value(sample, at)
        return total

    assert_close(output.features, over(sites, CHANNELS, value), 1000)
    assert layer.macs(x) == pairs * CHANNELS


def test_an_involution_with_a_constant_kernel_is_a_depthwise_convolution(backend: str) -> None:
    x = scene(3)
    kernel = torch.randn(CHANNELS, 27, dtype=torch.float64)
    rows = kernel.reshape(1, -1).expand(len(x), -1)
    found = F.involution(x, x.replace_feature(rows), 3)
    expected = F.subm_conv(x, kernel.reshape(CHANNELS, 3, 3, 3, 1), groups=CHANNELS)
    assert_close(found.features, expected.features, 100)


@pytest.mark.parametrize("missing", ["zero", "ignore"])
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_deformable_convolution(backend: str, monkeypatch, ndim: int, missing: str) -> None:
    x = scene(ndim, count=25)
    taps, groups = 3**ndim, 2
    offset = x.replace_feature(1.5 * torch.randn(25, groups * taps * ndim, dtype=torch.float64))
    mask = x.replace_feature(torch.rand(25, groups * taps, dtype=torch.float64))
    weight = torch.randn(WIDTH, *(3,) * ndim, CHANNELS // 2, dtype=torch.float64)
    bias = torch.randn(WIDTH, dtype=torch.float64)
    voxels = Voxels(x)

    def value(sample: int, place) -> Tensor:
        row = voxels.rows[(sample, *place)]
        shifts = offset.features[row].reshape(groups, taps, ndim).tolist()
        scales = mask.features[row].reshape(groups, taps)
        total = bias.clone()
        for tap, (kernel, step) in enumerate(zip(taps_of(weight), steps(3, ndim), strict=True)):
            read = []
            for group in range(groups):
                at = [p + 2 * s + o for p, s, o in zip(place, step, shifts[group][tap], strict=True)]
                both = voxels.between(sample, at, missing == "ignore") * scales[group, tap]
                read.append(both.chunk(groups)[group])
            total += grouped(kernel, torch.cat(read), 2)
        return total

    expected = over(voxels.sites, WIDTH, value)
    for chunk in (deformable.CHUNK_BYTES, 1):
        monkeypatch.setattr(deformable, "CHUNK_BYTES", chunk)
        found = F.deform_conv(x, offset, weight, bias, 2, 2, mask=mask, missing=missing)
        assert found.coordinates is x.coordinates
        assert_close(found.features, expected, 1000)


def test_chunks_change_no_gradient(monkeypatch) -> None:
    x = scene(3, count=25)
    layer = settled("subm_deform_modulated")
    grads = []
    for chunk in (deformable.CHUNK_BYTES, 100_000, 1):
        monkeypatch.setattr(deformable, "CHUNK_BYTES", chunk)
        rows = x.features.clone().requires_grad_()
        out = layer(x.replace_feature(rows)).features
        grads.append(torch.autograd.grad(out.square().sum(), [rows, *layer.parameters()]))
    for other in grads[1:]:
        for one, two in zip(grads[0], other, strict=True):
            assert_close(two, one, 5000)


def test_deformation_begins_as_a_plain_convolution_and_counts_what_it_finds(backend: str) -> None:
    x = scene(3)
    for modulated in (False, True):
        layer = sparseconv.SubMDeformConv3d(CHANNELS, WIDTH, 3, dilation=2, groups=2, modulated=modulated).double()
        plain = F.subm_conv(x, layer.weight, None, 2, 2).features
        expected = (plain / 2 if modulated else plain) + layer.bias
        assert_close(layer(x).features, expected, 1000)
    with torch.no_grad():
        layer.offset_conv.bias.uniform_(0.1, 0.9)
    offset, _ = layer.predict(x)
    voxels, found, hit = Voxels(x), 0, 0
    by_site = offset.features.reshape(len(x), 27, 3).tolist()
    for (sample, *place), shifts in zip(voxels.sites, by_site, strict=True):
        for step, shift in zip(steps(3, 3), shifts, strict=True):
            low = [int((p + 2 * s + o) // 1) for p, s, o in zip(place, step, shift, strict=True)]
            corners = itertools.product((0, 1), repeat=3)
            count = sum(voxels.at(sample, plus(low, corner)) is not None for corner in corners)
            found, hit = found + count, hit + (count > 0)
    assert layer.macs(x) == hit * CHANNELS // 2 * WIDTH + found * CHANNELS
    with pytest.raises(TypeError, match="sampling places"):
        layer.to_conv()


def test_wild_offsets_read_nothing_and_nan_stays_nan(backend: str) -> None:
    sites = torch.tensor([[0, 2**31 - 2, -(2**31)], [0, 0, 0]]).int()
    x = SparseTensor(torch.ones(2, 1, dtype=torch.float64), sites, None, 1)
    weight = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    for far in (3e9, -3e9, 1e30, 2.0**63, float("inf")):
        offset = x.replace_feature(torch.tensor([[far, 0.0], [0.0, 0.5]], dtype=torch.float64))
        out = F.deform_conv(x, offset, weight).features
        assert not out[0].nonzero().numel() or torch.isnan(out[0]).all()
        assert out[1].item() == 0.5
    nan = x.replace_feature(torch.tensor([[0.0, 0.0], [float("nan"), 0.0]], dtype=torch.float64))
    out = F.deform_conv(x, nan, weight).features
    assert out[0].item() == 1.0 and out[1].isnan().all()


def level(voxels: Voxels, zero: bool = False) -> tuple[list, Tensor]:
    """Cells of two sites a side and their means."""
    children: dict[tuple, list] = {}
    for (sample, *place), row in voxels.rows.items():
        children.setdefault((sample, *(p // 2 for p in place)), []).append(voxels.features[row])
    sites = sorted(children)
    divisor = 2**voxels.ndim
    sums = [torch.stack(children[site]).sum(0) / (divisor if zero else len(children[site])) for site in sites]
    return sites, torch.stack(sums)


@pytest.mark.parametrize("missing", ["ignore", "zero"])
@pytest.mark.parametrize("stride", [1, 2])
def test_octave_paths(backend: str, stride: int, missing: str) -> None:
    """Odd sizes too: the cells at the grid's end are there."""
    x = scene(3, count=50, shuffled=True)
    zero = missing == "zero"
    layer = sparseconv.SparseOctaveConv3d(CHANNELS, 8, 3, 0.25, 0.5, stride, bias=True, missing=missing).double()
    high = x.replace_feature(x.features[:, :6])
    low = F.halve(x, missing)
    low = low.replace_feature(low.features[:, :2] + 1)
    y_high, y_low = layer((high, low))

    def tensor(sites, rows) -> SparseTensor:
        return SparseTensor(rows, torch.tensor(sites).int(), None, 3)

    def conv(at: SparseTensor, layer) -> Tensor:
        voxels = Voxels(at)
        return per_sample(voxels, voxels.sites, [layer.weight] * 3)

    fine = Voxels(high)
    coarse_sites, pooled = level(fine, zero)
    assert [tuple(row) for row in low.indices.tolist()] == coarse_sites
    if stride == 1:
        lifted = conv(low, layer.conv_lh)
        parent = {site: row for row, site in enumerate(coarse_sites)}
        up = torch.stack([lifted[parent[(s, *(p // 2 for p in place))]] for s, *place in fine.sites])
        expected_high = conv(high, layer.conv_hh) + up + layer.conv_hh.bias
        expected_low = conv(tensor(coarse_sites, pooled), layer.conv_hl) + conv(low, layer.conv_ll)
    else:
        middle = tensor(coarse_sites, pooled)
        expected_high = conv(middle, layer.conv_hh) + conv(low, layer.conv_lh) + layer.conv_hh.bias
        sites, twice = level(Voxels(middle), zero)
        _, slow = level(Voxels(low), zero)
        expected_low = conv(tensor(sites, twice), layer.conv_hl) + conv(tensor(sites, slow), layer.conv_ll)
        assert [tuple(row) for row in y_low.indices.tolist()] == sites
    assert_close(y_high.features, expected_high, 1000)
    assert_close(y_low.features, expected_low + layer.conv_hl.bias, 1000)
    weights = [getattr(layer, f"conv_{path}").weight for path in ("hh", "lh", "hl", "ll")]
    again = F.octave_conv(high, low, *weights, layer.conv_hh.bias, layer.conv_hl.bias, stride, missing=missing)
    for one, two in zip(again, (y_high, y_low), strict=True):
        assert_close(one.features, two.features, 1000)


def test_octave_alphas_at_their_ends(backend: str) -> None:
    x = scene(3)
    whole = sparseconv.SparseOctaveConv3d(CHANNELS, WIDTH, 3, 0, 0).double()
    assert_close(whole(x).features, F.subm_conv(x, whole.conv_hh.weight).features, 100)
    only_low = sparseconv.SparseOctaveConv3d(CHANNELS, WIDTH, 3, 1, 1).double()
    high, low = only_low(x)
    assert high is None
    assert_close(low.features, F.subm_conv(x, only_low.conv_ll.weight).features, 100)
    depthwise = sparseconv.SparseOctaveConv3d(CHANNELS, CHANNELS, 3, 0.5, 0.5, groups=CHANNELS)
    assert depthwise.conv_hl is depthwise.conv_lh is None
    with pytest.raises(ValueError, match="occupied cells"):
        half = x.replace_feature(x.features[:, :4])
        sparseconv.SparseOctaveConv3d(CHANNELS, WIDTH, 3).double()((half, half))
    with pytest.raises(ValueError, match=r"a pair \(high, low\) of 4 and 4 channels, got one tensor"):
        sparseconv.SparseOctaveConv3d(CHANNELS, WIDTH, 3).double()(x)
    with pytest.raises(ValueError, match="alpha_out must be this one's alpha_in"):
        sparseconv.SparseOctaveConv3d(CHANNELS, WIDTH, 3).double()((x, half))
    with pytest.raises(TypeError, match=r"or a pair \(high, low\), got list"):
        sparseconv.SparseOctaveConv3d(CHANNELS, WIDTH, 3).double()([half, half])


def test_octave_costs_what_its_four_paths_cost() -> None:
    x = scene(3, count=120)
    layer = sparseconv.SparseOctaveConv3d(CHANNELS, CHANNELS, 3).double()
    pair = (x.replace_feature(x.features[:, :4]), F.halve(x.replace_feature(x.features[:, 4:])))
    geometry = sparseconv.ConvGeometry.submanifold(3, 3)
    fine, coarse = (level.coordinates.submanifold_map(geometry).n_pairs for level in pair)
    assert count_forward(layer, pair).macs == (fine + 3 * coarse) * 4 * 4


@pytest.mark.parametrize(
    ("name", "taps"),
    [("subm_central_ignore", 0), ("sparse_inception", 0), ("sparse_cross_dg", 9), ("subm_circle", 27)],
)
def test_the_counter_sees_what_a_layer_says(name: str, taps: int) -> None:
    """And what folding its weight onto the taps of the plain kernel costs."""
    layer, x = settled(name), scene(3, count=120)
    assert count_forward(layer, x).macs == layer.macs(x) + layer.weight.numel() * taps


@pytest.mark.parametrize("name", ["subm_involution", "sparse_involution", "subm_deform", "subm_deform_modulated"])
def test_the_counter_sees_the_layer_and_the_layers_inside_it(name: str) -> None:
    layer, x = settled(name), scene(3, count=120)
    inner = []
    for part in layer.children():
        if isinstance(part, sparseconv.SparseConvolution):
            part.register_forward_hook(
                lambda conv, inputs, _: inner.append(
                    conv.kernel_map(inputs[0]).macs(conv.in_channels, conv.out_channels)
                )
            )
    total = count_forward(layer, x).macs
    assert total == sum(inner) + layer.macs(x)


def test_a_mask_without_offsets_is_refused() -> None:
    layer, x = layer_class("SubMDeformConv", 3)(CHANNELS, 4, 3, modulated=True).double(), scene(3)
    with pytest.raises(ValueError, match="mask needs its offsets"):
        layer(x, mask=x.replace_feature(torch.ones(len(x.features), 27)))
