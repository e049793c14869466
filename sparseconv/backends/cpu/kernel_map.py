"""Kernel maps by a walk along sorted blocks: no look-up table, no atomic.

The relation ``fine = s * coarse - p + d * t`` is affine with positive slope, so for one tap the fine sites of
ascending coarse sites ascend as well. Each tap line (the taps that differ in the last axis only) keeps a
pointer into the fine blocks that only moves forward.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparseconv.backends.cpu.hash import SiteIndex, popcount
from sparseconv.backends.cpu.jit import kernel
from sparseconv.backends.cpu.threads import run_ranges
from sparseconv.geometry import ConvGeometry

# Coarse sites per chunk: the scratch of a 3x3x3 kernel (13 mirrored taps x 4096 x 8 bytes) stays in a
# second-level cache, and a chunk's fixed cost (a binary search for each tap line) stays below 1 %.
_CHUNK = 4096


@kernel
def _first_block(block_keys, low, name):
    """First block at or after ``low`` whose key is at least ``name``: gallop, then bisect."""
    count = block_keys.shape[0]
    if low >= count or block_keys[low] >= name:
        return low
    step = 1
    high = low + 1
    while high < count and block_keys[high] < name:
        low = high
        step *= 2
        high = low + step
    if high > count:
        high = count
    while low + 1 < high:
        middle = (low + high) >> 1
        if block_keys[middle] < name:
            low = middle
        else:
            high = middle
    return high


@kernel
def _walk(
    sites,
    line_starts,
    start,
    stop,
    stride,
    lead_offsets,
    last_offsets,
    first_tap,
    low,
    extent,
    block_strides,
    block_keys,
    block_masks,
    block_ranks,
    scratch,
    counts,
):
    """Pairs of the coarse sites ``start .. stop`` for every tap from ``first_tap`` on.

    ``scratch[t - first_tap, 0 | 1, :]`` receives the ranks of the fine and the coarse sites, ``counts`` how many.
    """
    columns = sites.shape[1]
    last = columns - 1
    last_taps = last_offsets.shape[0]
    # The line that holds `start`: the last one that begins at or before it.
    left = 0
    right = line_starts.shape[0] - 1
    while left + 1 < right:
        middle = (left + right) >> 1
        if line_starts[middle] <= start:
            left = middle
        else:
            right = middle
    first_line = left
    counts[:] = 0
    for tap_line in range(first_tap // last_taps, lead_offsets.shape[0]):
        first_last = max(0, first_tap - tap_line * last_taps)
        block = 0
        line = first_line
        row = start
        while row < stop:
            row_end = min(np.int64(line_starts[line + 1]), stop)
            base = np.int64(0)
            inside = True
            for c in range(last):
                distance = np.int64(sites[row, c]) * stride[c] + lead_offsets[tap_line, c] - low[c]
                if distance < 0 or distance >= extent[c]:
                    inside = False
                    break
                base += distance * block_strides[c]
            if inside:
                block = _first_block(block_keys, block, base)
                line_end = base + block_strides[last - 1]
                if block < block_keys.shape[0] and block_keys[block] < line_end:
                    for r in range(row, row_end):
                        corner = np.int64(sites[r, last]) * stride[last] - low[last]
                        probe = block
                        for t in range(first_last, last_taps):
                            cell = corner + last_offsets[t]
                            if cell < 0:
                                continue
                            if cell >= extent[last]:
                                break
                            name = base + (cell >> 6)
                            while probe < block_keys.shape[0] and block_keys[probe] < name:
                                probe += 1
                            if t == first_last:
                                block = probe
                            if probe == block_keys.shape[0]:
                                break
                            if block_keys[probe] != name:
                                continue
                            bit = np.uint64(cell & 63)
                            occupancy = block_masks[probe]
                            if (occupancy >> bit) & np.uint64(1):
                                below = occupancy & ((np.uint64(1) << bit) - np.uint64(1))
                                slot = tap_line * last_taps + t - first_tap
                                scratch[slot, 0, counts[slot]] = block_ranks[probe] + popcount(below)
                                scratch[slot, 1, counts[slot]] = r
                                counts[slot] += 1
            row = row_end
            line += 1


@kernel
def _compact(scratch, counts):
    """The used part of the scratch, taps behind each other: int32 ``[2, sum of counts]``."""
    total = 0
    for slot in range(counts.shape[0]):
        total += counts[slot]
    packed = np.empty((2, total), np.int32)
    place = 0
    for slot in range(counts.shape[0]):
        for i in range(counts[slot]):
            packed[0, place + i] = scratch[slot, 0, i]
            packed[1, place + i] = scratch[slot, 1, i]
        place += counts[slot]
    return packed


@kernel
def _place(packed, counts, places, mirror_places, fine_rows, coarse_rows):
    """Copy one chunk to where its taps lie; with the columns swapped to the mirrored taps too."""
    source = 0
    for slot in range(counts.shape[0]):
        place = places[slot]
        for i in range(counts[slot]):
            fine_rows[place + i] = packed[0, source + i]
            coarse_rows[place + i] = packed[1, source + i]
        if mirror_places.shape[0]:
            place = mirror_places[slot]
            for i in range(counts[slot]):
                fine_rows[place + i] = packed[1, source + i]
                coarse_rows[place + i] = packed[0, source + i]
        source += counts[slot]


@kernel
def _group_by_row(in_rows, out_rows, tap_offsets, n_out, first_tap, stop_tap, new_in, new_out):
    """Reorder each tap's pairs by output row: scatter into a table, sweep it."""
    table = np.full(n_out, -1, np.int32)
    for tap in range(first_tap, stop_tap):
        for p in range(tap_offsets[tap], tap_offsets[tap + 1]):
            table[out_rows[p]] = in_rows[p]
        place = tap_offsets[tap]
        for row in range(n_out):
            if table[row] >= 0:
                new_in[place] = table[row]
                new_out[place] = row
                table[row] = -1
                place += 1


