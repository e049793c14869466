"""Cells and keys of points, a block of points at a time.

A point's key is the row-major number of its cell, as in :mod:`sparseconv.backends.site_keys`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sparseconv.backends.cpu.jit import kernel
from sparseconv.backends.site_keys import FARTHEST_CELL, SiteKeys

# Points whose cells are computed at once: with four columns 8 KB of cells and constants, in the first-level cache.
BLOCK = 128

# The cell of a coordinate that lies outside or is not finite.
_NO_CELL = -(1 << 31)


@kernel
def cells_of(values, low, size, first, last, cells):
    """Cell of each coordinate in float32, without contraction, as detectors' voxelizers compute it.

    All arguments are flat and of one length, constants repeated, so that the loop runs on vectors.
    """
    for i in range(values.shape[0]):
        cell = np.floor((values[i] - low[i]) / size[i])
        cell = cell if cell <= last[i] else np.float32(_NO_CELL)
        cells[i] = np.int32(cell if cell >= first[i] else np.float32(_NO_CELL))


@kernel
def _repeat(row, columns, filler, repeated):
    """The constants of each column, block-wise; columns behind the coordinates get ``filler``."""
    for i in range(repeated.shape[0]):
        column = i % columns
        repeated[i] = row[column] if column < row.shape[0] else filler


@kernel
def _is_finite(points, n, ndim):
    finite = True
    for a in range(ndim):
        finite &= np.isfinite(points[n, a])
    return finite


@kernel
def all_finite(values):
    """Whether no value is NaN or infinite, on vectors."""
    found = np.int32(0)
    for i in range(values.shape[0]):
        # A finite number differs from itself by zero.
        found |= np.int32(values[i] - values[i] != np.float32(0))
    return found == 0


@kernel
def block_constants(columns, low, size, first, last):
    """Lower corner, size, and first and last cell of each value of a block, in four rows."""
    constants = np.empty((4, BLOCK * columns), np.float32)
    _repeat(low, columns, np.float32(0), constants[0])
    _repeat(size, columns, np.float32(1), constants[1])
    # No cell for a feature, whatever its value.
    _repeat(first, columns, np.float32(np.inf), constants[2])
    _repeat(last, columns, np.float32(-np.inf), constants[3])
    return constants


@kernel
def _span(points, constants, least, most):
    """Smallest and largest cell of the points inside, per axis; unchanged where there is none."""
    ndim = least.shape[0]
    rows, columns = points.shape
    lows, sizes, firsts, lasts = constants[0], constants[1], constants[2], constants[3]
    cells = np.empty(BLOCK * columns, np.int32)
    flat = points.reshape(-1)
    for start in range(0, rows, BLOCK):
        stop = min(start + BLOCK, rows)
        used = (stop - start) * columns
        cells_of(flat[start * columns : stop * columns], lows[:used], sizes[:used], firsts, lasts, cells)
        for k in range(stop - start):
            row = cells[k * columns : k * columns + ndim]
            inside = True
            for a in range(ndim):
                inside &= row[a] != np.int32(_NO_CELL)
            if inside:
                for a in range(ndim):
                    least[a] = min(least[a], row[a])
                    most[a] = max(most[a], row[a])


@kernel
def keys_of(cells, columns, box_low, strides, sample_key, keys):
    """Key of each point of a block, -1 where a coordinate has no cell; returns how many have none.

    ``sample_key`` is added to each key.
    """
    ndim = strides.shape[0] - 1
    # What the lowest corner would be, in wrapping arithmetic: the key itself always fits.
    corner = -sample_key
    for a in range(1, ndim + 1):
        corner += box_low[a] * strides[a]
    if ndim == 3 and columns == 4:
        # Written out, so that it runs on vectors: they need all four columns, and that of a feature has no cell.
        stride_y, stride_z = strides[2], strides[1]
        one, two, three = np.uint64(1), np.uint64(2), np.uint64(3)
        for k in range(np.uint64(keys.shape[0])):
            at = k * np.uint64(4)
            x, y, z, feature = cells[at], cells[at + one], cells[at + two], cells[at + three]
            key = np.int64(x) + np.int64(y) * stride_y + np.int64(z) * stride_z - corner
            has_cells = (x != np.int32(_NO_CELL)) & (y != np.int32(_NO_CELL)) & (z != np.int32(_NO_CELL))
            has_cells &= feature == np.int32(_NO_CELL)
            keys[k] = key if has_cells else np.int64(-1)
    else:
        for k in range(np.uint64(keys.shape[0])):
            at = k * np.uint64(columns)
            key = -corner
            has_cells = True
            for a in range(np.uint64(ndim)):
                cell = cells[at + a]
                has_cells &= cell != np.int32(_NO_CELL)
                # Sites hold the axes in reverse order, batch first.
                key += np.int64(cell) * strides[np.uint64(ndim) - a]
            keys[k] = key if has_cells else np.int64(-1)
    missing = np.int32(0)
    for k in range(keys.shape[0]):
        missing += np.int32(keys[k] < 0)
    return missing


@kernel
def count_dropped(points, start, keys, ndim, dropped):
    """Add the points of a block that have no key: outside, or not finite."""
    for k in range(keys.shape[0]):
        if keys[k] < 0:
            dropped[np.int64(not _is_finite(points, start + k, ndim))] += 1


def _rounded_down(bound: int) -> np.float32:
    """The largest float32 that is no larger: a float32 cell is at most ``bound`` where it is at most this."""
    rounded = np.float32(bound)
    return rounded if int(rounded) <= bound else np.nextafter(rounded, np.float32(-np.inf))


@functools.lru_cache(maxsize=64)
def grid_constants(
    columns: int, low: tuple[float, ...], size: tuple[float, ...], grid: tuple[int, ...] | None
) -> NDArray[np.float32]:
    """Lower corner, size, and first and last cell of each value of a block of points, in four rows."""
    bounds = [(-FARTHEST_CELL, FARTHEST_CELL)] * len(low) if grid is None else [(0, cells - 1) for cells in grid]
    rows = [low, size, *([_rounded_down(bound) for bound in side] for side in zip(*bounds, strict=True))]
    # A corner beyond float32 is infinite, and no point lies in such a grid.
    with np.errstate(over="ignore"):
        arrays = [np.array(row, np.float32) for row in rows]
    constants: NDArray[np.float32] = block_constants(columns, *arrays)
    return constants


class CellKeys:
    """The numbering of cells: its box, and the box's lower corner and strides as arrays."""

    def __init__(self, box: SiteKeys) -> None:
        self.cells = box.cells
        self.low, self.strides = np.array(box.low, np.int64), np.array(box.strides, np.int64)

    @classmethod
    def of_points(
        cls, points: NDArray[np.float32], sizes: Sequence[int], constants: NDArray[np.float32], ndim: int
    ) -> CellKeys:
        """Keys of the box that the points occupy, ``sizes`` of them in each sample."""
        least = np.full(ndim, np.iinfo(np.int64).max)
        most = np.full(ndim, np.iinfo(np.int64).min)
        _span(points, constants, least, most)
        if np.any(least > most):
            least[:], most[:] = 0, -1
        samples = [sample for sample, size in enumerate(sizes) if size] or [0]
        return cls(SiteKeys.spanning([samples[0], *least[::-1].tolist()], [samples[-1], *most[::-1].tolist()]))

    @staticmethod
    @functools.lru_cache(maxsize=64)
    def of_grid(samples: int, grid: tuple[int, ...]) -> CellKeys | None:
        """Keys of the whole grid; None where it has too many cells to number, of which few may be occupied."""
        try:
            box = SiteKeys.spanning([0] * (len(grid) + 1), [samples - 1, *(cells - 1 for cells in grid[::-1])])
        except ValueError:
            return None
        return CellKeys(box)
