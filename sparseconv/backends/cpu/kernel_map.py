"""Kernel maps by a walk along sorted lines: no look-up table, no atomic.

A line is a run of sites that differ in the last axis only. The relation ``fine = s * coarse - p + d * t`` is
affine with positive slope, so for one tap the fine sites of ascending coarse sites ascend as well: for each tap
line (the taps that differ in the last axis only) a pointer moves forward through the fine lines, and inside two
matching lines another moves forward through the fine sites.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparseconv.backends.cpu.hash import SiteIndex, argsort_keys
from sparseconv.backends.cpu.jit import kernel
from sparseconv.backends.cpu.threads import run_ranges
from sparseconv.geometry import ConvGeometry

# Coarse sites per chunk at most: the scratch of a 3x3x3 kernel (13 mirrored taps x 2048 x 8 bytes) stays in a
# second-level cache, and a chunk's fixed cost (two calls, about 20 us) stays near a tenth of its work.
_CHUNK = 2048
# Sweeping a row of the table costs a twentieth of sorting a pair.
_SPARSE_SWEEP = 20
# Kernels of very many taps take smaller chunks, so that a thread's scratch stays below 32 MB.
_SCRATCH_PAIRS = 1 << 22
_SMALLEST_CHUNK = 16


@kernel
def _first_line(line_keys, low, key):
    """First line at or after ``low`` whose key is at least ``key``: gallop, then bisect."""
    count = line_keys.shape[0]
    if low >= count or line_keys[low] >= key:
        return low
    step = 1
    high = low + 1
    while high < count and line_keys[high] < key:
        low = high
        step *= 2
        high = low + step
    if high > count:
        high = count
    while low + 1 < high:
        middle = (low + high) >> 1
        if line_keys[middle] < key:
            low = middle
        else:
            high = middle
    return high


@kernel
def _first_position(positions, low, stop, wanted):
    """First site at or after ``low`` whose position is at least ``wanted``: gallop, then bisect."""
    step = 1
    high = low
    while high < stop and positions[high] < wanted:
        low = high + 1
        high += step
        step *= 2
    if high > stop:
        high = stop
    while low < high:
        middle = (low + high) >> 1
        if positions[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def _line_corners(sites, line_starts, stride, low, start, stop, corners):
    """For each coarse line, ``s * coarse - low`` of the leading columns."""
    for line in range(start, stop):
        row = line_starts[line]
        for c in range(corners.shape[1]):
            corners[line, c] = np.int64(sites[row, c]) * stride[c] - low[c]


@kernel
def _walk(
    positions,
    line_starts,
    corners,
    start,
    stop,
    lead_offsets,
    stride,
    shift,
    spread,
    last_taps,
    first_tap,
    extent,
    line_strides,
    fine_keys,
    fine_starts,
    fine_positions,
    scratch,
    counts,
):
    """Pairs of the coarse sites ``start .. stop`` for every tap from ``first_tap`` on.

    ``positions`` and ``fine_positions`` are the coordinates along the last axis, on which the relation reads
    ``fine = stride * coarse - shift + spread * t``. ``scratch[t - first_tap, 0 | 1, :]`` receives the ranks of the
    fine and the coarse sites, ``counts`` how many.
    """
    leads = corners.shape[1]
    # The line that holds `start`: the last one that begins at or before it.
    left = 0
    right = line_starts.shape[0] - 1
    while left + 1 < right:
        middle = (left + right) >> 1
        if line_starts[middle] <= start:
            left = middle
        else:
            right = middle
    counts[:] = 0
    for tap_line in range(first_tap // last_taps, lead_offsets.shape[0]):
        first_last = max(0, first_tap - tap_line * last_taps)
        first_slot = tap_line * last_taps - first_tap
        nearest = spread * first_last - shift
        farthest = spread * (last_taps - 1) - shift
        fine_line = 0
        line = left
        row = start
        while row < stop:
            row_end = min(np.int64(line_starts[line + 1]), stop)
            key = np.int64(0)
            inside = True
            for c in range(leads):
                distance = corners[line, c] + lead_offsets[tap_line, c]
                inside &= (distance >= 0) & (distance < extent[c])
                key += distance * line_strides[c]
            if inside:
                fine_line = _first_line(fine_keys, fine_line, key)
                if fine_line == fine_keys.shape[0]:
                    break
                if fine_keys[fine_line] == key:
                    fine = np.int64(fine_starts[fine_line])
                    fine_end = np.int64(fine_starts[fine_line + 1])
                    for r in range(row, row_end):
                        corner = np.int64(positions[r]) * stride
                        while fine < fine_end and fine_positions[fine] < corner + nearest:
                            fine += 1
                        probe = fine
                        if spread == 1:
                            while probe < fine_end and fine_positions[probe] <= corner + farthest:
                                slot = first_slot + (fine_positions[probe] - corner + shift)
                                scratch[slot, 0, counts[slot]] = probe
                                scratch[slot, 1, counts[slot]] = r
                                counts[slot] += 1
                                probe += 1
                        else:
                            for t in range(first_last, last_taps):
                                wanted = corner + spread * t - shift
                                probe = _first_position(fine_positions, probe, fine_end, wanted)
                                if probe < fine_end and fine_positions[probe] == wanted:
                                    slot = first_slot + t
                                    scratch[slot, 0, counts[slot]] = probe
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


def _walk_chunks(
    fine: SiteIndex, coarse: SiteIndex, geometry: ConvGeometry, first_tap: int
) -> tuple[list[NDArray[np.int32]], NDArray[np.int64]]:
    """Compacted pairs of each chunk and their counts ``[chunks, taps - first_tap]``."""
    rows = len(coarse.sites)
    taps = geometry.volume - first_tap
    chunk = min(_CHUNK, max(1, rows), max(_SMALLEST_CHUNK, _SCRATCH_PAIRS // max(1, taps)))
    chunks = -(-rows // chunk)
    chunk = -(-rows // max(1, chunks))
    low = np.array(fine.box.low, np.int64)
    extent = np.array(fine.box.extent, np.int64)
    # Strides of the leading columns in units of lines.
    line_strides = np.array(fine.box.strides[:-1], np.int64) // fine.box.extent[-1]
    stride = np.array([1, *geometry.stride], np.int64)
    leads = [[0]] + [
        [d * t - p for t in range(k)]
        for k, d, p in zip(geometry.kernel_size[:-1], geometry.dilation[:-1], geometry.padding[:-1], strict=True)
    ]
    lead_offsets = np.array(list(itertools.product(*leads)), np.int64)
    lines = len(coarse.line_keys)
    corners = np.empty((lines, len(low) - 1), np.int64)
    _line_corners(coarse.sites, coarse.line_starts, stride, low, 0, lines, corners)
    positions = np.ascontiguousarray(coarse.sites[:, -1])
    fine_positions = positions if fine is coarse else np.ascontiguousarray(fine.sites[:, -1])
    counts = np.zeros((chunks, taps), np.int64)
    packed: list[NDArray[np.int32]] = [np.empty((2, 0), np.int32)] * chunks

    def work(first: int, stop: int) -> None:
        scratch = np.empty((taps, 2, chunk), np.int32)
        for number in range(first, stop):
            _walk(
                positions,
                coarse.line_starts,
                corners,
                number * chunk,
                min(rows, (number + 1) * chunk),
                lead_offsets,
                geometry.stride[-1],
                geometry.padding[-1],
                geometry.dilation[-1],
                geometry.kernel_size[-1],
                first_tap,
                extent,
                line_strides,
                fine.line_keys,
                fine.line_starts,
                fine_positions,
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
    taps = len(tap_offsets) - 1
    if taps * n_out > _SPARSE_SWEEP * len(in_rows):
        # Most of the table would be swept in vain.
        tap_of = np.repeat(np.arange(taps, dtype=np.int64), np.diff(tap_offsets))
        order = argsort_keys(tap_of * n_out + out_rows, taps * n_out)
        return in_rows[order], out_rows[order]
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
