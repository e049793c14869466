"""Dynamic region-aware convolution, against choosing from all region kernels' outputs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from dense_checks import F64, assert_equal, counted_macs, draw, gradcheck

from sparseconv.dense_ops import DRConv2d, dr_conv2d

GEOMETRY = [{}, {"stride": 2, "padding": 1}, {"padding": (2, 1), "dilation": 2}]


def every_region(x, weight, **geometry):
    """Outputs of all region kernels: [N, m, O, Ho, Wo]."""
    return torch.stack(
        [
            torch.stack([F.conv2d(x[n : n + 1], kernel, **geometry)[0] for kernel in weight[n]])
            for n in range(len(x))
        ]
    )


def straight_through(x, guide, weight, **geometry):
    """One-hot forward, softmax backward."""
    soft = torch.softmax(guide, 1)
    hard = F.one_hot(guide.argmax(1), guide.shape[1]).permute(0, 3, 1, 2).to(soft)
    mask = hard + soft - soft.detach()
    return (mask[:, :, None] * every_region(x, weight, **geometry)).sum(1)


@pytest.mark.parametrize("geometry", GEOMETRY)
@pytest.mark.parametrize("regions", [1, 3])
def test_values_and_straight_through_gradients(geometry, regions) -> None:
    x, weight = draw(2, 3, 7, 8), draw(2, regions, 4, 3, 3, 3)
    shape = F.conv2d(x, weight[0, 0], **geometry).shape[2:]
    leaves = [x.requires_grad_(), draw(2, regions, *shape).requires_grad_(), weight.requires_grad_()]
    ours, theirs = dr_conv2d(*leaves, **geometry), straight_through(*leaves, **geometry)
    assert_equal(ours, theirs)
    cotangent = torch.randn_like(ours)
    for mine, other in zip(
        torch.autograd.grad(ours, leaves, cotangent), torch.autograd.grad(theirs, leaves, cotangent), strict=True
    ):
        assert_equal(mine, other)


@pytest.mark.parametrize("geometry", GEOMETRY)
def test_second_derivatives_straight_through(geometry) -> None:
    """Of a function of all gradients, by everything that they depend on, the cotangent included."""
    x, weight = draw(2, 3, 7, 8), draw(2, 3, 4, 3, 3, 3)
    shape = F.conv2d(x, weight[0, 0], **geometry).shape[2:]
    leaves = [x.requires_grad_(), draw(2, 3, *shape).requires_grad_(), weight.requires_grad_()]
    cotangent = draw(2, 4, *shape).requires_grad_()
    directions = [draw(*leaf.shape) for leaf in leaves]
    second = []
    for run in (dr_conv2d, straight_through):
        first = torch.autograd.grad(run(*leaves, **geometry), leaves, cotangent, create_graph=True)
        total = sum((gradient * along).sum() for gradient, along in zip(first, directions, strict=True))
        second.append(torch.autograd.grad(total, [*leaves, cotangent]))
    for mine, other in zip(*second, strict=True):
        assert mine.abs().max() > 0
        assert_equal(mine, other, 10)


def test_the_guides_gradient_by_formula() -> None:
    x, weight, guide = draw(1, 2, 5, 5), draw(1, 3, 4, 2, 3, 3), draw(1, 3, 3, 3).requires_grad_()
    g = draw(1, 4, 3, 3)
    (ours,) = torch.autograd.grad(dr_conv2d(x, guide, weight), guide, g)
    soft = torch.softmax(guide.detach(), 1)
    v = (every_region(x, weight) * g[:, None]).sum(2)
    assert_equal(ours, soft * (v - (soft * v).sum(1, keepdim=True)))


def test_derivatives_without_the_guide() -> None:
    """The choice is no function that a difference quotient could see; everything else is."""
    guide = draw(2, 3, 2, 3)
    gradcheck(lambda x, w, b: dr_conv2d(x, guide, w, b), draw(2, 2, 4, 5), draw(2, 3, 2, 2, 3, 3), draw(2))


def test_special_cases() -> None:
    x, kernel = draw(2, 3, 6, 5), draw(4, 3, 3, 3)
    same = kernel.expand(2, 5, -1, -1, -1, -1)
    assert_equal(dr_conv2d(x, draw(2, 5, 4, 3), same), F.conv2d(x, kernel))
    # Equal guides: the lowest region.
    weight = draw(2, 3, 4, 3, 3, 3)
    assert_equal(dr_conv2d(x, torch.zeros(2, 3, 4, 3, dtype=F64), weight), every_region(x, weight)[:, 0])
    # No sample sees another.
    guide = draw(2, 3, 4, 3)
    alone = torch.cat([dr_conv2d(x[n : n + 1], guide[n : n + 1], weight[n : n + 1]) for n in range(2)])
    assert_equal(dr_conv2d(x, guide, weight), alone)
    assert dr_conv2d(x[:0], guide[:0], weight[:0]).shape == (0, 4, 4, 3)


@pytest.mark.parametrize("geometry", GEOMETRY)
def test_generator_of_the_paper(geometry) -> None:
    layer = DRConv2d(3, 4, 3, 2, **geometry).double()
    x = draw(2, 3, 8, 9)
    pooled = F.adaptive_avg_pool2d(x, 3)
    hidden = torch.sigmoid(F.conv2d(pooled, layer.reduce.weight, layer.reduce.bias))
    flat = F.conv2d(hidden, layer.expand.weight, layer.expand.bias, groups=2)
    guide = F.conv2d(x, layer.guide.weight, layer.guide.bias, **geometry)
    expected = straight_through(x, guide, flat.reshape(2, 2, 4, 3, 3, 3), **geometry)
    assert_equal(layer(x), expected)
    parameters = list(layer.parameters())
    for mine, other in zip(
        torch.autograd.grad(layer(x).square().sum(), parameters),
        torch.autograd.grad(expected.square().sum(), parameters),
        strict=True,
    ):
        assert_equal(mine, other, 10)


@pytest.mark.parametrize("geometry", GEOMETRY)
def test_generator_that_mixes(geometry) -> None:
    layer = DRConv2d(3, 4, 3, 2, bias=True, generator="mix", num_kernels=5, **geometry).double()
    x = draw(2, 3, 8, 9)
    scores = x.mean((2, 3)) @ layer.routing.weight.T + layer.routing.bias
    shares = 2 * torch.sigmoid(scores).reshape(2, 2, 5) / 5
    kernels = torch.einsum("njw,wocuv->njocuv", shares, layer.weight)
    shape = F.conv2d(x, layer.weight[0], **geometry).shape[2:]
    guide = F.interpolate(F.conv2d(x, layer.guide.weight, layer.guide.bias), shape, mode="nearest")
    expected = straight_through(x, guide, kernels, **geometry) + layer.bias[:, None, None]
    assert_equal(layer(x), expected)
    parameters = list(layer.parameters())
    for mine, other in zip(
        torch.autograd.grad(layer(x).square().sum(), parameters),
        torch.autograd.grad(expected.square().sum(), parameters),
        strict=True,
    ):
        assert_equal(mine, other, 10)


def test_flops_by_formula_and_by_map(monkeypatch) -> None:
    c, o, m, k2, pixels = 3, 4, 5, 9, 5 * 6
    layer = DRConv2d(c, o, 3, m)
    guide, generator = pixels * m * c * k2, k2 * (c * m**2 + m**2 * c * o)
    parameters = (c * k2 + 1) * m + (c + 1) * m**2 + m * c * o * (m + 1)
    assert layer.flops((2, c, 7, 8)) == (2 * (pixels * o * c * k2 + guide + generator), parameters)
    with counted_macs(monkeypatch) as calls:
        layer(torch.randn(2, c, 7, 8))
    assert sum(calls) == layer.flops((2, c, 7, 8)).macs
    mix = DRConv2d(c, o, 3, m, generator="mix", num_kernels=2)
    routing = c * m * 2 + m * 2 * o * c * k2
    assert mix.flops((c, 7, 8)).macs == pixels * o * c * k2 + 56 * c * m + routing


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_guide_learns_under_autocast(create_graph) -> None:
    """The backward pass runs outside the block, on an output in half precision."""
    x, weight, rows = torch.randn(2, 4, 8, 8), torch.randn(2, 3, 5, 4, 3, 3), torch.randn(2, 3, 6, 6)
    grads, seconds = [], []
    for half in (False, True):
        guide, leaf = rows.clone().requires_grad_(), weight.clone().requires_grad_()
        kernels = leaf.bfloat16() if half else leaf
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            y = dr_conv2d(x, guide, kernels)
        assert y.dtype == (torch.bfloat16 if half else torch.float32)
        grads.append(torch.autograd.grad(y.float().square().mean(), guide, create_graph=create_graph)[0])
        if create_graph:
            seconds.append(torch.autograd.grad(grads[-1].square().sum(), leaf)[0])
    for exact, found in (grads, seconds) if create_graph else (grads,):
        assert found.dtype == torch.float32
        assert (found - exact).abs().max().item() < 0.05 * exact.abs().max().item()


@pytest.mark.parametrize("generator", ["paper", "mix"])
def test_the_layer_learns_under_autocast(generator) -> None:
    layer = DRConv2d(4, 4, 3, 3, generator=generator)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(torch.randn(2, 4, 8, 8))
    y.sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in layer.parameters())


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="generator must be 'paper' or 'mix'"):
        DRConv2d(3, 4, 3, generator="gap")
    with pytest.raises(ValueError, match=r"guide must have shape \[2, 3, 4, 3\]"):
        dr_conv2d(draw(2, 3, 6, 5), draw(2, 3, 6, 5), draw(2, 3, 4, 3, 3, 3))
    with pytest.raises(ValueError, match=r"\[2, m, O, C, kh, kw\]"):
        dr_conv2d(draw(2, 3, 6, 5), draw(2, 3, 4, 3), draw(3, 4, 3, 3, 3))
