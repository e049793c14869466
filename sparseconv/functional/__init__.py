"""Operations on sparse tensors: topology from coordinates, arithmetic from the ops."""

from sparseconv.dilation_patterns import DilationSearch
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
from sparseconv.functional.variants.circle import ball_matrix, circle_conv
from sparseconv.functional.variants.coord import add_coords, coord_conv
from sparseconv.functional.variants.deformable import deform_conv
from sparseconv.functional.variants.differences import (
    central_difference_conv,
    cross_central_difference_conv,
    pixel_difference_conv,
)
from sparseconv.functional.variants.dynamic_region import dr_conv
from sparseconv.functional.variants.inception import ic_conv, search_dilation
from sparseconv.functional.variants.involution import involution, pool_cells
from sparseconv.functional.variants.mixture import mixture_conv, od_conv
from sparseconv.functional.variants.octave import halve, octave_conv
from sparseconv.functional.variants.separable import (
    depthwise_separable_conv,
    flattened_conv,
    spatially_separable_conv,
)

# What the search on voxels returns is the same class as on images.
SparseDilationSearch = DilationSearch

__all__ = [
    "DilationSearch",
    "SparseDilationSearch",
    "add",
    "add_coords",
    "avg_pool",
    "ball_matrix",
    "batch_norm",
    "cat",
    "central_difference_conv",
    "circle_conv",
    "conv_onto",
    "coord_conv",
    "cross_central_difference_conv",
    "deform_conv",
    "depthwise_separable_conv",
    "dr_conv",
    "flattened_conv",
    "global_avg_pool",
    "global_max_pool",
    "global_sum_pool",
    "group_norm",
    "halve",
    "ic_conv",
    "instance_norm",
    "inverse_conv",
    "involution",
    "max_pool",
    "mixture_conv",
    "octave_conv",
    "od_conv",
    "pixel_difference_conv",
    "pool_cells",
    "prune",
    "search_dilation",
    "sparse_conv",
    "sparse_conv_transpose",
    "spatially_separable_conv",
    "subm_conv",
    "sum_pool",
    "unpool",
    "upsample",
]
