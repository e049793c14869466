"""Placing points in voxels, and reducing them there."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sparseconv.backends.cpu.jit import kernel
from sparseconv.backends.cpu.threads import run_ranges

_SMALLEST_RANGE = 16384  # points; placing one costs about 3 ns

# Cells that an unbounded grid can name: int32 coordinates, one cell short of the ends so that the float32
# neighbours of 2**31 stay out.
_FAR = 2147483520.0


@kernel
def _place(points, low, size, grid, bounded, start, stop, cells, status):
    """Voxel coordinates in float32, without contraction: what the detectors' voxelizers compute."""
    ndim = low.shape[0]
    for n in range(start, stop):
        state = np.uint8(0)
        for a in range(ndim):
            value = points[n, a]
            if not np.isfinite(value):
                state = np.uint8(2)
                break
            cell = np.floor((value - low[a]) / size[a])
            if not (-np.float32(_FAR) <= cell <= np.float32(_FAR)):
                state = np.uint8(1)
                cells[n, a] = 0
                continue
            cells[n, a] = np.int32(cell)
            if bounded and (cells[n, a] < 0 or cells[n, a] >= grid[a]):
                state = np.uint8(1)
        status[n] = state


@kernel
def _rank(rows, seen, ranks):
    for n in range(rows.shape[0]):
        row = rows[n]
        if row < 0:
            ranks[n] = -1
        else:
            ranks[n] = seen[row]
            seen[row] += 1


@kernel
def _sum(values, rows, out, counts):
    for n in range(rows.shape[0]):
        row = rows[n]
        if row >= 0:
            counts[row] += 1
            for c in range(values.shape[1]):
                out[row, c] += values[n, c]


@kernel
def _maximum(values, rows, out, counts):
    for n in range(rows.shape[0]):
        row = rows[n]
        if row >= 0:
            is_first = counts[row] == 0
            counts[row] += 1
            for c in range(values.shape[1]):
                value = values[n, c]
                if is_first or value > out[row, c] or value != value:
                    out[row, c] = value


@kernel
def _first(values, rows, out, counts):
    for n in range(rows.shape[0]):
        row = rows[n]
        if row >= 0:
            if counts[row] == 0:
                for c in range(values.shape[1]):
                    out[row, c] = values[n, c]
            counts[row] += 1


@kernel
def _divide(out, counts):
    for row in range(out.shape[0]):
        if counts[row] > 0:
            for c in range(out.shape[1]):
                out[row, c] /= counts[row]


_REDUCTIONS = {"sum": _sum, "mean": _sum, "max": _maximum, "first": _first}


def place_points(points: Tensor, low: Tensor, size: Tensor, grid: Tensor | None) -> tuple[Tensor, Tensor]:
    """See :meth:`sparseconv.backends.Backend.place_points`."""
    values = points.detach().numpy()
    cells = np.zeros((len(values), len(low)), np.int32)
    status = np.empty(len(values), np.uint8)
    bounds = np.zeros(len(low), np.int64) if grid is None else grid.numpy()
    run_ranges(
        lambda start, stop: _place(
            values,
            low.numpy(),
            size.numpy(),
            bounds,
            grid is not None,
            start,
            stop,
            cells,
            status,
        ),
        len(values),
        _SMALLEST_RANGE,
    )
    return torch.from_numpy(cells), torch.from_numpy(status)


def reduce_points(values: Tensor, rows: Tensor, n_rows: int, reduce: str) -> tuple[Tensor, Tensor]:
    """See :meth:`sparseconv.backends.Backend.reduce_points`."""
    source = values.detach().numpy()
    out = np.zeros((n_rows, source.shape[1]), source.dtype)
    counts = np.zeros(n_rows, np.int32)
    _REDUCTIONS[reduce](source, rows.numpy(), out, counts)
    if reduce == "mean":
        _divide(out, counts)
    return torch.from_numpy(out), torch.from_numpy(counts)


def rank_in_voxel(rows: Tensor, n_rows: int) -> Tensor:
    """See :meth:`sparseconv.backends.Backend.rank_in_voxel`."""
    ranks = np.empty(len(rows), np.int64)
    _rank(rows.numpy(), np.zeros(n_rows, np.int64), ranks)
    return torch.from_numpy(ranks)
