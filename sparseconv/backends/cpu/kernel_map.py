"""Kernel maps: a walk over chunks of coarse sites, placed by a prefix sum; mirrored and reordered where needed."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparseconv.backends.cpu.bisect import copy_into
from sparseconv.backends.cpu.bits import lowest_bit
from sparseconv.backends.cpu.hash import SiteIndex
from sparseconv.backends.cpu.jit import kernel
from sparseconv.backends.cpu.threads import run_ranges
from sparseconv.backends.cpu.walk import CHUNK, walk_chunks
from sparseconv.geometry import ConvGeometry

# Copying a chunk of a LiDAR frame to its places takes 4 us (3x3x3, 2048 sites).
_CHUNKS_WORTH_A_THREAD = 12
_NO_ORDER = np.empty(0, np.int32)


@kernel
def _place(packed, counts, places, mirror_places, fine_rows, coarse_rows):
    """Copy one chunk to where its taps lie; with the columns swapped to the mirrored taps too."""
    source = 0
    for slot in range(counts.shape[0]):
        count = counts[slot]
        fine = packed[0, source : source + count]
        coarse = packed[1, source : source + count]
        place = places[slot]
        copy_into(fine_rows[place : place + count], fine)
        copy_into(coarse_rows[place : place + count], coarse)
        if mirror_places.shape[0]:
            place = mirror_places[slot]
            copy_into(fine_rows[place : place + count], coarse)
            copy_into(coarse_rows[place : place + count], fine)
        source += count


@kernel
def _order_taps(in_ranks, out_ranks, in_order, out_order, tap_offsets, n_out, start, stop, in_rows, out_rows):
    """Pairs of the taps ``start .. stop`` by output row. A rank is the row itself where its order has no length.

    A tap's pairs are laid out by output row, with one bit a row that says where they lie: 64 rows without a pair
    cost as much as one with.
    """
    one, six, in_word = np.uint64(1), np.uint64(6), np.uint64(63)
    in_of_row = np.empty(n_out, np.int32)
    occupied = np.zeros((n_out + 63) // 64, np.uint64)
    has_in_order, has_out_order = in_order.shape[0] > 0, out_order.shape[0] > 0
    for tap in range(start, stop):
        place = np.uint64(tap_offsets[tap])
        for p in range(place, np.uint64(tap_offsets[tap + 1])):
            row = np.uint64(out_order[np.uint64(out_ranks[p])] if has_out_order else out_ranks[p])
            in_of_row[row] = in_order[np.uint64(in_ranks[p])] if has_in_order else in_ranks[p]
            occupied[row >> six] |= one << (row & in_word)
        for w in range(np.uint64(occupied.shape[0])):
            bits = occupied[w]
            occupied[w] = np.uint64(0)
            while bits:
                row = (w << six) + lowest_bit(bits)
                bits &= bits - one
                in_rows[place] = in_of_row[row]
                out_rows[place] = row
                place += one


def kernel_pairs(fine: SiteIndex, coarse: SiteIndex, geometry: ConvGeometry) -> tuple[Tensor, Tensor, Tensor]:
    """See :meth:`sparseconv.backends.Backend.kernel_pairs`.

    On one set of sites a submanifold geometry is its own mirror: the taps before the centre are those behind
    it with the columns swapped, and the centre is the identity.
    """
    taps = geometry.volume
    mirrored = fine is coarse and geometry.is_submanifold
    first_tap = taps // 2 + 1 if mirrored else 0
    rows = len(coarse.sites)
    packed, counts = walk_chunks(fine, coarse, geometry, first_tap)
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

    run_ranges(work, len(packed), _CHUNKS_WORTH_A_THREAD)
    if mirrored:
        centre = slice(tap_offsets[taps // 2], tap_offsets[taps // 2 + 1])
        fine_rows[centre] = coarse_rows[centre] = np.arange(rows, dtype=np.int32)
    if coarse.order is not None:
        fine_order = _NO_ORDER if fine.order is None else fine.order
        fine_rows, coarse_rows = _ordered(fine_rows, coarse_rows, tap_offsets, rows, fine_order, coarse.order)
    elif fine.order is not None:
        fine_rows = fine.order[fine_rows]
    return (
        torch.from_numpy(fine_rows),
        torch.from_numpy(coarse_rows),
        torch.from_numpy(tap_offsets),
    )


def _ordered(
    in_ranks: NDArray[np.int32],
    out_ranks: NDArray[np.int32],
    tap_offsets: NDArray[np.int64],
    n_out: int,
    in_order: NDArray[np.int32] = _NO_ORDER,
    out_order: NDArray[np.int32] = _NO_ORDER,
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Rows of all pairs, each tap's by output row."""
    in_rows, out_rows = np.empty_like(in_ranks), np.empty_like(out_ranks)
    taps = len(tap_offsets) - 1
    run_ranges(
        lambda start, stop: _order_taps(
            in_ranks, out_ranks, in_order, out_order, tap_offsets, n_out, start, stop, in_rows, out_rows
        ),
        taps,
        1 if len(in_ranks) > CHUNK else taps,
    )
    return in_rows, out_rows


def order_pairs(in_rows: Tensor, out_rows: Tensor, tap_offsets: Tensor) -> tuple[Tensor, Tensor]:
    """See :meth:`sparseconv.backends.Backend.order_pairs`."""
    n_out = int(out_rows.max()) + 1 if len(out_rows) else 0
    new_in, new_out = _ordered(in_rows.numpy(), out_rows.numpy(), tap_offsets.numpy(), n_out)
    return torch.from_numpy(new_in), torch.from_numpy(new_out)
