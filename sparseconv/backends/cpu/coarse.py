"""Output sites and map of strided convolutions in one go: what a site reaches is a site, so nothing is looked up.

A coarse line is the union of what its members reach: the fine lines that lie under the taps of its leading axes.
It is kept as words of 64 cells, so only lines are sorted, never sites. A pair is written where it belongs: its
coarse row is the number of sites before its word, plus the bits below its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparseconv.backends import CoarseMap
from sparseconv.backends.cpu.bits import lowest_bit, popcount
from sparseconv.backends.cpu.coarse_lines import line_members, reach_lines, steps_of
from sparseconv.backends.cpu.hash import SiteIndex, build_index
from sparseconv.backends.cpu.jit import kernel
from sparseconv.backends.cpu.sites import drop_repeats, no_sites
from sparseconv.backends.cpu.threads import run_ranges
from sparseconv.backends.site_keys import SiteKeys, check_site_count, coarse_box
from sparseconv.geometry import ConvGeometry

# Members of a chunk of coarse lines at least; one costs about 40 ns, waking a thread about 20 us.
_MEMBERS_A_CHUNK = 2048
# A union is read from a stretch of words where it costs at most this many words a hit, else from a sorted list.
_WORDS_A_HIT = 8
_LONGEST_STRETCH = 4096  # words: 32 KB, a first-level cache
_LOW_HALF = np.uint64(0xFFFFFFFF)


@kernel
def _find_runs(keys, members, hit_starts, hit_stops, run_starts, room):
    """Where each run of equal keys (a coarse line) begins; returns their number.

    ``room`` receives how many words lie before at most: one a hit, and one more that may be written in vain.
    """
    runs = np.uint64(0)
    previous = np.int64(-1)
    hits = np.uint64(0)
    for i in range(np.uint64(keys.shape[0])):
        run_starts[runs] = i
        room[runs] = hits + runs
        runs += np.uint64(keys[i] != previous)
        previous = keys[i]
        line = np.uint64(members[i]) >> np.uint64(32)
        hits += hit_stops[line] - hit_starts[line]
    run_starts[runs] = keys.shape[0]
    room[runs] = hits + runs
    return np.int64(runs)


@kernel
def _list_words(first, end, members, hit_starts, hit_stops, hit_cells, place, words, masks):
    """Words of a coarse line by sorting them, from ``place`` on; returns where they end."""
    one = np.uint64(1)
    count = place
    for m in range(first, end):
        line = np.uint64(members[m]) >> np.uint64(32)
        for hit in range(hit_starts[line], hit_stops[line]):
            words[count] = hit_cells[hit] >> np.uint32(6)
            count += one
    found = words[place:count]
    found.sort()
    distinct = np.uint64(drop_repeats(found))
    masks[place : place + distinct] = 0
    for m in range(first, end):
        line = np.uint64(members[m]) >> np.uint64(32)
        for hit in range(hit_starts[line], hit_stops[line]):
            at = np.uint64(np.searchsorted(found[:distinct], hit_cells[hit] >> np.uint32(6)))
            masks[place + at] |= one << (np.uint64(hit_cells[hit]) & np.uint64(63))
    return place + distinct


@kernel
def _unite(
    run_starts,
    room,
    start,
    stop,
    members,
    hit_starts,
    hit_stops,
    hit_cells,
    hit_taps,
    spans,
    taps,
    stretch,
    words,
    masks,
    word_starts,
    word_stops,
    row_counts,
    counts,
):
    """Words of the coarse lines ``start .. stop``, ascending, their numbers of sites, and the pairs of each tap.

    ``stretch`` is zero before and after.
    """
    one = np.uint64(1)
    place = np.uint64(room[start])
    for run in range(np.uint64(start), np.uint64(stop)):
        first, end = np.uint64(run_starts[run]), np.uint64(run_starts[run + one])
        word_starts[run] = place
        lowest, highest = np.int64(1) << 62, np.int64(-1)
        for m in range(first, end):
            line = np.uint64(members[m]) >> np.uint64(32)
            lowest, highest = min(lowest, spans[line, 0]), max(highest, spans[line, 1])
        length = highest - lowest + 1
        has_stretch = length <= stretch.shape[0] and length <= _WORDS_A_HIT * np.int64(room[run + one] - room[run])
        for m in range(first, end):
            member = np.uint64(members[m])
            line = member >> np.uint64(32)
            tap0 = (member & _LOW_HALF) * np.uint64(taps)
            for hit in range(hit_starts[line], hit_stops[line]):
                counts[tap0 + np.uint64(hit_taps[hit])] += 1
                if has_stretch:
                    cell = np.uint64(hit_cells[hit])
                    stretch[(cell >> np.uint64(6)) - np.uint64(lowest)] |= one << (cell & np.uint64(63))
        if has_stretch:
            for w in range(np.uint64(length)):
                mask = stretch[w]
                stretch[w] = 0
                words[place] = np.int64(w) + lowest
                masks[place] = mask
                place += np.uint64(mask != np.uint64(0))
        else:
            place = _list_words(first, end, members, hit_starts, hit_stops, hit_cells, place, words, masks)
        rows = np.uint64(0)
        for w in range(np.uint64(word_starts[run]), place):
            rows += popcount(masks[w])
        row_counts[run] = rows
        word_stops[run] = place


@kernel
def _write_sites(words, masks, first, end, leading, low, row, sites, ranks):
    """The sites of a coarse line from ``row`` on, and the row of each word's first site."""
    one = np.uint64(1)
    last = np.uint64(leading.shape[0])
    for w in range(first, end):
        mask = masks[w]
        base = (np.int64(words[w]) << 6) + low
        ranks[w] = row
        if last == np.uint64(3):
            # The usual number of axes, without an inner loop: a third of the time.
            batch, z, y = leading[0], leading[1], leading[2]
            while mask != np.uint64(0):
                sites[row, 0], sites[row, 1], sites[row, 2] = batch, z, y
                sites[row, 3] = base + np.int64(lowest_bit(mask))
                mask &= mask - one
                row += one
        else:
            while mask != np.uint64(0):
                for c in range(last):
                    sites[row, c] = leading[c]
                sites[row, last] = base + np.int64(lowest_bit(mask))
                mask &= mask - one
                row += one
    return row


