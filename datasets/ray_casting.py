"""Which box a ray from the sensor hits first: with Open3D, or with NumPy alone.

A caster only chooses the box; the distance comes from `box_entry` in float64 in either case. So
both give the same points, except for rays that pass an edge closer than float32 can tell.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from .open3d_import import open3d_or_none, open3d_problem

Float64 = npt.NDArray[np.float64]
BoxIndex = npt.NDArray[np.int32]

# In place of a direction component of zero, whose slab has no finite distances: at 200 m it moves
# a ray by 2e-10 m.
_SMALLEST_COMPONENT = 1e-12

# Widens the angular range of a box, so that rounding never excludes a ray on its silhouette.
_ANGLE_MARGIN = 1e-9

# Corners of the unit cube by the bits of their number, and two triangles for each of its faces.
_CORNERS = np.array([[i & 1, i >> 1 & 1, i >> 2 & 1] for i in range(8)]) - 0.5
_TRIANGLES = np.array(
    [
        *([0, 2, 1], [1, 2, 3], [4, 5, 6], [5, 7, 6], [0, 1, 4], [1, 5, 4]),
        *([2, 6, 3], [3, 6, 7], [0, 4, 2], [2, 4, 6], [1, 3, 5], [3, 7, 5]),
    ],
    dtype=np.uint32,
)


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes that stand upright and are turned about the vertical.

    Attributes:
        centers: `[B, 3]` float64 metres.
        sizes: `[B, 3]` float64 metres, full lengths along the axes of the box.
        yaws: `[B]` float64 radians, from the x axis towards the y axis.
    """

    centers: Float64
    sizes: Float64
    yaws: Float64

    def __len__(self) -> int:
        return len(self.centers)

    def corners(self) -> Float64:
        """`[B, 8, 3]` corner positions."""
        local = self.sizes[:, None, :] * _CORNERS
        cos, sin = np.cos(self.yaws)[:, None], np.sin(self.yaws)[:, None]
        turned = np.stack(
            [
                cos * local[..., 0] - sin * local[..., 1],
                sin * local[..., 0] + cos * local[..., 1],
                local[..., 2],
            ],
            axis=-1,
        )
        return turned + self.centers[:, None, :]


def box_entry(directions: Float64, boxes: Boxes, index: BoxIndex) -> tuple[Float64, Float64]:
    """Where rays from the origin enter one box each (slab method).

    Args:
        directions: `[R, 3]` float64.
        boxes: the scene.
        index: `[R]` int32, the box that each ray is cast at.

    Returns:
        Distance `[R]` in units of the direction's length, infinite for a miss, and the cosine
        `[R]` between the ray and the face it enters through, 0 to 1 for unit directions.
    """
    cos, sin = np.cos(boxes.yaws)[index], np.sin(boxes.yaws)[index]
    entry = np.full(len(directions), -np.inf)
    leave = np.full(len(directions), np.inf)
    cosine = np.zeros(len(directions))
    center, half = boxes.centers[index], boxes.sizes[index] / 2
    along = (
        (
            cos * directions[:, 0] + sin * directions[:, 1],
            cos * center[:, 0] + sin * center[:, 1],
        ),
        (
            cos * directions[:, 1] - sin * directions[:, 0],
            cos * center[:, 1] - sin * center[:, 0],
        ),
        (directions[:, 2], center[:, 2]),
    )
    for axis, (component, middle) in enumerate(along):
        step = np.where(np.abs(component) < _SMALLEST_COMPONENT, _SMALLEST_COMPONENT, component)
        first, second = (middle - half[:, axis]) / step, (middle + half[:, axis]) / step
        near = np.minimum(first, second)
        leave = np.minimum(leave, np.maximum(first, second))
        cosine = np.where(near > entry, np.abs(component), cosine)
        entry = np.maximum(entry, near)
    hit = (entry <= leave) & (entry > 0)
    return np.where(hit, entry, np.inf), cosine


