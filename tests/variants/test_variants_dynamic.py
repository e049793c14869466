"""Kernels that depend on the input, voxel by voxel: mixtures, regions, involution, deformation; and octaves."""

from __future__ import annotations

import itertools

import pytest
import torch
from tolerance import assert_close
from torch import Tensor
from variant_layers import CHANNELS, layer_class, scene, settled
from voxel_walk import Voxels, grouped, over, plus, steps, strided_sites, taps_of

import sparseconv
from sparseconv import SparseTensor
from sparseconv import functional as F
from sparseconv.flops import count_forward
from sparseconv.functional.variants import deformable
from sparseconv.ops import mapped

WIDTH = 6


def per_sample(voxels: Voxels, sites, kernels: list[Tensor], groups: int = 1, stride: int = 1) -> Tensor:
    """A kernel ``[O, *kernel, C / g]`` for each sample."""
    by_tap = [taps_of(kernel) for kernel in kernels]
    places = steps(3, voxels.ndim)

    def value(sample: int, place) -> Tensor:
        centre = tuple(stride * p for p in place)
        pairs = zip(by_tap[sample], places, strict=True)
        return sum(grouped(kernel, voxels.value(sample, plus(centre, step)), groups) for kernel, step in pairs)

    return over(sites, kernels[0].shape[0], value)


def window(family: str, x: SparseTensor) -> tuple[list, int, dict]:
    """Output sites, stride and constructor arguments of a 3-tap kernel."""
    voxels = Voxels(x)
    if family == "SubM":
        return voxels.sites, 1, {}
    return strided_sites(voxels, 3, 2, 1), 2, {"stride": 2, "padding": 1}


def bias_rows(sites, bias: Tensor) -> Tensor:
    """``[B, O]`` to one row for each site."""
    return torch.stack([bias[site[0]] for site in sites])


