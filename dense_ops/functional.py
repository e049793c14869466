"""Dense 2D convolutions as functions with explicit weights, in torch's layouts; one import for all of them."""

from sparseconv.dense_ops.central_difference import central_difference_conv2d, cross_central_difference_conv2d
from sparseconv.dense_ops.circle import circle_conv2d, circle_matrix
from sparseconv.dense_ops.conv import conv2d
from sparseconv.dense_ops.coord import add_coords2d, coord_conv2d
from sparseconv.dense_ops.deformable import deform_conv2d
from sparseconv.dense_ops.dynamic_region import dr_conv2d
from sparseconv.dense_ops.flattened import flattened_conv2d
from sparseconv.dense_ops.inception import ic_conv2d, search_dilation
from sparseconv.dense_ops.involution import involution2d
from sparseconv.dense_ops.mixture import mixture_conv2d
from sparseconv.dense_ops.octave import octave_conv2d
from sparseconv.dense_ops.omni_dimensional import od_conv2d
from sparseconv.dense_ops.pixel_difference import pixel_difference_conv2d
from sparseconv.dense_ops.receptive_fields import receptive_field
from sparseconv.dense_ops.separable import depthwise_separable_conv2d, spatially_separable_conv2d
from sparseconv.dense_ops.transposed import checkerboard, conv_transpose2d, overlap_count

__all__ = [
    "conv2d",
    "conv_transpose2d",
    "spatially_separable_conv2d",
    "depthwise_separable_conv2d",
    "flattened_conv2d",
    "add_coords2d",
    "coord_conv2d",
    "ic_conv2d",
    "central_difference_conv2d",
    "cross_central_difference_conv2d",
    "pixel_difference_conv2d",
    "circle_conv2d",
    "octave_conv2d",
    "mixture_conv2d",
    "od_conv2d",
    "involution2d",
    "deform_conv2d",
    "dr_conv2d",
    "overlap_count",
    "checkerboard",
    "receptive_field",
    "search_dilation",
    "circle_matrix",
]
