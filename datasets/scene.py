"""A simulated scene: solids, and the objects that they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from .solids import SHAPE_ID, Float64, Int32, Solids

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class SceneObject:
    """One thing in a scene that a detector is to find.

    Attributes:
        instance: its number, from 1 on; the same in every frame of a sequence.
        kind: its class name.
        box: centre x y z, length, width, height, heading at time 0: the smallest that holds it.
        velocity: vx vy in metres a second.
    """

    instance: int
    kind: str
    box: tuple[float, ...]
    velocity: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Scene:
    """Everything in it, at time 0.

    Attributes:
        solids: `S` of them.
        classes: `[S]` int32.
        instances: `[S]` int32; 0 belongs to no object.
        tints: `[S]` int32 numbers of `palette`.
        palette: colours `r g b`, 0 to 255.
        objects: with their boxes.
    """

    solids: Solids
    classes: Int32
    instances: Int32
    tints: Int32
    palette: Float64
    objects: tuple[SceneObject, ...]


@dataclass(eq=False)
class Placement:
    """Where an object stands: parts are given in its own frame, x ahead, y left, z up from the ground.

    Attributes:
        x: metres.
        y: metres.
        z: metres, of its lowest point.
        yaw: radians.
        velocity: vx vy.
    """

    x: float
    y: float
    z: float = 0.0
    yaw: float = 0.0
    velocity: tuple[float, float] = (0.0, 0.0)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """A point of the object's frame in the scene's."""
        cos, sin = float(np.cos(self.yaw)), float(np.sin(self.yaw))
        return self.x + cos * x - sin * y, self.y + sin * x + cos * y


@dataclass(eq=False)
class SceneBuilder:
    """Collects a scene, object by object.

    Attributes:
        rng: the source of every choice.
        class_id: class numbers by name.
    """

    rng: np.random.Generator
    class_id: Mapping[str, int]
    _centers: list[Triple] = field(default_factory=list)
    _sizes: list[Triple] = field(default_factory=list)
    _yaws: list[float] = field(default_factory=list)
    _shapes: list[int] = field(default_factory=list)
    _velocities: list[Triple] = field(default_factory=list)
    _classes: list[int] = field(default_factory=list)
    _instances: list[int] = field(default_factory=list)
    _tints: list[int] = field(default_factory=list)
    _palette: list[Triple] = field(default_factory=lambda: [(128.0, 128.0, 128.0)])
    _standing: list[tuple[int, str, Placement]] = field(default_factory=list)

    def uniform(self, low: float, high: float) -> float:
        """One number between two limits."""
        return float(self.rng.uniform(low, high))

    def tint(self, *colours: Triple) -> int:
        """One of these colours, a little lighter or darker, as a number for `part`."""
        colour = np.array(colours[int(self.rng.integers(len(colours)))]) * self.uniform(0.85, 1.1)
        self._palette.append(tuple(np.clip(colour, 0, 255).tolist()))
        return len(self._palette) - 1

    def part(
        self,
        kind: str,
        place: Placement,
        size: Triple,
        *,
        at: Triple = (0.0, 0.0, 0.0),
        shape: str = "box",
        yaw: float = 0.0,
        instance: int = 0,
        tint: int = 0,
    ) -> None:
        """Add one solid; `at` is the middle of its lower side in the object's frame."""
        self._centers.append((*place.at(at[0], at[1]), place.z + at[2] + size[2] / 2))
        self._sizes.append(size)
        self._yaws.append(place.yaw + yaw)
        self._shapes.append(SHAPE_ID[shape])
        self._velocities.append((*place.velocity, 0.0))
        self._classes.append(self.class_id[kind])
        self._instances.append(instance)
        self._tints.append(tint)

    def stand(self, kind: str, place: Placement, instance: int) -> None:
        """Note that a detector is to find this object, which faces as the placement does."""
        self._standing.append((instance, kind, place))

    def scene(self) -> Scene:
        """What was collected."""
        count = len(self._centers)

        def table(values: list[Triple]) -> Float64:
            return np.array(values, np.float64).reshape(count, 3)

        def numbers(values: list[int]) -> npt.NDArray[np.int32]:
            return np.array(values, np.int32)

        yaws = np.array(self._yaws, np.float64)
        solids = Solids(
            table(self._centers), table(self._sizes), yaws, numbers(self._shapes), table(self._velocities)
        )
        return Scene(
            solids,
            numbers(self._classes),
            numbers(self._instances),
            numbers(self._tints),
            np.array(self._palette, np.float64),
            _objects(solids, numbers(self._instances), self._standing),
        )


def _objects(
    solids: Solids, instances: Int32, standing: list[tuple[int, str, Placement]]
) -> tuple[SceneObject, ...]:
    """The smallest box of each object that faces as the object does."""
    order = {instance: number for number, (instance, _, _) in enumerate(standing)}
    owner = np.array([order.get(instance, -1) for instance in instances.tolist()], np.int64)
    yaws = np.array([place.yaw for _, _, place in standing])
    low, high = np.full((len(standing), 3), np.inf), np.full((len(standing), 3), -np.inf)
    for rows, vertices in solids.placed_vertices():
        mine = owner[rows]
        rows, vertices = mine[mine >= 0], vertices[mine >= 0]
        cos, sin = np.cos(yaws[rows])[:, None], np.sin(yaws[rows])[:, None]
        x, y, z = np.moveaxis(vertices, -1, 0)
        own = np.stack([cos * x + sin * y, cos * y - sin * x, z], -1)
        np.minimum.at(low, rows, own.min(axis=1))
        np.maximum.at(high, rows, own.max(axis=1))
    objects = []
    for (instance, kind, place), lower, upper in zip(standing, low, high, strict=True):
        (x, y, z), size = (lower + upper) / 2, upper - lower
        cos, sin = np.cos(place.yaw), np.sin(place.yaw)
        box = (cos * x - sin * y, sin * x + cos * y, z, *size, place.yaw)
        objects.append(SceneObject(instance, kind, tuple(float(value) for value in box), place.velocity))
    return tuple(objects)


def points_of_objects(instances: Int32, numbers: Int32) -> Int32:
    """How many points each object has.

    Args:
        instances: `[N]` object of each point.
        numbers: `[B]` of the objects.

    Returns:
        `[B]`.
    """
    known, counts = np.unique(instances, return_counts=True)
    count_of = dict(zip(known.tolist(), counts.tolist(), strict=True))
    return np.array([count_of.get(number, 0) for number in numbers.tolist()], np.int32)
