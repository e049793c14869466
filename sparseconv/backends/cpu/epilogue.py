"""Where a block of output rows begins, and what is done to it before it leaves the cache.

Rows are addressed in flat arrays: slicing one out costs as much as the eight vectors of a short row.
"""

from __future__ import annotations

import numpy as np

from sparseconv.backends.cpu.jit import kernel

# Output rows per block. With 128 channels their sums take 256 KB, so that they stay in a second-level cache,
# and a 3x3x3 tap of a LiDAR frame still has about 80 pairs, ten full tiles, in a block.
BLOCK = 512


@kernel
def start_rows(sums, first, step, rows, width, bias, residual, residual_first, residual_step):
    """What sums begin with: ``bias``, ``residual``, both or zero; the arrays are empty where there is none.

    The ``width`` sums of a row begin ``step`` values behind those of the row before, from ``sums[first]`` on, and
    what lies between is set to zero; ``residual`` is laid out likewise.
    """
    sum_at, end, gap = np.uint64(first), np.uint64(width), np.uint64(step)
    added_at = np.uint64(residual_first)
    zero = sums.dtype.type(0)
    if bias.shape[0] == 0 and residual.shape[0] == 0:
        for i in range(sum_at, sum_at + np.uint64(rows) * gap):
            sums[i] = zero
        return
    for _ in range(rows):
        if residual.shape[0] == 0:
            for o in range(end):
                sums[sum_at + o] = bias[o]
        elif bias.shape[0] == 0:
            for o in range(end):
                sums[sum_at + o] = residual[added_at + o]
        else:
            for o in range(end):
                sums[sum_at + o] = bias[o] + residual[added_at + o]
        for o in range(end, gap):
            sums[sum_at + o] = zero
        sum_at += gap
        added_at += np.uint64(residual_step)


@kernel
def finish_rows(sums, first, step, rows, width, relu, out, out_first, out_step):
    """Sums laid out as in :func:`start_rows` to rows of ``out``, which may be they; through a ReLU (NaN stays)."""
    sum_at, out_at, end = np.uint64(first), np.uint64(out_first), np.uint64(width)
    zero = out.dtype.type(0)
    for _ in range(rows):
        for o in range(end):
            value = sums[sum_at + o]
            out[out_at + o] = zero if relu and value < 0 else value
        sum_at += np.uint64(step)
        out_at += np.uint64(out_step)
