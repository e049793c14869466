"""A spinning LiDAR's range image as points: rows are inclinations, columns azimuths."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .sample import Float64


def uniform_inclinations(low: float, high: float, rows: int) -> Float64:
    """`[rows]` radians, ascending: the middle of each of `rows` equal steps from `low` to `high`."""
    return low + (high - low) * (np.arange(rows) + 0.5) / rows


def rotation_of_angles(roll: npt.ArrayLike, pitch: npt.ArrayLike, yaw: npt.ArrayLike) -> Float64:
    """`[..., 3, 3]`: about x by `roll`, then about y by `pitch`, then about z by `yaw`; radians."""
    roll, pitch, yaw = (np.asarray(angle, np.float64) for angle in (roll, pitch, yaw))
    (cr, cp, cy), (sr, sp, sy) = ([function(a) for a in (roll, pitch, yaw)] for function in (np.cos, np.sin))
    rows = [
        [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
        [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
        [-sp, cp * sr, cp * cr],
    ]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def range_image_points(
    ranges: npt.NDArray[np.floating],
    inclinations: Float64,
    extrinsic: Float64,
    *,
    pixel_poses: npt.NDArray[np.floating] | None = None,
    frame_pose: Float64 | None = None,
) -> Float64:
    """Points of the pixels with a return, in the vehicle's frame.

    Column `c` of `W` looks at azimuth `pi (2 (W - c - 1/2) / W - 1) - atan2(e10, e00)`, with `e` the extrinsic:
    the image's middle looks ahead of the vehicle, wherever the sensor's own zero is.

    Args:
        ranges: `[H, W]` metres; 0 or less: no return.
        inclinations: `[H]` radians of the rows, from the top row down.
        extrinsic: `[4, 4]` vehicle from sensor.
        pixel_poses: `[H, W, 6]` roll, pitch, yaw (radians) and x, y, z (metres): world from vehicle at the moment
            of each pixel, or None where the vehicle is taken to stand still for the turn.
        frame_pose: `[4, 4]` world from vehicle, of the frame in which the points are wanted; needed with
            `pixel_poses`.

    Returns:
        `[N, 3]` float64, in the order of rows and columns.

    Raises:
        ValueError: shapes that do not fit, or `pixel_poses` without `frame_pose`.
    """
    height, width = ranges.shape
    if inclinations.shape != (height,):
        raise ValueError(f"inclinations must hold one angle for each of {height} rows, got {inclinations.shape}")
    row, column = np.nonzero(ranges > 0)
    distance = ranges[row, column].astype(np.float64)
    ahead = np.arctan2(extrinsic[1, 0], extrinsic[0, 0])
    azimuth = np.pi * (2 * (width - column - 0.5) / width - 1) - ahead
    inclination = inclinations[row]
    level = np.cos(inclination) * distance
    xyz = np.stack([np.cos(azimuth) * level, np.sin(azimuth) * level, np.sin(inclination) * distance], -1)
    xyz = xyz @ extrinsic[:3, :3].T + extrinsic[:3, 3]
    if pixel_poses is None:
        return xyz
    if frame_pose is None or pixel_poses.shape != (height, width, 6):
        raise ValueError(
            f"pixel_poses must have shape {(height, width, 6)} and come with a frame_pose, got {pixel_poses.shape}"
        )
    pose = pixel_poses[row, column].astype(np.float64)
    world = np.einsum("nij,nj->ni", rotation_of_angles(*pose[:, :3].T), xyz) + pose[:, 3:]
    to_vehicle = np.linalg.inv(frame_pose)
    return world @ to_vehicle[:3, :3].T + to_vehicle[:3, 3]
