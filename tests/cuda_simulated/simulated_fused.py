"""Layers on the fused convolution: Numba's simulator and Triton's interpreter in one process."""

from __future__ import annotations

import importlib.util
import os

import pytest
import torch
from made_sites import make_sites
from tolerance import assert_close
from torch import Tensor

# Triton reads it when it is imported, which nothing has done yet.
os.environ["TRITON_INTERPRET"] = "1"

from sparseconv import SparseTensor, use_backend
from sparseconv import functional as F
from sparseconv.backends.cuda import conv as cuda_conv

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason='Triton is not installed: pip install "sparseconv[cuda]"'
)


def results(backend: str, groups: int) -> list[Tensor]:
    torch.manual_seed(7)
    sites = make_sites(30, False, (3, 12))
    x = SparseTensor(torch.randn(30, 6).requires_grad_(), sites, None, 3)
    weight = torch.randn(8, 3, 3, 6 // groups, requires_grad=True)
    bias = torch.randn(8, requires_grad=True)
    with use_backend(backend):
        y = F.subm_conv(x, weight, bias, groups=groups)
        z = F.sparse_conv(y, torch.randn(5, 2, 2, 8), stride=2)
        (z.features**2).sum().backward()
    assert x.features.grad is not None and weight.grad is not None and bias.grad is not None
    return [y.features.detach(), z.features.detach(), x.features.grad, weight.grad, bias.grad]


@pytest.mark.parametrize("groups", [1, 2])
def test_layers_run_on_triton_where_it_is_usable(groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[str] = []
    choose = cuda_conv.executor_for

    def noted(features: Tensor, weight: Tensor, groups: int) -> str:
        chosen.append(choose(features, weight, groups))
        return chosen[-1]

    monkeypatch.setattr(cuda_conv, "executor_for", noted)
    for found, expected in zip(results("cuda", groups), results("reference", groups), strict=True):
        assert_close(found, expected, 2000)
    # The layer in two groups of three channels goes to the kernels for small groups, both ways.
    assert set(chosen) == ({"triton"} if groups == 1 else {"triton", "direct"})


def test_executors_agree() -> None:
    def run(name: str) -> list[Tensor]:
        with cuda_conv.use_executor(name):
            return results("cuda", 1)

    for fused, plain in zip(run("triton"), run("mm"), strict=True):
        assert_close(fused, plain, 2000)
