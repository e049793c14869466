"""The walk along sorted lines that finds all pairs of a kernel map: no hash table, no atomic.

A line is a run of sites that differ in the last axis only. The relation ``fine = s * coarse - p + d * t`` is
affine with positive slope, so for one tap the fine sites of ascending coarse sites ascend as well: for each tap
line (the taps that differ in the last axis only) a pointer moves forward through the fine lines. Where two lines
match, the fine line's ranks are laid out by position, and every coarse site of the line reads its taps there.

Positions in arrays are uint64 here: Numba wraps signed ones that may be negative, at the price of a compare and a
select for each access (a quarter of this walk's time).
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from sparseconv.backends.cpu.hash import SiteIndex
from sparseconv.backends.cpu.jit import kernel
from sparseconv.backends.cpu.threads import run_ranges
from sparseconv.backends.site_keys import SiteKeys
from sparseconv.geometry import ConvGeometry

# Coarse sites per chunk at most: the scratch of a 3x3x3 kernel (13 mirrored taps x 2048 x 8 bytes) stays in a
# second-level cache, and a chunk's fixed cost (two calls, about 20 us) stays near a tenth of its work.
CHUNK = 2048
# Kernels of very many taps take smaller chunks, so that a thread's scratch stays below 32 MB.
_SCRATCH_PAIRS = 1 << 22
_SMALLEST_CHUNK = 16
# Cells of the last axis up to which a line's ranks are laid out by position: 256 KB, a fraction of a second-level
# cache. Longer lines are merged, which takes 1.5 times as long.
_LONGEST_LINE = 1 << 16


@kernel
def _first_line(line_keys, low, key):
    """First line at or after ``low`` whose key is at least ``key``: gallop, then bisect. Positions are uint64."""
    one = np.uint64(1)
    count = np.uint64(line_keys.shape[0])
    if low >= count or line_keys[low] >= key:
        return low
    step = one
    high = low + one
    while high < count and line_keys[high] < key:
        low = high
        step += step
        high = low + step
    if high > count:
        high = count
    while low + one < high:
        middle = (low + high) >> one
        if line_keys[middle] < key:
            low = middle
        else:
            high = middle
    return high


@kernel
def _first_position(positions, low, stop, wanted):
    """First site at or after ``low`` whose position is at least ``wanted``: gallop, then bisect; uint64."""
    one = np.uint64(1)
    step = one
    high = low
    while high < stop and positions[high] < wanted:
        low = high + one
        high += step
        step += step
    if high > stop:
        high = stop
    while low < high:
        middle = (low + high) >> one
        if positions[middle] < wanted:
            low = middle + one
        else:
            high = middle
    return low


@kernel
def _line_corners(sites, starts, stride, low, line_strides, least, most, extent, corners, keys, is_inner):
    """For each coarse line that begins at ``starts``: ``s * coarse - low`` of the leading columns, and its key.

    The key counts fine lines. ``is_inner`` marks the lines that every tap line keeps inside the fine box: their
    offsets lie between ``least`` and ``most``.
    """
    for line in range(np.uint64(keys.shape[0])):
        row = np.uint64(starts[line])
        key = np.int64(0)
        inner = True
        for c in range(np.uint64(corners.shape[1])):
            corner = np.int64(sites[row, c]) * stride[c] - low[c]
            corners[line, c] = corner
            key += corner * line_strides[c]
            inner &= (corner + least[c] >= 0) & (corner + most[c] < extent[c])
        keys[line] = key
        is_inner[line] = inner


@kernel
def _is_inside(corner, offset, extent):
    for c in range(corner.shape[0]):
        distance = corner[c] + offset[c]
        if distance < 0 or distance >= extent[c]:
            return False
    return True


@kernel
def _put(ranks, place, row, is_row, pairs, cursor):
    """The pair of one coarse site and tap; returns where the next one goes, which overwrites what is no pair."""
    rank = ranks[place]
    pairs[cursor] = (np.int64(rank) << 32) | np.int64(row)
    return cursor + (np.uint64(rank != 0) & is_row)


@kernel
def _emit(positions, row, row_end, stride, base, ranks, pairs, cursor):
    """One tap of a line; returns where the next pair goes."""
    for r in range(row, row_end):
        cursor = _put(ranks, np.uint64(np.int64(positions[r]) * stride + base), r, np.uint64(1), pairs, cursor)
    return cursor


@kernel
def _emit_three(positions, row, row_end, stride, base, spread, ranks, pairs, cursors):
    """As :func:`_emit` for three taps that are ``spread`` apart, in one pass.

    Two sites a turn, the second perhaps the first again: most lines of a scan have one or two, and a loop of one
    turn or two is mispredicted (a tenth of the walk's time; in :func:`_lay_out` and :func:`_clear` as much).
    """
    first, second, third = cursors[0], cursors[1], cursors[2]
    one, step = np.uint64(1), np.uint64(spread)
    for r in range(row, row_end, np.uint64(2)):
        place = np.uint64(np.int64(positions[r]) * stride + base)
        first = _put(ranks, place, r, one, pairs, first)
        second = _put(ranks, place + step, r, one, pairs, second)
        third = _put(ranks, place + step + step, r, one, pairs, third)
        next_r = min(r + one, row_end - one)
        is_row = np.uint64(next_r != r)
        place = np.uint64(np.int64(positions[next_r]) * stride + base)
        first = _put(ranks, place, next_r, is_row, pairs, first)
        second = _put(ranks, place + step, next_r, is_row, pairs, second)
        third = _put(ranks, place + step + step, next_r, is_row, pairs, third)
    cursors[0], cursors[1], cursors[2] = first, second, third


@kernel
def _lay_out(fine_positions, fine, fine_end, low_position, ranks):
    """Write the ranks of a fine line, one more than their place, by position; the first two without a loop."""
    one = np.uint64(1)
    second = min(fine + one, fine_end - one)
    ranks[np.uint64(fine_positions[fine] - low_position)] = np.int32(fine + one)
    ranks[np.uint64(fine_positions[second] - low_position)] = np.int32(second + one)
    for f in range(fine + np.uint64(2), fine_end):
        ranks[np.uint64(fine_positions[f] - low_position)] = np.int32(f + one)


@kernel
def _clear(fine_positions, fine, fine_end, low_position, ranks):
    """Undo :func:`_lay_out`; one kernel for both takes the walk a sixth more time."""
    one = np.uint64(1)
    second = min(fine + one, fine_end - one)
    ranks[np.uint64(fine_positions[fine] - low_position)] = 0
    ranks[np.uint64(fine_positions[second] - low_position)] = 0
    for f in range(fine + np.uint64(2), fine_end):
        ranks[np.uint64(fine_positions[f] - low_position)] = 0


@kernel
def _match_by_merge(
    positions, row, row_end, stride, base, spread, taps, fine_positions, fine, fine_end, pairs, cursors
):
    """Pairs of one coarse line with one fine line where the last axis is too long for a table: both ascend."""
    one = np.uint64(1)
    for r in range(row, row_end):
        corner = np.int64(positions[r]) * stride + base
        fine = _first_position(fine_positions, fine, fine_end, corner)
        probe = fine
        for t in range(taps):
            wanted = corner + spread * t
            probe = _first_position(fine_positions, probe, fine_end, wanted)
            if probe < fine_end and fine_positions[probe] == wanted:
                cursor = cursors[t]
                pairs[cursor] = (np.int64(probe + one) << 32) | np.int64(r)
                cursors[t] = cursor + one


@kernel
def _walk(
    sites,
    positions,
    line_starts,
    start,
    stop,
    strides,
    low,
    extent,
    line_strides,
    lead_offsets,
    offset_keys,
    least,
    most,
    shift,
    spread,
    last_taps,
    first_tap,
    fine_keys,
    fine_starts,
    fine_positions,
    low_position,
    ranks,
    scratch,
    counts,
):
    """Pairs of the coarse sites ``start .. stop`` for every tap from ``first_tap`` on.

    ``positions`` and ``fine_positions`` are the coordinates along the last axis, on which the relation reads
    ``fine = stride * coarse - shift + spread * t`` with the last of ``strides``. ``ranks`` is a table of positions
    from ``low_position`` on, 0 before and after, or of no length where lines are to be merged.
    ``scratch[t - first_tap]`` receives the pairs ``(fine rank + 1) << 32 | coarse rank``, ``counts`` how many.
    """
    # The line that holds `start`: the last one that begins at or before it.
    left = 0
    right = line_starts.shape[0] - 1
    while left + 1 < right:
        middle = (left + right) >> 1
        if line_starts[middle] <= start:
            left = middle
        else:
            right = middle
    lines = left
    while line_starts[lines] < stop:
        lines += 1
    own = lines - left
    corners = np.empty((own, low.shape[0] - 1), np.int64)
    corner_keys, is_inner = np.empty(own, np.int64), np.empty(own, np.bool_)
    own_starts = line_starts[left : lines + 1]
    _line_corners(
        sites, own_starts, strides, low, line_strides, least, most, extent, corners, corner_keys, is_inner
    )
    stride = strides[strides.shape[0] - 1]
    slots = counts.shape[0]
    room = np.uint64(scratch.shape[1])
    pairs = scratch.reshape(-1)
    cursors = np.empty(slots, np.uint64)
    for slot in range(slots):
        cursors[slot] = np.uint64(slot) * room
    one = np.uint64(1)
    has_table = ranks.shape[0] > 0
    fine_lines = np.uint64(fine_keys.shape[0])
    for tap_line in range(first_tap // last_taps, lead_offsets.shape[0]):
        first_last = max(0, first_tap - tap_line * last_taps)
        first_slot = tap_line * last_taps - first_tap + first_last
        taps = last_taps - first_last
        tap_cursors = cursors[first_slot : first_slot + taps]
        base = spread * first_last - shift
        table_base = base - low_position
        offset = lead_offsets[tap_line]
        offset_key = offset_keys[tap_line]
        fine_line = np.uint64(0)
        for line in range(np.uint64(own)):
            if not is_inner[line] and not _is_inside(corners[line], offset, extent):
                continue
            key = corner_keys[line] + offset_key
            fine_line = _first_line(fine_keys, fine_line, key)
            if fine_line == fine_lines:
                break
            if fine_keys[fine_line] != key:
                continue
            row = np.uint64(max(np.int64(own_starts[line]), start))
            row_end = np.uint64(min(np.int64(own_starts[line + one]), stop))
            fine = np.uint64(fine_starts[fine_line])
            fine_end = np.uint64(fine_starts[fine_line + one])
            if not has_table:
                _match_by_merge(
                    positions,
                    row,
                    row_end,
                    stride,
                    base,
                    spread,
                    taps,
                    fine_positions,
                    fine,
                    fine_end,
                    pairs,
                    tap_cursors,
                )
                continue
            _lay_out(fine_positions, fine, fine_end, low_position, ranks)
            if taps == 3:
                _emit_three(positions, row, row_end, stride, table_base, spread, ranks, pairs, tap_cursors)
            else:
                for t in range(taps):
                    tap_base = table_base + spread * t
                    tap_cursors[t] = _emit(positions, row, row_end, stride, tap_base, ranks, pairs, tap_cursors[t])
            _clear(fine_positions, fine, fine_end, low_position, ranks)
    for slot in range(slots):
        counts[slot] = np.int64(cursors[slot] - np.uint64(slot) * room)


@kernel
def _compact(scratch, counts):
    """The used part of the scratch, taps behind each other: int32 ``[2, sum of counts]``."""
    total = 0
    for slot in range(counts.shape[0]):
        total += counts[slot]
    packed = np.empty((2, total), np.int32)
    place = 0
    for slot in range(counts.shape[0]):
        used = scratch[slot, : counts[slot]]
        fine = packed[0, place : place + counts[slot]]
        coarse = packed[1, place : place + counts[slot]]
        for i in range(used.shape[0]):
            fine[i] = (used[i] >> 32) - 1
            coarse[i] = used[i] & 0xFFFFFFFF
        place += counts[slot]
    return packed


def _named_positions(
    fine: SiteKeys, coarse: SiteKeys, kernel_size: int, stride: int, padding: int, dilation: int
) -> tuple[int, int]:
    """First and last position along the last axis where a fine site lies or a coarse site's tap reads."""
    lowest = min(fine.low[-1], stride * coarse.low[-1] - padding)
    highest = max(fine.high[-1], stride * coarse.high[-1] - padding + dilation * (kernel_size - 1))
    return lowest, highest


def walk_chunks(
    fine: SiteIndex, coarse: SiteIndex, geometry: ConvGeometry, first_tap: int
) -> tuple[list[NDArray[np.int32]], NDArray[np.int64]]:
    """Compacted pairs of each chunk and their counts ``[chunks, taps - first_tap]``."""
    rows = len(coarse.sites)
    taps = geometry.volume - first_tap
    chunk = min(CHUNK, max(1, rows), max(_SMALLEST_CHUNK, _SCRATCH_PAIRS // max(1, taps)))
    chunks = -(-rows // chunk)
    chunk = -(-rows // max(1, chunks))
    low = np.array(fine.box.low, np.int64)
    extent = np.array(fine.box.extent, np.int64)
    # Strides of the leading columns in units of lines.
    line_strides = np.array(fine.box.strides[:-1], np.int64) // fine.box.extent[-1]
    strides = np.array([1, *geometry.stride], np.int64)
    leads = [[0]] + [
        [d * t - p for t in range(k)]
        for k, d, p in zip(geometry.kernel_size[:-1], geometry.dilation[:-1], geometry.padding[:-1], strict=True)
    ]
    lead_offsets = np.array(list(itertools.product(*leads)), np.int64)
    least, most = lead_offsets.min(axis=0), lead_offsets.max(axis=0)
    offset_keys = lead_offsets @ line_strides
    positions = np.ascontiguousarray(coarse.sites[:, -1])
    fine_positions = positions if fine is coarse else np.ascontiguousarray(fine.sites[:, -1])
    # Positions along the last axis that sites or taps can name.
    last = (geometry.kernel_size[-1], geometry.stride[-1], geometry.padding[-1], geometry.dilation[-1])
    lowest, highest = _named_positions(fine.box, coarse.box, *last)
    span = highest - lowest + 1
    counts = np.zeros((chunks, taps), np.int64)
    packed: list[NDArray[np.int32]] = [np.empty((2, 0), np.int32)] * chunks

    def work(first: int, stop: int) -> None:
        # One pair more than sites: what is no pair is written too, before it is overwritten.
        scratch = np.empty((taps, chunk + 1), np.int64)
        ranks = np.zeros(span if span <= _LONGEST_LINE else 0, np.int32)
        for number in range(first, stop):
            _walk(
                coarse.sites,
                positions,
                coarse.line_starts,
                number * chunk,
                min(rows, (number + 1) * chunk),
                strides,
                low,
                extent,
                line_strides,
                lead_offsets,
                offset_keys,
                least,
                most,
                geometry.padding[-1],
                geometry.dilation[-1],
                geometry.kernel_size[-1],
                first_tap,
                fine.line_keys,
                fine.line_starts,
                fine_positions,
                lowest,
                ranks,
                scratch,
                counts[number],
            )
            packed[number] = _compact(scratch, counts[number])

    run_ranges(work, chunks, 1)
    return packed, counts