@kernel
def _name_line(key, strides, low, leading):
    """Leading coordinates of a line, but for the last; returns the key at which the plane of its lines begins."""
    inner = leading.shape[0] - 1
    rest = key
    for c in range(inner):
        step = rest // strides[c]
        rest -= step * strides[c]
        leading[c] = step + low[c]
    return key - rest


@kernel
def _fill(
    line_keys,
    run_starts,
    words,
    masks,
    word_starts,
    word_stops,
    start,
    stop,
    row,
    members,
    hit_starts,
    hit_stops,
    hit_cells,
    hit_taps,
    hit_rows,
    taps,
    low,
    strides,
    table_length,
    sites,
    line_starts,
    cursors,
    fine_rows,
    coarse_rows,
):
    """Sites of the coarse lines ``start .. stop`` from ``row`` on, and their pairs from each tap's cursor on.

    No pairs where their arrays have no room.
    """
    one = np.uint64(1)
    has_pairs = fine_rows.shape[0] > 0
    last = sites.shape[1] - 1
    first_row = np.uint64(row)
    first_word = np.uint64(word_starts[start])
    own_words = words[first_word : word_stops[stop - 1]]
    own_masks = masks[first_word : word_stops[stop - 1]]
    ranks = np.empty(own_words.shape[0], np.uint64)
    leading = np.empty(last, np.int32)
    plane_size = strides[last - 2] if last > 1 else np.int64(1) << 62
    plane = -plane_size
    # Row of the first site and mask of each word, side by side.
    table = np.empty(2 * table_length, np.uint64)
    for run in range(np.uint64(start), np.uint64(stop)):
        first = np.uint64(word_starts[run]) - first_word
        end = np.uint64(word_stops[run]) - first_word
        line_starts[run] = first_row
        # Most lines lie in the plane of the one before: no division.
        if line_keys[run] - plane >= plane_size:
            plane = _name_line(line_keys[run], strides, low, leading)
        leading[last - 1] = line_keys[run] - plane + low[last - 1]
        first_row = _write_sites(own_words, own_masks, first, end, leading, low[last], first_row, sites, ranks)
        if not has_pairs:
            continue
        lowest = np.uint64(own_words[first])
        has_table = np.uint64(own_words[end - one]) - lowest < np.uint64(table_length)
        if has_table:
            for w in range(first, end):
                slot = (np.uint64(own_words[w]) - lowest) << one
                table[slot] = ranks[w]
                table[slot + one] = own_masks[w]
        for m in range(np.uint64(run_starts[run]), np.uint64(run_starts[run + one])):
            member = np.uint64(members[m])
            line = member >> np.uint64(32)
            tap0 = (member & _LOW_HALF) * np.uint64(taps)
            # A loop for each, so that the usual one does not ask about the table at every hit.
            if has_table:
                for hit in range(hit_starts[line], hit_stops[line]):
                    cell = np.uint64(hit_cells[hit])
                    slot = ((cell >> np.uint64(6)) - lowest) << one
                    below = table[slot + one] & ((one << (cell & np.uint64(63))) - one)
                    tap = tap0 + np.uint64(hit_taps[hit])
                    at = cursors[tap]
                    fine_rows[at] = hit_rows[hit]
                    coarse_rows[at] = table[slot] + popcount(below)
                    cursors[tap] = at + one
                continue
            for hit in range(hit_starts[line], hit_stops[line]):
                cell = np.uint64(hit_cells[hit])
                w = first + np.uint64(np.searchsorted(own_words[first:end], cell >> np.uint64(6)))
                below = own_masks[w] & ((one << (cell & np.uint64(63))) - one)
                tap = tap0 + np.uint64(hit_taps[hit])
                at = cursors[tap]
                fine_rows[at] = hit_rows[hit]
                coarse_rows[at] = ranks[w] + popcount(below)
                cursors[tap] = at + one


