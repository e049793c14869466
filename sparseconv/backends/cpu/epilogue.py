"""What is done to a block of output rows before it leaves the cache."""

from __future__ import annotations

from sparseconv.backends.cpu.jit import kernel

# Output rows per block. With 128 channels the scratch is 256 KB, so that it stays in a second-level cache,
# and a 3x3x3 tap of a LiDAR frame still has about 80 pairs, ten full tiles, in a block.
BLOCK = 512


@kernel
def finish_block(sums, bias, residual, relu, row0, row1, first_column, width, out):
    """``out[row0 : row1]`` of ``width`` channels: the block's sums, then bias, residual and ReLU (NaN stays)."""
    for r in range(row1 - row0):
        for o in range(width):
            sums[r, o] += bias[first_column + o]
        if residual.shape[0]:
            for o in range(width):
                sums[r, o] += residual[row0 + r, first_column + o]
        if relu:
            for o in range(width):
                sums[r, o] = 0 if sums[r, o] < 0 else sums[r, o]
        for o in range(width):
            out[row0 + r, first_column + o] = sums[r, o]
