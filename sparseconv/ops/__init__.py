"""``torch.library`` ops: a tensor-only signature, shapes for tracing, and gradients."""

from sparseconv.ops.columns import column_dots, column_moments, scale_shift
from sparseconv.ops.conv import convolve, convolve_epilogue, convolve_weight_gradient, sum_rows
from sparseconv.ops.flop_formulas import register_flop_formulas
from sparseconv.ops.pool import max_pool, sum_pool
from sparseconv.ops.weighted import pair_dots, weighted_sum

__all__ = [
    "column_dots",
    "column_moments",
    "convolve",
    "convolve_epilogue",
    "convolve_weight_gradient",
    "max_pool",
    "pair_dots",
    "scale_shift",
    "sum_pool",
    "sum_rows",
    "weighted_sum",
]

register_flop_formulas()
