"""Layers on the whole CUDA backend: Numba's simulator for the maps, Triton's interpreter for the convolutions."""

from __future__ import annotations

import copy

import pytest
import torch
from scans import random_sites
from tolerance import assert_close

from sparseconv import SparseTensor, nn, use_backend
from sparseconv.backends.cuda import conv, implicit_gemm
from sparseconv.backends.cuda.conv import executor_for, use_executor


def test_the_fused_kernels_are_chosen_where_they_can_run() -> None:
    x, weight = torch.zeros(3, 16), torch.zeros(16, 27, 16)
    assert executor_for(x, weight, 1) == "triton"
    assert executor_for(x, torch.zeros(3, 16), 1) == "triton"
    assert executor_for(x.double(), weight.double(), 1) == "mm"


@pytest.mark.parametrize("name", ["triton", "mm"])
def test_a_training_step_is_that_of_the_reference(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    launches: list[str] = []
    fused = implicit_gemm._checked_kernels
    monkeypatch.setattr(implicit_gemm, "_checked_kernels", lambda *args: launches.append("fused") or fused(*args))
    model = nn.Sequential(nn.SubMConv3d(4, 8, 3), nn.ReLU(), nn.SparseConv3d(8, 6, 3, stride=2))
    exact = copy.deepcopy(model).double()
    sites, x = random_sites(40, (5, 5, 5)), torch.randn(40, 4)
    with use_backend("cuda"), use_executor(name):
        found = model(SparseTensor(x, sites, [5, 5, 5], 1)).features
        found.square().sum().backward()
    with use_backend("reference"):
        expected = exact(SparseTensor(x.double(), sites.clone(), [5, 5, 5], 1)).features
        expected.square().sum().backward()
    # Forward of both layers, their weights' and biases' gradients, and one gradient to features.
    assert len(launches) == (7 if name == "triton" else 0)
    assert_close(found.detach(), expected.detach(), 27 * 8)
    for parameter, other in zip(model.parameters(), exact.parameters(), strict=True):
        assert_close(parameter.grad, other.grad, 27 * 8 * 40)


@pytest.mark.parametrize("name", ["triton", "mm"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_halves_reach_the_executors_as_they_are(
    dtype: torch.dtype, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward and both gradients multiply the half type itself, and sum in float32."""
    seen: list[torch.dtype] = []
    chosen = conv.executor_for

    def noted(left: torch.Tensor, right: torch.Tensor, groups: int) -> str:
        seen.extend((left.dtype, right.dtype))
        return chosen(left, right, groups)

    monkeypatch.setattr(conv, "executor_for", noted)
    layer = nn.SubMConv3d(16, 8, 3).to(dtype)
    exact = copy.deepcopy(layer).double()
    sites, x = random_sites(40, (5, 5, 5)), torch.randn(40, 16).to(dtype)
    results = []
    for backend, module, rows in (("cuda", layer, x), ("reference", exact, x.double())):
        leaf = rows.clone().requires_grad_()
        with use_backend(backend), use_executor(name):
            out = module(SparseTensor(leaf, sites.clone(), [5, 5, 5], 1)).features
            out.backward(torch.ones_like(out))
        results.append((out.detach(), leaf.grad, module.weight.grad, module.bias.grad))
    # The bias gradient, a sum of rows, is the one that is widened.
    assert seen.count(dtype) == 6 and seen.count(torch.float32) == 2
    for found, expected in zip(*results, strict=True):
        assert found.dtype == dtype
        assert_close(found, expected, 27 * 16)
