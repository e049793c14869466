"""MinkUNet: residual U-Nets for semantic segmentation.

Choy et al., "4D Spatio-Temporal ConvNets: Minkowski Convolutional Neural Networks", CVPR 2019. Depths and widths
are those of the MinkowskiEngine's reference networks, which number them by depth and letter them by width.
"""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from sparseconv import functional as F
from sparseconv.coordinates import Coordinates
from sparseconv.models.blocks import BackboneOutput, BasicBlock, conv_block
from sparseconv.nn import (
    BatchNorm,
    Linear,
    Sequential,
    SparseConv3d,
    SparseInverseConv3d,
    SparseModule,
    SubMConv3d,
)
from sparseconv.tensor import SparseTensor

_STEM_CHANNELS = 32
_LEVELS = 4


def _residual_stage(in_channels: int, channels: int, depth: int) -> Sequential:
    """``depth`` residual blocks; the first projects where the width changes."""
    projection = None
    if in_channels != channels:
        projection = Sequential(SubMConv3d(in_channels, channels, 1, bias=False), BatchNorm(channels))
    first = BasicBlock(in_channels, channels, BatchNorm, projection=projection)
    return Sequential(first, *(BasicBlock(channels, channels, BatchNorm) for _ in range(depth - 1)))


class MinkUNet(SparseModule):
    """Four levels down by 2x2x2 convolutions of stride 2, four up by their inverses, with concatenated skips.

    The class attributes of a subclass are its size: entries 0..3 for the levels down, 4..7 for those up.

    Args:
        in_channels: channels of the voxels.
        out_channels: classes; ScanNet's 20 unless told.

    Attributes:
        LAYERS: residual blocks of each level.
        PLANES: channels of each level.
    """

    LAYERS: ClassVar[tuple[int, ...]]
    PLANES: ClassVar[tuple[int, ...]]

    def __init__(self, in_channels: int = 4, out_channels: int = 20) -> None:
        super().__init__()
        if not hasattr(self, "PLANES"):
            raise TypeError("MinkUNet has no size of its own: use MinkUNet14, MinkUNet18 or MinkUNet34")
        self.stem = conv_block(
            SubMConv3d(in_channels, _STEM_CHANNELS, 5, bias=False),
            _STEM_CHANNELS,
            BatchNorm,
        )
        self.down, self.encoder = nn.ModuleList(), nn.ModuleList()
        self.up, self.decoder = nn.ModuleList(), nn.ModuleList()
        width = _STEM_CHANNELS
        skips = []
        for level in range(_LEVELS):
            skips.append(width)
            strided = SparseConv3d(width, width, 2, 2, bias=False, indice_key=f"down{level}")
            self.down.append(conv_block(strided, width, BatchNorm))
            self.encoder.append(_residual_stage(width, self.PLANES[level], self.LAYERS[level]))
            width = self.PLANES[level]
        for step, level in enumerate(reversed(range(_LEVELS)), start=_LEVELS):
            planes = self.PLANES[step]
            inverse = SparseInverseConv3d(width, planes, 2, f"down{level}", bias=False)
            self.up.append(conv_block(inverse, planes, BatchNorm))
            self.decoder.append(_residual_stage(planes + skips[level], planes, self.LAYERS[step]))
            width = planes
        self.final = Linear(width, out_channels)

    def forward(self, input: SparseTensor) -> BackboneOutput:
        """Score every voxel.

        Args:
            input: ``[N, C_in]`` on three axes, bounded or not.

        Returns:
            ``encoded``: scores ``[N, out_channels]`` on the input's sites, row for row; ``stages``: the encoder's
            levels ``stride1`` .. ``stride16``.
        """
        x = self.stem(_on_divisible_grid(input))
        stages = {"stride1": x}
        skips = []
        for level, (down, encoder) in enumerate(zip(self.down, self.encoder, strict=True), start=1):
            skips.append(x)
            x = encoder(down(x))
            stages[f"stride{2**level}"] = x
        for up, decoder in zip(self.up, self.decoder, strict=True):
            x = decoder(F.cat(up(x), skips.pop()))
        return BackboneOutput(input.replace_feature(self.final(x).features), stages)


def _on_divisible_grid(input: SparseTensor) -> SparseTensor:
    """The input itself, or on an unbounded grid where halving its grid would drop the last cells of an axis."""
    shape = input.spatial_shape
    if shape is None or all(size % 2**_LEVELS == 0 for size in shape):
        return input
    return SparseTensor.from_coordinates(input.features, Coordinates(input.indices, None, input.batch_size))


class MinkUNet14(MinkUNet):
    """The reference's MinkUNet14A: one residual block on each level."""

    LAYERS = (1, 1, 1, 1, 1, 1, 1, 1)
    PLANES = (32, 64, 128, 256, 128, 128, 96, 96)


class MinkUNet18(MinkUNet):
    """The reference's MinkUNet18A: two residual blocks on each level."""

    LAYERS = (2, 2, 2, 2, 2, 2, 2, 2)
    PLANES = (32, 64, 128, 256, 128, 128, 96, 96)


class MinkUNet34(MinkUNet):
    """The reference's MinkUNet34C: up to six residual blocks on a level (34A ends in 64, 64 channels)."""

    LAYERS = (2, 3, 4, 6, 2, 2, 2, 2)
    PLANES = (32, 64, 128, 256, 256, 128, 96, 96)
