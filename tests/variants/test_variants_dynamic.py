"""Kernels that depend on the sample or on the region, voxel by voxel."""

from __future__ import annotations

import pytest
import torch
from tolerance import assert_close
from torch import Tensor
from variant_layers import CHANNELS, layer_class, scene
from voxel_walk import Voxels, per_sample, strided_sites

import sparseconv
import sparseconv.dense_ops
from sparseconv import SparseTensor
from sparseconv import functional as F
from sparseconv.ops import mapped

WIDTH = 6


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


def test_second_derivatives_are_those_of_the_dense_layer() -> None:
    """On a full grid, of a function of all gradients, by everything that they depend on."""
    image = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    guide = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 3, 4, 3, 3, 3, dtype=torch.float64, requires_grad=True)  # [N, m, O, C, kh, kw]
    cotangent = torch.randn(2, 4, 4, 5, dtype=torch.float64, requires_grad=True)
    sites = torch.ones(2, 4, 5).nonzero().int()
    leaves = [image, guide, weight]

    def sparse() -> Tensor:
        rows, guides = (tensor.permute(0, 2, 3, 1).flatten(0, 2) for tensor in (image, guide))
        x = SparseTensor(rows, sites, [4, 5], 2)
        out = F.dr_conv(x, x.replace_feature(guides), weight.movedim(3, -1), subm=True)
        return out.features.reshape(2, 4, 5, 4).permute(0, 3, 1, 2)

    seconds = []
    for run in (sparse, lambda: sparseconv.dense_ops.dr_conv2d(image, guide, weight, padding=1)):
        first = torch.autograd.grad(run(), leaves, cotangent, create_graph=True)
        total = sum(gradient.sin().sum() for gradient in first)
        seconds.append(torch.autograd.grad(total, [*leaves, cotangent]))
    for one, two in zip(*seconds, strict=True):
        assert two.abs().max() > 0
        assert_close(one, two, 27 * 27)


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
