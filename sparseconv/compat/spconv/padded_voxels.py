"""Points to padded voxels as spconv's voxelizers make them: any number of axes, voxels in order of points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from sparseconv.backends import PointBlocks, backend_for
from sparseconv.compilation import eager
from sparseconv.geometry import MAX_CELLS, per_axis


@dataclass(frozen=True)
class PaddedVoxels:
    """M voxels of at most P points.

    Attributes:
        points: float32 ``[M, P, F]``, 0 (or the voxel's mean) in places without a point.
        indices: int32 ``[M, D]``, axes in reverse order: z, y, x.
        num_points: int32 ``[M]``.
        point_voxels: int64 ``[N]`` voxel of each point; -1 outside the range or past the last voxel. A point that
            only found its voxel full keeps the voxel's number.
    """

    points: Tensor
    indices: Tensor
    num_points: Tensor
    point_voxels: Tensor


class Voxelizer:
    """The grid and the capacities; spconv's arguments.

    Args:
        vsize_xyz: edge lengths, one for each axis.
        coors_range_xyz: lower bounds, then upper bounds.
        num_point_features: columns of a point.
        max_num_voxels: voxels kept: the first ones that points meet.
        max_num_points_per_voxel: points kept in each: the first ones.

    Raises:
        ValueError: sizes that do not fit each other.
    """

    def __init__(
        self,
        vsize_xyz: Sequence[float],
        coors_range_xyz: Sequence[float],
        num_point_features: int,
        max_num_voxels: int,
        max_num_points_per_voxel: int,
    ) -> None:
        self.vsize = [float(size) for size in vsize_xyz]
        self.coors_range = [float(bound) for bound in coors_range_xyz]
        self.ndim = len(self.vsize)
        if len(self.coors_range) != 2 * self.ndim:
            raise ValueError(
                f"coors_range_xyz must hold {2 * self.ndim} numbers for {self.ndim} axes, lower bounds first, got "
                f"{len(self.coors_range)}"
            )
        self.num_point_features = int(num_point_features)
        (self.max_num_voxels,) = per_axis(max_num_voxels, 1, "max_num_voxels", minimum=0, maximum=MAX_CELLS)
        (self.max_num_points_per_voxel,) = per_axis(
            max_num_points_per_voxel, 1, "max_num_points_per_voxel", minimum=1, maximum=MAX_CELLS
        )
        low, high = self.coors_range[: self.ndim], self.coors_range[self.ndim :]
        extents = [(h - l) / size if size > 0 else 0.0 for l, h, size in zip(low, high, self.vsize, strict=True)]
        self._cells = [round(extent) for extent in extents]
        if min(self._cells) < 1:
            raise ValueError(
                f"vsize {self.vsize} and range {self.coors_range} make a grid of {self._cells} voxels: both must "
                "be positive on every axis"
            )
        if max(self._cells) > MAX_CELLS:
            raise ValueError(
                f"vsize {self.vsize} and range {self.coors_range} make a grid of {self._cells} voxels, beyond the "
                f"int32 limit of {MAX_CELLS} an axis: use larger voxels or a smaller range"
            )
        self.grid_size = self._cells[::-1]

    @eager
    def __call__(self, points: Tensor, empty_mean: bool = False) -> PaddedVoxels:
        """Voxelize float32 points ``[N, F]``; ``empty_mean`` fills places without a point with the voxel's mean.

        Raises:
            ValueError: another number of columns.
        """
        if points.dim() != 2 or points.shape[1] != self.num_point_features:
            raise ValueError(
                f"points must have shape [N, {self.num_point_features}] (num_point_features), got "
                f"{list(points.shape)}"
            )
        points = points.detach().float().contiguous()
        groups = backend_for(points.device).group_points(
            points,
            [len(points)],
            self.coors_range[: self.ndim],
            self.vsize,
            self._cells,
            self.max_num_voxels,
            in_order=False,
            max_points=self.max_num_points_per_voxel,
        )
        filled, num_points, _ = cast(PointBlocks, groups.blocks)
        if empty_mean:
            mean = filled.sum(1, keepdim=True) / num_points[:, None, None].clamp(min=1)
            is_empty = torch.arange(filled.shape[1], device=points.device) >= num_points[:, None]
            filled = torch.where(is_empty[:, :, None], mean, filled)
        return PaddedVoxels(filled, groups.indices[:, 1:].contiguous(), num_points, groups.rows)
