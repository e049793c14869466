"""Coarse lines as words of 64 cells, and the sites and pairs that are read from them.

A coarse line is the union of what its members reach: the fine lines that lie under the taps of its leading axes.
A pair is written where it belongs: its coarse row is the number of sites before its word, plus the bits below its
own.
"""

from __future__ import annotations

import numpy as np

from sparseconv.backends.cpu.bisect import first_at_least
from sparseconv.backends.cpu.bits import lowest_bit, popcount
from sparseconv.backends.cpu.jit import kernel
from sparseconv.backends.cpu.sites import drop_repeats

# A union is read from a stretch of words where it costs at most this many words a hit, else from a sorted list.
_WORDS_A_HIT = 8
LONGEST_STRETCH = 4096  # words: 32 KB, a first-level cache
_LOW_HALF = np.uint64(0xFFFFFFFF)


@kernel
def find_lines(keys, members, hit_starts, hit_stops, run_starts, room):
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
def cut_runs(run_starts, pieces, bounds):
    """Cut coarse lines into at most ``pieces`` chunks of about equally many members; returns how many."""
    runs = run_starts.shape[0] - 1
    members = run_starts[runs]
    bounds[0] = 0
    chunks = 0
    for piece in range(1, pieces + 1):
        stop = first_at_least(run_starts, 0, runs, members * piece // pieces)
        if stop > bounds[chunks]:
            chunks += 1
            bounds[chunks] = stop
    return chunks


@kernel
def place_chunks(bounds, row_counts, counts, first_rows, tap_offsets, cursors):
    """Where the sites of each chunk of lines begin, and its pairs of each tap; returns the number of sites."""
    chunks, taps = counts.shape
    rows = np.int64(0)
    for chunk in range(chunks):
        first_rows[chunk] = rows
        for run in range(bounds[chunk], bounds[chunk + 1]):
            rows += row_counts[run]
    pairs = np.int64(0)
    for tap in range(taps):
        tap_offsets[tap] = pairs
        for chunk in range(chunks):
            cursors[chunk, tap] = pairs
            pairs += counts[chunk, tap]
    tap_offsets[taps] = pairs
    return rows


@kernel
def _sort(words):
    """Shell's sort, for words that are in order but for some runs; numpy's takes 2 s to compile."""
    gap = 1
    while gap < words.shape[0]:
        gap = 3 * gap + 1
    while gap > 0:
        for i in range(gap, words.shape[0]):
            value = words[i]
            at = i
            while at >= gap and words[at - gap] > value:
                words[at] = words[at - gap]
                at -= gap
            words[at] = value
        gap //= 3


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
    _sort(found)
    distinct = np.uint64(drop_repeats(found))
    masks[place : place + distinct] = 0
    for m in range(first, end):
        line = np.uint64(members[m]) >> np.uint64(32)
        for hit in range(hit_starts[line], hit_stops[line]):
            at = np.uint64(first_at_least(found, 0, np.int64(distinct), hit_cells[hit] >> np.uint32(6)))
            masks[place + at] |= one << (np.uint64(hit_cells[hit]) & np.uint64(63))
    return place + distinct


@kernel
def unite_lines(
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
def fill_lines(
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
                w = np.uint64(first_at_least(own_words, np.int64(first), np.int64(end), cell >> np.uint64(6)))
                below = own_masks[w] & ((one << (cell & np.uint64(63))) - one)
                tap = tap0 + np.uint64(hit_taps[hit])
                at = cursors[tap]
                fine_rows[at] = hit_rows[hit]
                coarse_rows[at] = ranks[w] + popcount(below)
                cursors[tap] = at + one
