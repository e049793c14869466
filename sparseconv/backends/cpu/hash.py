"""Index of a set of sites: sorted lines for walks, and sorted blocks of 64 cells with a hash table for look-ups.

A block is 64 successive keys. It holds a 64-bit occupancy mask and the rank (place in lexicographic order) of its
first site; the rank of any site is the block's rank plus the number of mask bits below its own, so one look-up
answers for 64 cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparseconv.backends import DuplicateSiteError
from sparseconv.backends.cpu.bits import popcount
from sparseconv.backends.cpu.jit import kernel
from sparseconv.backends.cpu.radix import argsort_keys
from sparseconv.backends.cpu.scratch import Scratch
from sparseconv.backends.cpu.threads import run_ranges
from sparseconv.backends.site_keys import EXACT_CELLS, SiteKeys, check_site_count
from sparseconv.memoized import memoized

_SMALLEST_RANGE = 65536  # sites; packing one costs about 0.5 ns, waking a thread about 20 us
_ROWS_AT_ONCE = 16  # rows whose bounds are taken side by side: one row a lane
_EMPTY = -1
# Keys whose lines are found at once: 2 KB.
_KEYS_AT_ONCE = 256


@kernel
def _bounds(flat, columns, low, high):
    """Smallest and largest value of each column of at least one row, on vectors: a block of rows at a time."""
    width = columns * _ROWS_AT_ONCE
    least = np.empty(width, np.int32)
    most = np.empty(width, np.int32)
    for i in range(width):
        least[i] = most[i] = flat[i % columns]
    whole = flat.shape[0] // width * width
    for start in range(0, whole, width):
        block = flat[start : start + width]
        for i in range(width):
            least[i] = min(least[i], block[i])
            most[i] = max(most[i], block[i])
    for i in range(whole, flat.shape[0]):
        least[i - whole] = min(least[i - whole], flat[i])
        most[i - whole] = max(most[i - whole], flat[i])
    # An array assigned to a slice takes Numba 2 s to compile.
    for c in range(columns):
        low[c], high[c] = least[c], most[c]
    for i in range(width):
        low[i % columns] = min(low[i % columns], np.int64(least[i]))
        high[i % columns] = max(high[i % columns], np.int64(most[i]))


@kernel
def _pack(indices, low, strides, start, stop, keys):
    columns = indices.shape[1]
    # What the lowest corner would be, in wrapping arithmetic: the key itself always fits.
    corner = np.int64(0)
    for c in range(columns):
        corner += low[c] * strides[c]
    if columns == 4:
        # Written out, so that it runs on vectors.
        batch, first, second = strides[0], strides[1], strides[2]
        for r in range(np.uint64(start), np.uint64(stop)):
            key = np.int64(indices[r, 0]) * batch + np.int64(indices[r, 1]) * first
            keys[r] = key + np.int64(indices[r, 2]) * second + np.int64(indices[r, 3]) - corner
        return
    for r in range(np.uint64(start), np.uint64(stop)):
        key = -corner
        for c in range(columns):
            key += np.int64(indices[r, c]) * strides[c]
        keys[r] = key


@kernel
def _ascends(keys):
    """Whether each key is above its predecessor's; on vectors."""
    fails = np.int32(0)
    for r in range(1, keys.shape[0]):
        fails |= np.int32(keys[r] <= keys[r - 1])
    return fails == 0


@kernel
def _first_repeat(keys):
    """First position of a sorted array whose key is its predecessor's."""
    for r in range(1, keys.shape[0]):
        if keys[r] == keys[r - 1]:
            return r
    return keys.shape[0]


@kernel
def _take_rows(rows, positions, taken):
    """``taken = rows[positions]``, several times as fast as numpy."""
    columns = rows.shape[1]
    for r in range(np.uint64(positions.shape[0])):
        position = np.uint64(positions[r])
        if columns == 4:
            # Written out: a loop of unknown length takes three times as long.
            taken[r, 0], taken[r, 1] = rows[position, 0], rows[position, 1]
            taken[r, 2], taken[r, 3] = rows[position, 2], rows[position, 3]
        else:
            for c in range(np.uint64(columns)):
                taken[r, c] = rows[position, c]


@kernel
def _count_runs(keys, shift):
    runs = 0
    previous = np.int64(-1)
    for r in range(keys.shape[0]):
        run = keys[r] >> shift
        if run != previous:
            runs += 1
            previous = run
    return runs


