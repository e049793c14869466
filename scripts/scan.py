"""The scan of a command: a file, or a simulated street where none is named."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparseconv.datasets import SimulatedStreet, read_points
from sparseconv.voxel_grid import VoxelGrid

# SECOND's grid for cars (Yan et al., 2018): metres in front of a KITTI car, x y z.
SECOND_RANGE = (0.0, -40.0, -3.0, 70.4, 40.0, 1.0)
SECOND_VOXEL = (0.05, 0.05, 0.1)
SEGMENTATION_VOXEL = (0.05, 0.05, 0.05)


@dataclass(frozen=True)
class Scan:
    """A named point cloud, and whether it is laid out like KITTI's (x forward, sensor 1.73 m high)."""

    name: str
    points: NDArray[np.float32]
    fields: tuple[str, ...]
    is_driving: bool


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
    return Scan(str(path), cloud.points, cloud.fields, is_kitti)


def extent_of(points: NDArray[np.float32], voxel_size: tuple[float, ...]) -> tuple[float, ...]:
    """Range of whole voxels that holds every finite point.

    Raises:
        ValueError: no point is finite.
    """
    finite = points[np.isfinite(points[:, :3]).all(1), :3].astype(np.float64)
    if len(finite) == 0:
        raise ValueError("no point has finite coordinates")
    size = np.array(voxel_size)
    low = np.floor(finite.min(0) / size) * size
    high = (np.floor(finite.max(0) / size) + 1) * size
    return (*low.tolist(), *high.tolist())


def grid_for(
    scan: Scan,
    bounded: bool,
    voxel_size: tuple[float, ...] | None,
    point_cloud_range: tuple[float, ...] | None,
) -> tuple[VoxelGrid, tuple[float, ...] | None]:
    """Grid and range of a run: what the user named, else SECOND's for driving scans, else the scan's own extent.

    Args:
        scan: the points.
        bounded: whether the model needs a bounded grid.
        voxel_size: the user's, or None.
        point_cloud_range: the user's, or None.
    """
    size = voxel_size or (SECOND_VOXEL if bounded else SEGMENTATION_VOXEL)
    if point_cloud_range is None and bounded:
        point_cloud_range = SECOND_RANGE if scan.is_driving else extent_of(scan.points, size)
    return VoxelGrid.create(size, point_cloud_range), point_cloud_range
