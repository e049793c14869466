"""The backbone of VoxelNeXt, which detects on sparse voxels without a dense map.

Chen et al., "VoxelNeXt: Fully Sparse VoxelNet for 3D Object Detection and Tracking", CVPR 2023. Layer names are
OpenPCDet's, so that its state dicts map.
"""

from __future__ import annotations

import torch

from sparseconv import functional as F
from sparseconv.coordinates import Coordinates
from sparseconv.models.blocks import BackboneOutput, conv_block
from sparseconv.models.second import residual_pair, strided_block, submanifold_block
from sparseconv.nn import BatchNorm, Sequential, SparseConv2d, SparseModule, SubMConv2d
from sparseconv.tensor import SparseTensor
from sparseconv.voxelization import reduce_points

_CHANNELS = (16, 32, 64, 128, 128, 128)


class VoxelNeXtBackbone(SparseModule):
    """Six residual levels; the last three are summed on the fourth's grid and over z into a sparse 2D map.

    The grid is that of :mod:`sparseconv.models.second`; every stride pads z too, so that
    ``[41, 1600, 1408]`` becomes ``[6, 200, 176]`` on level 4 and ``[200, 176]`` in the end.

    Args:
        input_channels: channels of the voxels.
        out_channels: channels of the 2D map.
    """

    def __init__(self, input_channels: int = 4, out_channels: int = 128) -> None:
        super().__init__()
        self.conv_input = submanifold_block(input_channels, _CHANNELS[0], 1)
        self.conv1 = Sequential(*residual_pair(_CHANNELS[0], 1))
        for level in range(2, 7):
            below, channels = _CHANNELS[level - 2 : level]
            stage = Sequential(strided_block(below, channels, level), *residual_pair(channels, level))
            self.add_module(f"conv{level}", stage)
        self.conv_out = conv_block(
            SparseConv2d(_CHANNELS[-1], out_channels, 3, 1, 1, bias=False, indice_key="spconv_down2"),
            out_channels,
        )
        self.shared_conv = conv_block(SubMConv2d(out_channels, out_channels, 3), out_channels, BatchNorm)

    def forward(self, input: SparseTensor) -> BackboneOutput:
        """Run the backbone.

        Args:
            input: ``[N, C_in]`` on a z, y, x grid.

        Returns:
            ``encoded``: a sparse tensor on the y, x grid at stride 8; ``stages``: ``x_conv1`` .. ``x_conv6``, each
            on its own grid.
        """
        x = self.conv_input(input)
        stages = {}
        for level in range(1, 7):
            x = stages[f"x_conv{level}"] = getattr(self, f"conv{level}")(x)
        fine = stages["x_conv4"]
        merged = F.add(fine, scale_onto(stages["x_conv5"], fine, 2), scale_onto(stages["x_conv6"], fine, 4))
        return BackboneOutput(self.shared_conv(self.conv_out(sum_over_height(merged))), stages)


def scale_onto(coarse: SparseTensor, fine: SparseTensor, ratio: int) -> SparseTensor:
    """The features of a coarser level on the grid of a finer one: each site times the ratio of their strides.

    Args:
        coarse: ``[N, C]``.
        fine: a tensor on the grid to move to.
        ratio: coarse cells are so many fine cells wide.

    Raises:
        ValueError: a site would leave the fine grid.
    """
    batch, cells = coarse.indices[:, :1], coarse.indices[:, 1:]
    sites = Coordinates(torch.cat([batch, cells * ratio], 1), fine.spatial_shape, fine.batch_size)
    return SparseTensor.from_coordinates(coarse.features, sites)


def sum_over_height(input: SparseTensor) -> SparseTensor:
    """Drop the first axis; the features of sites that fall together are summed, in order of rows.

    Args:
        input: ``[N, C]`` on a z, y, x grid.

    Returns:
        ``[M, C]`` on the y, x grid, sorted.
    """
    columns = torch.cat([input.indices[:, :1], input.indices[:, 2:]], 1)
    sites, rows = torch.unique(columns, dim=0, return_inverse=True)
    features, _ = reduce_points(input.features, rows, len(sites), "sum")
    shape = input.spatial_shape
    return SparseTensor(features, sites, None if shape is None else shape[1:], input.batch_size)
