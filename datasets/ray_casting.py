"""Which solid a ray hits first: with Open3D, or with NumPy alone.

A caster only chooses the solid; the distance comes from `entry` in float64 in either case. So both give the same
points, except for rays that pass an edge closer than float32 can tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from .open3d_import import open3d_or_none, open3d_problem
from .solids import Float64, Int32, Rays, Solids, entry

CASTERS = ("auto", "open3d", "numpy")

# A turn of a moving scanner is cast in so many groups: within one, a car passes by less than 0.1 m.
_TIME_GROUPS = 24
# Pairs of a ray and a solid that are tested at once: 100 MB of intermediate arrays.
_PAIRS = 400_000

# Widens the angular range of a solid, so that rounding never excludes a ray on its silhouette.
_ANGLE_MARGIN = 1e-9


def check_caster(caster: str) -> None:
    """Refuse a name that is none.

    Raises:
        ValueError: with the names that are.
    """
    if caster not in CASTERS:
        raise ValueError(f"caster must be 'auto', 'open3d' or 'numpy', got {caster!r}")


def cast_rays(rays: Rays, solids: Solids, caster: str = "auto") -> tuple[Int32, Float64, Float64]:
    """The first solid along each ray.

    Args:
        rays: `R` rays; no origin lies in a solid.
        solids: the scene. Moving solids are where they are at the time of each ray.
        caster: `"open3d"`, `"numpy"`, or `"auto"` for Open3D where it loads.

    Returns:
        The solid `[R]` int32, -1 for a ray that hits none; its distance `[R]`, infinite where there is none; the
        cosine `[R]` between the ray and the face it hits.

    Raises:
        ValueError: another caster.
        RuntimeError: `"open3d"` was asked for and cannot load; the message has the remedy.
    """
    check_caster(caster)
    open3d = None if caster == "numpy" else open3d_or_none()
    if open3d is None:
        if caster == "open3d":
            raise RuntimeError(open3d_problem())
        return cast_with_numpy(rays, solids)
    moves = (solids.velocities != 0).any(axis=1)
    standing = np.flatnonzero(~moves)
    winner, distance, cosine = _cast_with_open3d(open3d, rays, solids.select(standing))
    winner = np.where(winner < 0, -1, standing[winner] if len(standing) else -1).astype(np.int32)
    if moves.any():
        moving = np.flatnonzero(moves)
        other, other_distance, other_cosine = cast_with_numpy(rays, solids.select(moving))
        nearer = other_distance < distance
        winner[nearer] = moving[other[nearer]]
        distance[nearer], cosine[nearer] = other_distance[nearer], other_cosine[nearer]
    return winner, distance, cosine


def cast_with_numpy(rays: Rays, solids: Solids) -> tuple[Int32, Float64, Float64]:
    """As `cast_rays`: each solid is tested against the rays whose angles overlap its own.

    Origins may differ: seen from the middle of a group of rays, a solid is taken for as much larger as an origin
    is away from it and as the solid moves, which loses no ray.
    """
    winner = np.full(len(rays), -1, dtype=np.int32)
    distance = np.full(len(rays), np.inf)
    cosine = np.zeros(len(rays))
    if len(rays) and len(solids):
        for rows in _groups(rays):
            group = rays.select(rows)
            for ray, solid in _candidates(group, solids):
                found, angle = entry(group.select(ray), solids, solid)
                hit = np.flatnonzero(np.isfinite(found))
                # Of each ray the nearest hit, the first solid where two are equally near.
                hit = hit[np.lexsort((solid[hit], found[hit], ray[hit]))]
                hit = hit[np.diff(ray[hit], prepend=-1) > 0]
                hit = hit[found[hit] < distance[rows[ray[hit]]]]
                target = rows[ray[hit]]
                winner[target], distance[target], cosine[target] = solid[hit], found[hit], angle[hit]
    return winner, distance, cosine


def _groups(rays: Rays) -> list[npt.NDArray[np.int64]]:
    """Rays that leave at nearly the same time and so from nearly the same place, as row numbers."""
    if (rays.times == rays.times[0]).all():
        return [np.arange(len(rays))]
    order = np.argsort(rays.times, kind="stable")
    return [rows for rows in np.array_split(order, _TIME_GROUPS) if len(rows)]


def _candidates(rays: Rays, solids: Solids) -> Iterator[tuple[npt.NDArray[np.int64], Int32]]:
    """Pairs of a ray and a solid whose angles overlap, in blocks: ray rows and solid rows, solids ascending."""
    middle = (rays.origins.min(axis=0) + rays.origins.max(axis=0)) / 2
    spread = np.linalg.norm(rays.origins - middle, axis=1).max()
    now = (rays.times.min() + rays.times.max()) / 2
    lapse = np.abs(rays.times - now).max()
    there = Solids(
        solids.centers + solids.velocities * now - middle,
        solids.sizes,
        solids.yaws,
        solids.shapes,
        solids.velocities,
    )
    slack = spread + np.linalg.norm(solids.velocities, axis=1) * lapse
    low, high, slope_low, slope_high = _angular_ranges(there, slack).T

    directions = rays.directions
    azimuth = np.arctan2(directions[:, 1], directions[:, 0])
    order = np.argsort(azimuth, kind="stable")
    # Three turns, so that the range of a solid that straddles +-180 degrees is one slice.
    turns = np.concatenate([azimuth[order] + shift for shift in (-2 * np.pi, 0.0, 2 * np.pi)])
    slope = directions[:, 2] / np.maximum(np.hypot(directions[:, 0], directions[:, 1]), 1e-12)
    start = np.searchsorted(turns, low, side="left")
    counts = np.minimum(np.searchsorted(turns, high, side="left") - start, len(order))
    ends = np.cumsum(counts)
    first = 0
    while first < len(solids):
        done = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, done + _PAIRS, side="right")))
        block = np.arange(first, last)
        solid = np.repeat(block, counts[block])
        place = np.arange(len(solid)) - np.repeat(ends[block] - counts[block] - done, counts[block])
        ray = order[(place + start[solid]) % len(order)]
        kept = (slope[ray] >= slope_low[solid]) & (slope[ray] <= slope_high[solid])
        if kept.any():
            yield ray[kept], solid[kept].astype(np.int32)
        first = last


def _angular_ranges(solids: Solids, slack: Float64) -> Float64:
    """Seen from the origin, of the solids' boxes made `slack` `[S]` metres larger on every side.

    Returns:
        `[S, 4]`: azimuth from and to (radians), slope `z / horizontal distance` from and to.
    """
    boxes = Solids(
        solids.centers, solids.sizes + 2 * slack[:, None], solids.yaws, solids.shapes, solids.velocities
    )
    corners = boxes.corners()
    middle = np.arctan2(boxes.centers[:, 1], boxes.centers[:, 0])
    # Relative to the middle no angle wraps: a box that leaves out the origin spans under 180 degrees.
    offset = np.arctan2(corners[..., 1], corners[..., 0]) - middle[:, None]
    offset = (offset + np.pi) % (2 * np.pi) - np.pi
    low, high = middle + offset.min(axis=1), middle + offset.max(axis=1)

    # Horizontal distance of the footprint: zero where the origin lies above or below it, or in it.
    cos, sin = np.cos(boxes.yaws), np.sin(boxes.yaws)
    x, y = boxes.centers[:, 0], boxes.centers[:, 1]
    beyond_x = np.maximum(np.abs(cos * x + sin * y) - boxes.sizes[:, 0] / 2, 0.0)
    beyond_y = np.maximum(np.abs(cos * y - sin * x) - boxes.sizes[:, 1] / 2, 0.0)
    closest = np.hypot(beyond_x, beyond_y)
    farthest = np.hypot(corners[..., 0], corners[..., 1]).max(axis=1)
    around = closest == 0.0
    low[around], high[around] = -np.pi, np.pi

    closest = np.maximum(closest, 1e-12)
    bottom = boxes.centers[:, 2] - boxes.sizes[:, 2] / 2
    top = boxes.centers[:, 2] + boxes.sizes[:, 2] / 2
    slope_low = bottom / np.where(bottom < 0, closest, farthest)
    slope_high = top / np.where(top > 0, closest, farthest)
    margin = _ANGLE_MARGIN
    return np.stack([low - margin, high + margin, slope_low - margin, slope_high + margin], axis=1)


def _cast_with_open3d(open3d: ModuleType, rays: Rays, solids: Solids) -> tuple[Int32, Float64, Float64]:
    """As `cast_rays`, of solids that stand still, by Open3D's `RaycastingScene`."""
    if not len(solids) or not len(rays):
        return np.full(len(rays), -1, np.int32), np.full(len(rays), np.inf), np.zeros(len(rays))
    vertices, triangles, owners = solids.mesh()
    packed = np.concatenate([rays.origins, rays.directions], axis=1).astype(np.float32)
    tensor: Callable[[npt.NDArray[Any]], Any] = open3d.core.Tensor
    scene = open3d.t.geometry.RaycastingScene()
    scene.add_triangles(tensor(vertices.astype(np.float32)), tensor(triangles.astype(np.uint32)))
    triangle = scene.cast_rays(tensor(packed))["primitive_ids"].numpy()
    missed = triangle == scene.INVALID_ID
    winner = np.where(missed, -1, owners[np.where(missed, 0, triangle)]).astype(np.int32)
    distance, cosine = entry(rays, solids, winner)
    # A ray along an edge, which float32 sees and float64 does not.
    return np.where(np.isinf(distance), -1, winner).astype(np.int32), distance, cosine
