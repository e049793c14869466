"""A triangle mesh, and points spread evenly over its surface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .sample import Float64


@dataclass(frozen=True, eq=False, repr=False)
class TriangleMesh:
    """Corners and triangles.

    Attributes:
        vertices: `[V, 3]` float64.
        triangles: `[T, 3]` int64 rows of `vertices`.

    Raises:
        ValueError: shapes differ, a coordinate is not finite, or a triangle names a corner that does not exist.
    """

    vertices: Float64
    triangles: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        for name, values in (("vertices", self.vertices), ("triangles", self.triangles)):
            if values.ndim != 2 or values.shape[1] != 3:
                raise ValueError(f"{name} must have shape [N, 3], got {values.shape}")
        if not np.isfinite(self.vertices).all():
            raise ValueError("a vertex has a coordinate that is not finite")
        if self.triangles.size:
            low, high = int(self.triangles.min()), int(self.triangles.max())
            if low < 0 or high >= len(self.vertices):
                wrong = low if low < 0 else high
                raise ValueError(f"a face names vertex {wrong} of {len(self.vertices)}")

    def __repr__(self) -> str:
        """Sizes only."""
        return f"TriangleMesh(vertices={len(self.vertices)}, triangles={len(self.triangles)})"

    def normals(self) -> Float64:
        """`[T, 3]` cross products of two sides: twice the area long, by the right hand of the corners' order."""
        a, b, c = (self.vertices[self.triangles[:, corner]] for corner in range(3))
        return np.cross(b - a, c - a)


def sample_surface(
    mesh: TriangleMesh, count: int, rng: np.random.Generator
) -> tuple[Float64, Float64, npt.NDArray[np.int64]]:
    """Points drawn evenly over the surface: a triangle by its area, then a place in it.

    Args:
        mesh: with an area that is not zero.
        count: how many points.
        rng: decides where.

    Returns:
        `[count, 3]` points, `[count, 3]` unit normals and `[count]` triangles, of each point.

    Raises:
        ValueError: the mesh has no area.
    """
    if count < 0:
        raise ValueError(f"count must be a number of points >= 0, got {count}")
    # In units of the mesh's own size, so that areas neither vanish nor overflow.
    with np.errstate(over="ignore", invalid="ignore"):
        extent = float(np.ptp(mesh.vertices, axis=0).max()) if len(mesh.vertices) else 0.0
        unit = TriangleMesh(mesh.vertices / extent, mesh.triangles) if 0 < extent < np.inf else mesh
        normals = unit.normals() if 0 < extent < np.inf else np.zeros((0, 3))
    twice_area = np.linalg.norm(normals, axis=1)
    total = np.cumsum(twice_area)
    if not len(total) or not 0 < total[-1] < np.inf:
        raise ValueError("the mesh has no surface to draw points from: it has no triangle with an area")
    triangle = np.searchsorted(total, rng.random(count) * total[-1], side="right")
    # Rounding may reach the end, and triangles without area behind the last one that has some.
    triangle = np.minimum(triangle, np.flatnonzero(twice_area)[-1])
    u, v = rng.random((2, count, 1))
    # The other half of the parallelogram is folded back onto the triangle.
    outside = u + v > 1
    u, v = np.where(outside, 1 - u, u), np.where(outside, 1 - v, v)
    a, b, c = (mesh.vertices[mesh.triangles[triangle, corner]] for corner in range(3))
    points = a + u * (b - a) + v * (c - a)
    return points, normals[triangle] / twice_area[triangle, None], triangle


def fan(corners: Sequence[int]) -> list[tuple[int, int, int]]:
    """The triangles of a convex polygon, all from its first corner; none for fewer than three corners."""
    return [(corners[0], corners[i], corners[i + 1]) for i in range(1, len(corners) - 1)]
