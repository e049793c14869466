"""Padded blocks of the points of each voxel."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sparseconv.backends.cpu.jit import kernel
from sparseconv.backends.cpu.threads import run_ranges

# Points or voxels a range; copying or clearing a short one costs about 2 ns. Waking a thread costs 20 to 50 us,
# and memory bounds the copies: two threads are slower at 115,000 points (1.27 against 1.16 ms for all of the
# voxelization).
_SMALLEST_RANGE = 1 << 17


@kernel
def _clear(padded, start, stop):
    flat = padded.reshape(-1)
    block = padded.shape[1] * padded.shape[2]
    flat[start * block : stop * block] = 0


@kernel
def _pad(values, rows, ranks, start, stop, padded):
    """Copy the points ``start .. stop`` to their places; those past a voxel's room are left out."""
    room = padded.shape[1]
    columns = np.uint64(padded.shape[2])
    out = padded.reshape(-1)
    source = values.reshape(-1)
    one, two, three, four = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(4)
    for n in range(np.uint64(start), np.uint64(stop)):
        row = rows[n]
        rank = ranks[n]
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


def pad_points(
    values: Tensor, rows: Tensor, ranks: Tensor, counts: Tensor, max_points: int
) -> tuple[Tensor, Tensor, int]:
    """See :meth:`sparseconv.backends.Backend.pad_points`."""
    source = values.detach().contiguous().numpy()
    padded = np.empty((len(counts), max_points, source.shape[1]), source.dtype)
    run_ranges(lambda start, stop: _clear(padded, start, stop), len(counts), _SMALLEST_RANGE)
    run_ranges(
        lambda start, stop: _pad(source, rows.numpy(), ranks.numpy(), start, stop, padded),
        len(source),
        _SMALLEST_RANGE,
    )
    kept = np.minimum(counts.numpy(), max_points)
    return torch.from_numpy(padded), torch.from_numpy(kept), int(kept.sum())
