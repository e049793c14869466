"""Points to voxels: cells a block of points at a time, grouped by a hash table in the order of points.

A point's key is the row-major number of its cell, as in :mod:`sparseconv.backends.site_keys`. The table keeps the
eight cells of an aligned run along the last axis side by side, since neighbouring points come one after the other.
"""

from __future__ import annotations

import itertools
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
    """Key of each point of a block, -1 where a coordinate has no cell."""
    ndim = strides.shape[0] - 1
    start = np.uint64(0)
    step = np.uint64(columns)
    one, two = np.uint64(1), np.uint64(2)
    if ndim == 3:
        # Written out, since a loop over so few axes costs more than its body.
        low_x, low_y, low_z = box_low[3], box_low[2], box_low[1]
        stride_y, stride_z = strides[2], strides[1]
        for k in range(keys.shape[0]):
            x, y, z = cells[start], cells[start + one], cells[start + two]
            start += step
            key = (np.int64(x) - low_x) + (np.int64(y) - low_y) * stride_y + (np.int64(z) - low_z) * stride_z
            has_cells = (x != np.int32(_NO_CELL)) & (y != np.int32(_NO_CELL)) & (z != np.int32(_NO_CELL))
            keys[k] = key if has_cells else np.int64(-1)
        return
    for k in range(keys.shape[0]):
        key = np.int64(0)
        has_cells = True
        for a in range(ndim):
            cell = cells[start + np.uint64(a)]
            has_cells &= cell != np.int32(_NO_CELL)
            # Sites hold the axes in reverse order, batch first.
            key += (np.int64(cell) - box_low[ndim - a]) * strides[ndim - a]
        start += step
        keys[k] = key if has_cells else np.int64(-1)


@kernel
def _fill_sites(points, first_points, sample, low, size, sites):
    """Site of each voxel from its first point: the sample, then the cells from the last axis to the first."""
    ndim = low.shape[0]
    sites[:, 0] = sample
    for a in range(ndim):
        column = points[:, a]
        cells = sites[:, ndim - a]
        for voxel in range(first_points.shape[0]):
            cells[voxel] = np.int32(np.floor((column[np.uint64(first_points[voxel])] - low[a]) / size[a]))


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
    first_points,
    counts,
    rows,
    ranks,
    dropped,
):
    """Put the points ``start_row .. stop_row`` of one sample into voxels; returns how many voxels there are now.

    ``table`` maps hashed keys to voxels, counted from 1; ``shift`` brings a hash down to the table's runs of
    eight. ``first_points`` receives each voxel's first point, ``dropped`` counts the points outside and those
    that are not finite.
    """
    ndim = low.shape[0]
    columns = points.shape[1]
    lows, sizes, firsts, lasts = _block_constants(columns, low, size, first, last)
    cells = np.empty(_BLOCK * columns, np.int32)
    block_keys = np.empty(_BLOCK, np.int64)
    inside = np.empty(_BLOCK + 1, np.int32)
    flat = points.reshape(-1)
    mask = np.uint64(table.shape[0] - 1)
    one, three, seven = np.uint64(1), np.uint64(3), np.uint64(7)
    voxel = np.uint64(voxels)
    room = np.uint64(voxels + max_voxels)
    sample_key = (np.int64(sample) - box_low[0]) * strides[0]
    previous = np.int64(-1)
    row = np.int64(-1)
    for start in range(start_row, stop_row, _BLOCK):
        stop = min(start + _BLOCK, stop_row)
        block = stop - start
        used = block * columns
        _cells(flat[start * columns : stop * columns], lows[:used], sizes[:used], firsts, lasts, cells)
        _block_keys(cells, columns, box_low, strides, block_keys[:block])
        block_rows, block_ranks = rows[start:stop], ranks[start:stop]
        kept = np.uint64(0)
        for k in range(block):
            block_rows[k] = -1
            block_ranks[k] = -1
            inside[kept] = k
            kept += np.uint64(block_keys[k] >= 0)
        outside = block - np.int64(kept)
        if outside and not _all_finite(flat[start * columns : stop * columns]):
            for k in range(block):
                if block_keys[k] < 0 and not _is_finite(points, start + k, ndim):
                    outside -= 1
                    dropped[1] += 1
        dropped[0] += outside
        for i in range(kept):
            k = np.uint64(inside[i])
            key = block_keys[k] + sample_key
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
                            first_points[voxel] = start + np.int64(k)
                            voxel += one
                            table[slot] = voxel
                        break
                    if keys[entry - one] == key:
                        row = np.int64(entry - one)
                        break
                    slot = (slot + one) & mask
            block_rows[k] = row
            block_ranks[k] = 0
            if row >= 0:
                rank = counts[np.uint64(row)]
                block_ranks[k] = rank
                counts[np.uint64(row)] = rank + 1
    return np.int64(voxel)


