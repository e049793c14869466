"""CPU backend: serial Numba kernels over row ranges, run on one small thread pool."""

import torch

from sparseconv.backends.cpu.coarse import coarse_map, coarse_sites
from sparseconv.backends.cpu.columns import column_dots, column_moments, scale_shift
from sparseconv.backends.cpu.conv import convolve, weight_gradient
from sparseconv.backends.cpu.hash import bounds, build_index, is_sorted, query
from sparseconv.backends.cpu.kernel_map import kernel_pairs, order_pairs
from sparseconv.backends.cpu.pool import max_pool, max_pool_gradient, sum_pool
from sparseconv.backends.cpu.reduce import reduce_points
from sparseconv.backends.cpu.sites import fine_sites, unique_sites
from sparseconv.backends.cpu.voxelize import group_points
from sparseconv.backends.cpu.weighted import pair_dots, weighted_sum

CONVOLVED_HALVES = (torch.bfloat16,)
GRADIENT_HALVES: tuple[torch.dtype, ...] = ()

__all__ = [
    "CONVOLVED_HALVES",
    "GRADIENT_HALVES",
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
