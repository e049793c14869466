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

from sparseconv.backends import backend_for
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


def as_batch(points: PointsLike) -> tuple[Tensor, Tensor, int]:
    """All points of the batch behind each other, the sample of each, and the number of samples."""
    clouds = [_as_cloud(cloud) for cloud in (points if isinstance(points, list | tuple) else [points])]
    if not clouds:
        raise ValueError("the batch holds no cloud: pass at least one, which may have no points")
    widths = {cloud.shape[1] for cloud in clouds}
    if len(widths) > 1:
        raise ValueError(f"all clouds of a batch must have the same number of columns, got {sorted(widths)}")
    sizes = torch.tensor([len(cloud) for cloud in clouds])
    batch = torch.arange(len(clouds)).repeat_interleave(sizes).to(clouds[0].device)
    return torch.cat(clouds) if len(clouds) > 1 else clouds[0], batch, len(clouds)


def _place(points: Tensor, batch: Tensor, grid: VoxelGrid, nonfinite: str) -> tuple[Tensor, Tensor, int, int]:
    """Voxel site of each point ``[N, 4]``, whether it is inside, and the numbers outside and non-finite."""
    if nonfinite not in ("error", "drop"):
        raise ValueError(f"nonfinite must be 'error' or 'drop', got {nonfinite!r}")
    backend = backend_for(points.device)
    shape = None if grid.shape is None else points.new_tensor(grid.shape, dtype=torch.int64)
    cells, status = backend.place_points(
        points.detach(), points.new_tensor(grid.origin), points.new_tensor(grid.voxel_size), shape
    )
    num_outside, num_nonfinite = (int((status == state).sum()) for state in (1, 2))
    if num_nonfinite and nonfinite == "error":
        row = int(torch.nonzero(status == 2)[0, 0])
        raise ValueError(
            f"{num_nonfinite} of {len(points)} points have a NaN or infinite coordinate, the first in row {row}: "
            f"{points[row, :3].tolist()}. Remove them, or pass nonfinite='drop'."
        )
    sites = torch.cat([batch[:, None].int(), cells.flip(1)], 1)
    return sites, status == 0, num_outside, num_nonfinite


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
    cloud, batch, batch_size = as_batch(points)
    sites, inside, num_outside, num_nonfinite = _place(cloud, batch, grid, nonfinite)
    indices, rows = _group(sites, inside)
    features, counts = reduce_points(cloud, rows, len(indices), reduce)
    return Voxels(features, indices, counts, rows, batch, grid, batch_size, num_outside, num_nonfinite)


def _group(sites: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct sites of the points inside, and the row of every point (-1 outside)."""
    backend = backend_for(sites.device)
    if bool(inside.all()):
        return backend.unique_sites(sites)
    kept = torch.nonzero(inside)[:, 0]
    indices, kept_rows = backend.unique_sites(sites[kept])
    rows = torch.full((len(sites),), -1, dtype=torch.int64, device=sites.device)
    rows[kept] = kept_rows
    return indices, rows


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
    cloud, batch, batch_size = as_batch(points)
    sites, inside, num_outside, num_nonfinite = _place(cloud, batch, grid, nonfinite)
    indices, rows = _group(sites, inside)
    rank = backend_for(cloud.device).rank_in_voxel(rows, len(indices))
    # Voxels in the order in which points meet them; clouds stand behind each other, so batches stay together.
    by_first_point = rows[rank == 0]
    place_in_batch = _place_in_batch(indices[by_first_point, 0], batch_size)
    kept = by_first_point[place_in_batch < max_voxels]
    if order == "sorted":
        kept = kept.sort().values
    new_row = torch.full((len(indices),), -1, dtype=torch.int64, device=rows.device)
    new_row[kept] = torch.arange(len(kept), device=rows.device)
    point_rows = torch.where(rows >= 0, new_row[rows.clamp(min=0)], -1) if len(indices) else rows
    is_kept = (point_rows >= 0) & (rank < max_points)
    filled = cloud.new_zeros((len(kept), max_points, cloud.shape[1]))
    filled = filled.index_put((point_rows[is_kept], rank[is_kept]), cloud[is_kept])
    num_points = torch.bincount(point_rows[is_kept], minlength=len(kept)).int()
    num_over = int(inside.sum()) - int(is_kept.sum())
    return HardVoxels(
        filled,
        indices[kept],
        num_points,
        point_rows,
        grid,
        batch_size,
        num_outside,
        num_nonfinite,
        num_over,
    )


def _place_in_batch(batch: Tensor, batch_size: int) -> Tensor:
    """Position of each row within its sample, the rows of a sample standing together."""
    counts = torch.bincount(batch, minlength=batch_size)
    starts = counts.cumsum(0) - counts
    return torch.arange(len(batch), device=batch.device) - starts[batch.long()]
