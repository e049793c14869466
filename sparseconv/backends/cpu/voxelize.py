"""Points to voxels: cells a block of points at a time, grouped by a hash table in the order of points.

A point's key is the row-major number of its cell, as in :mod:`sparseconv.backends.site_keys`. The table keeps the
eight cells of an aligned run along the last axis side by side, since neighbouring points come one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparseconv.backends import PointGroups
from sparseconv.backends.cpu.jit import kernel
from sparseconv.backends.cpu.radix import argsort_keys
from sparseconv.backends.cpu.threads import run_ranges
from sparseconv.backends.site_keys import FARTHEST_CELL, SiteKeys

# Points a range; copying one costs about 4 ns, waking a thread about 20 us.
_SMALLEST_RANGE = 16384
# Points whose cells are computed at once: with four columns 8 KB of cells and constants, in the first-level cache.
_BLOCK = 128
# Points with more columns than this are cut to their coordinates first: the block's pass runs over whole rows.
_MOST_COLUMNS = 8

# The cell of a coordinate that lies outside or is not finite.
_NO_CELL = -(1 << 31)


@kernel
def _cells(values, low, size, first, last, cells):
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
def _all_finite(values):
    """Whether no value is NaN or infinite, on vectors."""
    found = np.int32(0)
    for i in range(values.shape[0]):
        # A finite number differs from itself by zero.
        found |= np.int32(values[i] - values[i] != np.float32(0))
    return found == 0


@kernel
def _block_constants(columns, low, size, first, last):
    length = _BLOCK * columns
    lows = np.empty(length, np.float32)
    sizes = np.empty(length, np.float32)
    firsts = np.empty(length, np.float32)
    lasts = np.empty(length, np.float32)
    _repeat(low, columns, np.float32(0), lows)
    _repeat(size, columns, np.float32(1), sizes)
    # No cell for a feature, whatever its value.
    _repeat(first, columns, np.float32(np.inf), firsts)
    _repeat(last, columns, np.float32(-np.inf), lasts)
    return lows, sizes, firsts, lasts


@kernel
def _span(points, low, size, first, last, least, most):
    """Smallest and largest cell of the points inside, per axis; unchanged where there is none."""
    ndim = low.shape[0]
    rows, columns = points.shape
    lows, sizes, firsts, lasts = _block_constants(columns, low, size, first, last)
    cells = np.empty(_BLOCK * columns, np.int32)
    flat = points.reshape(-1)
    for start in range(0, rows, _BLOCK):
        stop = min(start + _BLOCK, rows)
        used = (stop - start) * columns
        _cells(flat[start * columns : stop * columns], lows[:used], sizes[:used], firsts, lasts, cells)
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
def _block_keys(cells, columns, box_low, strides, keys):
    """Key of each point of a block, -1 where a coordinate has no cell; returns how many have none."""
    ndim = strides.shape[0] - 1
    # What the lowest corner would be, in wrapping arithmetic: the key itself always fits.
    corner = np.int64(0)
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
def _count_dropped(points, start, keys, ndim, dropped):
    """Add the points of a block that have no key: outside, or not finite."""
    for k in range(keys.shape[0]):
        if keys[k] < 0:
            dropped[np.int64(not _is_finite(points, start + k, ndim))] += 1


@kernel
def _group(
    points,
    sample,
    start_row,
    stop_row,
    low,
    size,
    first,
    last,
    box_low,
    strides,
    max_voxels,
    table,
    shift,
    voxels,
    keys,
    sites,
    counts,
    rows,
    ranks,
    dropped,
):
    """Put the points ``start_row .. stop_row`` of one sample into voxels; returns how many voxels there are now.

    ``table`` maps hashed keys to voxels, counted from 1; ``shift`` brings a hash down to the table's runs of
    eight. ``keys``, ``sites`` and ``counts`` are those of the voxels; ``dropped`` counts the points outside and
    those that are not finite.
    """
    ndim = low.shape[0]
    columns = points.shape[1]
    lows, sizes, firsts, lasts = _block_constants(columns, low, size, first, last)
    cells = np.empty(_BLOCK * columns, np.int32)
    block_keys = np.empty(_BLOCK, np.int64)
    flat = points.reshape(-1)
    mask = np.uint64(table.shape[0] - 1)
    one, two, three, seven = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(7)
    voxel = np.uint64(voxels)
    room = np.uint64(voxels + max_voxels)
    sample_key = (np.int64(sample) - box_low[0]) * strides[0]
    previous = np.int64(-1)
    row = np.int64(-1)
    for start in range(start_row, stop_row, _BLOCK):
        stop = min(start + _BLOCK, stop_row)
        block = stop - start
        used = block * columns
        values = flat[start * columns : stop * columns]
        _cells(values, lows[:used], sizes[:used], firsts, lasts, cells)
        missing = np.int64(_block_keys(cells, columns, box_low, strides, block_keys[:block]))
        if missing:
            if _all_finite(values):
                dropped[0] += missing
            else:
                _count_dropped(points, start, block_keys[:block], ndim, dropped)
        block_rows, block_ranks = rows[start:stop], ranks[start:stop]
        for k in range(np.uint64(block)):
            key = block_keys[k]
            if key < 0:
                block_rows[k] = -1
                continue
            key += sample_key
            if key != previous:
                previous = key
                word = np.uint64(key)
                slot = ((((word >> three) * np.uint64(0x9E3779B97F4A7C15)) >> shift) << three) | (word & seven)
                while True:
                    entry = np.uint64(table[slot])
                    if entry == 0:
                        row = -1
                        if voxel < room:
                            row = np.int64(voxel)
                            keys[voxel] = key
                            counts[voxel] = 0
                            at = k * np.uint64(columns)
                            sites[voxel, 0] = sample
                            if ndim == 3:
                                sites[voxel, 1] = cells[at + two]
                                sites[voxel, 2] = cells[at + one]
                                sites[voxel, 3] = cells[at]
                            else:
                                for a in range(np.uint64(ndim)):
                                    sites[voxel, np.uint64(ndim) - a] = cells[at + a]
                            voxel += one
                            table[slot] = voxel
                        break
                    if keys[entry - one] == key:
                        row = np.int64(entry - one)
                        break
                    slot = (slot + one) & mask
            block_rows[k] = row
            if row >= 0:
                rank = counts[np.uint64(row)]
                block_ranks[k] = rank
                counts[np.uint64(row)] = rank + 1
    return np.int64(voxel)


@kernel
def _reorder(order, sites, counts, new_sites, new_counts, new_rows):
    """Put the voxels in order; ``new_rows`` receives where each one went."""
    columns = np.uint64(sites.shape[1])
    for row in range(np.uint64(order.shape[0])):
        old = np.uint64(order[row])
        for c in range(columns):
            new_sites[row, c] = sites[old, c]
        new_counts[row] = counts[old]
        new_rows[old] = row


@kernel
def _renumber(rows, new_rows, start, stop):
    for n in range(start, stop):
        if rows[n] >= 0:
            rows[n] = new_rows[np.uint64(rows[n])]


def _rounded_down(bound: int) -> np.float32:
    """The largest float32 that is no larger: a float32 cell is at most ``bound`` where it is at most this."""
    rounded = np.float32(bound)
    return rounded if int(rounded) <= bound else np.nextafter(rounded, np.float32(-np.inf))


def _grid_keys(
    points: NDArray[np.float32], samples: int, constants: Sequence[NDArray[np.float32]], grid: list[int] | None
) -> SiteKeys:
    """Keys of the whole grid where they fit, else of the box that the points occupy."""
    if grid is not None:
        try:
            return SiteKeys.spanning([0] * (len(grid) + 1), [samples - 1, *(cells - 1 for cells in grid[::-1])])
        except ValueError:
            # The grid's corner cells may be too many to number, and still few of them occupied.
            pass
    ndim = len(constants[0])
    least = np.full(ndim, np.iinfo(np.int64).max)
    most = np.full(ndim, np.iinfo(np.int64).min)
    _span(points, *constants, least, most)
    if np.any(least > most):
        least[:], most[:] = 0, -1
    return SiteKeys.spanning([0, *least[::-1].tolist()], [samples - 1, *most[::-1].tolist()])


def group_points(
    points: Tensor,
    sizes: Sequence[int],
    low: Tensor,
    size: Tensor,
    grid: Tensor | None,
    max_voxels: int | None,
    in_order: bool,
) -> PointGroups:
    """See :meth:`sparseconv.backends.Backend.group_points`."""
    ndim = len(low)
    values = points.detach().numpy()
    if values.shape[1] > _MOST_COLUMNS:
        values = np.ascontiguousarray(values[:, :ndim])
    bounds = (
        [(-FARTHEST_CELL, FARTHEST_CELL)] * ndim if grid is None else [(0, cells - 1) for cells in grid.tolist()]
    )
    first, last = (
        np.array([_rounded_down(bound) for bound in side], np.float32) for side in zip(*bounds, strict=True)
    )
    constants = (low.numpy(), size.numpy(), first, last)
    box = _grid_keys(values, len(sizes), constants, None if grid is None else grid.tolist())
    total = len(values)
    bits = max(4, (2 * total).bit_length())
    table = np.zeros(1 << bits, np.uint32)
    keys = np.empty(total, np.int64)
    sites = np.empty((total, 1 + ndim), np.int32)
    counts = np.empty(total, np.int32)
    rows = np.empty(total, np.int64)
    ranks = np.empty(total, np.int32)
    dropped = np.zeros(2, np.int64)
    box_low, strides = np.array(box.low, np.int64), np.array(box.strides, np.int64)
    voxels = start = 0
    for sample, count in enumerate(sizes):
        voxels = _group(
            values,
            sample,
            start,
            start + count,
            *constants,
            box_low,
            strides,
            total if max_voxels is None else max_voxels,
            table,
            np.uint64(64 - bits + 3),
            voxels,
            keys,
            sites,
            counts,
            rows,
            ranks,
            dropped,
        )
        start += count
    # Only what was written occupies memory.
    sites, counts = sites[:voxels], counts[:voxels]
    if in_order:
        _, order = argsort_keys(keys[:voxels], box.cells)
        new_rows = np.empty(voxels, np.int64)
        ordered, ordered_counts = np.empty_like(sites), np.empty_like(counts)
        _reorder(order, sites, counts, ordered, ordered_counts, new_rows)
        run_ranges(lambda start, stop: _renumber(rows, new_rows, start, stop), total, _SMALLEST_RANGE)
        sites, counts = ordered, ordered_counts
    return PointGroups(
        torch.from_numpy(sites),
        torch.from_numpy(counts),
        torch.from_numpy(rows),
        torch.from_numpy(ranks),
        int(dropped[0]),
        int(dropped[1]),
    )
