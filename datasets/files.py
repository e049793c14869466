"""One entry for every point file: the suffix chooses the reader."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from .arrays import read_npy, read_npz
from .kitti_bin import read_kitti_bin
from .las import read_las
from .mesh_files import DEFAULT_POINTS, read_mesh_points
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
    ".off": read_mesh_points,
    ".obj": read_mesh_points,
    ".stl": read_mesh_points,
}
# These hold surfaces, from which points are drawn; a PLY file may hold either.
_SURFACES = (".off", ".obj", ".stl")

SUPPORTED_SUFFIXES: tuple[str, ...] = tuple(_READERS)


def read_points(path: PathLike, *, mesh_points: int | None = None, seed: int = 0) -> PointCloud:
    """Read a point cloud from a file of any supported format.

    Args:
        path: a file whose name ends in one of `SUPPORTED_SUFFIXES`, in any case.
        mesh_points: how many points are drawn from a mesh; None: 100,000 from OFF, OBJ and STL, and the vertices
            as they are from PLY (with a number, a PLY file needs faces). It changes nothing for other formats.
        seed: of the drawing: the same one gives the same points.

    Returns:
        The cloud, with at least one point; from a mesh `x y z nx ny nz`.

    Raises:
        PointFileError: whatever is wrong with the file, in one line that begins with its path.
        ValueError: `mesh_points` is below 1.

    Example:
        >>> cloud = read_points("velodyne/000000.bin")  # doctest: +SKIP
        >>> cloud.fields  # doctest: +SKIP
        ('x', 'y', 'z', 'intensity')
    """
    check_point_file(path)
    name = Path(path).name.lower()
    for suffix, reader in _READERS.items():
        if name.endswith(suffix):
            if suffix in _SURFACES or (suffix == ".ply" and mesh_points is not None):
                count = DEFAULT_POINTS if mesh_points is None else mesh_points
                reader = partial(read_mesh_points, count=count, seed=seed)
            try:
                return reader(path)
            except MemoryError as error:
                raise PointFileError(path, "does not fit into memory: split it or free memory") from error
    ending = Path(path).suffix or "no suffix"
    raise PointFileError(path, f"unknown suffix ({ending}): expected one of {' '.join(SUPPORTED_SUFFIXES)}")
