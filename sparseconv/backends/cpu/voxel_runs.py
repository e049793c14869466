"""Runs of points in one cell, and the voxels that they open or join.

Neighbouring points of a scan come one after the other, so a voxel is looked up once for each run of points and not
for each point. The points that are dropped are runs as well, of a key of their own whose voxel has no row: no step
treats them apart.

Points are cut into pieces, each of one sample. The runs of piece ``p`` are numbered from 0 and stand from
``starts[p] + p`` on, one place behind the last included.
"""

from __future__ import annotations

import numpy as np

from sparseconv.backends.cpu.jit import kernel
from sparseconv.backends.cpu.voxel_cells import BLOCK, all_finite, cells_of, count_dropped, keys_of

# Voxels that stand before the first: the empty slot's, which has no number, and that of the dropped points.
RESERVED = 2

_DROPPED_KEY = -1
# The key of no point: a piece begins with a new run.
_NO_KEY = -2
# Slots from one probe to the next. Odd, so that every slot is met; a step of 1 would walk through the neighbours
# of the cell in the way, which are taken more often than not: 4 % more time for all of the grouping.
_PROBE = np.uint64(17)


@kernel
def find_runs(
    points,
    starts,
    samples,
    first_piece,
    last_piece,
    constants,
    box_low,
    strides,
    keys,
    run_starts,
    run_counts,
    dropped,
):
    """Keys of the points of some pieces and where their runs begin, counted from the start of the piece.

    ``dropped`` gets the points of each piece outside the grid, and those that are not finite.
    """
    columns = points.shape[1]
    lows, sizes, firsts, lasts = constants[0], constants[1], constants[2], constants[3]
    cells = np.empty(BLOCK * columns, np.int32)
    flat = points.reshape(-1)
    for piece in range(first_piece, last_piece):
        first_row = starts[piece]
        last_row = starts[piece + 1]
        sample_key = (samples[piece] - box_low[0]) * strides[0]
        piece_runs = run_starts[first_row + piece : last_row + piece + 1]
        dropped[piece, 0] = 0
        dropped[piece, 1] = 0
        runs = np.uint64(0)
        previous = np.int64(_NO_KEY)
        for start in range(first_row, last_row, BLOCK):
            stop = min(start + BLOCK, last_row)
            used = (stop - start) * columns
            values = flat[start * columns : stop * columns]
            block_keys = keys[start:stop]
            cells_of(values, lows[:used], sizes[:used], firsts, lasts, cells)
            missing = np.int64(keys_of(cells, columns, box_low, strides, sample_key, block_keys))
            if missing:
                if all_finite(values):
                    dropped[piece, 0] += missing
                else:
                    count_dropped(points, start, block_keys, box_low.shape[0] - 1, dropped[piece])
            before = np.int32(start - first_row)
            for k in range(np.uint64(block_keys.shape[0])):
                key = block_keys[k]
                piece_runs[runs] = before + np.int32(k)
                runs += np.uint64(key != previous)
                previous = key
        piece_runs[runs] = last_row - first_row
        run_counts[piece] = np.int64(runs)


@kernel
def _slot_of(key, shift):
    """Where the search for a key begins: eight keys in a row stand side by side, as neighbours follow each other.

    ``shift`` brings a hash down to the table's runs of eight.
    """
    three, seven = np.uint64(3), np.uint64(7)
    word = np.uint64(key)
    return ((((word >> three) * np.uint64(0x9E3779B97F4A7C15)) >> shift) << three) | (word & seven)


@kernel
def number_runs(
    starts,
    first_piece,
    last_piece,
    run_counts,
    keys,
    run_starts,
    table,
    shift,
    voxels,
    voxel_keys,
    voxel_counts,
    run_rows,
    run_ranks,
):
    """Find the voxel of each run of some pieces: its row, and how many points it had before the run.

    Rows are numbered in the order of first points; -1 is that of the dropped points. ``table`` maps hashed keys to
    voxels; ``voxel_keys`` and ``voxel_counts`` hold the reserved ones first. ``voxels[piece + 1]`` gets the number
    of voxels after a piece, so the pieces must come in order.
    """
    one = np.uint64(1)
    mask = np.uint64(table.shape[0] - 1)
    if first_piece == 0:
        table[:] = 0
        table[_slot_of(np.int64(_DROPPED_KEY), shift)] = RESERVED - 1
        voxel_keys[RESERVED - 1] = _DROPPED_KEY
        voxel_counts[RESERVED - 1] = 0
        voxels[0] = 0
    last = np.uint64(voxels[first_piece] + RESERVED - 1)
    for piece in range(first_piece, last_piece):
        first_run = np.uint64(starts[piece] + piece)
        first_row = starts[piece]
        for run in range(first_run, first_run + np.uint64(run_counts[piece])):
            begin = run_starts[run]
            length = run_starts[run + one] - begin
            key = keys[np.uint64(first_row + begin)]
            slot = _slot_of(key, shift)
            rank = np.int32(0)
            while True:
                voxel = np.uint64(table[slot])
                if voxel == 0:
                    last += one
                    voxel = last
                    table[slot] = voxel
                    voxel_keys[voxel] = key
                    voxel_counts[voxel] = length
                    break
                if voxel_keys[voxel] == key:
                    rank = voxel_counts[voxel]
                    voxel_counts[voxel] = rank + length
                    break
                slot = (slot + _PROBE) & mask
            run_ranks[run] = rank
            run_rows[run] = np.int64(voxel) - RESERVED
        voxels[piece + 1] = np.int64(last) - (RESERVED - 1)


