"""CUDA backend: Numba kernels for sites, maps, pooling and voxels; Triton or torch's GEMM for convolution.

Not yet run on hardware.
"""

import torch

from sparseconv.backends.cuda.columns import column_dots, column_moments, scale_shift
from sparseconv.backends.cuda.conv import convolve, weight_gradient
from sparseconv.backends.cuda.hash import bounds, build_index, is_sorted, query
from sparseconv.backends.cuda.kernel_map import coarse_map, kernel_pairs, order_pairs
from sparseconv.backends.cuda.launch import DEVICE_TYPES
from sparseconv.backends.cuda.pool import max_pool, max_pool_gradient, sum_pool
from sparseconv.backends.cuda.sites import coarse_sites, fine_sites, unique_sites
from sparseconv.backends.cuda.voxelize import group_points, reduce_points
from sparseconv.backends.cuda.weighted import pair_dots, weighted_sum

CONVOLVED_HALVES = (torch.bfloat16, torch.float16)
GRADIENT_HALVES: tuple[torch.dtype, ...] = (torch.bfloat16, torch.float16)

__all__ = [
    "CONVOLVED_HALVES",
    "GRADIENT_HALVES",
    "DEVICE_TYPES",
    "bounds",
    "build_index",
    "coarse_map",
    "coarse_sites",
    "column_dots",
    "column_moments",
    "convolve",
    "fine_sites",
    "group_points",
    "is_sorted",
    "kernel_pairs",
    "max_pool",
    "max_pool_gradient",
    "order_pairs",
    "pair_dots",
    "query",
    "reduce_points",
    "scale_shift",
    "sum_pool",
    "unique_sites",
    "weight_gradient",
    "weighted_sum",
]
