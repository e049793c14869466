"""One entry for every point file: the suffix chooses the reader."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .arrays import read_npy, read_npz
from .kitti_bin import read_kitti_bin
from .las import read_las
from .nuscenes_bin import read_nuscenes_bin
from .pcd import read_pcd
from .ply import read_ply
from .point_cloud import PointCloud
from .point_file import PathLike, PointFileError, check_point_file
from .text import read_text

# The first match wins, so a suffix stands before the shorter one that it ends with.
_READERS: dict[str, Callable[[PathLike], PointCloud]] = {
    ".pcd.bin": read_nuscenes_bin,
    ".bin": read_kitti_bin,
    ".pcd": read_pcd,
    ".ply": read_ply,
    ".las": read_las,
    ".copc.laz": read_las,
    ".laz": read_las,
    ".xyz": read_text,
    ".txt": read_text,
    ".csv": read_text,
    ".npy": read_npy,
    ".npz": read_npz,
}

SUPPORTED_SUFFIXES: tuple[str, ...] = tuple(_READERS)


def read_points(path: PathLike) -> PointCloud:
    """Read a point cloud from a file of any supported format.

    Args:
        path: a file whose name ends in one of `SUPPORTED_SUFFIXES`, in any case.

    Returns:
        The cloud, with at least one point.

    Raises:
        PointFileError: whatever is wrong with the file, in one line that begins with its path.

    Example:
        >>> cloud = read_points("velodyne/000000.bin")  # doctest: +SKIP
        >>> cloud.fields  # doctest: +SKIP
        ('x', 'y', 'z', 'intensity')
    """
    check_point_file(path)
    name = Path(path).name.lower()
    for suffix, reader in _READERS.items():
        if name.endswith(suffix):
            try:
                return reader(path)
            except MemoryError as error:
                raise PointFileError(path, "does not fit into memory: split it or free memory") from error
    ending = Path(path).suffix or "no suffix"
    raise PointFileError(path, f"unknown suffix ({ending}): expected one of {' '.join(SUPPORTED_SUFFIXES)}")
