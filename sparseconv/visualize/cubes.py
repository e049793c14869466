"""Voxels as the faces that can be seen, coloured and shaded, for any renderer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparseconv.datasets.boxes import box_corners
from sparseconv.visualize.scene import Scene

# Direction of each face, its corners counter-clockwise seen from outside (as signs along x, y, z), and how much of
# the light from above and from the front it gives back.
_FACES = (
    ((0, 0, 1), ((-1, -1, 1), (1, -1, 1), (1, 1, 1), (-1, 1, 1)), 1.0),
    ((0, 0, -1), ((-1, 1, -1), (1, 1, -1), (1, -1, -1), (-1, -1, -1)), 0.45),
    ((-1, 0, 0), ((-1, -1, -1), (-1, -1, 1), (-1, 1, 1), (-1, 1, -1)), 0.82),
    ((1, 0, 0), ((1, -1, -1), (1, 1, -1), (1, 1, 1), (1, -1, 1)), 0.6),
    ((0, -1, 0), ((-1, -1, -1), (1, -1, -1), (1, -1, 1), (-1, -1, 1)), 0.7),
    ((0, 1, 0), ((-1, 1, -1), (-1, 1, 1), (1, 1, 1), (1, 1, -1)), 0.7),
)
# Edges of a box as pairs of corners: lower face, upper face, between them, and a cross on the front.
BOX_EDGES = (
    *((0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4)),
    *((0, 4), (1, 5), (2, 6), (3, 7), (0, 7), (3, 4)),
)


@dataclass(frozen=True, eq=False)
class Faces:
    """Squares to draw.

    Attributes:
        corners: ``[F, 4, 3]``, counter-clockwise seen from outside.
        colours: ``[F, 3]`` from 0 to 1, shaded.
    """

    corners: NDArray[np.float64]
    colours: NDArray[np.float64]


def visible_faces(scene: Scene) -> Faces:
    """The faces between a voxel and an empty cell."""
    size = np.array(scene.voxel_size)
    lowest = scene.centres.min(0) if len(scene.centres) else np.zeros(3)
    cells = np.round((scene.centres - lowest) / size).astype(np.int64)
    span = cells.max(0, initial=0) + 3
    keys = ((cells[:, 0] + 1) * span[1] + cells[:, 1] + 1) * span[2] + cells[:, 2] + 1
    ordered = np.sort(keys)
    colours = scene.colours()
    corners, shades = [], []
    for direction, signs, shade in _FACES:
        step = (direction[0] * span[1] + direction[1]) * span[2] + direction[2]
        places = np.searchsorted(ordered, keys + step)
        covered = ordered[np.minimum(places, len(ordered) - 1)] == keys + step if len(keys) else np.zeros(0, bool)
        offsets = np.array(signs) * size / 2
        corners.append(scene.centres[~covered, None] + offsets)
        shades.append(colours[~covered] * shade)
    return Faces(np.concatenate(corners), np.concatenate(shades))


def box_lines(scene: Scene) -> NDArray[np.float64]:
    """Edges of the boxes: ``[B, E, 2, 3]``."""
    if len(scene.boxes) == 0:
        return np.zeros((0, len(BOX_EDGES), 2, 3))
    return box_corners(scene.boxes)[:, np.array(BOX_EDGES)]
