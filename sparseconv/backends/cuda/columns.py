"""Sums over rows and affine maps of columns: what batch norm is made of.

Rows are taken in fixed chunks, one thread for a column of a chunk, in float64; the chunks are combined by torch's
sums, whose order the number of chunks alone decides on a device.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sparseconv.backends.cuda.launch import cuda, kernel

# Rows of one partial sum: 100,000 rows of 64 channels give 25,000 threads, and a chunk of 64 channels in float32
# is 64 KB, which stays in a first-level cache for the second of the two looks that a variance takes.
_CHUNK = 256


@kernel
def _chunk_moments(x, chunk_rows, means, squares):
    """Mean and sum of squared distances from it of each column of each chunk."""
    rows, columns = x.shape
    for at in range(cuda.grid(1), means.shape[0] * columns, cuda.gridsize(1)):
        chunk = at // columns
        c = at - chunk * columns
        first = chunk * chunk_rows
        last = min(rows, first + chunk_rows)
        total = 0.0
        for r in range(first, last):
            total += np.float64(x[r, c])
        mean = total / (last - first)
        square = 0.0
        for r in range(first, last):
            distance = np.float64(x[r, c]) - mean
            square += distance * distance
        means[chunk, c] = mean
        squares[chunk, c] = square


@kernel
def _chunk_dots(grad, x, chunk_rows, dots, sums):
    """Per column of each chunk the sums of ``grad * x`` and of ``grad``."""
    rows, columns = x.shape
    for at in range(cuda.grid(1), dots.shape[0] * columns, cuda.gridsize(1)):
        chunk = at // columns
        c = at - chunk * columns
        dot = 0.0
        total = 0.0
        for r in range(chunk * chunk_rows, min(rows, (chunk + 1) * chunk_rows)):
            value = np.float64(grad[r, c])
            dot += value * np.float64(x[r, c])
            total += value
        dots[chunk, c] = dot
        sums[chunk, c] = total


def _partials(x: Tensor) -> tuple[Tensor, Tensor]:
    shape = (-(-x.shape[0] // _CHUNK), x.shape[1])
    first, second = (torch.empty(shape, dtype=torch.float64, device=x.device) for _ in range(2))
    return first, second


def column_moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """See :meth:`sparseconv.backends.Backend.column_moments`."""
    x = values.detach().contiguous()
    rows = x.shape[0]
    means, squares = _partials(x)
    _chunk_moments.launch(means.numel(), x, _CHUNK, means, squares)
    # Chan, Golub and LeVeque: squares about the whole mean from those about the chunks' own.
    sizes = torch.full((len(means), 1), _CHUNK, dtype=torch.float64, device=x.device)
    sizes[-1] -= len(means) * _CHUNK - rows
    mean = (means * sizes).sum(0) / rows
    variance = (squares + sizes * (means - mean) ** 2).sum(0) / rows
    return mean.to(x.dtype), variance.to(x.dtype)


def column_dots(grad: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """See :meth:`sparseconv.backends.Backend.column_dots`."""
    g, x = grad.detach().contiguous(), values.detach().contiguous()
    dots, sums = _partials(x)
    _chunk_dots.launch(dots.numel(), g, x, _CHUNK, dots, sums)
    return dots.sum(0).to(x.dtype), sums.sum(0).to(x.dtype)


def scale_shift(values: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """See :meth:`sparseconv.backends.Backend.scale_shift`. Element by element, so torch's kernel is as good."""
    return torch.addcmul(shift.detach(), values.detach(), scale.detach())
