"""Reference backend: plain torch, short, no cleverness, on every device. ``Backend`` describes each function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparseconv.backends import CoarseMap, DuplicateSiteError, PointGroups
from sparseconv.backends.grouping import group_cells, pad_points
from sparseconv.backends.site_keys import FARTHEST_CELL, SiteKeys, coarse_box, fine_box
from sparseconv.geometry import ConvGeometry

CONVOLVED_HALVES = (torch.bfloat16,)
GRADIENT_HALVES: tuple[torch.dtype, ...] = ()


@dataclass(frozen=True, eq=False)
class SiteIndex:
    """Sites ``[N, 1+D]`` in the caller's order, their sorted keys, and the row of each sorted key."""

    sites: Tensor
    keys: SiteKeys
    sorted_keys: Tensor
    order: Tensor


def _spanning(sites: Tensor) -> SiteKeys:
    if len(sites) == 0:
        return SiteKeys.spanning([0] * sites.shape[1], [-1] * sites.shape[1])
    return SiteKeys.spanning(*bounds(sites))


def _pack(sites: Tensor, keys: SiteKeys) -> Tensor:
    """Key of each site inside the box, -1 outside it."""
    distance = sites.long() - sites.new_tensor(keys.low, dtype=torch.int64)
    extent = distance.new_tensor(keys.extent)
    inside = ((distance >= 0) & (distance < extent)).all(1)
    return torch.where(inside, (distance * distance.new_tensor(keys.strides)).sum(1), -1)


def _unpack(packed: Tensor, keys: SiteKeys) -> Tensor:
    columns = [
        packed // stride % extent + low
        for low, extent, stride in zip(keys.low, keys.extent, keys.strides, strict=True)
    ]
    return torch.stack(columns, 1).int()


def bounds(indices: Tensor) -> tuple[list[int], list[int]]:
    low, high = torch.stack(torch.aminmax(indices, dim=0)).tolist()
    return low, high


def build_index(indices: Tensor) -> SiteIndex:
    keys = _spanning(indices)
    sorted_keys, order = torch.sort(_pack(indices, keys), stable=True)
    repeats = torch.nonzero(sorted_keys[1:] == sorted_keys[:-1])
    if len(repeats):
        first, second = sorted(order[repeats[0, 0] : repeats[0, 0] + 2].tolist())
        raise DuplicateSiteError(
            f"indices hold the site {indices[second].tolist()} (batch first) more than once, in rows {first} "
            f"and {second}: merge duplicate voxels first, for example with sparseconv.voxelize"
        )
    return SiteIndex(indices, keys, sorted_keys, order)


def is_sorted(index: SiteIndex) -> bool:
    return bool((index.order[1:] > index.order[:-1]).all())


def query(index: SiteIndex, indices: Tensor) -> Tensor:
    if len(index.sorted_keys) == 0:
        return torch.full((len(indices),), -1, dtype=torch.int64, device=indices.device)
    packed = _pack(indices, index.keys)
    place = torch.searchsorted(index.sorted_keys, packed).clamp_(max=len(index.sorted_keys) - 1)
    found = (index.sorted_keys[place] == packed) & (packed >= 0)
    return torch.where(found, index.order[place], -1)


def kernel_pairs(fine: SiteIndex, coarse: SiteIndex, geometry: ConvGeometry) -> tuple[Tensor, Tensor, Tensor]:
    corner = coarse.sites.long() * coarse.sites.new_tensor([1, *geometry.stride])
    fine_rows, coarse_rows, counts = [], [], [0]
    for offset in geometry.offsets():
        rows = query(fine, corner + corner.new_tensor([0, *offset]))
        hits = torch.nonzero(rows >= 0)[:, 0]
        fine_rows.append(rows[hits])
        coarse_rows.append(hits)
        counts.append(len(hits))
    tap_offsets = torch.tensor(counts, dtype=torch.int64, device="cpu").cumsum(0)
    return torch.cat(fine_rows).int(), torch.cat(coarse_rows).int(), tap_offsets


def order_pairs(in_rows: Tensor, out_rows: Tensor, tap_offsets: Tensor) -> tuple[Tensor, Tensor]:
    taps = torch.arange(len(tap_offsets) - 1, device="cpu").repeat_interleave(tap_offsets.diff())
    key = (taps.to(out_rows.device) << 32) | out_rows.long()
    order = torch.argsort(key)
    return in_rows[order], out_rows[order]


def _distinct(sites: Tensor, box: SiteKeys) -> Tensor:
    packed = _pack(sites, box)
    return _unpack(torch.unique(packed[packed >= 0]), box)


