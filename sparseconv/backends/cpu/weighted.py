"""Sums over weighted pairs of rows, and the dot products that are their gradient.

A thread owns a contiguous range of output rows and takes their pairs in order, so a sum does not depend on the
number of threads and needs no atomics.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparseconv.backends.cpu.bisect import first_at_least
from sparseconv.backends.cpu.dot import dot_product
from sparseconv.backends.cpu.jit import kernel
from sparseconv.backends.cpu.row_sum import row_sum
from sparseconv.backends.cpu.threads import run_ranges

# Multiply-adds that are worth a thread of their own: about 50 us, since rows come from all over memory.
_WORTH_A_THREAD = 1 << 18


@kernel
def _weighted_sum(x, coefficients, in_rows, out_rows, start, stop, out):
    """Output rows ``start .. stop``. The number of pairs taken, or -1 where an input row is out of range."""
    n_in, channels = x.shape
    pairs, groups = coefficients.shape
    width = channels // groups
    item = x.itemsize
    first = 0 if start == 0 else first_at_least(out_rows, 0, pairs, start)
    p = first
    if start == 0:
        # Pairs without an output row stand first.
        while p < pairs and out_rows[p] == -1:
            p += 1
    for r in range(start, stop):
        last = p
        while last < pairs and out_rows[last] == r:
            if in_rows[last] < -1 or in_rows[last] >= n_in:
                return -1
            last += 1
        if width == 1:
            for c in range(channels):
                out[r, c] = 0
            for pair in range(p, last):
                i = in_rows[pair]
                if i >= 0:
                    for c in range(channels):
                        out[r, c] += coefficients[pair, c] * x[i, c]
        else:
            for g in range(groups):
                row_sum(
                    x,
                    x.ctypes.data + g * width * item,
                    x.strides[0],
                    in_rows.ctypes.data + 4 * p,
                    coefficients.ctypes.data + (p * groups + g) * item,
                    groups * item,
                    last - p,
                    out.ctypes.data + (r * channels + g * width) * item,
                    width,
                )
        p = last
    return p - first


@kernel
def _pair_dots(left, right, left_rows, right_rows, start, stop, out):
    """Pairs ``start .. stop``. Whether every row is in range."""
    groups = out.shape[1]
    channels = left.shape[1]
    width = channels // groups
    step = width * left.itemsize
    left_at = left.ctypes.data
    right_at = right.ctypes.data
    for p in range(start, stop):
        i = left_rows[p]
        o = right_rows[p]
        if i < -1 or i >= left.shape[0] or o < -1 or o >= right.shape[0]:
            return False
        if i < 0 or o < 0:
            for g in range(groups):
                out[p, g] = 0
        elif width == 1:
            for c in range(channels):
                out[p, c] = left[i, c] * right[o, c]
        else:
            a = left_at + i * left.strides[0]
            b = right_at + o * right.strides[0]
            for g in range(groups):
                out[p, g] = dot_product(left, a + g * step, b + g * step, width)
    return True


def weighted_sum(features: Tensor, coefficients: Tensor, in_rows: Tensor, out_rows: Tensor, n_out: int) -> Tensor:
    """See :meth:`sparseconv.backends.Backend.weighted_sum`."""
    out = torch.empty((n_out, features.shape[1]), dtype=features.dtype, device="cpu")
    x, total = features.detach().contiguous().numpy(), out.numpy()
    shares = coefficients.detach().contiguous().numpy()
    sources, targets = in_rows.contiguous().numpy(), out_rows.contiguous().numpy()
    taken: list[int] = []
    run_ranges(
        lambda start, stop: taken.append(_weighted_sum(x, shares, sources, targets, start, stop, total)),
        n_out,
        1 + _WORTH_A_THREAD * n_out // max(1, len(sources) * x.shape[1]),
    )
    if n_out == 0:
        taken.append(_weighted_sum(x, shares, sources, targets, 0, 0, total))
    # Every range took a stretch in which the rows ascend; all pairs are taken only where they ascend throughout.
    if min(taken) < 0 or sum(taken) != len(targets):
        raise ValueError(
            f"in_rows must lie in -1 .. {len(x) - 1}, and out_rows ascend within -1 .. {n_out - 1}; one of "
            f"{len(sources)} pairs does not"
        )
    return out


def pair_dots(left: Tensor, right: Tensor, left_rows: Tensor, right_rows: Tensor, groups: int) -> Tensor:
    """See :meth:`sparseconv.backends.Backend.pair_dots`."""
    out = torch.empty((len(left_rows), groups), dtype=left.dtype, device="cpu")
    a, b, dots = left.detach().contiguous().numpy(), right.detach().contiguous().numpy(), out.numpy()
    sources, targets = left_rows.contiguous().numpy(), right_rows.contiguous().numpy()
    valid: list[bool] = []
    run_ranges(
        lambda start, stop: valid.append(_pair_dots(a, b, sources, targets, start, stop, dots)),
        len(sources),
        1 + _WORTH_A_THREAD // max(1, a.shape[1]),
    )
    if not all(valid):
        raise ValueError(
            f"left_rows must lie in -1 .. {len(a) - 1} and right_rows in -1 .. {len(b) - 1}; one of "
            f"{len(sources)} pairs does not"
        )
    return out