def _cut(run_starts: NDArray[np.int64]) -> list[int]:
    """Bounds of the chunks of coarse lines, of about equally many members."""
    runs, members = len(run_starts) - 1, int(run_starts[-1])
    pieces = max(1, min(4 * torch.get_num_threads(), members // _MEMBERS_A_CHUNK))
    inner = np.searchsorted(run_starts, [members * piece // pieces for piece in range(1, pieces)])
    return sorted({0, *inner.tolist(), runs})


def _find(index: SiteIndex, geometry: ConvGeometry, box: SiteKeys, with_pairs: bool) -> CoarseMap:
    steps = steps_of(geometry)
    hits = reach_lines(index, geometry, steps, box.low[-1], box.extent[-1])
    keys, members = line_members(index, geometry, steps, box, hits)
    run_starts, room = np.empty(len(keys) + 1, np.int64), np.empty(len(keys) + 1, np.uint64)
    runs = _find_runs(keys, members, hits.starts, hits.stops, run_starts, room)
    if runs == 0:
        return _nothing(index, geometry)
    run_starts = run_starts[: runs + 1]
    line_keys = keys[run_starts[:-1]]
    words, masks = np.empty(int(room[runs]), np.uint32), np.empty(int(room[runs]), np.uint64)
    word_starts, word_stops, row_counts = (np.empty(runs, np.int64) for _ in range(3))
    bounds = _cut(run_starts)
    chunks = len(bounds) - 1
    counts = np.zeros((chunks, geometry.volume), np.int64)
    table_length = min(_LONGEST_STRETCH, (box.extent[-1] + 63) >> 6)

    def unite(first: int, stop: int) -> None:
        stretch = np.zeros(table_length, np.uint64)
        for chunk in range(first, stop):
            _unite(
                run_starts,
                room,
                bounds[chunk],
                bounds[chunk + 1],
                members,
                hits.starts,
                hits.stops,
                hits.cells,
                hits.taps,
                hits.spans,
                geometry.kernel_size[-1],
                stretch,
                words,
                masks,
                word_starts,
                word_stops,
                row_counts,
                counts[chunk],
            )

    run_ranges(unite, chunks, 1)
    chunk_rows = np.add.reduceat(row_counts, bounds[:-1])
    first_rows = np.cumsum(chunk_rows) - chunk_rows
    rows = int(chunk_rows.sum())
    check_site_count(rows)
    tap_offsets = np.zeros(geometry.volume + 1, np.int64)
    np.cumsum(counts.sum(axis=0), out=tap_offsets[1:])
    cursors = (np.cumsum(counts, axis=0) - counts + tap_offsets[:-1]).astype(np.uint64)
    sites = np.empty((rows, len(box.low)), np.int32)
    line_starts = np.full(runs + 1, rows, np.int32)
    pairs = int(tap_offsets[-1]) if with_pairs else 0
    fine_rows, coarse_rows = np.empty(pairs, np.int32), np.empty(pairs, np.int32)
    low = np.array(box.low, np.int64)
    line_strides = np.array(box.strides[:-1], np.int64) // box.extent[-1]

    def fill(first: int, stop: int) -> None:
        for chunk in range(first, stop):
            _fill(
                line_keys,
                run_starts,
                words,
                masks,
                word_starts,
                word_stops,
                bounds[chunk],
                bounds[chunk + 1],
                first_rows[chunk],
                members,
                hits.starts,
                hits.stops,
                hits.cells,
                hits.taps,
                hits.rows,
                geometry.kernel_size[-1],
                low,
                line_strides,
                table_length,
                sites,
                line_starts,
                cursors[chunk],
                fine_rows,
                coarse_rows,
            )

    run_ranges(fill, chunks, 1)
    return CoarseMap(
        torch.from_numpy(sites),
        SiteIndex(box, sites, None, line_keys, line_starts),
        torch.from_numpy(fine_rows),
        torch.from_numpy(coarse_rows),
        torch.from_numpy(tap_offsets),
    )


def coarse_map(index: SiteIndex, geometry: ConvGeometry, shape: Sequence[int] | None) -> CoarseMap:
    """See :meth:`sparseconv.backends.Backend.coarse_map`."""
    box = coarse_box(index.box, geometry, shape) if len(index.sites) else None
    return _nothing(index, geometry) if box is None else _find(index, geometry, box, with_pairs=True)


def coarse_sites(index: SiteIndex, geometry: ConvGeometry, shape: Sequence[int] | None) -> Tensor:
    """See :meth:`sparseconv.backends.Backend.coarse_sites`."""
    box = coarse_box(index.box, geometry, shape) if len(index.sites) else None
    return no_sites(index.sites.shape[1]) if box is None else _find(index, geometry, box, with_pairs=False).sites


def _nothing(index: SiteIndex, geometry: ConvGeometry) -> CoarseMap:
    sites = no_sites(index.sites.shape[1])
    rows = torch.empty(0, dtype=torch.int32, device="cpu")
    offsets = torch.zeros(geometry.volume + 1, dtype=torch.int64, device="cpu")
    return CoarseMap(sites, build_index(sites), rows, rows.clone(), offsets)
