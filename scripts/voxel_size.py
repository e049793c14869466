"""The voxel size of a command that names none: one rule for ``run``, ``flops``, ``view`` and big jobs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparseconv.scripts.scan import SECOND_VOXEL, Scan, finite_box
from sparseconv.voxelization import voxelize

# What networks for indoor scenes and vehicles' scans see (Choy et al., 2019: 0.02 to 0.05 m); no cloud gets finer
# voxels than its size demands, nor, unless it is sparse, coarser ones than this.
_COARSEST_DENSE = 0.05
# A small object's longest side is cut into so many voxels.
_OBJECT_CELLS = 256
# With fewer points than this in a voxel nearly every voxel holds one: layers find no neighbours.
CROWDED = 1.05
# Sparse clouds get voxels of at least so many points: KITTI's scans have 1.3 to 1.6 in voxels of 0.05 m, and on
# a surface a 3x3x3 kernel then finds 6 to 9 neighbours (aerial scans, meshes' vertices).
_ENOUGH = 1.3
# Sizes that are tried for sparse clouds, times powers of ten.
_STEPS = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
# A cloud that is sparse even when cut into so few voxels along its longest side has too few points for any size.
_FEWEST_CELLS = 8
# Finer ones do not fit the 63-bit number of a voxel on three axes.
_MOST_CELLS = 1 << 20
# Pictures: a vehicle's scan at 0.1 m, voxels that can be told apart on a screen; any other cloud has so many along
# its longest side at most: twice the root of its points, within limits.
_PICTURE_VEHICLE = 0.1
_PICTURE_CELLS = (32, 300)

Points = NDArray[np.float32]


@dataclass(frozen=True)
class VoxelSize:
    """A voxel size and where it comes from.

    Attributes:
        edges: along x, y, z.
        reason: in words; None where the user named the size.
    """

    edges: tuple[float, ...]
    reason: str | None


def spell_size(edges: Sequence[float]) -> str:
    """Edge lengths along x, y, z; one number for a cube."""
    return f"{edges[0]:g}" if len(set(edges)) == 1 else " x ".join(f"{edge:g}" for edge in edges)


def default_voxel_size(scan: Scan, bounded: bool, point_cloud_range: Sequence[float] | None = None) -> VoxelSize:
    """What suits a network: SECOND's for KITTI's scans, a share of a small object's side, else 0.05 m or more.

    Args:
        scan: the points.
        bounded: whether the network wants a grid with ends, as detectors do.
        point_cloud_range: only the points inside count as dense or sparse; in the points' coordinates.

    Raises:
        ValueError: no point is finite.
    """
    if scan.is_driving and bounded:
        return VoxelSize(SECOND_VOXEL, "SECOND's, for KITTI's layout")
    if scan.vehicle is not None:
        return VoxelSize((_COARSEST_DENSE,) * 3, f"as usual for {scan.vehicle}'s layout")
    longest = _longest_side(scan.points)
    size = _one_digit(longest / _OBJECT_CELLS)
    if 0 < size < _COARSEST_DENSE:
        return VoxelSize((size,) * 3, f"1/{_OBJECT_CELLS} of the longest side, {_spell(longest)}")
    return _wide(_inside(scan.points, point_cloud_range))


def _wide(points: Points) -> VoxelSize:
    """For a cloud beyond an object's size: 0.05, unless voxels would then hold one point each."""
    size = _COARSEST_DENSE
    mean = points_a_voxel(points, size)
    if mean < CROWDED and (found := roomier_size(points, size)) is not None:
        larger, crowd = found
        return VoxelSize((larger,) * 3, f"{crowd:.1f} points in each on average; at {size:g}, {mean:.2f}")
    return VoxelSize((size,) * 3, f"as usual for a cloud this wide, {mean:.1f} points in each on average")


def picture_voxel_size(scan: Scan, point_cloud_range: Sequence[float] | None = None) -> VoxelSize:
    """What suits a picture: the network's size, but no finer than a picture can show.

    Args:
        scan: the points.
        point_cloud_range: of the picture; as in :func:`default_voxel_size`.

    Raises:
        ValueError: no point is finite.
    """
    if scan.vehicle is not None:
        return VoxelSize((_PICTURE_VEHICLE,) * 3, f"as fine as a picture shows, in {scan.vehicle}'s layout")
    chosen = default_voxel_size(scan, False, point_cloud_range)
    shown = _inside(scan.points, point_cloud_range)
    if len(shown) == 0:
        return chosen
    longest = _longest_side(shown)
    cells = float(np.clip(2 * np.sqrt(len(shown)), *_PICTURE_CELLS))
    finest = _one_digit(longest / cells)
    if finest <= chosen.edges[0]:
        return chosen
    reason = f"as fine as a picture shows, 1/{cells:.0f} of the longest side, {_spell(longest)}"
    return VoxelSize((finest,) * 3, reason)


def points_a_voxel(points: Points, size: float) -> float:
    """Mean number of points in the occupied voxels of a grid without ends; infinite where there are no points.

    Args:
        points: finite, ``[N, 3]``.
        size: edge length.
    """
    if len(points) == 0:
        return float("inf")
    # A single point may fill a voxel of any size, but so fine a grid has no numbers for its voxels.
    if _longest_side(points) / size > _MOST_CELLS:
        return 1.0
    return len(points) / len(voxelize(points, size).indices)


def roomier_size(points: Points, size: float) -> tuple[float, float] | None:
    """The finest voxel size above one that gives layers neighbours, and the points that its voxels hold.

    Args:
        points: ``[N, 3 or more]``.
        size: at which voxels hold about one point.

    Returns:
        An edge length and the mean number of points; None where the points are too few.
    """
    points = _inside(points, None)
    if len(points) == 0:
        return None
    longest = _longest_side(points)
    for larger in _sizes_above(max(size, longest / _MOST_CELLS)):
        if larger > longest / _FEWEST_CELLS:
            break
        mean = points_a_voxel(points, larger)
        if mean >= _ENOUGH:
            return larger, mean
    return None


def _sizes_above(size: float) -> Iterator[float]:
    power = int(np.floor(np.log10(size)))
    while True:
        for step in _STEPS:
            # By way of decimals: 7 * 0.1 is not 0.7.
            larger = float(f"{step}e{power}")
            if larger > size:
                yield larger
        power += 1


def _inside(points: Points, point_cloud_range: Sequence[float] | None) -> Points:
    """Coordinates of the finite points in a range: ``[N, 3]``."""
    xyz = points[:, :3]
    kept = np.isfinite(xyz).all(1)
    if point_cloud_range is not None:
        low, high = np.array(point_cloud_range[:3]), np.array(point_cloud_range[3:])
        kept &= ((xyz >= low) & (xyz < high)).all(1)
    return np.ascontiguousarray(xyz[kept])


def _longest_side(points: Points) -> float:
    low, high = finite_box(points)
    return float((high - low).max())


def _spell(length: float) -> str:
    return f"{length:,.0f}" if length >= 100 else f"{length:.3g}"


def _one_digit(size: float) -> float:
    return float(f"{size:.1g}")
