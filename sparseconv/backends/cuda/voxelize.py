"""Placing points in voxels, and reducing them there: a thread sums one column of one voxel in order of points."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sparseconv.backends import PointGroups
from sparseconv.backends.cuda.by_row import group_by_row
from sparseconv.backends.cuda.launch import cuda, kernel
from sparseconv.backends.cuda.sites import unique_sites
from sparseconv.backends.grouping import group_cells, pad_points
from sparseconv.backends.site_keys import FARTHEST_CELL

# A float, as kernels compare it with.
_FAR = float(FARTHEST_CELL)

_REDUCTIONS = {"sum": 0, "mean": 1, "max": 2, "first": 3}
_MEAN, _MAX, _FIRST = (_REDUCTIONS[name] for name in ("mean", "max", "first"))


@kernel
def _place(points, low, size, grid, cells, status):
    """Voxel coordinates in float32, subtracted and divided as rounded: what the detectors' voxelizers compute.

    ``grid`` is empty where it has no bounds.
    """
    ndim = low.shape[0]
    for n in range(cuda.grid(1), points.shape[0], cuda.gridsize(1)):
        state = 0
        for a in range(ndim):
            value = points[n, a]
            cells[n, a] = 0
            if not math.isfinite(value):
                state = 2
            elif state < 2:
                place = (value - low[a]) / size[a]
                if not (-_FAR <= place <= _FAR):
                    state = 1
                else:
                    cell = np.int64(math.floor(place))
                    cells[n, a] = cell
                    if grid.shape[0] > 0 and (cell < 0 or cell >= grid[a]):
                        state = 1
        status[n] = state


@kernel
def _reduce(values, order, starts, reduction, out, counts):
    columns = values.shape[1]
    for at in range(cuda.grid(1), counts.shape[0] * columns, cuda.gridsize(1)):
        row = at // columns
        c = at - row * columns
        first = starts[row]
        stop = starts[row + 1]
        if c == 0:
            counts[row] = stop - first
        total = out.dtype.type(0)
        for j in range(first, stop):
            value = values[order[j], c]
            if reduction == _FIRST:
                if j == first:
                    total = value
            elif reduction == _MAX:
                if j == first or value > total or value != value:
                    total = value
            else:
                total += value
        if reduction == _MEAN and stop > first:
            total /= out.dtype.type(stop - first)
        out[row, c] = total


@kernel
def _rank(rows, order, starts, ranks):
    for at in range(cuda.grid(1), order.shape[0], cuda.gridsize(1)):
        position = order[at]
        row = rows[position]
        rank = np.int64(-1)
        if row >= 0:
            rank = at - starts[row]
        ranks[position] = rank


def place_points(
    points: Tensor, low: Sequence[float], size: Sequence[float], grid: Sequence[int] | None
) -> tuple[Tensor, Tensor]:
    """Voxel of each point, in float32: cells int32 ``[N, D]`` in point axis order, and a status uint8 ``[N]``.

    The status is 0 inside, 1 outside the grid (or beyond int32), 2 not finite.
    """
    cloud = points.detach().contiguous()
    cells = torch.empty((len(cloud), len(low)), dtype=torch.int32, device=cloud.device)
    status = torch.empty(len(cloud), dtype=torch.uint8, device=cloud.device)
    bounds = torch.tensor([] if grid is None else list(grid), dtype=torch.int64, device=cloud.device)
    _place.launch(len(cloud), cloud, cloud.new_tensor(low), cloud.new_tensor(size), bounds, cells, status)
    return cells, status


def reduce_points(values: Tensor, rows: Tensor, n_rows: int, reduce: str) -> tuple[Tensor, Tensor]:
    """See :meth:`sparseconv.backends.Backend.reduce_points`."""
    source = values.detach().contiguous()
    groups = group_by_row(rows, n_rows)
    out = source.new_empty((n_rows, source.shape[1]))
    counts = torch.empty(n_rows, dtype=torch.int32, device=source.device)
    if source.shape[1] == 0:
        return out, groups.starts.diff().int()
    _reduce.launch(out.numel(), source, groups.order, groups.starts, _REDUCTIONS[reduce], out, counts)
    return out, counts


def rank_in_voxel(rows: Tensor, n_rows: int) -> Tensor:
    """How many earlier points share each point's voxel: int64 ``[N]``, -1 for dropped points."""
    groups = group_by_row(rows, n_rows)
    ranks = torch.empty(len(rows), dtype=torch.int64, device=rows.device)
    _rank.launch(len(rows), rows.contiguous(), groups.order, groups.starts, ranks)
    return ranks


def group_points(
    points: Tensor,
    sizes: Sequence[int],
    low: Sequence[float],
    size: Sequence[float],
    grid: Sequence[int] | None,
    max_voxels: int | None,
    in_order: bool,
    max_points: int | None = None,
) -> PointGroups:
    """See :meth:`sparseconv.backends.Backend.group_points`."""
    cells, status = place_points(points, low, size, grid)
    is_inside, is_finite = status == 0, status != 2
    groups = group_cells(cells, is_inside, is_finite, sizes, max_voxels, in_order, unique_sites, rank_in_voxel)
    return groups if max_points is None else groups._replace(blocks=pad_points(points, groups, max_points))
