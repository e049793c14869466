"""The scan of a command: a file, or a simulated street where none is named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sparseconv.datasets import SimulatedStreet, read_points
from sparseconv.datasets.mesh_files import MESH_SUFFIXES
from sparseconv.datasets.ply_header import parse_ply_header
from sparseconv.voxel_grid import VoxelGrid

# SECOND's grid for cars (Yan et al., 2018): metres in front of a KITTI car, x y z.
SECOND_RANGE = (0.0, -40.0, -3.0, 70.4, 40.0, 1.0)
SECOND_VOXEL = (0.05, 0.05, 0.1)
# Longer than the header of any PLY file that could be read.
_PLY_HEADER_BYTES = 1 << 20

Vehicle = Literal["KITTI", "nuScenes"]
FromMesh = Literal["vertices", "surface"]


@dataclass(frozen=True)
class Scan:
    """A named point cloud.

    Attributes:
        name: of the file.
        points: float32 ``[N, 3 + F]``.
        fields: names of the columns.
        vehicle: whose car's sensor it is laid out for: KITTI's (x forward, y left, sensor 1.73 m high) or
            nuScenes' (x right, y forward); None for any other cloud.
        origin: float64 ``[3]``: what the reader subtracted from map coordinates, see
            :class:`~sparseconv.datasets.PointCloud`. The file's position of a point is ``xyz + origin``.
        from_mesh: whether the points are a mesh's bare vertices or were drawn from its surface; None where the
            file holds no faces.
        labels: int32 ``[N]`` class ids, or None.
    """

    name: str
    points: NDArray[np.float32]
    fields: tuple[str, ...]
    vehicle: Vehicle | None
    origin: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))
    from_mesh: FromMesh | None = None
    labels: NDArray[np.int32] | None = None

    @property
    def is_driving(self) -> bool:
        """Whether SECOND's grid fits it."""
        return self.vehicle == "KITTI"

    def outside(self, point_cloud_range: Sequence[float] | None) -> str:
        """What is said where no point lies in the range (in the points' coordinates, as the grid has it)."""
        bounds = None if point_cloud_range is None else file_range(point_cloud_range, self.origin)
        return f"none of its {len(self.points)} points lies in the range {bounds}; give another --range"


def load_scan(path: Path | None, seed: int = 0, mesh_points: int | None = None) -> Scan:
    """Read a file, or scan a simulated street.

    Args:
        path: a point file or a mesh; None: the street.
        seed: of the street, and of the points that are drawn from a mesh.
        mesh_points: how many points are drawn from a mesh's surface; None: 100,000 from OFF, OBJ and STL, and
            the bare vertices of PLY. It changes nothing for other formats.

    Raises:
        PointFileError: the file cannot be used.
    """
    if path is None:
        cloud = SimulatedStreet(seed=seed).scan()
        return Scan(f"simulated street, 64 beams x 1800, seed {seed}", cloud.points, cloud.fields, "KITTI")
    cloud = read_points(path, mesh_points=mesh_points, seed=seed)
    name = path.name.lower()
    vehicle: Vehicle | None = None
    if name.endswith(".bin"):
        vehicle = "nuScenes" if name.endswith(".pcd.bin") else "KITTI"
    from_mesh: FromMesh | None = None
    if name.endswith(MESH_SUFFIXES):
        is_surface = mesh_points is not None or not name.endswith(".ply")
        from_mesh = "surface" if is_surface else "vertices" if _has_faces(path) else None
    return Scan(str(path), cloud.points, cloud.fields, vehicle, cloud.origin, from_mesh, cloud.labels)


def _has_faces(path: Path) -> bool:
    """Whether the header of a PLY file declares faces."""
    with path.open("rb") as file:
        header = parse_ply_header(path, file.read(_PLY_HEADER_BYTES))
    return any(element.name.lower() == "face" and element.count > 0 for element in header.elements)


def check_mesh_points(path: Path | None, mesh_points: int | None) -> None:
    """Refuse ``--mesh-points`` where there is no mesh to draw them from.

    Raises:
        ValueError: there is no file, or it is of a format that holds no meshes.
    """
    if mesh_points is not None and (path is None or not path.name.lower().endswith(MESH_SUFFIXES)):
        what = "no file" if path is None else path.name
        raise ValueError(f"--mesh-points draws points from a mesh ({' '.join(MESH_SUFFIXES)}), got {what}")


def mesh_note(scan: Scan, mesh_points: int | None) -> str | None:
    """What is said where a mesh is read and ``--mesh-points`` is not given; None where nothing needs saying."""
    if scan.from_mesh is None or mesh_points is not None:
        return None
    if scan.from_mesh == "vertices":
        return vertices_note([scan.name])
    return (
        f"note: {scan.name} is a mesh: {len(scan.points):,} points are drawn from its surface; --mesh-points N "
        "draws N"
    )


def vertices_note(names: Sequence[str]) -> str:
    """What is said of meshes of which only the vertices were read.

    Args:
        names: of the meshes, at least one.
    """
    which = f"{names[0]} is a mesh" if len(names) == 1 else f"{len(names):,} files such as {names[0]} are meshes"
    return (
        f"note: {which}, and read as bare vertices, without the surface between them; --mesh-points N draws N "
        "points from the surface"
    )


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
