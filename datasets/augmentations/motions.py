"""Motions of a whole sample, by a given amount: points, normals, velocities and boxes together.

`sample.augmentation` collects them. `pose` and `calibration` stay those of the original coordinates.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from sparseconv.datasets.boxes import as_boxes
from sparseconv.datasets.sample import Float64, Sample

# Columns that are directions, which turn and flip with the points but neither shift nor grow.
_DIRECTIONS = (("nx", "ny", "nz"), ("vx", "vy", "vz"), ("vx", "vy"))


def flip_along(sample: Sample, axis: Literal["x", "y"]) -> Sample:
    """Mirror a sample: `"y"` turns left into right, `"x"` ahead into behind.

    Raises:
        ValueError: another axis.
    """
    if axis not in ("x", "y"):
        raise ValueError(f"axis must be 'x' or 'y', got {axis!r}")
    matrix = np.diag([-1.0, 1.0, 1.0, 1.0] if axis == "x" else [1.0, -1.0, 1.0, 1.0])
    return _moved(sample, matrix, turn=(np.pi, -1.0) if axis == "x" else (0.0, -1.0))


def rotate_by(sample: Sample, angle: float) -> Sample:
    """Turn a sample about the z axis.

    Args:
        sample: of any kind.
        angle: radians, counter-clockwise seen from above.
    """
    cos, sin = np.cos(_finite("angle", angle)), np.sin(angle)
    matrix = np.eye(4)
    matrix[:2, :2] = [[cos, -sin], [sin, cos]]
    return _moved(sample, matrix, turn=(float(angle), 1.0))


def scale_by(sample: Sample, factor: float) -> Sample:
    """Make a sample larger or smaller about the origin, its boxes' sizes and velocities too.

    Raises:
        ValueError: the factor is not positive.
    """
    if not _finite("factor", factor) > 0:
        raise ValueError(f"factor must be positive, got {factor}")
    return _moved(sample, np.diag([factor, factor, factor, 1.0]), factor=float(factor))


def translate_by(sample: Sample, offset: tuple[float, float, float] | Float64) -> Sample:
    """Shift a sample.

    Args:
        sample: of any kind.
        offset: metres along x, y and z.

    Raises:
        ValueError: it is not three finite numbers.
    """
    shift = np.asarray(offset, np.float64)
    if shift.shape != (3,) or not np.isfinite(shift).all():
        raise ValueError(f"offset must be 3 finite metres, got {offset!r}")
    matrix = np.eye(4)
    matrix[:3, 3] = shift
    return _moved(sample, matrix)


def _finite(name: str, value: float) -> float:
    if not np.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")
    return float(value)


def _moved(
    sample: Sample, matrix: Float64, *, turn: tuple[float, float] = (0.0, 1.0), factor: float = 1.0
) -> Sample:
    """Apply a matrix to the coordinates, `turn[0] + turn[1] * heading` to headings, `factor` to sizes."""
    linear, shift = matrix[:3, :3], matrix[:3, 3]
    points = sample.points.copy()
    points[:, :3] = points[:, :3].astype(np.float64) @ linear.T + shift
    done: set[str] = set()
    for names in _DIRECTIONS:
        if set(names) <= set(sample.fields) and not set(names) & done:
            columns = [sample.fields.index(name) for name in names]
            size = len(names)
            direction = linear[:size, :size] / (factor if names[0] == "nx" else 1.0)
            points[:, columns] = points[:, columns].astype(np.float64) @ direction.T
            done.update(names)
    boxes = sample.boxes
    if boxes is not None:
        wide = boxes.astype(np.float64)
        wide[:, :3] = wide[:, :3] @ linear.T + shift
        wide[:, 3:6] *= factor
        wide[:, 6] = turn[0] + turn[1] * wide[:, 6]
        if wide.shape[1] == 9:
            wide[:, 7:9] = wide[:, 7:9] @ linear[:2, :2].T
        boxes = as_boxes(wide)
    so_far = np.eye(4) if sample.augmentation is None else sample.augmentation
    return sample.replace(points=points, boxes=boxes, augmentation=matrix @ so_far)
