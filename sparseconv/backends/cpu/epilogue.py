"""What is done to a block of output rows before it leaves the cache."""

from __future__ import annotations

import numpy as np

from sparseconv.backends.cpu.jit import kernel

# Output rows per block. With 128 channels the scratch is 256 KB, so that it stays in a second-level cache,
# and a 3x3x3 tap of a LiDAR frame still has about 80 pairs, ten full tiles, in a block.
BLOCK = 512


@kernel
def clear_block(sums, rows):
    """Set the first rows of a block to zero."""
    flat = sums.reshape(-1)
    for i in range(np.uint64(rows) * np.uint64(sums.shape[1])):
        flat[i] = 0


@kernel
def _finish_row(sums, bias, residual, has_residual, relu, out):
    """Stretches of one row, of one length; loops without a branch, so that they run on vectors."""
    for o in range(np.uint64(out.shape[0])):
        value = sums[o] + bias[o]
        if has_residual:
            value += residual[o]
        out[o] = out.dtype.type(0) if relu and value < 0 else value


@kernel
def finish_block(sums, bias, residual, relu, row0, row1, first_column, width, out):
    """``out[row0 : row1]`` of ``width`` channels: the block's sums, then bias, residual and ReLU (NaN stays)."""
    has_residual = residual.shape[0] > 0
    own_bias = bias[first_column : first_column + width]
    for r in range(row1 - row0):
        added = own_bias
        if has_residual:
            added = residual[row0 + r, first_column : first_column + width]
        _finish_row(
            sums[r], own_bias, added, has_residual, relu, out[row0 + r, first_column : first_column + width]
        )
