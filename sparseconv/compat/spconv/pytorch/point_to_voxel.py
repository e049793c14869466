"""``spconv.pytorch.utils``: voxelizing torch tensors, and results back to points."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparseconv.compat.spconv.padded_voxels import Voxelizer


class PointToVoxel:
    """Points to padded voxels.

    Args:
        vsize_xyz: edge lengths, one for each axis.
        coors_range_xyz: lower bounds, then upper bounds.
        num_point_features: columns of a point.
        max_num_voxels: voxels kept: the first ones that points meet.
        max_num_points_per_voxel: points kept in each: the first ones.
        device: where the points live.
    """

    def __init__(
        self,
        vsize_xyz: Sequence[float],
        coors_range_xyz: Sequence[float],
        num_point_features: int,
        max_num_voxels: int,
        max_num_points_per_voxel: int,
        device: torch.device | str = "cpu:0",
    ) -> None:
        self._voxelizer = Voxelizer(
            vsize_xyz, coors_range_xyz, num_point_features, max_num_voxels, max_num_points_per_voxel
        )
        self.ndim = self._voxelizer.ndim
        self.device = torch.device(device)
        self.num_point_features = num_point_features
        self.max_num_voxels = max_num_voxels
        self.max_num_points_per_voxel = max_num_points_per_voxel
        self.vsize = self._voxelizer.vsize[::-1]
        self.grid_size = self._voxelizer.grid_size
        self.coors_range = self._voxelizer.coors_range

    def __call__(
        self, pc: Tensor, clear_voxels: bool = True, empty_mean: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Voxels ``[M, P, F]``, indices int32 ``[M, D]`` (z y x) and numbers of points int32 ``[M]``."""
        return self.generate_voxel_with_id(pc, clear_voxels, empty_mean)[:3]

    def generate_voxel_with_id(
        self, pc: Tensor, clear_voxels: bool = True, empty_mean: bool = False
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As a call, and the voxel of each point, int64 ``[N]``: -1 outside the range or past the last voxel.

        Raises:
            ValueError: the points are on another kind of device, or have other columns.
        """
        del clear_voxels
        if pc.device.type != self.device.type:
            raise ValueError(f"the points are on {pc.device}, and the voxelizer was made for {self.device}")
        found = self._voxelizer(pc, empty_mean)
        return found.points, found.indices, found.num_points, found.point_voxels


def gather_features_by_pc_voxel_id(
    seg_res_features: Tensor, pc_voxel_id: Tensor, invalid_value: float = 0
) -> Tensor:
    """Rows of voxels for each point: ``[N, ..]``, ``invalid_value`` where a point has none (-1)."""
    rows = pc_voxel_id.to(seg_res_features.device)
    shape = (len(rows), *seg_res_features.shape[1:])
    out = seg_res_features.new_full(shape, invalid_value)
    valid = torch.nonzero(rows >= 0)[:, 0]
    return out.index_put((valid,), seg_res_features[rows[valid]])
