"""``spconv.utils``: voxelizers on numpy arrays, in the spelling of spconv 2.x and of spconv 1.x."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from sparseconv.compat.cumm import tensorview as tv
from sparseconv.compat.spconv.padded_voxels import Voxelizer


def _as_torch(points: Any) -> torch.Tensor:
    array = points.numpy() if isinstance(points, tv.Tensor) else points
    return torch.from_numpy(np.require(array, np.float32, ["C", "W"]))


class _Point2Voxel:
    """Voxelizer of spconv 2.x; arguments as :class:`..padded_voxels.Voxelizer`."""

    _ndim: ClassVar[int]

    def __init__(
        self,
        vsize_xyz: Sequence[float],
        coors_range_xyz: Sequence[float],
        num_point_features: int,
        max_num_voxels: int,
        max_num_points_per_voxel: int,
    ) -> None:
        self._voxelizer = Voxelizer(
            vsize_xyz, coors_range_xyz, num_point_features, max_num_voxels, max_num_points_per_voxel
        )
        if self._voxelizer.ndim != self._ndim:
            raise ValueError(
                f"{type(self).__name__} takes {self._ndim} voxel sizes, got {self._voxelizer.ndim}: use the class "
                "of that number of axes"
            )

    @property
    def grid_size(self) -> list[int]:
        """Voxels of each axis, z y x."""
        return self._voxelizer.grid_size

    @property
    def vsize(self) -> list[float]:
        """Voxel size, z y x."""
        return self._voxelizer.vsize[::-1]

    def point_to_voxel(
        self, points: tv.Tensor, clear_voxels: bool = True
    ) -> tuple[tv.Tensor, tv.Tensor, tv.Tensor]:
        """Voxels ``[M, P, F]``, indices ``[M, D]`` (z y x) and numbers of points ``[M]``."""
        return self._run(points)[:3]

    def point_to_voxel_empty_mean(
        self, points: tv.Tensor, clear_voxels: bool = True
    ) -> tuple[tv.Tensor, tv.Tensor, tv.Tensor]:
        """As :meth:`point_to_voxel`, with the voxel's mean in places without a point."""
        return self._run(points, empty_mean=True)[:3]

    def point_to_voxel_hash(
        self, points: tv.Tensor, clear_voxels: bool = True, empty_mean: bool = False
    ) -> tuple[tv.Tensor, tv.Tensor, tv.Tensor]:
        """The GPU classes' name of :meth:`point_to_voxel`."""
        return self._run(points, empty_mean)[:3]

    def _run(
        self, points: tv.Tensor, empty_mean: bool = False
    ) -> tuple[tv.Tensor, tv.Tensor, tv.Tensor, tv.Tensor]:
        found = self._voxelizer(_as_torch(points), empty_mean)
        voxels, indices, counts, rows = found.points, found.indices, found.num_points, found.point_voxels
        return (
            tv.from_numpy(voxels.numpy()),
            tv.from_numpy(indices.numpy()),
            tv.from_numpy(counts.numpy()),
            tv.from_numpy(rows.numpy()),
        )


class Point2VoxelCPU1d(_Point2Voxel):
    """One axis."""

    _ndim = 1


class Point2VoxelCPU2d(_Point2Voxel):
    """Two axes."""

    _ndim = 2


class Point2VoxelCPU3d(_Point2Voxel):
    """Three axes."""

    _ndim = 3


class Point2VoxelCPU4d(_Point2Voxel):
    """Four axes."""

    _ndim = 4


# The GPU classes' shape: they run on the CPU here.
Point2VoxelGPU1d = Point2VoxelCPU1d
Point2VoxelGPU2d = Point2VoxelCPU2d
Point2VoxelGPU3d = Point2VoxelCPU3d
Point2VoxelGPU4d = Point2VoxelCPU4d


