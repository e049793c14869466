"""The U-Net of Part-A2: SECOND's encoder, and a decoder back to every voxel.

Shi et al., "From Points to Parts: 3D Object Detection from Point Cloud with Part-aware and Part-aggregation
Network", TPAMI 2020. Layer names are OpenPCDet's, so that its state dicts map.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sparseconv import functional as F
from sparseconv.models.blocks import BackboneOutput, BasicBlock, conv_block
from sparseconv.models.second import VoxelBackBone8x, submanifold_block
from sparseconv.nn import Sequential, SparseInverseConv3d
from sparseconv.tensor import SparseTensor


@dataclass(frozen=True, eq=False)
class UNetOutput(BackboneOutput):
    """What :class:`UNetV2` returns.

    Attributes:
        encoded: as :class:`~sparseconv.models.VoxelBackBone8x`.
        stages: as :class:`~sparseconv.models.VoxelBackBone8x`.
        voxels: 16 channels on the input's sites, row for row.
    """

    voxels: SparseTensor


class UNetV2(VoxelBackBone8x):
    """SECOND's encoder with a decoder of lateral residual blocks and inverse convolutions.

    On each level the lateral features join those from below; their merge is added to a reduction of both, and
    the level's strided convolution is undone on the sites that it started from.

    Args:
        input_channels: channels of the voxels.
        last_padding: padding of ``conv_out``.
    """

    def __init__(self, input_channels: int = 4, last_padding: int = 0) -> None:
        super().__init__(input_channels, last_padding)
        self.conv_up_t4 = BasicBlock(64, 64, indice_key="subm4")
        self.conv_up_m4 = submanifold_block(128, 64, 4)
        self.inv_conv4 = _inverse_block(64, 64, 4)

        self.conv_up_t3 = BasicBlock(64, 64, indice_key="subm3")
        self.conv_up_m3 = submanifold_block(128, 64, 3)
        self.inv_conv3 = _inverse_block(64, 32, 3)

        self.conv_up_t2 = BasicBlock(32, 32, indice_key="subm2")
        self.conv_up_m2 = submanifold_block(64, 32, 2)
        self.inv_conv2 = _inverse_block(32, 16, 2)

        self.conv_up_t1 = BasicBlock(16, 16, indice_key="subm1")
        self.conv_up_m1 = submanifold_block(32, 16, 1)
        self.conv5 = Sequential(submanifold_block(16, 16, 1))

    def forward(self, input: SparseTensor) -> UNetOutput:
        """Run encoder and decoder.

        Args:
            input: ``[N, C_in]`` on a z, y, x grid.

        Returns:
            ``voxels`` ``[N, 16]`` on the input's sites, ``encoded`` with 128 channels, and the stages.
        """
        stages = self.encode(input)
        x = stages["x_conv4"]
        for level in (4, 3, 2, 1):
            x = self._merge(stages[f"x_conv{level}"], x, level)
            x = self.conv5(x) if level == 1 else getattr(self, f"inv_conv{level}")(x)
        return UNetOutput(self.conv_out(stages["x_conv4"]), stages, x)

    def _merge(self, lateral: SparseTensor, below: SparseTensor, level: int) -> SparseTensor:
        """Join a level's features with those from below, which lie on the same sites."""
        lateral = getattr(self, f"conv_up_t{level}")(lateral)
        both = F.cat(below, lateral)
        merged: SparseTensor = getattr(self, f"conv_up_m{level}")(both)
        return merged.replace_feature(merged.features + reduce_channels(both.features, merged.features.shape[1]))


def _inverse_block(in_channels: int, channels: int, level: int) -> Sequential:
    """The inverse of the strided convolution that led to a level."""
    conv = SparseInverseConv3d(in_channels, channels, 3, f"spconv{level}", bias=False)
    return conv_block(conv, channels)


def reduce_channels(features: Tensor, channels: int) -> Tensor:
    """Sum consecutive groups of channels: ``[N, C]`` to ``[N, channels]``.

    Raises:
        ValueError: ``channels`` does not divide C.
    """
    width = features.shape[1]
    if width % channels:
        raise ValueError(f"{width} channels cannot be reduced to {channels}: it must divide them")
    return features.unflatten(1, (channels, width // channels)).sum(2)
