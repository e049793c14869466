"""Where a scene is seen from."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from sparseconv.visualize.scene import Scene

# A scan that lies around a sensor at the origin is seen from behind and above it.
_BEHIND = (-13.0, -4.0, 9.0)
_LOOK_AHEAD = 11.0
_DRIVING_EXTENT = (20.0, 400.0)
FIELD_OF_VIEW = 50.0
_CORNER = np.array([-0.75, -0.85, 0.62])
# What else there is to see is seen from where nearly all of it fills this share of a wide picture.
_INNER, _FILLED, _ASPECT = (0.5, 99.5), 0.92, 16 / 9


@dataclass(frozen=True, eq=False)
class Camera:
    """A viewer.

    Attributes:
        eye: ``[3]``.
        target: ``[3]``, the middle of the picture.
    """

    eye: NDArray[np.float64]
    target: NDArray[np.float64]

    @classmethod
    def looking_at(cls, scene: Scene) -> Camera:
        """From behind the sensor over a driving scan, from an upper corner at anything else."""
        if len(scene.centres) == 0:
            return cls(np.array([-3.0, -3.0, 3.0]), np.zeros(3))
        low, high = scene.centres.min(0), scene.centres.max(0)
        extent = high - low
        around = bool((low[:2] <= 1.0).all() and (high[:2] >= -1.0).all())
        size = extent[:2].min(), extent[:2].max()
        if (
            around
            and _DRIVING_EXTENT[0] < size[0]
            and size[1] < _DRIVING_EXTENT[1]
            and extent[2] < 0.5 * extent[:2].max()
        ):
            ground = float(np.percentile(scene.centres[:, 2], 5))
            return cls(np.array(_BEHIND), np.array([_LOOK_AHEAD, 0.0, ground]))
        middle = np.percentile(scene.centres, _INNER, axis=0).mean(0)
        direction = _CORNER / np.linalg.norm(_CORNER)
        for _ in range(3):
            # What is near looks larger, so that the middle of the cloud is not the middle of the picture.
            camera = cls(middle + direction * _distance(scene, cls(middle + direction, middle)), middle)
            seen = (scene.centres - camera.eye) @ camera.axes().T
            off = np.percentile(seen[:, :2] / seen[:, 2:], _INNER, axis=0).mean(0) * camera.reach
            middle = middle + off @ camera.axes()[:2]
        return cls(middle + direction * _distance(scene, cls(middle + direction, middle)), middle)

    @property
    def reach(self) -> float:
        """Distance of the target."""
        return float(np.linalg.norm(self.target - self.eye))

    @property
    def near(self) -> float:
        """What is nearer is not drawn."""
        return 0.01 * self.reach

    def axes(self) -> NDArray[np.float64]:
        """Rows: to the right, downwards, ahead; ``[3, 3]``."""
        ahead = self.target - self.eye
        ahead = ahead / np.linalg.norm(ahead)
        right = np.cross(ahead, [0.0, 0.0, 1.0])
        right = right / max(float(np.linalg.norm(right)), 1e-9)
        return np.stack([right, np.cross(ahead, right), ahead])

    def project(self, points: NDArray[np.float64], width: int, height: int) -> NDArray[np.float64]:
        """Pixel column, row and depth of points ``[.., 3]``."""
        seen = (points - self.eye) @ self.axes().T
        depth = np.maximum(seen[..., 2:], 1e-6)
        pixels = seen[..., :2] / depth * focal(height) + np.array([width, height]) / 2
        return np.concatenate([pixels, seen[..., 2:]], -1)


def _distance(scene: Scene, camera: Camera) -> float:
    """How far from its target a camera must be to see nearly all voxels with all of their corners."""
    axes = camera.axes()
    centres = axes @ (scene.centres - camera.target).T
    upright = _FILLED * np.tan(np.deg2rad(FIELD_OF_VIEW / 2))
    needed = np.full(len(scene.centres), -np.inf)
    for signs in product((-0.5, 0.5), repeat=3):
        x, y, z = centres + (axes @ (np.array(signs) * scene.voxel_size))[:, None]
        needed = np.maximum(needed, np.maximum(np.abs(x) / (upright * _ASPECT), np.abs(y) / upright) - z)
    return max(float(np.percentile(needed, _INNER[1])), 1e-3)


def focal(height: int) -> float:
    """Focal length in pixels of a picture so high."""
    return 0.5 * height / float(np.tan(np.deg2rad(FIELD_OF_VIEW / 2)))
