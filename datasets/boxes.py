"""Upright boxes in the frame of the points: one convention for every data set.

A box is `x y z dx dy dz heading`, optionally followed by `vx vy`:

- `x y z`: the box's centre in metres, halfway up (the centre of gravity; mmdet3d's LiDAR boxes hold the middle of
  the lower face instead, `z - dz / 2`);
- `dx dy dz`: length along the heading, width across it, height;
- `heading`: radians, counter-clockwise seen from above, 0 where the box faces along +x; in [-pi, pi). This is
  OpenPCDet's sign, and mmdet3d's since version 1.0;
- `vx vy`: metres a second along the axes of the points' frame; NaN where unknown.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

# Corners of the unit box: the lower face counter-clockwise from front left, then the upper one.
_UNIT_CORNERS = np.array(
    [[0.5, 0.5], [-0.5, 0.5], [-0.5, -0.5], [0.5, -0.5]],
)


def wrap_angle(angle: npt.ArrayLike) -> Float64:
    """An angle in radians as its equal in [-pi, pi)."""
    turned = np.mod(np.asarray(angle, np.float64) + np.pi, 2 * np.pi) - np.pi
    # For an angle just below -pi, `mod` rounds up to a whole turn.
    return np.where(turned >= np.pi, -np.pi, turned)


def box_corners_bev(boxes: npt.NDArray[Any]) -> Float64:
    """Corners seen from above, counter-clockwise from front left.

    Args:
        boxes: `[B, 7 or more]`.

    Returns:
        `[B, 4, 2]`.
    """
    boxes = np.asarray(boxes, np.float64)
    local = _UNIT_CORNERS[None] * boxes[:, None, 3:5]
    cos, sin = np.cos(boxes[:, 6])[:, None], np.sin(boxes[:, 6])[:, None]
    x = local[..., 0] * cos - local[..., 1] * sin
    y = local[..., 0] * sin + local[..., 1] * cos
    return np.stack([x, y], -1) + boxes[:, None, :2]


def box_corners(boxes: npt.NDArray[Any]) -> Float64:
    """All corners: the lower face as in `box_corners_bev`, then the upper one in the same order.

    Args:
        boxes: `[B, 7 or more]`.

    Returns:
        `[B, 8, 3]`.
    """
    boxes = np.asarray(boxes, np.float64)
    flat = np.tile(box_corners_bev(boxes), (1, 2, 1))
    height = boxes[:, 2:3] + boxes[:, 5:6] * np.repeat([-0.5, 0.5], 4)[None]
    return np.concatenate([flat, height[..., None]], -1)


def points_in_boxes(points: npt.NDArray[Any], boxes: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which points lie in which boxes, faces included.

    Args:
        points: `[N, 3 or more]`, `x y z` first.
        boxes: `[B, 7 or more]`.

    Returns:
        `[N, B]` bool.
    """
    xyz = np.asarray(points[:, :3], np.float64)
    inside = np.zeros((len(xyz), len(boxes)), np.bool_)
    for column, box in enumerate(np.asarray(boxes, np.float64)):
        offset = xyz - box[:3]
        # Few points are near enough to be turned into the box's frame.
        near = np.flatnonzero(np.abs(offset[:, :2]).max(axis=1, initial=0.0) <= np.hypot(box[3], box[4]))
        offset = offset[near]
        cos, sin = np.cos(box[6]), np.sin(box[6])
        along = offset[:, 0] * cos + offset[:, 1] * sin
        across = offset[:, 1] * cos - offset[:, 0] * sin
        local = np.stack([along, across, offset[:, 2]], -1)
        inside[near, column] = (np.abs(local) <= box[3:6] / 2).all(axis=1)
    return inside


def transform_boxes(boxes: npt.NDArray[Any], matrix: npt.NDArray[Any]) -> Float32:
    """Boxes in another frame.

    Args:
        boxes: `[B, 7 or 9]`.
        matrix: `[4, 4]` rigid motion. The boxes stay upright: only the heading's direction is turned, which is
            exact for a rotation about z.

    Returns:
        float32 of the same shape.
    """
    boxes = np.array(boxes, np.float64)
    rotation, shift = np.asarray(matrix, np.float64)[:3, :3], np.asarray(matrix, np.float64)[:3, 3]
    boxes[:, :3] = boxes[:, :3] @ rotation.T + shift
    ahead = np.stack([np.cos(boxes[:, 6]), np.sin(boxes[:, 6]), np.zeros(len(boxes))], -1) @ rotation.T
    boxes[:, 6] = np.arctan2(ahead[:, 1], ahead[:, 0])
    if boxes.shape[1] == 9:
        moving = np.concatenate([boxes[:, 7:9], np.zeros((len(boxes), 1))], 1) @ rotation.T
        boxes[:, 7:9] = moving[:, :2]
    return as_boxes(boxes)


def as_boxes(values: npt.NDArray[Any]) -> Float32:
    """Rows of numbers as float32 boxes, their headings in [-pi, pi)."""
    values = np.array(values, np.float64)
    values[:, 6] = wrap_angle(values[:, 6])
    result = values.astype(np.float32)
    # float32 rounds the last angles below pi up to it.
    result[:, 6] = np.where(result[:, 6] >= np.float32(np.pi), np.float32(-np.pi), result[:, 6])
    return result


def overlap_bev(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which boxes overlap seen from above; touching is not overlapping.

    Two convex shapes are apart if, and only if, they are apart along the normal of one of their sides.

    Args:
        first: `[A, 7 or more]`.
        second: `[B, 7 or more]`.

    Returns:
        `[A, B]` bool.
    """
    corners_a, corners_b = box_corners_bev(first), box_corners_bev(second)
    apart_a = _apart_along_own_sides(corners_a, corners_b, first)
    return ~(apart_a | _apart_along_own_sides(corners_b, corners_a, second).T)


def _apart_along_own_sides(own: Float64, others: Float64, boxes: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """`[A, B]`: whether a side of box A separates it from box B."""
    heading = np.asarray(boxes, np.float64)[:, 6, None] + np.array([0.0, np.pi / 2])
    axes = np.stack([np.cos(heading), np.sin(heading)], -1)  # [A, 2, 2]
    mine = np.einsum("akd,acd->akc", axes, own)[:, None]
    theirs = np.einsum("akd,bcd->abkc", axes, others)
    apart = (mine.min(-1) >= theirs.max(-1)) | (theirs.min(-1) >= mine.max(-1))
    return apart.any(-1)