class VoxelGenerator:
    """Voxelizer of spconv 1.x.

    Args:
        voxel_size: x, y, z.
        point_cloud_range: x0, y0, z0, x1, y1, z1.
        max_num_points: points kept in each voxel.
        max_voxels: voxels kept.
        full_mean: fill places without a point with the voxel's mean.
    """

    def __init__(
        self,
        voxel_size: Sequence[float],
        point_cloud_range: Sequence[float],
        max_num_points: int,
        max_voxels: int = 20000,
        full_mean: bool = False,
    ) -> None:
        self._voxel_size = np.array(voxel_size, np.float32)
        self._point_cloud_range = np.array(point_cloud_range, np.float32)
        self._max_num_points, self._max_voxels, self._full_mean = max_num_points, max_voxels, full_mean
        extent = self._point_cloud_range[3:] - self._point_cloud_range[:3]
        self._grid_size = np.round(extent / self._voxel_size).astype(np.int64)

    @property
    def voxel_size(self) -> np.ndarray:
        """x, y, z."""
        return self._voxel_size

    @property
    def max_num_points_per_voxel(self) -> int:
        """Points kept in each voxel."""
        return self._max_num_points

    @property
    def point_cloud_range(self) -> np.ndarray:
        """x0, y0, z0, x1, y1, z1."""
        return self._point_cloud_range

    @property
    def grid_size(self) -> np.ndarray:
        """Voxels of each axis, x y z."""
        return self._grid_size

    def _run(self, points: np.ndarray, max_voxels: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        limit = self._max_voxels if max_voxels is None else max_voxels
        size, bounds = self._voxel_size.tolist(), self._point_cloud_range.tolist()
        voxelizer = Voxelizer(size, bounds, points.shape[1], limit, self._max_num_points)
        found = voxelizer(_as_torch(points), self._full_mean)
        voxels = found.points.numpy().astype(points.dtype, copy=False)
        return voxels, found.indices.numpy(), found.num_points.numpy()

    def generate(self, points: np.ndarray, max_voxels: int | None = None) -> Any:
        """Voxels ``[M, P, F]``, coordinates ``[M, 3]`` (z y x) and numbers of points ``[M]``."""
        return self._run(points, max_voxels)


class VoxelGeneratorV2(VoxelGenerator):
    """Voxelizer of spconv 1.x that returns a dict. Block filtering is not offered.

    Args:
        voxel_size: as :class:`VoxelGenerator`.
        point_cloud_range: as :class:`VoxelGenerator`.
        max_num_points: as :class:`VoxelGenerator`.
        max_voxels: as :class:`VoxelGenerator`.
        full_mean: as :class:`VoxelGenerator`.
        block_filtering: must be off.
        block_factor: of the filter.
        block_size: of the filter.
        height_threshold: of the filter.
        height_high_threshold: of the filter.
    """

    def __init__(
        self,
        voxel_size: Sequence[float],
        point_cloud_range: Sequence[float],
        max_num_points: int,
        max_voxels: int = 20000,
        full_mean: bool = False,
        block_filtering: bool = False,
        block_factor: int = 8,
        block_size: int = 3,
        height_threshold: float = 0.1,
        height_high_threshold: float = 2.0,
    ) -> None:
        del block_factor, block_size, height_threshold, height_high_threshold
        if block_filtering:
            raise NotImplementedError("block_filtering is not offered: filter the points before voxelizing them")
        super().__init__(voxel_size, point_cloud_range, max_num_points, max_voxels, full_mean)

    def generate(self, points: np.ndarray, max_voxels: int | None = None) -> dict[str, np.ndarray]:
        """A dict of ``voxels``, ``coordinates`` and ``num_points_per_voxel``."""
        voxels, coordinates, counts = self._run(points, max_voxels)
        every = np.arange(voxels.shape[1])[None] < counts[:, None]
        return {
            "voxels": voxels,
            "coordinates": coordinates,
            "num_points_per_voxel": counts,
            "voxel_point_mask": every.astype(voxels.dtype)[:, :, None],
        }
