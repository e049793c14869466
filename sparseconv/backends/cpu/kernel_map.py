"""Kernel maps: a walk over chunks of coarse sites, placed by a prefix sum; mirrored and reordered where needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
def _place(packed, counts, places, mirror_places, fine_order, fine_rows, coarse_rows):
    """Copy one chunk to where its taps lie; with the columns swapped to the mirrored taps too.

    Fine ranks become rows where there is an order.
    """
    source = 0
    for slot in range(counts.shape[0]):
        count = counts[slot]
        fine = packed[0, source : source + count]
        coarse = packed[1, source : source + count]
        place = places[slot]
        copy_into(coarse_rows[place : place + count], coarse)
        if fine_order.shape[0]:
            target = fine_rows[place : place + count]
            for i in range(np.uint64(count)):
                target[i] = fine_order[np.uint64(fine[i])]
        else:
            copy_into(fine_rows[place : place + count], fine)
        if mirror_places.shape[0]:
            place = mirror_places[slot]
            copy_into(fine_rows[place : place + count], coarse)
            copy_into(coarse_rows[place : place + count], fine)
        source += count


@kernel
def _order_taps(in_ranks, out_ranks, in_order, out_order, offsets, start, stop, n_out, places, in_rows, out_rows):
    """Pairs of the taps ``start .. stop`` by output row, from each tap's place on.

    Rows are ranks where an order has no length. A tap's pairs are laid out by output row, with one bit a row that
    says where they lie: 64 rows without a pair cost as much as one with.
    """
    one, six, in_word = np.uint64(1), np.uint64(6), np.uint64(63)
    in_of_row = np.empty(n_out, np.int32)
    occupied = np.zeros((n_out + 63) // 64, np.uint64)
    has_in_order, has_out_order = in_order.shape[0] > 0, out_order.shape[0] > 0
    for tap in range(start, stop):
        for p in range(np.uint64(offsets[tap]), np.uint64(offsets[tap + 1])):
            row = np.uint64(out_order[np.uint64(out_ranks[p])] if has_out_order else out_ranks[p])
            in_of_row[row] = in_order[np.uint64(in_ranks[p])] if has_in_order else in_ranks[p]
            occupied[row >> six] |= one << (row & in_word)
        place = np.uint64(places[tap])
        for w in range(np.uint64(occupied.shape[0])):
            bits = occupied[w]
            occupied[w] = np.uint64(0)
            while bits:
                row = (w << six) + lowest_bit(bits)
                bits &= bits - one
                in_rows[place] = in_of_row[row]
                out_rows[place] = row
                place += one


@dataclass(frozen=True)
class _Unordered:
    """Pairs by tap, as ranks where there are orders to rows, and where each tap's pairs are to stand."""

    in_ranks: NDArray[np.int32]
    out_ranks: NDArray[np.int32]
    in_order: NDArray[np.int32]
    out_order: NDArray[np.int32]
    offsets: NDArray[np.int64]
    n_out: int
    places: NDArray[np.int64]

    def order(self, start: int, stop: int, in_rows: NDArray[np.int32], out_rows: NDArray[np.int32]) -> None:
        """Write the pairs of the taps ``start .. stop`` by output row."""
        _order_taps(
            self.in_ranks,
            self.out_ranks,
            self.in_order,
            self.out_order,
            self.offsets,
            start,
            stop,
            self.n_out,
            self.places,
            in_rows,
            out_rows,
        )


def _order(parts: Sequence[_Unordered], in_rows: NDArray[np.int32], out_rows: NDArray[np.int32]) -> None:
    """Order the pairs of all parts, which have equally many taps."""
    taps = len(parts[0].places)

    def work(start: int, stop: int) -> None:
        for number, part in enumerate(parts):
            first, end = max(start - number * taps, 0), min(stop - number * taps, taps)
            if first < end:
                part.order(first, end, in_rows, out_rows)

    total = taps * len(parts)
    run_ranges(work, total, 1 if len(in_rows) > CHUNK else total)


def _offsets(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


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
    before = np.cumsum(counts, axis=0) - counts
    nowhere = np.empty((len(counts), 0), np.int64)
    walked_offsets = _offsets(counts.sum(axis=0))
    walked = np.diff(walked_offsets)
    tap_offsets = _offsets(np.concatenate([walked[::-1], [rows], walked])) if mirrored else walked_offsets
    places, mirror_places = tap_offsets[first_tap:-1], tap_offsets[: taps // 2][::-1]
    fine_order = _NO_ORDER if fine.order is None else fine.order
    fine_rows, coarse_rows = np.empty(tap_offsets[-1], np.int32), np.empty(tap_offsets[-1], np.int32)

    def place(
        places: NDArray[np.int64],
        mirror_places: NDArray[np.int64],
        order: NDArray[np.int32],
        fine_rows: NDArray[np.int32],
        coarse_rows: NDArray[np.int32],
    ) -> None:
        def work(first: int, stop: int) -> None:
            for number in range(first, stop):
                _place(
                    packed[number],
                    counts[number],
                    places[number],
                    mirror_places[number],
                    order,
                    fine_rows,
                    coarse_rows,
                )

        run_ranges(work, len(packed), _CHUNKS_WORTH_A_THREAD)

    if coarse.order is None:
        place(places + before, mirror_places + before if mirrored else nowhere, fine_order, fine_rows, coarse_rows)
    else:
        fine_ranks, coarse_ranks = np.empty((2, walked_offsets[-1]), np.int32)
        place(walked_offsets[:-1] + before, nowhere, _NO_ORDER, fine_ranks, coarse_ranks)
        parts = [_Unordered(fine_ranks, coarse_ranks, fine_order, coarse.order, walked_offsets, rows, places)]
        if mirrored:
            parts.append(replace(parts[0], in_ranks=coarse_ranks, out_ranks=fine_ranks, places=mirror_places))
        _order(parts, fine_rows, coarse_rows)
    if mirrored:
        centre = slice(tap_offsets[taps // 2], tap_offsets[taps // 2 + 1])
        fine_rows[centre] = coarse_rows[centre] = np.arange(rows, dtype=np.int32)
    return (
        torch.from_numpy(fine_rows),
        torch.from_numpy(coarse_rows),
        torch.from_numpy(tap_offsets),
    )


def order_pairs(in_rows: Tensor, out_rows: Tensor, tap_offsets: Tensor) -> tuple[Tensor, Tensor]:
    """See :meth:`sparseconv.backends.Backend.order_pairs`."""
    n_out = int(out_rows.max()) + 1 if len(out_rows) else 0
    offsets = tap_offsets.numpy()
    new_in, new_out = np.empty(len(in_rows), np.int32), np.empty(len(in_rows), np.int32)
    part = _Unordered(in_rows.numpy(), out_rows.numpy(), _NO_ORDER, _NO_ORDER, offsets, n_out, offsets[:-1])
    _order([part], new_in, new_out)
    return torch.from_numpy(new_in), torch.from_numpy(new_out)