def coarse_sites(index: SiteIndex, geometry: ConvGeometry, shape: Sequence[int] | None) -> Tensor:
    box = coarse_box(index.keys, geometry, shape) if len(index.sites) else None
    if box is None:
        return index.sites.new_empty((0, index.sites.shape[1]))
    stride = index.sites.new_tensor([1, *geometry.stride], dtype=torch.int64)
    reached = []
    for offset in geometry.offsets():
        scaled = index.sites.long() - stride.new_tensor([0, *offset])
        scaled = scaled[(scaled % stride == 0).all(1)]
        reached.append(torch.div(scaled, stride, rounding_mode="floor"))
    return _distinct(torch.cat(reached), box)


def coarse_map(index: SiteIndex, geometry: ConvGeometry, shape: Sequence[int] | None) -> CoarseMap:
    sites = coarse_sites(index, geometry, shape)
    coarse = build_index(sites)
    return CoarseMap(sites, coarse, *kernel_pairs(index, coarse, geometry))


def fine_sites(index: SiteIndex, geometry: ConvGeometry, shape: Sequence[int] | None) -> Tensor:
    box = fine_box(index.keys, geometry, shape) if len(index.sites) else None
    if box is None:
        return index.sites.new_empty((0, index.sites.shape[1]))
    corner = index.sites.long() * index.sites.new_tensor([1, *geometry.stride])
    reached = [corner + corner.new_tensor([0, *offset]) for offset in geometry.offsets()]
    return _distinct(torch.cat(reached), box)


def unique_sites(indices: Tensor) -> tuple[Tensor, Tensor]:
    box = _spanning(indices)
    packed, rows = torch.unique(_pack(indices, box), return_inverse=True)
    return _unpack(packed, box), rows


def _taps(in_rows: Tensor, out_rows: Tensor, tap_offsets: Tensor) -> list[tuple[Tensor, Tensor]]:
    sizes = tap_offsets.diff().tolist()
    return list(zip(in_rows.long().split(sizes), out_rows.long().split(sizes), strict=True))


