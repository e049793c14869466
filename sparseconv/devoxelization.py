"""Voxel features back to points."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sparseconv.backends import grouping
from sparseconv.compilation import eager
from sparseconv.coordinates import CoordinateHash
from sparseconv.ops.precision import widen
from sparseconv.voxelization import PointsLike, Voxels, as_batch

# Largest float32 below 2**31 that still leaves room for the neighbouring cell.
_FAR = 2147483392.0


@eager
def devoxelize(
    features: Tensor,
    voxels: Voxels,
    points: PointsLike | None = None,
    mode: Literal["nearest", "trilinear"] = "nearest",
) -> Tensor:
    """Bring voxel features back to points.

    Args:
        features: ``[M, C]`` on the voxels.
        voxels: result of :func:`voxelize`.
        points: the points to fill, with as many clouds as were voxelized; needed for trilinear only.
        mode: ``"nearest"``: the features of the point's own voxel, zero for dropped points. ``"trilinear"``:
            weighted by the distance to the 8 nearest voxel centres, the weights renormalised over the voxels
            that exist, zero where none does.

    Returns:
        ``[N, C]``; gradients flow to ``features``.

    Raises:
        ValueError: features do not match the voxels, or points are missing or of another batch.
    """
    if features.dim() != 2 or len(features) != len(voxels.indices):
        raise ValueError(
            f"features must have shape [{len(voxels.indices)}, C], one row for each voxel, got "
            f"{list(features.shape)}"
        )
    if mode == "nearest":
        return _rows_or_zero(features, voxels.point_rows)
    if mode != "trilinear":
        raise ValueError(f"mode must be 'nearest' or 'trilinear', got {mode!r}")
    if points is None:
        raise ValueError("trilinear devoxelization needs the points themselves: pass points=")
    cloud, sizes = as_batch(points)
    if len(sizes) != voxels.batch_size:
        raise ValueError(f"points hold {len(sizes)} clouds and the voxels were made of {voxels.batch_size}")
    return _trilinear(features, voxels, cloud[:, :3], grouping.sample_of_points(sizes, cloud.device))


def _rows_or_zero(features: Tensor, rows: Tensor) -> Tensor:
    """Feature row of each entry, zeros for -1: from a row of zeros behind the features, so that none leaks."""
    padded = torch.cat([features, features.new_zeros((1, features.shape[1]))])
    return padded.index_select(0, torch.where(rows < 0, len(features), rows))


def _trilinear(features: Tensor, voxels: Voxels, xyz: Tensor, batch: Tensor) -> Tensor:
    index = CoordinateHash(voxels.indices)
    scaled = (xyz - xyz.new_tensor(voxels.grid.origin)) / xyz.new_tensor(voxels.grid.voxel_size) - 0.5
    # Far and non-finite points find no voxel: they are moved to where none can be.
    reachable = scaled.isfinite().all(1) & (scaled.abs() < _FAR).all(1)
    scaled = torch.where(reachable[:, None], scaled, 0)
    corner = scaled.floor()
    fraction = scaled - corner
    wide = widen(features)
    out = wide.new_zeros((len(xyz), wide.shape[1]))
    total = wide.new_zeros((len(xyz), 1))
    for bits in range(8):
        step = corner.new_tensor([bits & 1, bits >> 1 & 1, bits >> 2 & 1])
        sites = torch.cat([batch[:, None].int(), (corner + step).int().flip(1)], 1)
        rows = torch.where(reachable, index.query(sites), -1)
        weight = torch.where(step > 0, fraction, 1 - fraction).prod(1)
        weight = torch.where(rows >= 0, weight, 0).to(wide.dtype)[:, None]
        out = out + weight * _rows_or_zero(wide, rows)
        total = total + weight
    return (out / torch.where(total > 0, total, 1)).to(features.dtype)
