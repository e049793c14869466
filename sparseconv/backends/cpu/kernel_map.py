"""Kernel maps: a walk over chunks of coarse sites, placed by a prefix sum; mirrored and reordered where needed."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparseconv.backends.cpu.bisect import copy_into
from sparseconv.backends.cpu.hash import SiteIndex
from sparseconv.backends.cpu.jit import kernel
from sparseconv.backends.cpu.radix import argsort_keys
from sparseconv.backends.cpu.threads import run_ranges
from sparseconv.backends.cpu.walk import CHUNK, walk_chunks
from sparseconv.geometry import ConvGeometry

# Sweeping a row of the table costs a twentieth of sorting a pair.
_SPARSE_SWEEP = 20
# Copying a chunk of a LiDAR frame to its places takes 4 us (3x3x3, 2048 sites).
_CHUNKS_WORTH_A_THREAD = 12


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
        _, order = argsort_keys(tap_of * n_out + out_rows, taps * n_out)
        return in_rows[order], out_rows[order]
    new_in = np.empty_like(in_rows)
    new_out = np.empty_like(out_rows)
    run_ranges(
        lambda start, stop: _group_by_row(in_rows, out_rows, tap_offsets, n_out, start, stop, new_in, new_out),
        len(tap_offsets) - 1,
        1 if len(in_rows) > CHUNK else len(tap_offsets),
    )
    return new_in, new_out


def order_pairs(in_rows: Tensor, out_rows: Tensor, tap_offsets: Tensor) -> tuple[Tensor, Tensor]:
    """See :meth:`sparseconv.backends.Backend.order_pairs`."""
    n_out = int(out_rows.max()) + 1 if len(out_rows) else 0
    new_in, new_out = _ordered(in_rows.numpy(), out_rows.numpy(), tap_offsets.numpy(), n_out)
    return torch.from_numpy(new_in), torch.from_numpy(new_out)
