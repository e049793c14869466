"""Reducing the points of each voxel, in order of points."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sparseconv.backends.cpu.jit import kernel


@kernel
def _sum(values, rows, out, counts):
    for n in range(rows.shape[0]):
        row = rows[n]
        if row >= 0:
            counts[row] += 1
            for c in range(values.shape[1]):
                out[row, c] += values[n, c]


@kernel
def _maximum(values, rows, out, counts):
    for n in range(rows.shape[0]):
        row = rows[n]
        if row >= 0:
            is_first = counts[row] == 0
            counts[row] += 1
            for c in range(values.shape[1]):
                value = values[n, c]
                if is_first or value > out[row, c] or value != value:
                    out[row, c] = value


@kernel
def _first(values, rows, out, counts):
    for n in range(rows.shape[0]):
        row = rows[n]
        if row >= 0:
            if counts[row] == 0:
                for c in range(values.shape[1]):
                    out[row, c] = values[n, c]
            counts[row] += 1


@kernel
def _divide(out, counts):
    for row in range(out.shape[0]):
        if counts[row] > 0:
            for c in range(out.shape[1]):
                out[row, c] /= counts[row]


_REDUCTIONS = {"sum": _sum, "mean": _sum, "max": _maximum, "first": _first}


def reduce_points(values: Tensor, rows: Tensor, n_rows: int, reduce: str) -> tuple[Tensor, Tensor]:
    """See :meth:`sparseconv.backends.Backend.reduce_points`."""
    source = values.detach().numpy()
    out = np.zeros((n_rows, source.shape[1]), source.dtype)
    counts = np.zeros(n_rows, np.int32)
    _REDUCTIONS[reduce](source, rows.numpy(), out, counts)
    if reduce == "mean":
        _divide(out, counts)
    return torch.from_numpy(out), torch.from_numpy(counts)
