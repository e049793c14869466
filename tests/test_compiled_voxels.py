"""``torch.compile`` around programs that voxelize: voxels are found outside the graph."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import sparseconv as sc
from sparseconv import functional as F
from sparseconv.compat.spconv.pytorch import SparseConvTensor
from sparseconv.compat.spconv.pytorch.functional import sparse_add
from sparseconv.compat.spconv.pytorch.point_to_voxel import PointToVoxel

RANGE = (0.0, 0.0, 0.0, 4.0, 4.0, 4.0)


def _convolved(points: Tensor) -> Tensor:
    weight = torch.arange(8 * 27 * 4, dtype=points.dtype).reshape(8, 3, 3, 3, 4) / 100
    return F.subm_conv(sc.voxelize(points * 0.5, 0.5, RANGE).to_sparse(), weight).features * 2


def _interpolated(points: Tensor) -> Tensor:
    voxels = sc.voxelize(points, 0.5, RANGE)
    return sc.devoxelize(voxels.features, voxels, points * 0.9, "trilinear") + 1


def _padded(points: Tensor) -> Tensor:
    return sc.hard_voxelize(points, 0.5, RANGE, max_points=3, max_voxels=50).points * 2


def _reduced(points: Tensor) -> Tensor:
    return sc.reduce_points(points * 2, torch.arange(len(points)) // 3, len(points), "mean")[0] + 1


def _spconv_padded(points: Tensor) -> Tensor:
    voxels, _, counts = PointToVoxel([0.5] * 3, list(RANGE), 4, 100, 3)(points * 0.5)
    return voxels.sum(1) / counts[:, None]


def _spconv_added(points: Tensor) -> Tensor:
    voxels = sc.voxelize(points, 0.5, RANGE)
    x = SparseConvTensor(voxels.features, voxels.indices, [8, 8, 8], 1)
    return sparse_add(x, x.replace_feature(x.features * 2)).features + 1


@pytest.mark.parametrize("program", [_convolved, _interpolated, _padded, _reduced, _spconv_padded, _spconv_added])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_programs_that_voxelize_are_compiled(program: Callable[[Tensor], Tensor]) -> None:
    points = torch.rand(1000, 4) * 4
    expected = program(points)
    torch.compiler.reset()
    compiled = torch.compile(program, backend="eager")
    assert torch.equal(compiled(points), expected)
    # Other points give another number of voxels.
    assert torch.equal(compiled(points[:500]), program(points[:500]))
