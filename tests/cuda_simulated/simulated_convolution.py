"""Convolution and weight gradient by the executors that need no Triton."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from made_sites import make_sites
from tolerance import assert_close
from torch import Tensor

from sparseconv import ConvGeometry
from sparseconv.backends import cuda, reference
from sparseconv.backends.cuda import conv as cuda_conv

Map = tuple[Tensor, Tensor, Tensor]


def strided_map(count: int) -> tuple[Map, int]:
    index = reference.build_index(make_sites(count, True, (3, 12)))
    geometry = ConvGeometry.create(2, 3, 2, 1)
    coarse = reference.build_index(reference.coarse_sites(index, geometry, None))
    return reference.kernel_pairs(index, coarse, geometry), len(coarse.sites)


def check(executor: str, count: int, channels: tuple[int, int, int], dtype: torch.dtype, epilogue: bool) -> None:
    c_in, c_out, groups = channels
    rows, n_out = strided_map(count)
    features = torch.randn(count, c_in).to(dtype)
    weight = torch.randn(c_in // groups, 9, c_out).permute(2, 1, 0).to(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    bias = torch.randn(c_out, dtype=wide) if epilogue else None
    residual = torch.randn(n_out, c_out, dtype=wide) if epilogue else None
    exact = [None if t is None else t.double() for t in (features, weight, bias, residual)]
    with cuda_conv.use_executor(executor):
        found = cuda.convolve(features, weight, bias, *rows, n_out, groups, residual, epilogue)
    expected = reference.convolve(exact[0], exact[1], exact[2], *rows, n_out, groups, exact[3], epilogue)
    assert found.dtype == wide
    assert_close(found, expected, 9 * c_in // groups)
    if dtype == torch.bfloat16:
        return
    grad = torch.randn(n_out, c_out, dtype=dtype)
    with cuda_conv.use_executor(executor):
        found = cuda.weight_gradient(features, grad, *rows, groups)
    expected = reference.weight_gradient(features.double(), grad.double(), *rows, groups)
    assert found.is_contiguous() or found.shape == expected.shape
    assert_close(found, expected, max(1, count))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels", [(3, 5, 1), (6, 4, 2)], ids=str)
def test_plain_path(n_sites: int, channels: tuple[int, int, int], dtype: torch.dtype) -> None:
    check("mm", n_sites, channels, dtype, epilogue=n_sites == 41)


def test_plain_path_in_small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    for values in (1, 35, 200):
        monkeypatch.setattr(cuda_conv, "_BUFFERED_VALUES", values)
        check("mm", 30, (3, 5, 1), torch.float32, epilogue=True)


@pytest.mark.parametrize("channels", [(5, 5, 5), (3, 6, 3), (6, 3, 3), (8, 4, 2)], ids=str)
def test_groups_of_few_channels(n_sites: int, channels: tuple[int, int, int]) -> None:
    check("direct", n_sites, channels, torch.float32, epilogue=n_sites == 41)


def test_groups_of_few_channels_in_other_types() -> None:
    check("direct", 20, (4, 4, 4), torch.float64, epilogue=True)
    check("direct", 20, (4, 4, 4), torch.bfloat16, epilogue=False)


@pytest.mark.parametrize("executor", ["mm", "direct"])
def test_nothing_to_multiply(executor: str) -> None:
    empty = torch.empty(0, dtype=torch.int32)
    offsets = torch.zeros(4, dtype=torch.int64)
    bias, residual = torch.randn(4), torch.randn(3, 4)
    with cuda_conv.use_executor(executor):
        found = cuda.convolve(
            torch.ones(2, 4), torch.ones(4, 3, 2), bias, empty, empty, offsets, 3, 2, residual, True
        )
        assert torch.equal(found, (bias + residual).relu())
        gradient = cuda.weight_gradient(torch.ones(2, 4), torch.ones(3, 4), empty, empty, offsets, 2)
    assert torch.equal(gradient, torch.zeros(4, 3, 2))


def test_nan_passes_through_the_relu() -> None:
    rows, n_out = strided_map(9)
    features = torch.full((9, 4), float("nan"))
    with cuda_conv.use_executor("mm"):
        found = cuda.convolve(features, torch.ones(2, 9, 4), None, *rows, n_out, 1, None, True)
    assert found.isnan().all()


@pytest.mark.parametrize("executor", ["mm", "direct"])
def test_the_same_bits_again(executor: str) -> None:
    rows, n_out = strided_map(35)
    features, weight = torch.randn(35, 6), torch.randn(6, 9, 2)
    run: Callable[[], Tensor] = lambda: cuda.convolve(features, weight, None, *rows, n_out, 3)  # noqa: E731
    with cuda_conv.use_executor(executor):
        assert torch.equal(run(), run())


def test_choice_of_executor() -> None:
    x = torch.ones(2, 4)
    assert cuda_conv.executor_for(x, torch.ones(4, 3, 1), 4) == "direct"
    assert cuda_conv.executor_for(x, torch.ones(4, 3, 4), 1) == "mm"
    with cuda_conv.use_executor("triton"), pytest.raises(ValueError, match="executor 'triton' does not take"):
        cuda_conv.executor_for(x, torch.ones(4, 3, 4), 1)
    with pytest.raises(ValueError, match="no executor 'cudnn'; the executors are direct, triton, mm"):
        cuda_conv.use_executor("cudnn").__enter__()
