"""The scan of a command: a file, or a simulated street where none is named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparseconv.datasets import SimulatedStreet, read_points
from sparseconv.voxel_grid import VoxelGrid

# SECOND's grid for cars (Yan et al., 2018): metres in front of a KITTI car, x y z.
SECOND_RANGE = (0.0, -40.0, -3.0, 70.4, 40.0, 1.0)
SECOND_VOXEL = (0.05, 0.05, 0.1)
SEGMENTATION_VOXEL = (0.05, 0.05, 0.05)
# A detector's backbone halves the grid three or four times and needs 25 cells of height to have any left.
_FEWEST_CELLS = 32
_OBJECT_CELLS = 256


@dataclass(frozen=True)
class Scan:
    """A named point cloud.

    Attributes:
        name: of the file.
        points: float32 ``[N, 3 + F]``.
        fields: names of the columns.
        is_driving: whether it is laid out like KITTI's (x forward, sensor 1.73 m high).
        origin: float64 ``[3]``: what the reader subtracted from map coordinates, see
            :class:`~sparseconv.datasets.PointCloud`. The file's position of a point is ``xyz + origin``.
    """

    name: str
    points: NDArray[np.float32]
    fields: tuple[str, ...]
    is_driving: bool
    origin: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))

    def outside(self, point_cloud_range: Sequence[float] | None) -> str:
        """What is said where no point lies in the range (in the points' coordinates, as the grid has it)."""
        bounds = None if point_cloud_range is None else file_range(point_cloud_range, self.origin)
        return f"none of its {len(self.points)} points lies in the range {bounds}; give another --range"


def load_scan(path: Path | None, seed: int = 0) -> Scan:
    """Read a file, or scan a simulated street.

    Raises:
        PointFileError: the file cannot be used.
    """
    if path is None:
        cloud = SimulatedStreet(seed=seed).scan()
        return Scan(f"simulated street, 64 beams x 1800, seed {seed}", cloud.points, cloud.fields, True)
    cloud = read_points(path)
    is_kitti = path.suffix.lower() == ".bin" and not path.name.lower().endswith(".pcd.bin")
    return Scan(str(path), cloud.points, cloud.fields, is_kitti, cloud.origin)


def local_range(point_cloud_range: Sequence[float], origin: NDArray[np.float64]) -> tuple[float, ...]:
    """A range in the file's coordinates as a range in those of its points."""
    return tuple((np.array(point_cloud_range, np.float64) - np.tile(origin, 2)).tolist())


def file_range(point_cloud_range: Sequence[float], origin: NDArray[np.float64]) -> tuple[float, ...]:
    """The inverse of :func:`local_range`."""
    return tuple((np.array(point_cloud_range, np.float64) + np.tile(origin, 2)).tolist())


def file_origin(grid: VoxelGrid, origin: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where voxel 0 begins in the file's coordinates, float64 ``[3]``: map coordinates do not fit float32."""
    return np.array(grid.origin, np.float64) + origin


def finite_box(points: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Least and greatest coordinates of the finite points.

    Raises:
        ValueError: there are none.
    """
    finite = points[np.isfinite(points[:, :3]).all(1), :3].astype(np.float64)
    if len(finite) == 0:
        raise ValueError("no point has finite coordinates")
    return finite.min(0), finite.max(0)


def extent_of(points: NDArray[np.float32], voxel_size: tuple[float, ...]) -> tuple[float, ...]:
    """Range of whole voxels that holds every finite point, at least ``_FEWEST_CELLS`` on each axis.

    Raises:
        ValueError: no point is finite.
    """
    low, high = finite_box(points)
    size = np.array(voxel_size)
    first = np.floor(low / size)
    # One cell more than the division says: in float32, as voxels are computed, the last point may land there.
    cells = np.maximum(np.floor(high / size) + 2 - first, _FEWEST_CELLS)
    return (*(first * size).tolist(), *((first + cells) * size).tolist())


def with_room(point_cloud_range: tuple[float, ...], voxel_size: tuple[float, ...]) -> tuple[float, ...]:
    """The range, its upper ends raised where an axis would have fewer than ``_FEWEST_CELLS`` cells."""
    low, high = np.array(point_cloud_range[:3]), np.array(point_cloud_range[3:])
    return (*low.tolist(), *np.maximum(high, low + _FEWEST_CELLS * np.array(voxel_size)).tolist())


def voxel_size_for(points: NDArray[np.float32]) -> tuple[float, ...]:
    """The segmentation voxel, or one that cuts a small object's longest side into about ``_OBJECT_CELLS``."""
    low, high = finite_box(points)
    size = min(SEGMENTATION_VOXEL[0], float((high - low).max()) / _OBJECT_CELLS)
    return (float(f"{size:.1g}"),) * 3 if size > 0 else SEGMENTATION_VOXEL


def grid_for(
    scan: Scan,
    bounded: bool,
    voxel_size: tuple[float, ...] | None,
    point_cloud_range: tuple[float, ...] | None,
) -> tuple[VoxelGrid, tuple[float, ...] | None]:
    """Grid and range of a run: what the user named, else SECOND's for driving scans, else the scan's own.

    Args:
        scan: the points.
        bounded: whether the model needs a bounded grid.
        voxel_size: the user's, or None.
        point_cloud_range: the user's, in the file's coordinates, or None.

    Returns:
        Both in the coordinates of the scan's points.
    """
    if voxel_size is not None:
        size = voxel_size
    elif scan.is_driving:
        size = SECOND_VOXEL if bounded else SEGMENTATION_VOXEL
    else:
        size = voxel_size_for(scan.points)
    if point_cloud_range is None and bounded:
        point_cloud_range = SECOND_RANGE if scan.is_driving else extent_of(scan.points, size)
    elif point_cloud_range is not None:
        # Checked as the user gave it: the message then has the user's numbers.
        VoxelGrid.create(size, point_cloud_range)
        point_cloud_range = local_range(point_cloud_range, scan.origin)
    return VoxelGrid.create(size, point_cloud_range), point_cloud_range