@kernel
def _renumber(rows, new_rows, start, stop):
    for n in range(start, stop):
        if rows[n] >= 0:
            rows[n] = new_rows[np.uint64(rows[n])]


@kernel
def _pad(values, rows, ranks, start, stop, padded):
    """Copy the points ``start .. stop`` to their places; those past a voxel's room are left out."""
    room = padded.shape[1]
    columns = np.uint64(padded.shape[2])
    out = padded.reshape(-1)
    source = values.reshape(-1)
    four = np.uint64(4)
    for n in range(np.uint64(start), np.uint64(stop)):
        row = rows[n]
        rank = ranks[n]
        if row < 0 or rank >= room:
            continue
        place = np.uint64(row * room + rank) * columns
        read = n * columns
        c = np.uint64(0)
        # Four at a time without a call: a copy of a length that is unknown here becomes one.
        while c + four <= columns:
            for i in range(4):
                out[place + c + np.uint64(i)] = source[read + c + np.uint64(i)]
            c += four
        while c < columns:
            out[place + c] = source[read + c]
            c += np.uint64(1)


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
    first_points = np.empty(total, np.int64)
    counts = np.empty(total, np.int32)
    rows = np.empty(total, np.int64)
    ranks = np.empty(total, np.int32)
    dropped = np.zeros(2, np.int64)
    box_low, strides = np.array(box.low, np.int64), np.array(box.strides, np.int64)
    voxels = start = 0
    sample_ends = [0]
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
            first_points,
            counts,
            rows,
            ranks,
            dropped,
        )
        start += count
        sample_ends.append(voxels)
    sites = np.empty((voxels, 1 + ndim), np.int32)
    for sample, (begin, end) in enumerate(itertools.pairwise(sample_ends)):
        _fill_sites(values, first_points[begin:end], sample, *constants[:2], sites[begin:end])
    # A copy: the array is as long as the cloud.
    counts = counts[:voxels].copy()
    if in_order:
        _, order = argsort_keys(keys[:voxels], box.cells)
        new_rows = np.empty(voxels, np.int64)
        new_rows[order] = np.arange(voxels)
        run_ranges(lambda start, stop: _renumber(rows, new_rows, start, stop), total, _SMALLEST_RANGE)
        sites, counts = sites[order], counts[order]
    return PointGroups(
        torch.from_numpy(sites),
        torch.from_numpy(counts),
        torch.from_numpy(rows),
        torch.from_numpy(ranks),
        int(dropped[0]),
        int(dropped[1]),
    )


def pad_points(
    values: Tensor, rows: Tensor, ranks: Tensor, counts: Tensor, max_points: int
) -> tuple[Tensor, Tensor, int]:
    """See :meth:`sparseconv.backends.Backend.pad_points`."""
    source = values.detach().contiguous().numpy()
    padded = np.zeros((len(counts), max_points, source.shape[1]), source.dtype)
    run_ranges(
        lambda start, stop: _pad(source, rows.numpy(), ranks.numpy(), start, stop, padded),
        len(source),
        _SMALLEST_RANGE,
    )
    kept = np.minimum(counts.numpy(), max_points)
    return torch.from_numpy(padded), torch.from_numpy(kept), int(kept.sum())