@kernel
def _renumber(first_run, runs, new_rows, run_rows):
    """``new_rows[row + 1]`` is the new number of a row; an empty array leaves rows as they are."""
    if new_rows.shape[0]:
        for run in range(first_run, first_run + runs):
            run_rows[run] = new_rows[np.uint64(run_rows[run] + 1)]


@kernel
def spread_rows(
    starts, first_piece, last_piece, run_counts, keys, run_starts, run_rows, run_ranks, new_rows, rows, ranks
):
    """Row and rank of each point of some pieces."""
    one = np.uint64(1)
    for piece in range(first_piece, last_piece):
        first_run = np.uint64(starts[piece] + piece)
        _renumber(first_run, np.uint64(run_counts[piece]), new_rows, run_rows)
        first_row = np.uint64(starts[piece])
        run = first_run - one
        previous = np.int64(_NO_KEY)
        for n in range(first_row, np.uint64(starts[piece + 1])):
            key = keys[n]
            run += np.uint64(key != previous)
            previous = key
            rows[n] = run_rows[run]
            ranks[n] = run_ranks[run] + (np.int32(n - first_row) - run_starts[run])


@kernel
def clear_blocks(counts, start, stop, blocks, block_counts):
    """Clear the blocks of the voxels ``start .. stop`` and count what they will hold; returns the sum."""
    room = blocks.shape[1]
    flat = blocks.reshape(-1)
    block = room * blocks.shape[2]
    flat[start * block : stop * block] = 0
    total = np.int64(0)
    for v in range(np.uint64(start), np.uint64(stop)):
        held = min(counts[v], np.int32(room))
        block_counts[v] = held
        total += held
    return total


@kernel
def fill_blocks(
    values,
    starts,
    first_piece,
    last_piece,
    run_counts,
    keys,
    run_starts,
    run_rows,
    run_ranks,
    new_rows,
    rows,
    blocks,
):
    """Row of each point of some pieces, and its copy in the voxel's block where that has room."""
    room = blocks.shape[1]
    columns = np.uint64(blocks.shape[2])
    out = blocks.reshape(-1)
    source = values.reshape(-1)
    one, two, three, four = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(4)
    for piece in range(first_piece, last_piece):
        first_run = np.uint64(starts[piece] + piece)
        _renumber(first_run, np.uint64(run_counts[piece]), new_rows, run_rows)
        first_row = np.uint64(starts[piece])
        run = first_run - one
        previous = np.int64(_NO_KEY)
        for n in range(first_row, np.uint64(starts[piece + 1])):
            key = keys[n]
            run += np.uint64(key != previous)
            previous = key
            row = run_rows[run]
            rows[n] = row
            rank = np.int64(run_ranks[run]) + (np.int64(n - first_row) - run_starts[run])
            if row < 0 or rank >= room:
                continue
            place = np.uint64(row * room + rank) * columns
            read = n * columns
            c = np.uint64(0)
            # Four at a time, all read before one is written: a single load and store of a vector.
            while c + four <= columns:
                x, y = source[read + c], source[read + c + one]
                z, feature = source[read + c + two], source[read + c + three]
                out[place + c], out[place + c + one] = x, y
                out[place + c + two], out[place + c + three] = z, feature
                c += four
            while c < columns:
                out[place + c] = source[read + c]
                c += one


@kernel
def sites_of_keys(keys, is_exact, box_low, strides, start, stop, sites):
    """Sites of the voxels ``start .. stop``, in any order.

    ``is_exact`` where all keys lie below :data:`~sparseconv.backends.site_keys.EXACT_CELLS`: double division runs
    on vectors.
    """
    last = strides.shape[0] - 1
    if is_exact and last == 3:
        batch, z_step, y_step = np.float64(strides[0]), np.float64(strides[1]), np.float64(strides[2])
        low_batch, low_z, low_y, low_x = box_low[0], box_low[1], box_low[2], box_low[3]
        one, two, three, four = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(4)
        flat = sites.reshape(-1)
        for v in range(np.uint64(start), np.uint64(stop)):
            rest = np.float64(keys[v])
            sample = np.floor(rest / batch)
            rest -= sample * batch
            z = np.floor(rest / z_step)
            rest -= z * z_step
            y = np.floor(rest / y_step)
            x = rest - y * y_step
            at = v * four
            flat[at] = np.int64(sample) + low_batch
            flat[at + one] = np.int64(z) + low_z
            flat[at + two] = np.int64(y) + low_y
            flat[at + three] = np.int64(x) + low_x
        return
    for v in range(start, stop):
        rest = keys[v]
        for c in range(last):
            step = rest // strides[c]
            rest -= step * strides[c]
            sites[v, c] = step + box_low[c]
        sites[v, last] = rest + box_low[last]
