"""Sums over rows and affine maps of columns: what batch norm is made of.

Rows are taken in fixed chunks whose sums are combined in order, in float64, so that a result depends neither on
the number of threads nor much on the number of rows.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparseconv.backends.cpu.jit import kernel
from sparseconv.backends.cpu.threads import run_ranges

# Rows of one partial sum: with 64 channels they fill 128 KB, which stays in a second-level cache for the second of
# the two looks that a variance takes.
_CHUNK = 512
# Values that are worth a thread of their own: about 20 us of memory traffic.
_WORTH_A_THREAD = 1 << 16


@kernel
def _chunk_moments(x, start, stop, means, squares):
    """Mean and sum of squared distances from it of each column, for the chunks ``start .. stop``."""
    rows, columns = x.shape
    for chunk in range(start, stop):
        first = chunk * _CHUNK
        last = min(rows, first + _CHUNK)
        for c in range(columns):
            means[chunk, c] = 0
            squares[chunk, c] = 0
        for r in range(first, last):
            for c in range(columns):
                means[chunk, c] += x[r, c]
        for c in range(columns):
            means[chunk, c] /= last - first
        for r in range(first, last):
            for c in range(columns):
                distance = x[r, c] - means[chunk, c]
                squares[chunk, c] += distance * distance


@kernel
def _combine_moments(means, squares, rows, mean, variance):
    """Chan, Golub and LeVeque's update, chunk after chunk."""
    columns = means.shape[1]
    for c in range(columns):
        mean[c] = 0
        variance[c] = 0
    count = 0
    for chunk in range(means.shape[0]):
        size = min(rows - chunk * _CHUNK, _CHUNK)
        total = count + size
        for c in range(columns):
            gap = means[chunk, c] - mean[c]
            mean[c] += gap * size / total
            variance[c] += squares[chunk, c] + gap * gap * count * size / total
        count = total
    for c in range(columns):
        variance[c] /= rows


@kernel
def _chunk_dots(grad, x, start, stop, dots, sums):
    """Per column the sums of ``grad * x`` and of ``grad``, for the chunks ``start .. stop``."""
    rows, columns = x.shape
    for chunk in range(start, stop):
        for c in range(columns):
            dots[chunk, c] = 0
            sums[chunk, c] = 0
        for r in range(chunk * _CHUNK, min(rows, (chunk + 1) * _CHUNK)):
            for c in range(columns):
                value = np.float64(grad[r, c])
                dots[chunk, c] += value * x[r, c]
                sums[chunk, c] += value


@kernel
def _scale_shift(x, scale, shift, start, stop, out):
    for r in range(start, stop):
        for c in range(x.shape[1]):
            out[r, c] = x[r, c] * scale[c] + shift[c]


def _partials(rows: int, columns: int) -> tuple[int, NDArray[np.float64], NDArray[np.float64]]:
    chunks = -(-rows // _CHUNK)
    return chunks, np.empty((chunks, columns)), np.empty((chunks, columns))


def column_moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """See :meth:`sparseconv.backends.Backend.column_moments`."""
    x = values.detach().contiguous().numpy()
    rows, columns = x.shape
    chunks, means, squares = _partials(rows, columns)
    run_ranges(
        lambda start, stop: _chunk_moments(x, start, stop, means, squares),
        chunks,
        1 + _WORTH_A_THREAD // (_CHUNK * max(1, columns)),
    )
    mean, variance = np.empty(columns), np.empty(columns)
    _combine_moments(means, squares, rows, mean, variance)
    return torch.from_numpy(mean.astype(x.dtype)), torch.from_numpy(variance.astype(x.dtype))


def column_dots(grad: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """See :meth:`sparseconv.backends.Backend.column_dots`."""
    g, x = grad.detach().contiguous().numpy(), values.detach().contiguous().numpy()
    chunks, dots, sums = _partials(*x.shape)
    run_ranges(
        lambda start, stop: _chunk_dots(g, x, start, stop, dots, sums),
        chunks,
        1 + _WORTH_A_THREAD // (_CHUNK * max(1, x.shape[1])),
    )
    # numpy adds the chunks pairwise, in an order that their number alone decides.
    return torch.from_numpy(dots.sum(0).astype(x.dtype)), torch.from_numpy(sums.sum(0).astype(x.dtype))


def scale_shift(values: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """See :meth:`sparseconv.backends.Backend.scale_shift`."""
    x = values.detach().contiguous().numpy()
    a, b = scale.detach().contiguous().numpy(), shift.detach().contiguous().numpy()
    out = np.empty_like(x)
    run_ranges(
        lambda start, stop: _scale_shift(x, a, b, start, stop, out),
        len(x),
        1 + _WORTH_A_THREAD // max(1, x.shape[1]),
    )
    return torch.from_numpy(out)
