"""Points to voxels, grouped by a hash table in the order of points.

The table keeps the eight cells of an aligned run along the last axis side by side, since neighbouring points come
one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sparseconv.backends import PointGroups
from sparseconv.backends.cpu.jit import kernel
from sparseconv.backends.cpu.radix import argsort_keys
from sparseconv.backends.cpu.scratch import scratch
from sparseconv.backends.cpu.threads import run_ranges
from sparseconv.backends.cpu.voxel_cells import (
    BLOCK,
    all_finite,
    block_constants,
    cells_of,
    count_dropped,
    grid_keys,
    keys_of,
    rounded_down,
)
from sparseconv.backends.site_keys import FARTHEST_CELL

# Points a range; copying one costs about 4 ns, waking a thread about 20 us.
_SMALLEST_RANGE = 16384
# Points with more columns than this are cut to their coordinates first: the block's pass runs over whole rows.
_MOST_COLUMNS = 8
# Slots from one probe to the next. Odd, so that every slot is met; a step of 1 would walk through the neighbours
# of the cell in the way, which are taken more often than not: 4 % more time for all of the grouping.
_PROBE = np.uint64(17)


@kernel
def _slots_of(keys, sample_key, shift, slots):
    """Where the search for each key begins; ``shift`` brings a hash down to the table's runs of eight."""
    three, seven = np.uint64(3), np.uint64(7)
    for k in range(np.uint64(keys.shape[0])):
        word = np.uint64(keys[k] + sample_key)
        slots[k] = ((((word >> three) * np.uint64(0x9E3779B97F4A7C15)) >> shift) << three) | (word & seven)


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

    ``table`` maps hashed keys to voxels, counted from 1. ``keys``, ``sites`` and ``counts`` are those of the
    voxels; ``dropped`` counts the points outside and those that are not finite.
    """
    ndim = low.shape[0]
    columns = points.shape[1]
    lows, sizes, firsts, lasts = block_constants(columns, low, size, first, last)
    cells = np.empty(BLOCK * columns, np.int32)
    block_keys = np.empty(BLOCK, np.int64)
    slots = np.empty(BLOCK, np.uint64)
    flat = points.reshape(-1)
    mask = np.uint64(table.shape[0] - 1)
    one, two = np.uint64(1), np.uint64(2)
    voxel = np.uint64(voxels)
    room = np.uint64(voxels + max_voxels)
    sample_key = (np.int64(sample) - box_low[0]) * strides[0]
    previous = np.int64(-1)
    row = np.int64(-1)
    for start in range(start_row, stop_row, BLOCK):
        stop = min(start + BLOCK, stop_row)
        block = stop - start
        used = block * columns
        values = flat[start * columns : stop * columns]
        cells_of(values, lows[:used], sizes[:used], firsts, lasts, cells)
        missing = np.int64(keys_of(cells, columns, box_low, strides, block_keys[:block]))
        if missing:
            if all_finite(values):
                dropped[0] += missing
            else:
                count_dropped(points, start, block_keys[:block], ndim, dropped)
        _slots_of(block_keys[:block], sample_key, shift, slots)
        block_rows, block_ranks = rows[start:stop], ranks[start:stop]
        for k in range(np.uint64(block)):
            key = block_keys[k]
            if key < 0:
                block_rows[k] = -1
                continue
            key += sample_key
            if key != previous:
                previous = key
                slot = slots[k]
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
                    slot = (slot + _PROBE) & mask
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
        np.array([rounded_down(bound) for bound in side], np.float32) for side in zip(*bounds, strict=True)
    )
    constants = (low.numpy(), size.numpy(), first, last)
    box = grid_keys(values, len(sizes), constants, None if grid is None else grid.tolist())
    total = len(values)
    bits = max(4, (2 * total).bit_length())
    table = scratch("voxel table", 1 << bits, np.uint32)
    table[:] = 0
    keys = scratch("voxel keys", total, np.int64)
    sites = scratch("voxel sites", total * (1 + ndim), np.int32).reshape(total, 1 + ndim)
    counts = scratch("voxel counts", total, np.int32)
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
    sites, counts = sites[:voxels], counts[:voxels]
    if in_order:
        _, order = argsort_keys(keys[:voxels], box.cells)
        new_rows = np.empty(voxels, np.int64)
        ordered, ordered_counts = np.empty_like(sites), np.empty_like(counts)
        _reorder(order, sites, counts, ordered, ordered_counts, new_rows)
        run_ranges(lambda start, stop: _renumber(rows, new_rows, start, stop), total, _SMALLEST_RANGE)
        sites, counts = ordered, ordered_counts
    else:
        sites, counts = sites.copy(), counts.copy()
    return PointGroups(
        torch.from_numpy(sites),
        torch.from_numpy(counts),
        torch.from_numpy(rows),
        torch.from_numpy(ranks),
        int(dropped[0]),
        int(dropped[1]),
    )
