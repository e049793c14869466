"""Operations on sparse tensors: topology from coordinates, arithmetic from the ops."""

from sparseconv.functional.combine import add, cat
from sparseconv.functional.conv import (
    conv_onto,
    inverse_conv,
    sparse_conv,
    sparse_conv_transpose,
    subm_conv,
)
from sparseconv.functional.norm import batch_norm, group_norm, instance_norm
from sparseconv.functional.pool import (
    avg_pool,
    global_avg_pool,
    global_max_pool,
    global_sum_pool,
    max_pool,
    sum_pool,
    unpool,
    upsample,
)
from sparseconv.functional.select import prune

__all__ = [
    "add",
    "avg_pool",
    "batch_norm",
    "cat",
    "conv_onto",
    "global_avg_pool",
    "global_max_pool",
    "global_sum_pool",
    "group_norm",
    "instance_norm",
    "inverse_conv",
    "max_pool",
    "prune",
    "sparse_conv",
    "sparse_conv_transpose",
    "subm_conv",
    "sum_pool",
    "unpool",
    "upsample",
]
