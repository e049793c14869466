"""One layer of every dense variant, from and to the same number of channels: for comparisons and for checks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from sparseconv.dense_ops.central_difference import CentralDifferenceConv2d, CrossCentralDifferenceConv2d
from sparseconv.dense_ops.circle import CircleConv2d
from sparseconv.dense_ops.conv import Conv2d
from sparseconv.dense_ops.coord import CoordConv2d
from sparseconv.dense_ops.deformable import DeformConv2d
from sparseconv.dense_ops.dynamic_region import DRConv2d
from sparseconv.dense_ops.flattened import FlattenedConv2d
from sparseconv.dense_ops.flops import Flops, count_parameters
from sparseconv.dense_ops.inception import ICConv2d
from sparseconv.dense_ops.involution import Involution2d
from sparseconv.dense_ops.mixture import CondConv2d, DynamicConv2d, DyNetConv2d
from sparseconv.dense_ops.octave import OctaveConv2d
from sparseconv.dense_ops.omni_dimensional import ODConv2d
from sparseconv.dense_ops.pixel_difference import PixelDifferenceConv2d
from sparseconv.dense_ops.separable import DepthwiseSeparableConv2d, SpatiallySeparableConv2d
from sparseconv.dense_ops.transposed import ConvTranspose2d

# What grouped layers, group channels of the involution and the patterns of the inception layer need.
CHANNEL_STEP = 4


@dataclass(frozen=True)
class Variant:
    """A dense variant in one usual setting.

    Attributes:
        title: what a reader calls it, with its setting.
        make: the layer, from and to ``C`` channels, a multiple of ``CHANNEL_STEP``.
    """

    title: str
    make: Callable[[int], nn.Module]

    def flops(self, layer: nn.Module, input_shape: Sequence[int]) -> Flops:
        """Cost of one forward pass of the layer, or of its stages where there are several."""
        stages = list(layer) if isinstance(layer, nn.Sequential) else [layer]
        macs = sum(stage.flops(input_shape).macs for stage in stages)  # type: ignore[operator]
        return Flops(macs, count_parameters(layer))


def _inception(channels: int) -> ICConv2d:
    """Four patterns with a quarter of the output channels each."""
    patterns = ((0, 0), (0, 1), (1, 0), (1, 1))
    return ICConv2d({pattern: channels // len(patterns) for pattern in patterns}, channels, channels, 3)


def _octave(channels: int) -> nn.Sequential:
    first = OctaveConv2d(channels, channels, 3, alpha_in=0, alpha_out=0.5, padding=1)
    return nn.Sequential(first, OctaveConv2d(channels, channels, 3, alpha_in=0.5, alpha_out=0, padding=1))


def _deformable(channels: int, modulated: bool) -> DeformConv2d:
    """Its offsets are about a pixel for an input of size 1, as after training; a new layer's are zero."""
    layer = DeformConv2d(channels, channels, 3, padding=1, modulated=modulated)
    with torch.no_grad():
        nn.init.normal_(layer.offset_conv.weight, std=1 / math.sqrt(9 * channels))
    return layer


VARIANTS: dict[str, Variant] = {
    "standard": Variant("standard", lambda c: Conv2d(c, c, 3, padding=1)),
    "reflect": Variant(
        "standard, reflecting border", lambda c: Conv2d(c, c, 3, padding=1, padding_mode="reflect")
    ),
    "strided": Variant("strided, step 2", lambda c: Conv2d(c, c, 3, 2, 1)),
    "dilated": Variant("dilated, spacing 2", lambda c: Conv2d(c, c, 3, padding="same", dilation=2)),
    "grouped": Variant("grouped, 4 groups", lambda c: Conv2d(c, c, 3, padding=1, groups=4)),
    "depthwise": Variant("depthwise", lambda c: Conv2d(c, c, 3, padding=1, groups=c)),
    "pointwise": Variant("pointwise, 1x1", lambda c: Conv2d(c, c, 1)),
    "transposed": Variant("transposed, 4x4, step 2", lambda c: ConvTranspose2d(c, c, 4, 2, 1)),
    "spatially_separable": Variant("spatially separable", lambda c: SpatiallySeparableConv2d(c, c, 3)),
    "depthwise_separable": Variant("depthwise separable", lambda c: DepthwiseSeparableConv2d(c, c)),
    "flattened": Variant("flattened, 2 sets", lambda c: FlattenedConv2d(c, c, 3, num_sets=2)),
    "inception": Variant("inception, 4 dilations", _inception),
    "coord": Variant("coordinates appended", lambda c: CoordConv2d(c, c, 3, padding=1, with_r=True)),
    "central_difference": Variant("central difference", lambda c: CentralDifferenceConv2d(c, c)),
    "cross_hv": Variant("cross difference, upright", lambda c: CrossCentralDifferenceConv2d(c, c)),
    "cross_dg": Variant(
        "cross difference, diagonal", lambda c: CrossCentralDifferenceConv2d(c, c, direction="dg")
    ),
    "cpdc": Variant("pixel difference, central", lambda c: PixelDifferenceConv2d(c, c, kind="CPDC")),
    "apdc": Variant("pixel difference, angular", lambda c: PixelDifferenceConv2d(c, c, kind="APDC")),
    "rpdc": Variant("pixel difference, radial", lambda c: PixelDifferenceConv2d(c, c, kind="RPDC")),
    "circle": Variant("circle, 5x5", lambda c: CircleConv2d(c, c, 5, padding=2)),
    "octave": Variant("octave, in and out", _octave),
    "condconv": Variant("CondConv, 4 kernels", lambda c: CondConv2d(c, c, padding=1)),
    "dynamic": Variant("dynamic, 4 kernels", lambda c: DynamicConv2d(c, c, 3, padding=1)),
    "dynet": Variant("DyNet, 2 kernels a channel", lambda c: DyNetConv2d(c, c, 3, padding=1, group_size=2)),
    "odconv": Variant("omni-dimensional, 4 kernels", lambda c: ODConv2d(c, c, 3, padding=1)),
    "involution": Variant("involution, 7x7", lambda c: Involution2d(c, 7, group_channels=c // 4)),
    "deformable": Variant("deformable", lambda c: _deformable(c, False)),
    "deformable_modulated": Variant("deformable, modulated", lambda c: _deformable(c, True)),
    "dynamic_region": Variant("region-aware, 4 regions", lambda c: DRConv2d(c, c, 3, 4, padding=1)),
    "dynamic_region_mix": Variant(
        "region-aware, mixed kernels", lambda c: DRConv2d(c, c, 3, 4, padding=1, generator="mix")
    ),
}