def convolve(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    in_rows: Tensor,
    out_rows: Tensor,
    tap_offsets: Tensor,
    n_out: int,
    groups: int,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    if features.dtype == torch.bfloat16:
        features, weight = features.float(), weight.float()
    c_out, _, depth = weight.shape
    out = features.new_zeros((n_out, c_out))
    x = features.reshape(len(features), groups, depth)
    w = weight.reshape(groups, c_out // groups, *weight.shape[1:])
    with torch.autocast(features.device.type, enabled=False):
        for tap, (i, o) in enumerate(_taps(in_rows, out_rows, tap_offsets)):
            product = torch.einsum("pgc,goc->pgo", x[i], w[:, :, tap])
            out.index_add_(0, o, product.reshape(len(i), c_out))
    for term in (bias, residual):
        out = out if term is None else out + term
    return out.relu() if relu else out


def weight_gradient(
    features: Tensor,
    grad: Tensor,
    in_rows: Tensor,
    out_rows: Tensor,
    tap_offsets: Tensor,
    groups: int,
) -> Tensor:
    c_out, depth = grad.shape[1], features.shape[1] // groups
    x = features.reshape(len(features), groups, depth)
    g = grad.reshape(len(grad), groups, c_out // groups)
    with torch.autocast(features.device.type, enabled=False):
        taps = [torch.einsum("pgo,pgc->goc", g[o], x[i]) for i, o in _taps(in_rows, out_rows, tap_offsets)]
    if not taps:
        return grad.new_empty((c_out, 0, depth))
    return torch.stack(taps, 2).reshape(c_out, len(taps), depth)


def max_pool(
    features: Tensor, in_rows: Tensor, out_rows: Tensor, tap_offsets: Tensor, n_out: int
) -> tuple[Tensor, Tensor]:
    out = features.new_zeros((n_out, features.shape[1]))
    argmax = torch.full(out.shape, -1, dtype=torch.int32, device=out.device)
    for i, o in _taps(in_rows, out_rows, tap_offsets):
        value, best = features[i], out[o]
        wins = (argmax[o] < 0) | (value > best) | (value.isnan() & ~best.isnan())
        out[o] = torch.where(wins, value, best)
        argmax[o] = torch.where(wins, i[:, None].int(), argmax[o])
    return out, argmax


def max_pool_gradient(grad: Tensor, argmax: Tensor, n_in: int) -> Tensor:
    out = grad.new_zeros((n_in, grad.shape[1]))
    reached = torch.where(argmax >= 0, grad, 0)
    return out.scatter_add_(0, argmax.long().clamp(min=0), reached) if n_in else out


def sum_pool(features: Tensor, in_rows: Tensor, out_rows: Tensor, tap_offsets: Tensor, n_out: int) -> Tensor:
    out = features.new_zeros((n_out, features.shape[1]))
    for i, o in _taps(in_rows, out_rows, tap_offsets):
        out.index_add_(0, o, features[i])
    return out


def _check_range(rows: Tensor, n_rows: int) -> None:
    if len(rows) and (int(rows.min()) < -1 or int(rows.max()) >= n_rows):
        raise ValueError(f"rows must lie in -1 .. {n_rows - 1}, got {int(rows.min())} .. {int(rows.max())}")


def weighted_sum(features: Tensor, coefficients: Tensor, in_rows: Tensor, out_rows: Tensor, n_out: int) -> Tensor:
    _check_range(in_rows, len(features))
    _check_range(out_rows, n_out)
    if bool((out_rows.diff() < 0).any()):
        raise ValueError("out_rows must ascend: sort the pairs by their output rows first")
    kept = (in_rows >= 0) & (out_rows >= 0)
    i, o, shares = in_rows[kept].long(), out_rows[kept].long(), coefficients[kept]
    channels, groups = features.shape[1], shares.shape[1]
    terms = features[i].reshape(len(i), groups, channels // groups) * shares[:, :, None]
    return features.new_zeros((n_out, channels)).index_add_(0, o, terms.reshape(len(i), channels))


def pair_dots(left: Tensor, right: Tensor, left_rows: Tensor, right_rows: Tensor, groups: int) -> Tensor:
    _check_range(left_rows, len(left))
    _check_range(right_rows, len(right))
    kept = (left_rows >= 0) & (right_rows >= 0)
    products = left[left_rows[kept].long()] * right[right_rows[kept].long()]
    out = left.new_zeros((len(kept), groups))
    out[kept] = products.reshape(len(products), groups, left.shape[1] // groups).sum(2)
    return out


def column_moments(values: Tensor) -> tuple[Tensor, Tensor]:
    wide = values.double()
    mean = wide.mean(0)
    return mean.to(values.dtype), ((wide - mean) ** 2).mean(0).to(values.dtype)


def column_dots(grad: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    dots, sums = (grad.double() * values).sum(0), grad.double().sum(0)
    return dots.to(values.dtype), sums.to(values.dtype)


def scale_shift(values: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return values * scale + shift


def _place(
    points: Tensor, low: Sequence[float], size: Sequence[float], grid: Sequence[int] | None
) -> tuple[Tensor, Tensor, Tensor]:
    xyz = points[:, : len(low)]
    finite = xyz.isfinite().all(1)
    cells = torch.floor((xyz - points.new_tensor(low)) / points.new_tensor(size))
    inside = finite & (cells.abs() <= FARTHEST_CELL).all(1)
    cells = torch.where(inside[:, None], cells, 0).int()
    if grid is not None:
        bounds = torch.tensor(list(grid), dtype=torch.int64, device=points.device)
        inside &= ((cells >= 0) & (cells < bounds)).all(1)
    return cells, inside, finite


def rank_in_voxel(rows: Tensor, n_rows: int) -> Tensor:
    ordered, order = torch.sort(rows, stable=True)
    ranks = torch.empty_like(rows)
    ranks[order] = torch.arange(len(rows), device=rows.device) - torch.searchsorted(ordered, ordered)
    return ranks


def group_points(
    points: Tensor,
    sizes: Sequence[int],
    low: Sequence[float],
    size: Sequence[float],
    grid: Sequence[int] | None,
    max_voxels: int | None,
    in_order: bool,
    max_points: int | None = None,
) -> PointGroups:
    placed = _place(points, low, size, grid)
    groups = group_cells(*placed, sizes, max_voxels, in_order, unique_sites, rank_in_voxel)
    return groups if max_points is None else groups._replace(blocks=pad_points(points, groups, max_points))


def reduce_points(values: Tensor, rows: Tensor, n_rows: int, reduce: str) -> tuple[Tensor, Tensor]:
    kept = rows >= 0
    rows, values = rows[kept], values[kept]
    counts = torch.bincount(rows, minlength=n_rows).int()
    out = values.new_zeros((n_rows, values.shape[1]))
    if reduce == "first":
        filled = counts > 0
        out[filled] = values[first_points(rows, n_rows)[filled]]
        return out, counts
    if reduce == "max":
        index = rows[:, None].expand_as(values)
        return out.scatter_reduce_(0, index, values, "amax", include_self=False), counts
    out.index_add_(0, rows, values)
    return (out / counts.clamp(min=1)[:, None] if reduce == "mean" else out), counts


def first_points(rows: Tensor, n_rows: int) -> Tensor:
    """Position of the first point of each row, ``len(rows)`` where it has none: int64 ``[n_rows]``."""
    positions = torch.arange(len(rows), device=rows.device)
    first = torch.full((n_rows,), len(rows), device=rows.device)
    return first.scatter_reduce_(0, rows, positions, "amin")
