"""nuScenes LiDAR sweeps, `*.pcd.bin`: despite the name, not PCD."""

from __future__ import annotations

from .float32_records import read_float32_records
from .point_cloud import PointCloud
from .point_file import PathLike

FIELDS = ("x", "y", "z", "intensity", "ring")


def read_nuscenes_bin(path: PathLike) -> PointCloud:
    """Read a nuScenes sweep: little-endian float32 `x y z intensity ring`, no header.

    Args:
        path: the file.

    Returns:
        A cloud with those five fields, metres in the sensor's frame (x right, y forward, z up).

    Raises:
        PointFileError: the file cannot be such a sweep; see `read_float32_records`.
    """
    return read_float32_records(path, FIELDS, "a nuScenes sweep")
