"""One layer of each dense variant, for checks that all of them must pass."""

from __future__ import annotations

from torch import nn

from sparseconv.dense_ops import (
    CentralDifferenceConv2d,
    CircleConv2d,
    CondConv2d,
    Conv2d,
    ConvTranspose2d,
    CoordConv2d,
    CrossCentralDifferenceConv2d,
    DeformConv2d,
    DepthwiseSeparableConv2d,
    DRConv2d,
    DynamicConv2d,
    DyNetConv2d,
    FlattenedConv2d,
    ICConv2d,
    Involution2d,
    OctaveConv2d,
    ODConv2d,
    PixelDifferenceConv2d,
    SpatiallySeparableConv2d,
)

CHANNELS = 16

LAYERS = {
    "conv": lambda: Conv2d(CHANNELS, CHANNELS, 3, padding=1, padding_mode="reflect"),
    "dilated": lambda: Conv2d(CHANNELS, CHANNELS, 3, padding="same", dilation=2),
    "grouped": lambda: Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=4),
    "transposed": lambda: ConvTranspose2d(CHANNELS, CHANNELS, 4, 2, 1),
    "spatially_separable": lambda: SpatiallySeparableConv2d(CHANNELS, CHANNELS, 3),
    "depthwise_separable": lambda: DepthwiseSeparableConv2d(CHANNELS, CHANNELS),
    "flattened": lambda: FlattenedConv2d(CHANNELS, CHANNELS, 3, num_sets=2),
    "coord": lambda: CoordConv2d(CHANNELS, CHANNELS, 3, padding=1, with_r=True),
    "inception": lambda: ICConv2d({"(0, 0)": 6, "(0, 1)": 5, "(1, 0)": 5}, CHANNELS, CHANNELS, 3),
    "central_difference": lambda: CentralDifferenceConv2d(CHANNELS, CHANNELS),
    "cross_hv": lambda: CrossCentralDifferenceConv2d(CHANNELS, CHANNELS),
    "cross_dg": lambda: CrossCentralDifferenceConv2d(CHANNELS, CHANNELS, direction="dg"),
    "cpdc": lambda: PixelDifferenceConv2d(CHANNELS, CHANNELS, kind="CPDC"),
    "apdc": lambda: PixelDifferenceConv2d(CHANNELS, CHANNELS, kind="APDC"),
    "rpdc": lambda: PixelDifferenceConv2d(CHANNELS, CHANNELS, kind="RPDC"),
    "circle": lambda: CircleConv2d(CHANNELS, CHANNELS, 5, padding=2),
    "octave": lambda: nn.Sequential(
        OctaveConv2d(CHANNELS, CHANNELS, 3, 0, 0.5, padding=1),
        OctaveConv2d(CHANNELS, CHANNELS, 3, 0.5, 0, padding=1),
    ),
    "condconv": lambda: CondConv2d(CHANNELS, CHANNELS, padding=1),
    "dynamic": lambda: DynamicConv2d(CHANNELS, CHANNELS, 3, padding=1),
    "dynet": lambda: DyNetConv2d(CHANNELS, CHANNELS, 3, padding=1, group_size=2),
    "odconv": lambda: ODConv2d(CHANNELS, CHANNELS, 3, padding=1),
    "involution": lambda: Involution2d(CHANNELS, 3, group_channels=4),
    "deformable": lambda: DeformConv2d(CHANNELS, CHANNELS, 3, padding=1),
    "deformable_modulated": lambda: DeformConv2d(CHANNELS, CHANNELS, 3, padding=1, modulated=True),
    "dynamic_region": lambda: DRConv2d(CHANNELS, CHANNELS, 3, 3, padding=1),
    "dynamic_region_mix": lambda: DRConv2d(CHANNELS, CHANNELS, 3, 3, padding=1, generator="mix", num_kernels=3),
}
