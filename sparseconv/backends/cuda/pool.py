"""Maximum and sum pooling over existing inputs: each output value is owned by one thread, or by one block.

Where the rows of a map have few pairs, a thread sums one channel of one row in order of taps. Where they have many
(global pooling: all sites of a sample), the threads of a block take stretches of a row, and the stretches are
combined in order. Which of the two it is depends on the map's sizes alone.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sparseconv.backends.cuda.by_row import pairs_by_row
from sparseconv.backends.cuda.launch import BLOCK, cuda, kernel

# Pairs of a row on average from which a block works on it: a kernel of 3x3x3 has 27 at most, and a block of 32
# lanes has two pairs a lane there.
_MANY_PAIRS = 64
# Channels that a block takes at once, next to each other in memory: 8 float32 fill a sector of 32 bytes.
_CHANNELS = 2 if BLOCK < 32 else 8
_LANES = BLOCK // _CHANNELS


@kernel
def _sum_pool(x, in_rows, order, starts, out):
    channels = out.shape[1]
    for at in range(cuda.grid(1), out.shape[0] * channels, cuda.gridsize(1)):
        r = at // channels
        c = at - r * channels
        total = out.dtype.type(0)
        for j in range(starts[r], starts[r + 1]):
            total += x[in_rows[order[j]], c]
        out[r, c] = total


@kernel
def _sum_pool_rows(x, in_rows, order, starts, out):
    """A block for each row and group of channels; its lanes' sums are added in order, in float64."""
    sums = cuda.shared.array(BLOCK, np.float64)
    rows, channels = out.shape
    parts = (channels + _CHANNELS - 1) // _CHANNELS
    lane = cuda.threadIdx.x // _CHANNELS
    column = cuda.threadIdx.x - lane * _CHANNELS
    for item in range(cuda.blockIdx.x, rows * parts, cuda.gridDim.x):
        r = item // parts
        c = (item - r * parts) * _CHANNELS + column
        first = starts[r]
        pairs = starts[r + 1] - first
        total = out.dtype.type(0)
        if c < channels:
            for j in range(first + pairs * lane // _LANES, first + pairs * (lane + 1) // _LANES):
                total += x[in_rows[order[j]], c]
        sums[cuda.threadIdx.x] = total
        cuda.syncthreads()
        if lane == 0 and c < channels:
            whole = 0.0
            for other in range(_LANES):
                whole += sums[other * _CHANNELS + column]
            out[r, c] = whole
        cuda.syncthreads()


@kernel
def _max_pool(x, in_rows, order, starts, out, argmax):
    """The first of equal maxima in tap order wins; a NaN beats every number."""
    channels = out.shape[1]
    for at in range(cuda.grid(1), out.shape[0] * channels, cuda.gridsize(1)):
        r = at // channels
        c = at - r * channels
        best = out.dtype.type(0)
        row = -1
        for j in range(starts[r], starts[r + 1]):
            i = in_rows[order[j]]
            value = x[i, c]
            if row < 0 or value > best or (value != value and best == best):
                best = value
                row = i
        out[r, c] = best
        argmax[r, c] = row


@kernel
def _max_pool_rows(x, in_rows, order, starts, out, argmax):
    """As :func:`_max_pool`, a block for each row and group of channels."""
    bests = cuda.shared.array(BLOCK, np.float64)
    winners = cuda.shared.array(BLOCK, np.int32)
    rows, channels = out.shape
    parts = (channels + _CHANNELS - 1) // _CHANNELS
    lane = cuda.threadIdx.x // _CHANNELS
    column = cuda.threadIdx.x - lane * _CHANNELS
    for item in range(cuda.blockIdx.x, rows * parts, cuda.gridDim.x):
        r = item // parts
        c = (item - r * parts) * _CHANNELS + column
        first = starts[r]
        pairs = starts[r + 1] - first
        best = out.dtype.type(0)
        row = -1
        if c < channels:
            for j in range(first + pairs * lane // _LANES, first + pairs * (lane + 1) // _LANES):
                i = in_rows[order[j]]
                value = x[i, c]
                if row < 0 or value > best or (value != value and best == best):
                    best = value
                    row = i
        bests[cuda.threadIdx.x] = best
        winners[cuda.threadIdx.x] = row
        cuda.syncthreads()
        if lane == 0 and c < channels:
            top = bests[column]
            winner = winners[column]
            for other in range(1, _LANES):
                i = winners[other * _CHANNELS + column]
                value = bests[other * _CHANNELS + column]
                if i >= 0 and (winner < 0 or value > top or (value != value and top == top)):
                    top = value
                    winner = i
            out[r, c] = top
            argmax[r, c] = winner
        cuda.syncthreads()


@kernel
def _sum_runs(cells, order, values, out):
    """Sum the values of equal ``cells`` (ascending, negative: none) into ``out[cell]``, in order."""
    for at in range(cuda.grid(1), cells.shape[0], cuda.gridsize(1)):
        cell = cells[at]
        if cell < 0 or (at > 0 and cells[at - 1] == cell):
            continue
        total = values[order[at]]
        behind = at + 1
        while behind < cells.shape[0] and cells[behind] == cell:
            total += values[order[behind]]
            behind += 1
        out[cell] = total


def _rows_are_long(pairs: int, n_out: int) -> bool:
    return pairs > _MANY_PAIRS * n_out


def _threads(pairs: int, n_out: int, channels: int) -> int:
    return n_out * -(-channels // _CHANNELS) * BLOCK if _rows_are_long(pairs, n_out) else n_out * channels


def max_pool(
    features: Tensor, in_rows: Tensor, out_rows: Tensor, tap_offsets: Tensor, n_out: int
) -> tuple[Tensor, Tensor]:
    """See :meth:`sparseconv.backends.Backend.max_pool`."""
    x = features.detach().contiguous()
    out = x.new_empty((n_out, x.shape[1]))
    argmax = torch.empty((n_out, x.shape[1]), dtype=torch.int32, device=x.device)
    groups = pairs_by_row(in_rows, out_rows, tap_offsets, n_out)
    pool = _max_pool_rows if _rows_are_long(len(in_rows), n_out) else _max_pool
    pool.launch(
        _threads(len(in_rows), n_out, x.shape[1]),
        x,
        in_rows,
        groups.order,
        groups.starts,
        out,
        argmax,
    )
    return out, argmax


def max_pool_gradient(grad: Tensor, argmax: Tensor, n_in: int) -> Tensor:
    """See :meth:`sparseconv.backends.Backend.max_pool_gradient`.

    Windows may overlap, so an input may have won several: what it receives is sorted together and added in order
    of the outputs.
    """
    values = grad.detach().contiguous()
    channels = values.shape[1]
    out = values.new_zeros((n_in, channels))
    # The narrower type takes half of the passes of a radix sort.
    wide = torch.int32 if n_in * channels < 1 << 31 else torch.int64
    columns = torch.arange(channels, dtype=wide, device=values.device)
    cells = torch.where(argmax >= 0, argmax.to(wide) * channels + columns, -1)
    ordered, order = torch.sort(cells.reshape(-1), stable=True)
    _sum_runs.launch(len(ordered), ordered, order, values.reshape(-1), out.reshape(-1))
    return out


def sum_pool(features: Tensor, in_rows: Tensor, out_rows: Tensor, tap_offsets: Tensor, n_out: int) -> Tensor:
    """See :meth:`sparseconv.backends.Backend.sum_pool`."""
    x = features.detach().contiguous()
    out = x.new_empty((n_out, x.shape[1]))
    groups = pairs_by_row(in_rows, out_rows, tap_offsets, n_out)
    pool = _sum_pool_rows if _rows_are_long(len(in_rows), n_out) else _sum_pool
    pool.launch(_threads(len(in_rows), n_out, x.shape[1]), x, in_rows, groups.order, groups.starts, out)
    return out
