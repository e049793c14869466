"""Compile every kernel ahead of its first use, and keep the code."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence

import torch

from sparseconv import functional as F
from sparseconv.coordinates import CoordinateHash
from sparseconv.devoxelization import devoxelize
from sparseconv.nn import BatchNorm
from sparseconv.ops import weighted_sum
from sparseconv.tensor import SparseTensor
from sparseconv.voxelization import REDUCTIONS, hard_voxelize, voxelize


def _voxelization() -> None:
    points = torch.rand(64, 4)
    for reduce in REDUCTIONS:
        voxels = voxelize(points, 0.3, [0, 0, 0, 1, 1, 1], reduce)  # type: ignore[arg-type]
    devoxelize(voxels.features, voxels, points, "trilinear")
    hard_voxelize(points, 0.3, max_points=2, max_voxels=9)


def _sample(dtype: torch.dtype) -> SparseTensor:
    """Unsorted sites, so that the kernels for their order are met too."""
    cells = torch.randperm(64)[:40]
    indices = torch.stack([cells * 0, cells // 16, cells // 4 % 4, cells % 4], 1)
    return SparseTensor(torch.randn(40, 4, dtype=dtype).requires_grad_(), indices, [4, 4, 4], 1)


def _maps(dtype: torch.dtype) -> None:
    x = _sample(dtype)
    CoordinateHash(x.indices).query(x.indices)
    F.upsample(F.sum_pool(x, 2), 2)


def _convolution(dtype: torch.dtype) -> None:
    x = _sample(dtype)
    # Many groups of two outputs for each input have kernels of their own.
    wide = x.replace_feature(x.features.detach().repeat(1, 8).requires_grad_())
    weight = torch.randn(64, 3, 3, 3, 1, dtype=dtype, requires_grad=True)
    F.subm_conv(wide, weight, groups=32).features.sum().backward()
    for groups in (1, 4):
        weight = torch.randn(4, 3, 3, 3, 4 // groups, dtype=dtype, requires_grad=True)
        F.subm_conv(x, weight, groups=groups).features.sum().backward()
    weight = weight.detach().requires_grad_()
    F.sparse_conv_transpose(x, weight, stride=2, groups=4).features.sum().backward()


def _half_convolution() -> None:
    """bfloat16 has kernels of its own where the processor multiplies it."""
    x = _sample(torch.float32)
    wide = x.replace_feature(x.features.detach().repeat(1, 8).bfloat16())
    F.subm_conv(wide, torch.randn(16, 3, 3, 3, 32).bfloat16())


def _pooling_and_norm(dtype: torch.dtype) -> None:
    x = _sample(dtype)
    norm = BatchNorm(4).to(dtype)
    (F.max_pool(x, 2).features.sum() + F.avg_pool(norm(x), 2).features.sum()).backward()
    # Rows of a hundred pairs have kernels of their own on a GPU.
    places = torch.arange(100)
    line = SparseTensor(torch.randn(100, 1, dtype=dtype), torch.stack([places * 0, places], 1), [100], 1)
    F.global_max_pool(line)
    F.global_sum_pool(line)


def _weighted_pairs(dtype: torch.dtype) -> None:
    features = torch.randn(8, 4, dtype=dtype).requires_grad_()
    coefficients = torch.randn(8, 2, dtype=dtype).requires_grad_()
    rows = torch.arange(8, dtype=torch.int32)
    weighted_sum(features, coefficients, rows, rows, 8).sum().backward()


def steps(dtypes: Sequence[torch.dtype] = (torch.float32,)) -> Iterator[tuple[str, Callable[[], None]]]:
    """What :func:`warm_up` does, in named steps for a progress display."""
    yield "voxelization", _voxelization
    yield "convolution in bfloat16", _half_convolution
    for dtype in dtypes:
        name = str(dtype).removeprefix("torch.")
        for label, step in (
            ("maps", _maps),
            ("convolution", _convolution),
            ("pooling and norm", _pooling_and_norm),
            ("weighted pairs", _weighted_pairs),
        ):
            yield f"{label} in {name}", functools.partial(step, dtype)


def warm_up(
    dtypes: Sequence[torch.dtype] = (torch.float32,), device: torch.device | str | int | None = None
) -> None:
    """Compile the kernels, forward and backward, so that no first call has to.

    The code of a processor's kernels is kept for the next process; a GPU's kernels are compiled in each process.

    Args:
        dtypes: float32, float64 or both; what the half precisions need beyond float32's is always included.
        device: where the kernels are to run; None: torch's default device.
    """
    where = torch.get_default_device() if device is None else torch.device(device)
    others = [where] if where.type == "cuda" else []
    with torch.random.fork_rng(others), torch.device(where), torch.enable_grad():
        for _, step in steps(dtypes):
            step()
