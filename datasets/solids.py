"""What simulated scenes are built of: convex solids, stretched, turned about the vertical, and perhaps moving.

Every solid is a polyhedron, wheels, trunks and tree crowns too, so that a caster that works on triangles and one
that works on planes see exactly the same surface.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .mesh import fan

Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]

# Sides of what is round: an octagon errs by 4 % of its radius, millimetres on a pole.
_SIDES = 8


@dataclass(frozen=True, eq=False)
class Polyhedron:
    """A convex solid inside the unit cube around the origin.

    Attributes:
        vertices: `[V, 3]` float64.
        triangles: `[T, 3]` int64, any winding.
        planes: `[F, 4]` float64: outward normals and offsets; a point p is inside where `normal @ p <= offset`.
    """

    vertices: Float64
    triangles: npt.NDArray[np.int64]
    planes: Float64

    @classmethod
    def create(cls, vertices: npt.ArrayLike, faces: Sequence[Sequence[int]]) -> Polyhedron:
        """A solid of plane faces, each a convex polygon's vertex numbers in order around it."""
        points = np.asarray(vertices, np.float64)
        triangles = [triangle for face in faces for triangle in fan(face)]
        middle = points.mean(axis=0)
        planes = []
        for face in faces:
            a, b, c = points[list(face[:3])]
            normal = np.cross(b - a, c - a)
            normal /= np.linalg.norm(normal)
            outward = normal if normal @ (a - middle) > 0 else -normal
            planes.append([*outward, outward @ a])
        return cls(points, np.array(triangles, np.int64), np.array(planes))


def _hexahedron(top: float, back: float = 0.0) -> Polyhedron:
    """A cube whose upper face is `top` times as wide along x and y, shifted by `back` along -x."""
    corners = np.array([[i & 1, i >> 1 & 1, i >> 2 & 1] for i in range(8)]) - 0.5
    upper = corners[:, 2] > 0
    corners[upper, :2] *= top
    corners[upper, 0] -= back
    faces = ((0, 2, 3, 1), (4, 5, 7, 6), (0, 1, 5, 4), (2, 6, 7, 3), (0, 4, 6, 2), (1, 3, 7, 5))
    return Polyhedron.create(corners, faces)


def _prism(outline: Float64, axis: int) -> Polyhedron:
    """An outline `[S, 2]` in the two other axes, drawn along one axis."""
    sides = len(outline)
    low, high = (np.insert(outline, axis, height, axis=1) for height in (-0.5, 0.5))
    around = [(i, (i + 1) % sides, sides + (i + 1) % sides, sides + i) for i in range(sides)]
    caps = [tuple(range(sides)), tuple(range(sides, 2 * sides))]
    return Polyhedron.create(np.concatenate([low, high]), [*around, *caps])


def _octagon() -> Float64:
    angle = (np.arange(_SIDES) + 0.5) * 2 * np.pi / _SIDES
    corners = np.stack([np.cos(angle), np.sin(angle)], -1)
    return 0.5 * corners / np.abs(corners).max()


def _icosahedron() -> Polyhedron:
    golden = (1 + 5**0.5) / 2
    base = [(0.0, a, b) for a in (-1.0, 1.0) for b in (-golden, golden)]
    corners = np.array([np.roll(corner, shift) for shift in range(3) for corner in base])
    gaps = np.linalg.norm(corners[:, None] - corners, axis=-1)
    near = gaps < 2.1
    faces = [
        (i, j, k)
        for i in range(12)
        for j in range(i + 1, 12)
        for k in range(j + 1, 12)
        if near[i, j] and near[j, k] and near[i, k]
    ]
    return Polyhedron.create(corners / (2 * golden), faces)


SHAPES: dict[str, Polyhedron] = {
    "box": _hexahedron(1.0),
    "cabin": _hexahedron(0.72, 0.03),
    "cylinder": _prism(_octagon(), 2),
    "wheel": _prism(_octagon(), 1),
    "ball": _icosahedron(),
    "gable": _prism(np.array([[-0.5, -0.5], [0.5, -0.5], [0.0, 0.5]]), 0),
}
SHAPE_ID = {name: number for number, name in enumerate(SHAPES)}
_SHAPE_LIST = tuple(SHAPES.values())