def cast_with_numpy(directions: Float64, boxes: Boxes) -> BoxIndex:
    """The first box along each ray, tested only where the angles of ray and box overlap.

    Args:
        directions: `[R, 3]` float64 unit vectors from the origin.
        boxes: `B` boxes, none of which contains the origin.

    Returns:
        `[R]` int32 box index, -1 for a ray that hits none.
    """
    azimuth = np.arctan2(directions[:, 1], directions[:, 0])
    order = np.argsort(azimuth, kind="stable")
    # Three turns, so that the range of a box that straddles +-180 degrees is one slice.
    turns = np.concatenate([azimuth[order] + shift for shift in (-2 * np.pi, 0.0, 2 * np.pi)])
    slope = directions[:, 2] / np.maximum(np.hypot(directions[:, 0], directions[:, 1]), 1e-12)

    nearest = np.full(len(directions), np.inf)
    winner = np.full(len(directions), -1, dtype=np.int32)
    ranges = _angular_ranges(boxes)
    for number, (low, high, slope_low, slope_high) in enumerate(ranges):
        start, stop = np.searchsorted(turns, [low, high], side="left")
        stop = min(stop, start + len(order))
        rays = order[np.arange(start, stop) % len(order)] if len(order) else order
        rays = rays[(slope[rays] >= slope_low) & (slope[rays] <= slope_high)]
        distance, _ = box_entry(directions[rays], boxes, np.full(len(rays), number, dtype=np.int32))
        closer = distance < nearest[rays]
        nearest[rays[closer]] = distance[closer]
        winner[rays[closer]] = number
    return winner


def _angular_ranges(boxes: Boxes) -> Float64:
    """`[B, 4]`: azimuth from and to (radians), slope `z / horizontal distance` from and to."""
    corners = boxes.corners()
    middle = np.arctan2(boxes.centers[:, 1], boxes.centers[:, 0])
    # Relative to the middle no angle wraps: a box that leaves out the origin spans under 180 deg.
    offset = np.arctan2(corners[..., 1], corners[..., 0]) - middle[:, None]
    offset = (offset + np.pi) % (2 * np.pi) - np.pi
    low, high = middle + offset.min(axis=1), middle + offset.max(axis=1)

    # Horizontal distance of the footprint: zero where the origin lies above or below it.
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


def cast_with_open3d(open3d: ModuleType, directions: Float64, boxes: Boxes) -> BoxIndex:
    """The first box along each ray, by Open3D's `RaycastingScene`.

    Args:
        open3d: the imported module.
        directions: `[R, 3]` float64 unit vectors from the origin.
        boxes: `B` boxes, none of which contains the origin.

    Returns:
        `[R]` int32 box index, -1 for a ray that hits none.
    """
    if not len(boxes) or not len(directions):
        return np.full(len(directions), -1, dtype=np.int32)
    vertices = boxes.corners().reshape(-1, 3).astype(np.float32)
    first = np.arange(len(boxes), dtype=np.uint32)[:, None, None] * np.uint32(8)
    triangles = (first + _TRIANGLES).reshape(-1, 3)
    rays = np.zeros((len(directions), 6), dtype=np.float32)
    rays[:, 3:] = directions

    tensor: Callable[[npt.NDArray[Any]], Any] = open3d.core.Tensor
    scene = open3d.t.geometry.RaycastingScene()
    scene.add_triangles(tensor(vertices), tensor(triangles))
    triangle = scene.cast_rays(tensor(rays))["primitive_ids"].numpy()
    missed = triangle == scene.INVALID_ID
    return np.where(missed, -1, triangle.astype(np.int64) // len(_TRIANGLES)).astype(np.int32)


def first_box(directions: Float64, boxes: Boxes, caster: str = "auto") -> BoxIndex:
    """The first box along each ray.

    Args:
        directions: `[R, 3]` float64 unit vectors from the origin.
        boxes: `B` boxes, none of which contains the origin.
        caster: `"open3d"`, `"numpy"`, or `"auto"` for Open3D where it loads.

    Returns:
        `[R]` int32 box index, -1 for a ray that hits none.

    Raises:
        ValueError: another caster.
        RuntimeError: `"open3d"` was asked for and cannot load; the message has the remedy.
    """
    if caster not in ("auto", "open3d", "numpy"):
        raise ValueError(f"caster must be 'auto', 'open3d' or 'numpy', got {caster!r}")
    open3d = None if caster == "numpy" else open3d_or_none()
    if open3d is not None:
        return cast_with_open3d(open3d, directions, boxes)
    if caster == "open3d":
        raise RuntimeError(open3d_problem())
    return cast_with_numpy(directions, boxes)
