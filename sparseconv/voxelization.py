"""Points to voxels.

The voxel of a point is ``floor((p - low) / size)`` on each axis, computed in float32 as the detectors' voxelizers
do; in float64 some points on a voxel's face would land in its neighbour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from sparseconv.backends import PointGroups, backend_for, grouping
from sparseconv.compilation import eager
from sparseconv.coordinates import Coordinates
from sparseconv.geometry import MAX_CELLS, per_axis
from sparseconv.ops.precision import widen
from sparseconv.tensor import SparseTensor
from sparseconv.voxel_grid import VoxelGrid

Reduce = Literal["mean", "sum", "max", "first"]
REDUCTIONS = ("mean", "sum", "max", "first")

PointsLike = Tensor | np.ndarray | Sequence[Tensor] | Sequence[np.ndarray]


@dataclass(frozen=True, repr=False)
class Voxels:
    """Result of :func:`voxelize`. M voxels in lexicographic order, N points over the whole batch.

    Attributes:
        features: ``[M, C]`` reduced point rows.
        indices: int32 ``[M, 4]``: batch, z, y, x.
        num_points: int32 ``[M]`` points in each voxel.
        point_rows: int64 ``[N]`` voxel row of each point, -1 where it was dropped.
        point_batch: int64 ``[N]`` sample of each point.
        grid: voxel size, origin and shape.
        batch_size: number of clouds, empty ones included.
        num_outside: points dropped because they lie outside the range.
        num_nonfinite: points dropped because a coordinate is NaN or infinite.
    """

    features: Tensor
    indices: Tensor
    num_points: Tensor
    point_rows: Tensor
    point_batch: Tensor
    grid: VoxelGrid
    batch_size: int
    num_outside: int
    num_nonfinite: int

    @property
    def spatial_shape(self) -> list[int] | None:
        """Grid size (z, y, x), None where unbounded."""
        return self.grid.spatial_shape

    def __repr__(self) -> str:
        """Sizes only."""
        return (
            f"Voxels(voxels={len(self.indices)}, points={len(self.point_rows)}, "
            f"channels={self.features.shape[1]}, batch_size={self.batch_size}, "
            f"outside={self.num_outside}, nonfinite={self.num_nonfinite})"
        )

    def to_sparse(self, features: Tensor | None = None) -> SparseTensor:
        """Sparse tensor of these voxels, with the reduced features or others ``[M, C']``."""
        shape = self.spatial_shape
        coordinates = Coordinates._trusted(self.indices, None if shape is None else tuple(shape), self.batch_size)
        return SparseTensor.from_coordinates(self.features if features is None else features, coordinates)


@dataclass(frozen=True, repr=False)
class HardVoxels:
    """Result of :func:`hard_voxelize`: at most ``max_voxels`` voxels of at most ``max_points`` points.

    Attributes:
        points: ``[M, max_points, C]`` point rows, zero where a voxel holds fewer.
        indices: int32 ``[M, 4]``: batch, z, y, x.
        num_points: int32 ``[M]`` points kept in each voxel.
        point_rows: int64 ``[N]`` voxel row of each point, -1 where its voxel was dropped; a point that only
            exceeded ``max_points`` keeps its voxel's row.
        grid: voxel size, origin and shape.
        batch_size: number of clouds.
        num_outside: points outside the range.
        num_nonfinite: points with a NaN or infinite coordinate.
        num_over_capacity: points inside the range that a cap dropped.
    """

    points: Tensor
    indices: Tensor
    num_points: Tensor
    point_rows: Tensor
    grid: VoxelGrid
    batch_size: int
    num_outside: int
    num_nonfinite: int
    num_over_capacity: int

    @property
    def spatial_shape(self) -> list[int] | None:
        """Grid size (z, y, x), None where unbounded."""
        return self.grid.spatial_shape

    def __repr__(self) -> str:
        """Sizes only."""
        return (
            f"HardVoxels(points={list(self.points.shape)}, batch_size={self.batch_size}, "
            f"outside={self.num_outside}, nonfinite={self.num_nonfinite}, over_capacity={self.num_over_capacity})"
        )


def _as_cloud(points: Any) -> Tensor:
    """One cloud as a contiguous float32 tensor ``[N, 3+F]``."""
    if isinstance(points, np.ndarray):
        if points.dtype.kind not in "fiu":
            raise TypeError(f"points must be numbers, got an array of {points.dtype}")
        # Read-only arrays (np.frombuffer) are copied: torch has no read-only tensors.
        with np.errstate(over="ignore"):
            points = torch.from_numpy(np.require(points, np.float32, ["C", "W"]))
    if not isinstance(points, Tensor):
        raise TypeError(
            "points must be a numpy array or a torch tensor [N, 3+F], or a list of them, got "
            f"{type(points).__name__}"
        )
    if points.dim() != 2 or points.shape[1] < 3:
        raise ValueError(f"points must have shape [N, 3+F] (x, y, z, then features), got {list(points.shape)}")
    return points.float().contiguous()


def as_batch(points: PointsLike) -> tuple[Tensor, list[int]]:
    """All points of the batch behind each other, and how many each sample has."""
    clouds = [_as_cloud(cloud) for cloud in (points if isinstance(points, list | tuple) else [points])]
    if not clouds:
        raise ValueError("the batch holds no cloud: pass at least one, which may have no points")
    widths = {cloud.shape[1] for cloud in clouds}
    if len(widths) > 1:
        raise ValueError(f"all clouds of a batch must have the same number of columns, got {sorted(widths)}")
    return torch.cat(clouds) if len(clouds) > 1 else clouds[0], [len(cloud) for cloud in clouds]


def _group(
    points: Tensor,
    sizes: list[int],
    grid: VoxelGrid,
    nonfinite: str,
    in_order: bool,
    max_voxels: int | None = None,
    max_points: int | None = None,
) -> PointGroups:
    if nonfinite not in ("error", "drop"):
        raise ValueError(f"nonfinite must be 'error' or 'drop', got {nonfinite!r}")
    groups = backend_for(points.device).group_points(
        points.detach(),
        sizes,
        grid.origin,
        grid.voxel_size,
        grid.shape,
        max_voxels,
        in_order,
        max_points,
    )
    if groups.num_nonfinite and nonfinite == "error":
        row = int(torch.nonzero(~points[:, :3].isfinite().all(1))[0, 0])
        raise ValueError(
            f"{groups.num_nonfinite} of {len(points)} points have a NaN or infinite coordinate, the first in row "
            f"{row}: {points[row, :3].tolist()}. Remove them, or pass nonfinite='drop'."
        )
    return groups


@eager
def voxelize(
    points: PointsLike,
    voxel_size: float | Sequence[float],
    point_cloud_range: Sequence[float] | None = None,
    reduce: Reduce = "mean",
    *,
    nonfinite: Literal["error", "drop"] = "error",
) -> Voxels:
    """Group points by voxel and reduce their rows.

    Args:
        points: float ``[N, 3+F]`` (x, y, z, features), numpy or torch, or a list of such clouds for a batch;
            a cloud may be empty. Any other float type is converted to float32.
        voxel_size: edge length, one number or (x, y, z), in the points' unit.
        point_cloud_range: ``x0, y0, z0, x1, y1, z1``; points outside are dropped and counted. None: an
            unbounded grid whose voxel 0 begins at the origin and which ends where int32 voxels do.
        reduce: how all columns, x y z included, of a voxel's points become its features, in order of points.
        nonfinite: ``"error"`` or ``"drop"`` (and count) points with a NaN or infinite coordinate.

    Returns:
        Voxels in lexicographic order of (batch, z, y, x). Gradients flow to ``points`` through mean and sum.

    Raises:
        TypeError, ValueError: what came, what was expected, what to do.
    """
    if reduce not in REDUCTIONS:
        raise ValueError(f"reduce must be one of {', '.join(REDUCTIONS)}, got {reduce!r}")
    grid = VoxelGrid.create(voxel_size, point_cloud_range)
    cloud, sizes = as_batch(points)
    groups = _group(cloud, sizes, grid, nonfinite, in_order=True)
    features, counts = reduce_points(cloud, groups.rows, len(groups.indices), reduce)
    return Voxels(
        features,
        groups.indices,
        counts,
        groups.rows,
        grouping.sample_of_points(sizes, cloud.device),
        grid,
        len(sizes),
        groups.num_outside,
        groups.num_nonfinite,
    )


@eager
def reduce_points(
    values: Tensor, point_rows: Tensor, n_voxels: int, reduce: Reduce = "mean"
) -> tuple[Tensor, Tensor]:
    """Reduce point rows ``[N, C]`` by voxel, in order of points; -1 in ``point_rows`` drops a point.

    Args:
        values: floating point ``[N, C]``; half types are summed in float32.
        point_rows: int64 ``[N]``.
        n_voxels: number of voxels.
        reduce: as in :func:`voxelize`.

    Returns:
        Voxel rows ``[n_voxels, C]`` (zero where no point lies) and the number of points of each, int32. Gradients
        flow through ``mean`` and ``sum``.

    Raises:
        TypeError, ValueError: shapes or types do not fit, or a row is out of range.
    """
    _check_reduction(values, point_rows, n_voxels, reduce)
    if values.requires_grad and torch.is_grad_enabled() and reduce in ("mean", "sum"):
        return _reduce_with_gradient(values, point_rows, n_voxels, reduce)
    backend = backend_for(values.device)
    wide = widen(values.detach())
    features, counts = backend.reduce_points(wide.contiguous(), point_rows.contiguous(), n_voxels, reduce)
    return features.to(values.dtype), counts


def _check_reduction(values: Tensor, point_rows: Tensor, n_voxels: int, reduce: str) -> None:
    if reduce not in REDUCTIONS:
        raise ValueError(f"reduce must be one of {', '.join(REDUCTIONS)}, got {reduce!r}")
    if values.dim() != 2 or not values.is_floating_point():
        raise ValueError(f"values must be floating point [N, C], got {values.dtype} {list(values.shape)}")
    if point_rows.dtype != torch.int64:
        raise TypeError(f"point_rows must be int64, got {point_rows.dtype}")
    if point_rows.shape != (len(values),):
        raise ValueError(
            f"point_rows must hold one row for each of the {len(values)} values, got {list(point_rows.shape)}"
        )
    low, high = (int(bound) for bound in torch.aminmax(point_rows)) if len(point_rows) else (-1, -1)
    if low < -1 or high >= n_voxels:
        raise ValueError(f"point_rows must lie in -1 .. {n_voxels - 1} (-1 drops a point), got {low} .. {high}")


def _reduce_with_gradient(values: Tensor, point_rows: Tensor, n_voxels: int, reduce: str) -> tuple[Tensor, Tensor]:
    kept = torch.nonzero(point_rows >= 0)[:, 0]
    rows = point_rows[kept]
    counts = torch.bincount(rows, minlength=n_voxels)
    wide = widen(values)
    total = wide.new_zeros((n_voxels, values.shape[1])).index_add(0, rows, wide[kept])
    if reduce == "mean":
        total = total / counts.clamp(min=1)[:, None]
    return total.to(values.dtype), counts.int()


@eager
def hard_voxelize(
    points: PointsLike,
    voxel_size: float | Sequence[float],
    point_cloud_range: Sequence[float] | None = None,
    *,
    max_points: int,
    max_voxels: int,
    order: Literal["first", "sorted"] = "first",
    nonfinite: Literal["error", "drop"] = "error",
) -> HardVoxels:
    """The hard form of detectors: a padded block of points for each voxel, with caps on both.

    Of each cloud the ``max_voxels`` voxels that its points meet first are kept, and of each voxel its first
    ``max_points`` points, so equal input gives equal output.

    Args:
        points: as :func:`voxelize`.
        voxel_size: as :func:`voxelize`.
        point_cloud_range: as :func:`voxelize`.
        max_points: points kept in each voxel.
        max_voxels: voxels kept in each cloud.
        order: ``"first"``: voxels of a cloud in the order in which points meet them, as detectors' voxelizers
            do; ``"sorted"``: in lexicographic order, on which the engine is fastest.
        nonfinite: as :func:`voxelize`.

    Raises:
        TypeError, ValueError: what came, what was expected, what to do.
    """
    (max_points,) = per_axis(max_points, 1, "max_points", minimum=1, maximum=MAX_CELLS)
    (max_voxels,) = per_axis(max_voxels, 1, "max_voxels", minimum=1, maximum=MAX_CELLS)
    if order not in ("first", "sorted"):
        raise ValueError(f"order must be 'first' or 'sorted', got {order!r}")
    grid = VoxelGrid.create(voxel_size, point_cloud_range)
    cloud, sizes = as_batch(points)
    # Only torch's own indexing has a gradient.
    needs_gradient = cloud.requires_grad and torch.is_grad_enabled()
    groups = _group(
        cloud, sizes, grid, nonfinite, order == "sorted", max_voxels, None if needs_gradient else max_points
    )
    blocks = groups.blocks or grouping.pad_points(cloud, groups, max_points)
    num_inside = len(cloud) - groups.num_outside - groups.num_nonfinite
    return HardVoxels(
        blocks.points,
        groups.indices,
        blocks.counts,
        groups.rows,
        grid,
        len(sizes),
        groups.num_outside,
        groups.num_nonfinite,
        num_inside - blocks.num_points,
    )
