"""Gradients against finite differences in float64, to features and every parameter; second ones too."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from variant_layers import LAYERS, layer_class, scene, with_features

from sparseconv import SparseTensor
from sparseconv import functional as F
from sparseconv.ops import mapped

# The choice of a region has no derivative: its gradient is tested by its formula.
SMOOTH = [name for name in LAYERS if "region" not in name]
SECOND = ["subm_central_ignore", "sparse_circle", "subm_dynamic", "subm_omni", "subm_deform_modulated", "octave"]


def small(name: str) -> tuple[torch.nn.Module, SparseTensor]:
    torch.manual_seed(4)
    layer = LAYERS[name](2).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        if "deform" in name:
            # Off the integers, where a linear interpolation has a kink.
            layer.offset_conv.weight.mul_(0.02)
            layer.offset_conv.bias.uniform_(0.3, 0.7)
    return layer, scene(2, count=7)


@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_equal_finite_differences(backend: str, name: str) -> None:
    layer, x = small(name)
    names = [key for key, _ in layer.named_parameters()]

    def run(rows: Tensor, *values: Tensor) -> Tensor:
        # Running statistics change with every call.
        state = {key: value.clone() for key, value in layer.named_buffers()}
        state |= dict(zip(names, values, strict=True))
        return functional_call(layer, state, x.replace_feature(rows)).features

    leaves = [x.features.clone().requires_grad_()]
    leaves += [value.detach().clone().requires_grad_() for value in layer.parameters()]
    assert torch.autograd.gradcheck(run, leaves, fast_mode=True)
    if name in SECOND:
        assert torch.autograd.gradgradcheck(run, leaves, fast_mode=True)


def test_every_gradient_of_a_deformable_convolution(backend: str) -> None:
    """Entry by entry: features, offsets, mask, weight and bias."""
    x = scene(2, count=4, channels=2)
    leaves = [
        x.features.clone(),
        torch.rand(4, 18, dtype=torch.float64) * 0.6 + 0.2,
        torch.rand(4, 9, dtype=torch.float64),
        torch.randn(2, 3, 3, 2, dtype=torch.float64),
        torch.randn(2, dtype=torch.float64),
    ]
    for missing in ("zero", "ignore"):

        def run(rows: Tensor, shifts: Tensor, mask: Tensor, *rest: Tensor, rule: str = missing) -> Tensor:
            here = with_features(x, rows)
            moves, scales = here.replace_feature(shifts), here.replace_feature(mask)
            return F.deform_conv(here, moves, *rest, mask=scales, missing=rule).features

        assert torch.autograd.gradcheck(run, [leaf.clone().requires_grad_() for leaf in leaves])


def test_every_gradient_of_an_involution(backend: str) -> None:
    x = scene(2, count=6, channels=4)
    kernel = torch.randn(6, 2 * 9, dtype=torch.float64, requires_grad=True)
    rows = x.features.clone().requires_grad_()

    def run(rows: Tensor, kernel: Tensor) -> Tensor:
        return F.involution(x.replace_feature(rows), x.replace_feature(kernel), 3).features

    assert torch.autograd.gradcheck(run, [rows, kernel])
    assert torch.autograd.gradgradcheck(run, [rows, kernel])


def test_no_gradient_is_worked_out_that_nobody_wants(monkeypatch) -> None:
    """Without gradients no map is swapped."""
    x = scene(3)
    layer = layer_class("SubMCentralDifferenceConv", 3)(8, 4, missing="ignore").double()
    with torch.no_grad():
        layer(x)
    seen = []
    swap = mapped.KernelMap.transposed
    monkeypatch.setattr(mapped.KernelMap, "transposed", lambda self: seen.append(1) or swap(self))
    with torch.no_grad():
        layer(x)
    assert not seen
    layer(x)
    assert seen