@kernel
def _fill_blocks(keys, block_keys, block_masks, block_ranks):
    block = -1
    previous = np.int64(-1)
    for r in range(keys.shape[0]):
        name = keys[r] >> 6
        if name != previous:
            block += 1
            block_keys[block] = name
            block_masks[block] = np.uint64(0)
            block_ranks[block] = r
            previous = name
        block_masks[block] |= np.uint64(1) << np.uint64(keys[r] & 63)


@kernel
def _fill_lines(keys, line_length, is_exact, line_keys, line_starts):
    """Keys and starts of the runs of sites that differ in the last axis only; returns their number.

    ``is_exact`` where all keys lie below :data:`~sparseconv.backends.site_keys.EXACT_CELLS`: double division runs
    on vectors. What is no new line is written too, and overwritten by the next: a branch would be mispredicted.
    """
    lines = np.uint64(0)
    previous = np.int64(-1)
    found = np.empty(_KEYS_AT_ONCE, np.int64)
    divisor = np.float64(line_length)
    for start in range(0, keys.shape[0], _KEYS_AT_ONCE):
        block = keys[start : start + _KEYS_AT_ONCE]
        if is_exact:
            for k in range(block.shape[0]):
                found[k] = np.int64(np.floor(np.float64(block[k]) / divisor))
        else:
            for k in range(block.shape[0]):
                found[k] = block[k] // line_length
        for k in range(np.uint64(block.shape[0])):
            line = found[k]
            line_keys[lines] = line
            line_starts[lines] = np.int64(start) + np.int64(k)
            lines += np.uint64(line != previous)
            previous = line
    line_starts[lines] = keys.shape[0]
    return np.int64(lines)


@kernel
def _slot(name, mask):
    """Fibonacci hashing: the multiplier is 2**64 divided by the golden ratio."""
    mixed = np.uint64(name) * np.uint64(0x9E3779B97F4A7C15)
    return np.int64(mixed >> np.uint64(20)) & mask


@kernel
def _fill_table(block_keys, table_keys, table_blocks):
    mask = np.int64(table_keys.shape[0] - 1)
    for block in range(block_keys.shape[0]):
        slot = _slot(block_keys[block], mask)
        while table_keys[slot] != -1:
            slot = (slot + 1) & mask
        table_keys[slot] = block_keys[block]
        table_blocks[slot] = block


@kernel
def _query(queries, start, stop, low, extent, strides, table_keys, table_blocks, block_masks, block_ranks, ranks):
    mask = np.int64(table_keys.shape[0] - 1)
    columns = queries.shape[1]
    for q in range(start, stop):
        key = np.int64(0)
        inside = True
        for c in range(columns):
            distance = np.int64(queries[q, c]) - low[c]
            if distance < 0 or distance >= extent[c]:
                inside = False
                break
            key += distance * strides[c]
        ranks[q] = -1
        if not inside:
            continue
        name = key >> 6
        slot = _slot(name, mask)
        while table_keys[slot] != -1 and table_keys[slot] != name:
            slot = (slot + 1) & mask
        if table_keys[slot] == -1:
            continue
        block = table_blocks[slot]
        bit = np.uint64(key & 63)
        occupancy = block_masks[block]
        if (occupancy >> bit) & np.uint64(1):
            below = occupancy & ((np.uint64(1) << bit) - np.uint64(1))
            ranks[q] = block_ranks[block] + np.int64(popcount(below))


@dataclass(frozen=True)
class Blocks:
    """Occupied blocks of 64 successive keys, and an open-addressing hash table over them.

    Attributes:
        masks: uint64 ``[B]`` occupancy.
        ranks: int32 ``[B]`` rank of a block's first site.
        table_keys: int64 ``[S]``, key / 64 of the block in each slot, -1 where it is empty.
        table_blocks: int32 ``[S]`` number of that block.
    """

    masks: NDArray[np.uint64]
    ranks: NDArray[np.int32]
    table_keys: NDArray[np.int64]
    table_blocks: NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class SiteIndex:
    """A set of distinct sites, sorted, with its lines.

    Attributes:
        box: a box around all sites, and strides of the keys.
        sites: int32 ``[N, 1+D]`` in lexicographic order.
        order: int32 ``[N]``, the caller's row of each sorted site; None where the rows came sorted.
        line_keys: int64 ``[L]`` ascending, the key of all columns but the last, of each run of sites that
            differ in the last axis only.
        line_starts: int32 ``[L+1]``, first site of each of these lines.
    """

    box: SiteKeys
    sites: NDArray[np.int32]
    order: NDArray[np.int32] | None
    line_keys: NDArray[np.int64]
    line_starts: NDArray[np.int32]

    @memoized
    def blocks(self) -> Blocks:
        """Built at the first look-up; walks do without.

        The table is at most half full, so a probe run is short: 1.5 slots on average for a hit.
        """
        keys = pack_into(self.sites, self.box)
        count = _count_runs(keys, 6)
        names = np.empty(count, np.int64)
        masks = np.empty(count, np.uint64)
        ranks = np.empty(count, np.int32)
        _fill_blocks(keys, names, masks, ranks)
        slots = 1 << max(4, (2 * count - 1).bit_length())
        table_keys = np.full(slots, _EMPTY, np.int64)
        table_blocks = np.empty(slots, np.int32)
        _fill_table(names, table_keys, table_blocks)
        return Blocks(masks, ranks, table_keys, table_blocks)