@dataclass(frozen=True)
class _Relation:
    """The geometry's constants in the form that the walk reads, batch column included."""

    stride: NDArray[np.int64]
    lead_offsets: NDArray[np.int64]
    last_offsets: NDArray[np.int64]

    @classmethod
    def of(cls, geometry: ConvGeometry) -> _Relation:
        offsets = [
            [d * t - p for t in range(k)]
            for k, d, p in zip(geometry.kernel_size, geometry.dilation, geometry.padding, strict=True)
        ]
        lead = np.array(list(itertools.product([0], *offsets[:-1])), np.int64)
        return cls(np.array([1, *geometry.stride], np.int64), lead, np.array(offsets[-1], np.int64))


def _walk_chunks(
    fine: SiteIndex, coarse: SiteIndex, geometry: ConvGeometry, first_tap: int
) -> tuple[list[NDArray[np.int32]], NDArray[np.int64]]:
    """Compacted pairs of each chunk and their counts ``[chunks, taps - first_tap]``."""
    relation = _Relation.of(geometry)
    rows = len(coarse.sites)
    chunk = min(_CHUNK, max(1, rows))
    chunks = -(-rows // chunk)
    low = np.array(fine.keys.low, np.int64)
    extent = np.array(fine.keys.extent, np.int64)
    block_strides = np.array(fine.keys.strides, np.int64) >> 6
    taps = geometry.volume - first_tap
    counts = np.zeros((chunks, taps), np.int64)
    packed: list[NDArray[np.int32]] = [np.empty((2, 0), np.int32)] * chunks

    def work(first: int, stop: int) -> None:
        scratch = np.empty((taps, 2, chunk), np.int32)
        for number in range(first, stop):
            _walk(
                coarse.sites,
                coarse.line_starts,
                number * chunk,
                min(rows, (number + 1) * chunk),
                relation.stride,
                relation.lead_offsets,
                relation.last_offsets,
                first_tap,
                low,
                extent,
                block_strides,
                fine.block_keys,
                fine.block_masks,
                fine.block_ranks,
                scratch,
                counts[number],
            )
            packed[number] = _compact(scratch, counts[number])

    run_ranges(work, chunks, 1)
    return packed, counts


def kernel_pairs(fine: SiteIndex, coarse: SiteIndex, geometry: ConvGeometry) -> tuple[Tensor, Tensor, Tensor]:
    """See :meth:`sparseconv.backends.Backend.kernel_pairs`.

    On one set of sites a submanifold geometry is its own mirror: the taps before the centre are those behind
    it with the columns swapped, and the centre is the identity.
    """
    taps = geometry.volume
    mirrored = fine is coarse and geometry.is_submanifold
    first_tap = taps // 2 + 1 if mirrored else 0
    rows = len(coarse.sites)
    packed, counts = _walk_chunks(fine, coarse, geometry, first_tap)
    totals = counts.sum(axis=0)
    if mirrored:
        totals = np.concatenate([totals[::-1], [rows], totals])
    tap_offsets = np.zeros(taps + 1, np.int64)
    np.cumsum(totals, out=tap_offsets[1:])
    fine_rows = np.empty(tap_offsets[-1], np.int32)
    coarse_rows = np.empty(tap_offsets[-1], np.int32)
    before = np.cumsum(counts, axis=0) - counts
    places = tap_offsets[first_tap:-1] + before
    mirror_places = tap_offsets[: taps // 2][::-1] + before if mirrored else np.empty((len(counts), 0), np.int64)

    def work(first: int, stop: int) -> None:
        for number in range(first, stop):
            _place(
                packed[number],
                counts[number],
                places[number],
                mirror_places[number],
                fine_rows,
                coarse_rows,
            )

    run_ranges(work, len(packed), 1)
    if mirrored:
        centre = slice(tap_offsets[taps // 2], tap_offsets[taps // 2 + 1])
        fine_rows[centre] = coarse_rows[centre] = np.arange(rows, dtype=np.int32)
    if fine.order is not None:
        fine_rows = fine.order[fine_rows]
    if coarse.order is not None:
        coarse_rows = coarse.order[coarse_rows]
        fine_rows, coarse_rows = _ordered(fine_rows, coarse_rows, tap_offsets, rows)
    return (
        torch.from_numpy(fine_rows),
        torch.from_numpy(coarse_rows),
        torch.from_numpy(tap_offsets),
    )


def _ordered(
    in_rows: NDArray[np.int32],
    out_rows: NDArray[np.int32],
    tap_offsets: NDArray[np.int64],
    n_out: int,
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    new_in = np.empty_like(in_rows)
    new_out = np.empty_like(out_rows)
    run_ranges(
        lambda start, stop: _group_by_row(in_rows, out_rows, tap_offsets, n_out, start, stop, new_in, new_out),
        len(tap_offsets) - 1,
        1 if len(in_rows) > _CHUNK else len(tap_offsets),
    )
    return new_in, new_out


def order_pairs(in_rows: Tensor, out_rows: Tensor, tap_offsets: Tensor) -> tuple[Tensor, Tensor]:
    """See :meth:`sparseconv.backends.Backend.order_pairs`."""
    n_out = int(out_rows.max()) + 1 if len(out_rows) else 0
    new_in, new_out = _ordered(in_rows.numpy(), out_rows.numpy(), tap_offsets.numpy(), n_out)
    return torch.from_numpy(new_in), torch.from_numpy(new_out)