@pytest.mark.parametrize("family", ["SubM", "Sparse"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_condconv_and_dynamic_convolution(backend: str, family: str, ndim: int) -> None:
    x = scene(ndim, count=30, bounded=False)
    voxels = Voxels(x)
    sites, stride, kwargs = window(family, x)
    means = torch.stack([voxels.mean(sample) for sample in range(3)])
    assert (means[1] == 0).all()  # the empty sample
    cond = layer_class(family + "CondConv", ndim)(CHANNELS, WIDTH, bias=True, groups=2, **kwargs).double()
    dynamic = layer_class(family + "DynamicConv", ndim)(CHANNELS, WIDTH, 3, temperature=2.0, **kwargs).double()
    torch.nn.init.normal_(dynamic.bias)
    hidden = (means @ dynamic.fc1.weight.T).relu()
    mixtures = (
        torch.sigmoid(means @ cond.routing.weight.T + cond.routing.bias),
        torch.softmax((hidden @ dynamic.fc2.weight.T + dynamic.fc2.bias) / 2.0, 1),
    )
    for layer, mixture, groups in zip((cond, dynamic), mixtures, (2, 1), strict=True):
        kernels = [sum(m * w for m, w in zip(row, layer.weight, strict=True)) for row in mixture]
        expected = per_sample(voxels, sites, kernels, groups, stride) + bias_rows(sites, mixture @ layer.bias)
        for fusion in ("kernel", "output"):
            assert_close(layer(x, fusion=fusion).features, expected, 1000, fusion)
    shared = cond(x, routing_weights=mixtures[0].detach())
    assert torch.allclose(shared.features, cond(x).features)


@pytest.mark.parametrize("family", ["SubM", "Sparse"])
def test_dynet(backend: str, family: str) -> None:
    x = scene(3, count=30, bounded=False)
    voxels = Voxels(x)
    sites, stride, kwargs = window(family, x)
    layer = layer_class(family + "DyNetConv", 3)(CHANNELS, WIDTH, 3, group_size=2, **kwargs).double()
    kernels = []
    for sample in range(3):
        linear = layer.coefficients[0]
        eta = torch.sigmoid(linear.weight @ voxels.mean(sample) + linear.bias)
        pairs = eta.reshape(WIDTH, 2, 1, 1, 1, 1) * layer.weight.reshape(WIDTH, 2, 3, 3, 3, CHANNELS)
        kernels.append(pairs.sum(1))
    expected = per_sample(voxels, sites, kernels, 1, stride) + layer.bias
    for fusion in ("kernel", "output"):
        assert_close(layer(x, fusion=fusion).features, expected, 1000, fusion)


@pytest.mark.parametrize("family", ["SubM", "Sparse"])
@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_odconv(backend: str, family: str, norm: str) -> None:
    x = scene(3, count=30, bounded=False)
    voxels = Voxels(x)
    sites, stride, kwargs = window(family, x)
    layer = layer_class(family + "ODConv", 3)(CHANNELS, WIDTH, 3, groups=2, norm=norm, **kwargs).double().eval()
    layer.update_temperature(1.5)
    attention = layer.attention
    kernels = []
    for sample in range(3):
        hidden = attention.fc(voxels.mean(sample)[None])
        hidden = (hidden if sample == 1 else attention.norm(hidden)).relu()[0]
        channel, filters, spatial = (
            torch.sigmoid(fc(hidden) / 1.5)
            for fc in (attention.channel_fc, attention.filter_fc, attention.spatial_fc)
        )
        shares = torch.softmax(attention.kernel_fc(hidden) / 1.5, 0)
        kernel = sum(share * w for share, w in zip(shares, layer.weight, strict=True))
        own = torch.cat([channel[:4].expand(3, 4), channel[4:].expand(3, 4)])  # input channels of each output
        kernel = kernel * spatial.reshape(3, 3, 3)[None, ..., None] * filters[:, None, None, None, None]
        kernels.append(kernel * own[:, None, None, None])
    assert_close(layer(x).features, per_sample(voxels, sites, kernels, 2, stride), 1000)


def test_odconv_leaves_out_what_cannot_matter_and_the_empty_sample() -> None:
    x = scene(3, count=30)
    depthwise = sparseconv.SubMODConv3d(CHANNELS, CHANNELS, 1, groups=CHANNELS, kernel_num=1).double()
    assert depthwise.attention.filter_fc is depthwise.attention.spatial_fc is depthwise.attention.kernel_fc is None
    assert depthwise(x).features.shape == (30, CHANNELS)
    layer = sparseconv.SubMODConv3d(CHANNELS, WIDTH, 3).double().train()
    layer(x)
    means = F.global_avg_pool(x)[[0, 2]]  # statistics of the samples that exist
    expected = 0.1 * (means @ layer.attention.fc.weight.T).mean(0)
    assert_close(layer.attention.norm.running_mean, expected, 100)
    alone = scene(3, count=10, batches=(1,))
    with pytest.raises(ValueError, match="norm='layer'"):
        layer(alone)
    assert layer.eval()(alone).features.isfinite().all()


def test_a_kernel_for_each_sample_costs_the_multiply_adds_of_one_convolution(monkeypatch) -> None:
    """Counted where the engine is called."""
    x = scene(3, count=60)
    pairs = x.coordinates.submanifold_map(sparseconv.ConvGeometry.submanifold(3, 3)).n_pairs
    calls: list[int] = []
    run = mapped.convolve

    def counting(features: Tensor, weight: Tensor, bias: Tensor | None, in_rows: Tensor, *rest) -> Tensor:
        calls.append(len(in_rows) * weight.shape[0] * weight.shape[2])
        return run(features, weight, bias, in_rows, *rest)

    monkeypatch.setattr(mapped, "convolve", counting)
    for name, args in (
        ("CondConv", (CHANNELS, WIDTH)),
        ("DynamicConv", (CHANNELS, WIDTH, 3)),
        ("DyNetConv", (CHANNELS, WIDTH, 3)),
        ("ODConv", (CHANNELS, WIDTH, 3)),
        ("DRConv", (CHANNELS, WIDTH, 3, 4)),
    ):
        layer = layer_class("SubM" + name, 3)(*args).double().eval()
        calls.clear()
        layer(x)
        guide = [pairs * CHANNELS * 4] if name == "DRConv" else []
        assert calls == [*guide, pairs * CHANNELS * WIDTH], name
        assert layer.macs(x) == pairs * CHANNELS * WIDTH


@pytest.mark.parametrize("family", ["SubM", "Sparse"])
def test_the_region_of_the_output_picks_the_kernel(backend: str, family: str) -> None:
    x = scene(3, count=30, bounded=False)
    voxels = Voxels(x)
    sites, stride, kwargs = window(family, x)
    layer = layer_class(family + "DRConv", 3)(CHANNELS, WIDTH, 3, 4, num_kernels=2, bias=True, **kwargs).double()
    guide = layer.guide(x)
    assert [tuple(row) for row in guide.indices.tolist()] == sites
    shares = 2 * torch.sigmoid(layer.routing(F.global_avg_pool(x))).reshape(3, 4, 2) / 2
    regions = guide.features.argmax(1)
    assert len(set(regions.tolist())) > 1
    output = layer(x).features
    for region in range(4):
        kernels = [share[region, 0] * layer.weight[0] + share[region, 1] * layer.weight[1] for share in shares]
        mine = regions == region
        expected = per_sample(voxels, sites, kernels, 1, stride) + layer.bias
        assert_close(output[mine], expected[mine], 1000)


def test_the_guides_gradient_is_the_straight_through_one(backend: str) -> None:
    """``S_j (v_j - sum S_l v_l)``, with ``v_j`` the product of the output's gradient with kernel j's output."""
    x = scene(3, count=30)
    weight = torch.randn(3, 4, WIDTH, 3, 3, 3, CHANNELS, dtype=torch.float64, requires_grad=True)
    rows = torch.randn(30, 4, dtype=torch.float64, requires_grad=True)
    out = F.dr_conv(x, x.replace_feature(rows), weight, subm=True).features
    grad = torch.randn_like(out)
    found, found_weight = torch.autograd.grad(out, [rows, weight], grad)
    voxels = Voxels(x)
    by_region = [per_sample(voxels, voxels.sites, list(weight.detach()[:, j])) for j in range(4)]
    v = torch.stack([(grad * one).sum(1) for one in by_region], 1)
    soft = torch.softmax(rows.detach(), 1)
    assert_close(found, soft * (v - (soft * v).sum(1, keepdim=True)), 1000)
    assert (found_weight[1] == 0).all()  # no voxel of the empty sample
    with pytest.raises(ValueError, match="output's sites"):
        F.dr_conv(x, scene(3, count=29, channels=4), weight)


def test_a_guide_learns_under_autocast_from_kernels_in_half_precision() -> None:
    x = scene(3, count=30, dtype=torch.float32)
    weight = torch.randn(3, 4, WIDTH, 3, 3, 3, CHANNELS)
    rows = torch.randn(30, 4)
    grads = []
    for half in (False, True):
        leaf = rows.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            kernels = weight.bfloat16() if half else weight
            out = F.dr_conv(x, x.replace_feature(leaf), kernels, subm=True).features
        out.float().square().mean().backward()
        grads.append(leaf.grad)
    assert float((grads[1] - grads[0]).abs().max()) < 0.05 * float(grads[0].abs().max())


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_involution(backend: str, ndim: int, stride: int) -> None:
    x = scene(ndim, count=30)
    layer = layer_class("SubMInvolution" if stride == 1 else "SparseInvolution", ndim)(
        CHANNELS, 3, stride, group_channels=4, dilation=1 if stride > 1 else 2
    ).double()
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
            children.setdefault((sample, *(p // stride for p in place)), []).append(voxels.features[row])
        sites = sorted(children)
        own = {site: torch.stack(rows).mean(0) for site, rows in children.items()}
        assert output.spatial_shape == [-(-side // stride) for side in x.spatial_shape]
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
            at = plus(tuple(stride * p for p in place), step, 2 if stride == 1 else 1)
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
    with pytest.raises(ValueError, match="alpha_out must be this one's alpha_in"):
        sparseconv.SparseOctaveConv3d(CHANNELS, WIDTH, 3).double()(x)


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


@pytest.mark.parametrize(
    ("name", "args", "kwargs", "message"),
    [
        ("SubMCondConv", (4, 4), {"num_experts": 0}, "number of kernels"),
        ("SubMCondConv", (4, 4), {"stride": 2}, "stride must be 1"),
        ("SubMDynamicConv", (4, 4, 3), {"temperature": 0}, "temperature"),
        ("SubMDyNetConv", (4, 4, 3), {"group_size": 0}, "group_size"),
        ("SubMODConv", (4, 4, 3), {"norm": "none"}, "norm must be"),
        ("SubMODConv", (4, 4, 3), {"kernel_num": 0}, "kernel_num"),
        ("SubMDRConv", (4, 4, 2), {}, "odd"),
        ("SubMDRConv", (4, 4, 3), {"num_kernels": 0}, "num_kernels"),
        ("SubMInvolution", (4, 3), {"group_channels": 3}, "multiple of group_channels"),
        ("SubMInvolution", (16, 4), {}, "odd"),
        ("SubMInvolution", (16, 3, 2), {}, "stride must be 1"),
        ("SubMDeformConv", (4, 4, 3), {"offset_groups": 3}, "divide by offset_groups"),
        ("SubMDeformConv", (4, 4, 3), {"missing": "none"}, "missing must be"),
        ("SubMDeformConv", (4, 4, 2), {}, "odd"),
        ("SparseOctaveConv", (4, 4, 3), {"alpha_in": 1.5}, "must lie in 0 .. 1"),
        ("SparseOctaveConv", (4, 4, 3), {"stride": 3}, "stride must be 1 or 2"),
        ("SparseOctaveConv", (4, 4, 3), {"missing": "none"}, "missing must be"),
    ],
)
def test_refusals_at_construction(name: str, args: tuple, kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layer_class(name, 3)(*args, **kwargs)


def test_refusals_of_the_functions() -> None:
    x = scene(3)
    weight = torch.zeros(2, 4, 3, 3, 3, CHANNELS).double()
    with pytest.raises(ValueError, match="mixture must have shape"):
        F.mixture_conv(x, weight, torch.zeros(2, 2))
    with pytest.raises(ValueError, match="bias must have shape"):
        F.mixture_conv(x, weight, torch.zeros(3, 2), torch.zeros(3))
    with pytest.raises(ValueError, match=r"shape \[O\]"):
        F.mixture_conv(x, weight, torch.zeros(3, 4, 2), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="at least one kernel"):
        F.mixture_conv(x, weight[:0], torch.zeros(3, 0))
    with pytest.raises(ValueError, match="fusion"):
        F.mixture_conv(x, weight, torch.zeros(3, 2), fusion="both")
    with pytest.raises(ValueError, match="need a kernel_attention"):
        F.od_conv(x, weight)
    with pytest.raises(ValueError, match="spatial_attention must have shape"):
        F.od_conv(x, weight[:1], spatial_attention=torch.zeros(3, 27))
    with pytest.raises(ValueError, match="must have G x 27 channels"):
        F.involution(x, x, 3)
    other = scene(3, count=59)
    with pytest.raises(ValueError, match="the input's sites"):
        F.deform_conv(x, other, weight[0])
    with pytest.raises(ValueError, match="channels"):
        F.deform_conv(x, x, weight[0])
    offset = x.replace_feature(torch.zeros(len(x), 81).double())
    with pytest.raises(ValueError, match="mask must have 1 x 27"):
        F.deform_conv(x, offset, weight[0], mask=x)
    with pytest.raises(TypeError, match="SparseTensor"):
        F.deform_conv(x, offset.features, weight[0])