def _bounds_of(indices: NDArray[np.int32]) -> tuple[list[int], list[int]]:
    columns = indices.shape[1]
    low, high = np.empty(columns, np.int64), np.empty(columns, np.int64)
    _bounds(indices.reshape(-1), columns, low, high)
    return low.tolist(), high.tolist()


def bounds(indices: Tensor) -> tuple[list[int], list[int]]:
    """See :meth:`sparseconv.backends.Backend.bounds`."""
    return _bounds_of(indices.detach().contiguous().numpy())


def pack_sites(
    indices: NDArray[np.int32], packed: NDArray[np.int64] | None = None
) -> tuple[SiteKeys, NDArray[np.int64]]:
    """Bounding box and key of each row of ``indices [N, 1+D]``, written to ``packed`` where that is given.

    Raises:
        ValueError: the sites cannot be packed into 63 bits.
    """
    columns = indices.shape[1]
    box = SiteKeys.spanning(*(_bounds_of(indices) if len(indices) else ([0] * columns, [-1] * columns)))
    return box, pack_into(indices, box, packed)


def pack_into(
    indices: NDArray[np.int32], box: SiteKeys, packed: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Key of each row of ``indices [N, 1+D]``, all inside the box, written to ``packed`` where that is given."""
    if packed is None:
        packed = np.empty(len(indices), np.int64)
    low, strides = np.array(box.low, np.int64), np.array(box.strides, np.int64)
    run_ranges(
        lambda start, stop: _pack(indices, low, strides, start, stop, packed), len(indices), _SMALLEST_RANGE
    )
    return packed


def build_index(indices: Tensor) -> SiteIndex:
    """See :meth:`sparseconv.backends.Backend.build_index`."""
    check_site_count(len(indices))
    # A copy: kernels rely on the order that is found here, whatever becomes of the caller's memory.
    rows = indices.detach().numpy().copy()
    scratch = Scratch()
    box, packed = pack_sites(rows, scratch.array("keys", len(rows), np.int64))
    order = None
    sites = rows
    if not _ascends(packed):
        packed, positions = argsort_keys(packed, box.cells, scratch.array("spare keys", len(rows), np.int64))
        if not _ascends(packed):
            repeat = _first_repeat(packed)
            first, second = sorted(positions[repeat - 1 : repeat + 1].tolist())
            raise DuplicateSiteError(
                f"indices hold the site {rows[second].tolist()} (batch first) more than once, in rows {first} "
                f"and {second}: merge duplicate voxels first, for example with sparseconv.voxelize"
            )
        order = positions.astype(np.int32, copy=False)
        sites = np.empty_like(rows)
        _take_rows(rows, positions, sites)
    line_keys = np.empty(len(sites), np.int64)
    line_starts = np.empty(len(sites) + 1, np.int32)
    lines = _fill_lines(packed, box.extent[-1], box.cells <= EXACT_CELLS, line_keys, line_starts)
    scratch.keep()
    return SiteIndex(box, sites, order, line_keys[:lines], line_starts[: lines + 1])


def is_sorted(index: SiteIndex) -> bool:
    """See :meth:`sparseconv.backends.Backend.is_sorted`."""
    return index.order is None


def query(index: SiteIndex, indices: Tensor) -> Tensor:
    """See :meth:`sparseconv.backends.Backend.query`."""
    queries = indices.detach().contiguous().numpy()
    ranks = np.empty(len(queries), np.int64)
    blocks = index.blocks
    low, extent, strides = (
        np.array(values, np.int64) for values in (index.box.low, index.box.extent, index.box.strides)
    )
    run_ranges(
        lambda start, stop: _query(
            queries,
            start,
            stop,
            low,
            extent,
            strides,
            blocks.table_keys,
            blocks.table_blocks,
            blocks.masks,
            blocks.ranks,
            ranks,
        ),
        len(queries),
        _SMALLEST_RANGE,
    )
    if index.order is not None and len(index.order):
        ranks = np.where(ranks < 0, ranks, index.order[ranks])
    return torch.from_numpy(ranks)
