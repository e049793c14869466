"""Dense 2D convolution on the engine's own execution: an index map by arithmetic, gather, GEMM, scatter."""

from sparseconv.dense_ops.conv import Conv2d, ConvTranspose2d
from sparseconv.dense_ops.functional import conv2d, conv_transpose2d
from sparseconv.dense_ops.index_map import dense_kernel_map

__all__ = ["Conv2d", "ConvTranspose2d", "conv2d", "conv_transpose2d", "dense_kernel_map"]
