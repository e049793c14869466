"""``torch.library`` ops: a tensor-only signature, shapes for tracing, and gradients."""

from sparseconv.ops.conv import convolve, convolve_epilogue, convolve_weight_gradient
from sparseconv.ops.pool import max_pool, sum_pool

__all__ = ["convolve", "convolve_epilogue", "convolve_weight_gradient", "max_pool", "sum_pool"]