@dataclass(frozen=True, eq=False)
class Solids:
    """The solids of a scene.

    Attributes:
        centers: `[S, 3]` float64 metres, at time 0.
        sizes: `[S, 3]` float64 metres, what the unit cube is stretched to.
        yaws: `[S]` float64 radians, from the x axis towards the y axis.
        shapes: `[S]` int32 numbers of `SHAPES`.
        velocities: `[S, 3]` float64 metres a second.
    """

    centers: Float64
    sizes: Float64
    yaws: Float64
    shapes: Int32
    velocities: Float64

    def __len__(self) -> int:
        return len(self.centers)

    def select(self, rows: npt.NDArray[np.generic]) -> Solids:
        """Some of the solids."""
        return Solids(
            self.centers[rows], self.sizes[rows], self.yaws[rows], self.shapes[rows], self.velocities[rows]
        )

    def shifted(self, offset: Float64) -> Solids:
        """The same solids with `offset` `[3]` added to their centres."""
        return Solids(self.centers + offset, self.sizes, self.yaws, self.shapes, self.velocities)

    def corners(self) -> Float64:
        """`[S, 8, 3]` corners of the upright boxes that the solids fill."""
        return self._placed(np.arange(len(self)), SHAPES["box"].vertices)

    def _placed(self, rows: npt.NDArray[np.int64], unit: Float64) -> Float64:
        """Points of the unit cube `[V, 3]` where some of the solids have them: `[len(rows), V, 3]`."""
        local = self.sizes[rows, None, :] * unit
        cos, sin = np.cos(self.yaws[rows])[:, None], np.sin(self.yaws[rows])[:, None]
        x = cos * local[..., 0] - sin * local[..., 1]
        y = sin * local[..., 0] + cos * local[..., 1]
        return np.stack([x, y, local[..., 2]], axis=-1) + self.centers[rows, None, :]

    def placed_vertices(self) -> Iterator[tuple[npt.NDArray[np.int64], Float64]]:
        """For each shape the solids of it `[R]`, and their vertices `[R, V, 3]`."""
        for number, shape in enumerate(_SHAPE_LIST):
            rows = np.flatnonzero(self.shapes == number)
            yield rows, self._placed(rows, shape.vertices)

    def mesh(self) -> tuple[Float64, npt.NDArray[np.int64], Int32]:
        """All surfaces as triangles.

        Returns:
            Vertices `[V, 3]`, triangles `[T, 3]`, and the solid of each triangle `[T]`.
        """
        vertices, triangles, owners = [np.zeros((0, 3))], [np.zeros((0, 3), np.int64)], [np.zeros(0, np.int32)]
        count = 0
        for shape, (rows, placed) in zip(_SHAPE_LIST, self.placed_vertices(), strict=True):
            first = count + len(shape.vertices) * np.arange(len(rows))[:, None, None]
            vertices.append(placed.reshape(-1, 3))
            triangles.append((first + shape.triangles).reshape(-1, 3))
            owners.append(np.repeat(rows, len(shape.triangles)).astype(np.int32))
            count += placed.shape[0] * placed.shape[1]
        return np.concatenate(vertices), np.concatenate(triangles), np.concatenate(owners)


@dataclass(frozen=True, eq=False)
class Rays:
    """Light of a scanner.

    Attributes:
        origins: `[R, 3]` float64 metres.
        directions: `[R, 3]` float64 unit vectors.
        times: `[R]` float64 seconds: where moving solids are by then.
    """

    origins: Float64
    directions: Float64
    times: Float64

    @classmethod
    def from_point(cls, directions: Float64, origin: npt.ArrayLike = (0.0, 0.0, 0.0)) -> Rays:
        """Rays that all leave one point at time 0."""
        origins = np.broadcast_to(np.asarray(origin, np.float64), directions.shape)
        return cls(origins, directions, np.zeros(len(directions)))

    def __len__(self) -> int:
        return len(self.directions)

    def select(self, rows: npt.NDArray[np.generic]) -> Rays:
        """Some of the rays."""
        return Rays(self.origins[rows], self.directions[rows], self.times[rows])


def entry(rays: Rays, solids: Solids, index: Int32) -> tuple[Float64, Float64]:
    """Where rays enter one solid each.

    A ray enters a convex solid at the last of the planes that it crosses inwards, if that is before the first that
    it crosses outwards.

    Args:
        rays: `R` rays whose origins lie outside of their solids.
        solids: the scene.
        index: `[R]` int32, the solid that each ray is cast at; negative: none.

    Returns:
        Distance `[R]`, infinite for a miss, and the cosine `[R]` between the ray and the face that it enters
        through, 0 to 1.
    """
    distance = np.full(len(rays), np.inf)
    cosine = np.zeros(len(rays))
    kind = np.where(index >= 0, solids.shapes[np.maximum(index, 0)], -1) if len(solids) else np.full(len(rays), -1)
    for number, shape in enumerate(_SHAPE_LIST):
        rows = np.flatnonzero(kind == number)
        if len(rows):
            distance[rows], cosine[rows] = _entry_of_shape(rays.select(rows), solids, index[rows], shape.planes)
    return distance, cosine


def _entry_of_shape(rays: Rays, solids: Solids, index: Int32, planes: Float64) -> tuple[Float64, Float64]:
    cos, sin = np.cos(solids.yaws)[index], np.sin(solids.yaws)[index]
    size = solids.sizes[index].T
    start = (rays.origins - solids.centers[index] - solids.velocities[index] * rays.times[:, None]).T
    step = rays.directions.T
    # Both in the unit cube's frame; a distance along the ray stays what it is.
    start = np.stack([cos * start[0] + sin * start[1], cos * start[1] - sin * start[0], start[2]]) / size
    step = np.stack([cos * step[0] + sin * step[1], cos * step[1] - sin * step[0], step[2]]) / size
    enters = np.full(len(rays), -np.inf)
    leaves = np.full(len(rays), np.inf)
    face = np.zeros(len(rays), np.int64)
    for number, (nx, ny, nz, offset) in enumerate(planes):
        approach = nx * step[0] + ny * step[1] + nz * step[2]
        gap = offset - (nx * start[0] + ny * start[1] + nz * start[2])
        with np.errstate(divide="ignore", invalid="ignore"):
            at = gap / approach
        inwards = approach < 0
        later = inwards & (at > enters)
        enters[later], face[later] = at[later], number
        outwards = approach > 0
        leaves = np.where(outwards & (at < leaves), at, leaves)
        # Along the face and outside of it.
        leaves[(approach == 0) & (gap < 0)] = -np.inf
    hit = (enters <= leaves) & (enters > 0)
    # A stretched solid's normals are squeezed.
    normal = planes[face, :3].T / size
    local = np.stack([step[axis] * size[axis] for axis in range(3)])
    cosine = np.abs((normal * local).sum(axis=0)) / np.linalg.norm(normal, axis=0)
    return np.where(hit, enters, np.inf), np.minimum(cosine, 1.0)
