"""Points to voxels and back, one point at a time.

    voxel(point) = floor((point - lo) / size)      per axis, every step rounded to float32

lo is the lower corner of the range, 0 without a range. Points, sizes and ranges are given in
the order x, y, z; coordinates are rows (batch, z, y, x). A point's first three values are its
position, and all its values are its features.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .convolution import Array, Float64
from .sites import Coords, Site, sorted_sites

Ints = npt.NDArray[np.int32]


def grid_shape(voxel_size: Sequence[float], point_cloud_range: Sequence[float]) -> Site:
    """Extent (z, y, x) of the grid: round((hi - lo) / size) per axis, float64, half to even."""
    lo, hi = point_cloud_range[:3], point_cloud_range[3:]
    axes = zip(lo, hi, voxel_size, strict=True)
    return tuple(round((float(b) - float(a)) / float(size)) for a, b, size in axes)[::-1]


def voxelize(
    points: Array,
    voxel_size: Sequence[float],
    point_cloud_range: Sequence[float] | None,
    reduce: str = "mean",
    batch_index: Sequence[int] | None = None,
) -> tuple[Float64, Coords, Ints, Ints]:
    """Group points by voxel and reduce the values of each group.

    Args:
        points: `[N, F]`, x y z first.
        voxel_size: size x, y, z.
        point_cloud_range: x_lo, y_lo, z_lo, x_hi, y_hi, z_hi: points whose voxel lies outside
            [0, grid_shape) are dropped. None is a grid without bounds at lo = 0.
        reduce: "mean", "sum", "max", "min" or "first", over the points in their order, in float64.
        batch_index: `[N]`; None is batch 0 for every point.

    Returns:
        features `[M, F]`, coords `[M, 4]` in lexicographic order, counts `[M]` and the voxel
        row of each point `[N]`, -1 where the point was dropped.
    """
    sites = _point_sites(points, voxel_size, point_cloud_range, batch_index)
    coords = sorted_sites((site for site in sites if site is not None), 3)
    row_of: dict[Site, int] = {tuple(site): row for row, site in enumerate(coords.tolist())}
    point_rows = np.array([-1 if site is None else row_of[site] for site in sites], dtype=np.int32)

    features = np.zeros((len(coords), points.shape[1]))
    counts = np.zeros(len(coords), dtype=np.int32)
    for row in range(len(coords)):
        members = [points[i].astype(np.float64) for i in np.flatnonzero(point_rows == row)]
        counts[row] = len(members)
        features[row] = _reduce(members, reduce)
    return features, coords, counts, point_rows


def hard_voxelize(
    points: Array,
    voxel_size: Sequence[float],
    point_cloud_range: Sequence[float] | None,
    max_points: int,
    max_voxels: int,
) -> tuple[Float64, Coords, Ints]:
    """Keep the first points of the first voxels, as the published detectors do.

    Voxels stand in first-come order: the order of their first point. The first `max_points`
    points of a voxel are kept, in their order. Once `max_voxels` voxels exist, points of
    further voxels are dropped, while points of the existing voxels are still taken.

    Args:
        points: `[N, F]`, one cloud (batch 0), x y z first.
        voxel_size: size x, y, z.
        point_cloud_range: as for `voxelize`.
        max_points: points kept per voxel.
        max_voxels: voxels kept.

    Returns:
        voxels `[M, max_points, F]` padded with zeros, coords `[M, 4]`, and the number of kept
        points `[M]`.
    """
    kept: dict[Site, list[int]] = {}
    sites = _point_sites(points, voxel_size, point_cloud_range, None)
    for index, site in enumerate(sites):
        if site is None:
            continue
        if site not in kept:
            if len(kept) == max_voxels:
                continue
            kept[site] = []
        if len(kept[site]) < max_points:
            kept[site].append(index)

    voxels = np.zeros((len(kept), max_points, points.shape[1]))
    for row, members in enumerate(kept.values()):
        for slot, index in enumerate(members):
            voxels[row, slot] = points[index]
    coords = np.array(list(kept), dtype=np.int32).reshape(-1, 4)
    counts = np.array([len(members) for members in kept.values()], dtype=np.int32)
    return voxels, coords, counts


def trilinear_weights(
    coords: Coords,
    points: Array,
    voxel_size: Sequence[float],
    lo: Sequence[float],
    batch_index: Sequence[int] | None = None,
) -> Float64:
    """Interpolation weights `[N, M]` of each point over the voxels; a row sums to 1 or is 0.

    Voxel centres lie at (c + 0.5) * size + lo. Per axis u = (point - lo) / size - 0.5, in
    float32, lies between the centres floor(u) and floor(u) + 1, which weigh
    1 - (u - floor(u)) and u - floor(u). Weights of the eight corners are divided by the sum over
    the corners that exist. The row is zero where no existing corner has a positive weight.

    Args:
        coords: `[M, 4]` rows (batch, z, y, x).
        points: `[N, 3 or more]`, x y z first.
        voxel_size: size x, y, z.
        lo: lower corner x, y, z of the grid.
        batch_index: `[N]`; None is batch 0 for every point.

    Returns:
        `[N, M]`.
    """
    row_of: dict[Site, int] = {tuple(site): row for row, site in enumerate(coords.tolist())}
    weights = np.zeros((len(points), len(coords)))
    for index, point in enumerate(points):
        batch = 0 if batch_index is None else int(batch_index[index])
        u = [
            _grid_position(p, a, size) - np.float32(0.5)
            for p, a, size in zip(point[:3], lo, voxel_size, strict=True)
        ]
        base = [int(np.floor(v)) for v in u]
        fraction = [float(v - np.floor(v)) for v in u]
        for corner in np.ndindex(2, 2, 2):
            x, y, z = (b + step for b, step in zip(base, corner, strict=True))
            row = row_of.get((batch, z, y, x))
            if row is not None:
                axes = zip(fraction, corner, strict=True)
                weights[index, row] = np.prod([f if step else 1.0 - f for f, step in axes])
        total = weights[index].sum()
        if total > 0.0:
            weights[index] /= total
    return weights


def devoxelize_trilinear(
    features: Array,
    coords: Coords,
    points: Array,
    voxel_size: Sequence[float],
    lo: Sequence[float],
    batch_index: Sequence[int] | None = None,
) -> Float64:
    """Features `[N, C]` at the points, from voxel features `[M, C]`: see `trilinear_weights`."""
    weights = trilinear_weights(coords, points, voxel_size, lo, batch_index)
    return weights @ np.asarray(features, dtype=np.float64)


def _grid_position(value: float, lo: float, size: float) -> np.float32:
    return np.float32((np.float32(value) - np.float32(lo)) / np.float32(size))


def _point_sites(
    points: Array,
    voxel_size: Sequence[float],
    point_cloud_range: Sequence[float] | None,
    batch_index: Sequence[int] | None,
) -> list[Site | None]:
    """The site (batch, z, y, x) of each point, None where the range excludes it."""
    lo = (0.0, 0.0, 0.0) if point_cloud_range is None else point_cloud_range[:3]
    shape = None if point_cloud_range is None else grid_shape(voxel_size, point_cloud_range)
    sites: list[Site | None] = []
    for index, point in enumerate(points):
        if not np.isfinite(point[:3]).all():
            raise ValueError(f"point {index} has a position that is not finite: {point[:3]}")
        axes = zip(point[:3], lo, voxel_size, strict=True)
        x, y, z = (int(np.floor(_grid_position(p, a, size))) for p, a, size in axes)
        inside = shape is None or all(0 <= c < n for c, n in zip((z, y, x), shape, strict=True))
        batch = 0 if batch_index is None else int(batch_index[index])
        sites.append((batch, z, y, x) if inside else None)
    return sites


def _reduce(members: list[Float64], reduce: str) -> Float64:
    if reduce not in ("mean", "sum", "max", "min", "first"):
        raise ValueError(f"reduce must be mean, sum, max, min or first, got {reduce!r}")
    result = members[0]
    if reduce == "first":
        return result
    for member in members[1:]:
        if reduce == "max":
            result = np.maximum(result, member)
        elif reduce == "min":
            result = np.minimum(result, member)
        else:
            result = result + member
    return result / len(members) if reduce == "mean" else result
