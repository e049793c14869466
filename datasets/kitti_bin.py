"""KITTI and SemanticKITTI scans, `*.bin`."""

from __future__ import annotations

from .float32_records import read_float32_records
from .point_cloud import PointCloud
from .point_file import PathLike

FIELDS = ("x", "y", "z", "intensity")


def read_kitti_bin(path: PathLike) -> PointCloud:
    """Read a KITTI scan: little-endian float32 `x y z intensity`, no header.

    Args:
        path: the file.

    Returns:
        A cloud with those four fields, metres in the sensor's frame (x forward, y left, z up).

    Raises:
        PointFileError: the file cannot be such a scan; see `read_float32_records`.
    """
    return read_float32_records(path, FIELDS, "a KITTI scan")
