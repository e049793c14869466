"""The independent oracle: what every operation of the engine must return, written the slow way.

It imports nothing of the package under test. One relation, per axis, defines every operation:

    fine = stride * coarse - padding + dilation * tap,    tap = 0 .. kernel - 1

Taps are counted in row-major order, the last axis fastest; the kernel is not flipped.
Coordinates are rows (batch, axis0, axis1, ...). Weights are `[C_out, *kernel, C_in / groups]`,
with input and output channels split into `groups` consecutive blocks.
"""

from .convolution import convolve, convolve_grads
from .dense import at_sites, dense_conv, dense_conv_transpose, to_dense
from .pairs import Pairs, conv_pairs, swap_pairs
from .pooling import avg_pool, avg_pool_grad, max_pool, max_pool_grad, sum_pool, sum_pool_grad
from .sites import (
    coarse_sites,
    conv_output_shape,
    fine_sites,
    kernel_taps,
    sorted_sites,
    transposed_output_shape,
)
from .voxels import (
    devoxelize_trilinear,
    grid_shape,
    hard_voxelize,
    trilinear_weights,
    voxelize,
)

__all__ = [
    # shapes and sites
    "conv_output_shape",
    "transposed_output_shape",
    "kernel_taps",
    "sorted_sites",
    "coarse_sites",
    "fine_sites",
    # pairs
    "Pairs",
    "conv_pairs",
    "swap_pairs",
    # arithmetic over pairs
    "convolve",
    "convolve_grads",
    "max_pool",
    "max_pool_grad",
    "sum_pool",
    "sum_pool_grad",
    "avg_pool",
    "avg_pool_grad",
    # points and voxels
    "grid_shape",
    "voxelize",
    "hard_voxelize",
    "trilinear_weights",
    "devoxelize_trilinear",
    # the second oracle: dense torch
    "to_dense",
    "at_sites",
    "dense_conv",
    "dense_conv_transpose",
]
