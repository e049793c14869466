"""Maximum and sum pooling over existing inputs."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sparseconv.backends.cpu.bisect import first_at_least
from sparseconv.backends.cpu.jit import kernel
from sparseconv.backends.cpu.threads import run_ranges

# Output rows of one range at least: a row of 8 taps and 32 channels costs about 0.2 us.
_SMALLEST_RANGE = 1024
# Channels of one range at least in the gradient: ranges of a cache line do not share one.
_SMALLEST_CHANNELS = 16


@kernel
def _max_pool(x, in_rows, out_rows, tap_offsets, start, stop, out, argmax):
    """Rows ``start .. stop``. The first of equal maxima in tap order wins; a NaN beats every number."""
    for r in range(start, stop):
        for c in range(out.shape[1]):
            out[r, c] = 0
            argmax[r, c] = -1
    for tap in range(tap_offsets.shape[0] - 1):
        p = first_at_least(out_rows, tap_offsets[tap], tap_offsets[tap + 1], start)
        while p < tap_offsets[tap + 1] and out_rows[p] < stop:
            i = in_rows[p]
            r = out_rows[p]
            for c in range(out.shape[1]):
                value = x[i, c]
                best = out[r, c]
                if argmax[r, c] < 0 or value > best or (value != value and best == best):
                    out[r, c] = value
                    argmax[r, c] = i
            p += 1


@kernel
def _max_pool_gradient(grad, argmax, start, stop, out):
    """Channels ``start .. stop`` of all rows, so that no two threads write one place."""
    for r in range(grad.shape[0]):
        for c in range(start, stop):
            i = argmax[r, c]
            if i >= 0:
                out[i, c] += grad[r, c]


@kernel
def _sum_pool(x, in_rows, out_rows, tap_offsets, start, stop, out):
    for r in range(start, stop):
        for c in range(out.shape[1]):
            out[r, c] = 0
    for tap in range(tap_offsets.shape[0] - 1):
        p = first_at_least(out_rows, tap_offsets[tap], tap_offsets[tap + 1], start)
        while p < tap_offsets[tap + 1] and out_rows[p] < stop:
            i = in_rows[p]
            r = out_rows[p]
            for c in range(out.shape[1]):
                out[r, c] += x[i, c]
            p += 1


def max_pool(
    features: Tensor, in_rows: Tensor, out_rows: Tensor, tap_offsets: Tensor, n_out: int
) -> tuple[Tensor, Tensor]:
    """See :meth:`sparseconv.backends.Backend.max_pool`."""
    x = features.detach().contiguous().numpy()
    out = np.empty((n_out, x.shape[1]), x.dtype)
    argmax = np.empty((n_out, x.shape[1]), np.int32)
    sources, targets, offsets = in_rows.numpy(), out_rows.numpy(), tap_offsets.numpy()
    run_ranges(
        lambda start, stop: _max_pool(x, sources, targets, offsets, start, stop, out, argmax),
        n_out,
        _SMALLEST_RANGE,
    )
    return torch.from_numpy(out), torch.from_numpy(argmax)


def max_pool_gradient(grad: Tensor, argmax: Tensor, n_in: int) -> Tensor:
    """See :meth:`sparseconv.backends.Backend.max_pool_gradient`."""
    g, rows = grad.detach().contiguous().numpy(), argmax.numpy()
    out = np.zeros((n_in, g.shape[1]), g.dtype)
    run_ranges(
        lambda start, stop: _max_pool_gradient(g, rows, start, stop, out),
        g.shape[1],
        _SMALLEST_CHANNELS,
    )
    return torch.from_numpy(out)


def sum_pool(features: Tensor, in_rows: Tensor, out_rows: Tensor, tap_offsets: Tensor, n_out: int) -> Tensor:
    """See :meth:`sparseconv.backends.Backend.sum_pool`."""
    x = features.detach().contiguous().numpy()
    out = np.empty((n_out, x.shape[1]), x.dtype)
    sources, targets, offsets = in_rows.numpy(), out_rows.numpy(), tap_offsets.numpy()
    run_ranges(
        lambda start, stop: _sum_pool(x, sources, targets, offsets, start, stop, out),
        n_out,
        _SMALLEST_RANGE,
    )
    return torch.from_numpy(out)
