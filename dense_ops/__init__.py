"""Dense 2D convolution on the engine's own execution: an index map by arithmetic, gather, GEMM, scatter."""

from sparseconv.dense_ops.central_difference import CentralDifferenceConv2d, CrossCentralDifferenceConv2d
from sparseconv.dense_ops.circle import CircleConv2d
from sparseconv.dense_ops.conv import Conv2d
from sparseconv.dense_ops.coord import AddCoords2d, CoordConv2d
from sparseconv.dense_ops.deformable import DeformConv2d
from sparseconv.dense_ops.dynamic_region import DRConv2d
from sparseconv.dense_ops.flattened import FlattenedConv2d
from sparseconv.dense_ops.flops import Flops
from sparseconv.dense_ops.functional import (
    add_coords2d,
    central_difference_conv2d,
    checkerboard,
    circle_conv2d,
    circle_matrix,
    conv2d,
    conv_transpose2d,
    coord_conv2d,
    cross_central_difference_conv2d,
    deform_conv2d,
    depthwise_separable_conv2d,
    dr_conv2d,
    flattened_conv2d,
    ic_conv2d,
    involution2d,
    mixture_conv2d,
    octave_conv2d,
    od_conv2d,
    overlap_count,
    pixel_difference_conv2d,
    receptive_field,
    search_dilation,
    spatially_separable_conv2d,
)
from sparseconv.dense_ops.inception import ICConv2d
from sparseconv.dense_ops.index_map import dense_kernel_map
from sparseconv.dense_ops.involution import Involution2d
from sparseconv.dense_ops.mixture import CondConv2d, DynamicConv2d, DyNetConv2d
from sparseconv.dense_ops.octave import OctaveConv2d
from sparseconv.dense_ops.omni_dimensional import ODConv2d
from sparseconv.dense_ops.pixel_difference import PixelDifferenceConv2d
from sparseconv.dense_ops.receptive_fields import ReceptiveField, WindowLayer
from sparseconv.dense_ops.separable import DepthwiseSeparableConv2d, SpatiallySeparableConv2d
from sparseconv.dense_ops.transposed import Checkerboard, ConvTranspose2d
from sparseconv.dilation_patterns import DilationSearch

__all__ = [
    "AddCoords2d",
    "CentralDifferenceConv2d",
    "Checkerboard",
    "CircleConv2d",
    "CondConv2d",
    "Conv2d",
    "ConvTranspose2d",
    "CoordConv2d",
    "CrossCentralDifferenceConv2d",
    "DRConv2d",
    "DeformConv2d",
    "DepthwiseSeparableConv2d",
    "DilationSearch",
    "DyNetConv2d",
    "DynamicConv2d",
    "FlattenedConv2d",
    "Flops",
    "ICConv2d",
    "Involution2d",
    "OctaveConv2d",
    "ODConv2d",
    "PixelDifferenceConv2d",
    "ReceptiveField",
    "SpatiallySeparableConv2d",
    "WindowLayer",
    "add_coords2d",
    "central_difference_conv2d",
    "checkerboard",
    "circle_conv2d",
    "circle_matrix",
    "conv2d",
    "conv_transpose2d",
    "coord_conv2d",
    "cross_central_difference_conv2d",
    "deform_conv2d",
    "dense_kernel_map",
    "depthwise_separable_conv2d",
    "dr_conv2d",
    "flattened_conv2d",
    "ic_conv2d",
    "involution2d",
    "mixture_conv2d",
    "octave_conv2d",
    "od_conv2d",
    "overlap_count",
    "pixel_difference_conv2d",
    "receptive_field",
    "search_dilation",
    "spatially_separable_conv2d",
]
