"""The grid of a command: what the user named, else what suits the scan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparseconv.scripts.scan import SECOND_RANGE, Scan, finite_box, local_range
from sparseconv.scripts.voxel_size import VoxelSize, default_voxel_size
from sparseconv.voxel_grid import VoxelGrid

# A detector's backbone halves the grid three or four times and needs 25 cells of height to have any left.
_FEWEST_CELLS = 32


@dataclass(frozen=True)
class ScanGrid:
    """Where a scan's voxels lie, in the coordinates of its points.

    Attributes:
        grid: voxel size, origin and cells.
        point_cloud_range: x0 y0 z0 x1 y1 z1; None for a grid without ends.
        reason: why the voxels are this large; None where the user said so.
    """

    grid: VoxelGrid
    point_cloud_range: tuple[float, ...] | None
    reason: str | None


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


def grid_for(
    scan: Scan,
    bounded: bool,
    voxel_size: tuple[float, ...] | None,
    point_cloud_range: tuple[float, ...] | None,
) -> ScanGrid:
    """Grid and range of a run: what the user named, else SECOND's for KITTI's scans, else the scan's own.

    Args:
        scan: the points.
        bounded: whether the model needs a bounded grid.
        voxel_size: the user's, or None.
        point_cloud_range: the user's, in the file's coordinates, or None.

    Raises:
        ValueError: size and range make no grid, or no point is finite.
    """
    local = None if point_cloud_range is None else local_range(point_cloud_range, scan.origin)
    size = VoxelSize(voxel_size, None) if voxel_size else default_voxel_size(scan, bounded, local)
    if point_cloud_range is not None:
        # Checked as the user gave it: the message then has the user's numbers.
        VoxelGrid.create(size.edges, point_cloud_range)
    elif bounded:
        local = SECOND_RANGE if scan.is_driving else extent_of(scan.points, size.edges)
    return ScanGrid(VoxelGrid.create(size.edges, local), local, size.reason)
