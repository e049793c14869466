"""What stands and moves in a simulated street, each built of a few solids."""

from __future__ import annotations

import numpy as np

from .scene import Placement, SceneBuilder

# Everything here is drawn in proportion to its own height or length, in metres.


def add_car(build: SceneBuilder, place: Placement, instance: int) -> None:
    """A saloon or an estate: body, slanting cabin, four wheels that reach the ground."""
    length, width = build.uniform(3.9, 4.8), build.uniform(1.65, 1.85)
    height = build.uniform(1.4, 1.75)
    build.stand("car", place, instance)
    _lower_body(build, "car", place, (length, width, 0.58 * height), instance)
    cabin = (build.uniform(0.5, 0.68) * length, 0.94 * width, height - 0.55 * height)
    build.part("car", place, cabin, at=(-0.09 * length, 0.0, 0.55 * height), shape="cabin", instance=instance)
    _wheels(build, "car", place, (-0.3 * length, 0.3 * length), width, 0.64, instance)


def add_truck(build: SceneBuilder, place: Placement, instance: int) -> None:
    """A cab and a load on a frame, six wheels."""
    length, width, height = build.uniform(6.5, 9.0), build.uniform(2.2, 2.5), build.uniform(2.8, 3.6)
    build.stand("truck", place, instance)
    build.part("truck", place, (length, 0.5 * width, 0.25), at=(0.0, 0.0, 0.6), instance=instance)
    load = (0.7 * length, width, height - 0.85)
    build.part("truck", place, load, at=(-0.15 * length, 0.0, 0.85), instance=instance)
    cab = (0.24 * length, 0.96 * width, build.uniform(0.66, 0.8) * height - 0.4)
    build.part("truck", place, cab, at=(0.38 * length, 0.0, 0.4), instance=instance)
    axles = (-0.36 * length, -0.22 * length, 0.36 * length)
    _wheels(build, "truck", place, axles, width, 0.95, instance)


def _lower_body(
    build: SceneBuilder, kind: str, place: Placement, size: tuple[float, float, float], instance: int
) -> None:
    """A body that narrows towards its bumpers: the long middle, and a lower, shorter nose and tail."""
    length, width, top = size
    build.part(kind, place, (0.86 * length, width, top - 0.24), at=(-0.01 * length, 0.0, 0.24), instance=instance)
    build.part(kind, place, (length, 0.9 * width, 0.62 * top - 0.24), at=(0.0, 0.0, 0.24), instance=instance)


def _wheels(
    build: SceneBuilder,
    kind: str,
    place: Placement,
    axles: tuple[float, ...],
    width: float,
    diameter: float,
    instance: int,
) -> None:
    for axle in axles:
        for side in (-1, 1):
            at = (axle, side * (width / 2 - 0.12), 0.0)
            build.part(kind, place, (diameter, 0.24, diameter), at=at, shape="wheel", instance=instance)


def add_pedestrian(build: SceneBuilder, place: Placement, instance: int) -> None:
    """Two legs in a stride, torso, two arms, head."""
    height = build.uniform(1.5, 1.9)
    build.stand("pedestrian", place, instance)
    _legs(build, "pedestrian", place, height, build.uniform(0.08, 0.2), instance)
    _upper_body(build, "pedestrian", place, (0.0, 0.48 * height, height), instance)


def add_cyclist(build: SceneBuilder, place: Placement, instance: int) -> None:
    """A rider on two wheels and a frame."""
    height = build.uniform(1.6, 1.8)
    build.stand("cyclist", place, instance)
    for axle in (-0.54, 0.54):
        build.part("cyclist", place, (0.66, 0.06, 0.66), at=(axle, 0.0, 0.0), shape="wheel", instance=instance)
    build.part("cyclist", place, (0.9, 0.05, 0.3), at=(0.0, 0.0, 0.4), instance=instance)
    build.part("cyclist", place, (0.05, 0.5, 0.05), at=(0.42, 0.0, 0.95), instance=instance)
    for side in (-0.11, 0.11):
        build.part(
            "cyclist", place, (0.2, 0.13, 0.55), at=(-0.05, side, 0.35), shape="cylinder", instance=instance
        )
    _upper_body(build, "cyclist", place, (0.0, 0.85, height), instance)


def _legs(build: SceneBuilder, kind: str, place: Placement, height: float, stride: float, instance: int) -> None:
    for side, ahead in ((-0.1, stride), (0.1, -stride)):
        size = (0.16, 0.15, 0.5 * height)
        build.part(kind, place, size, at=(ahead, side, 0.0), shape="cylinder", instance=instance)


def _upper_body(
    build: SceneBuilder, kind: str, place: Placement, stand: tuple[float, float, float], instance: int
) -> None:
    """Torso, arms and head, from the hips (x, z) up to the crown."""
    x, hips, crown = stand
    body = crown - hips
    torso = (0.26, 0.42, 0.66 * body)
    build.part(kind, place, torso, at=(x, 0.0, hips), shape="cylinder", instance=instance)
    for side in (-0.26, 0.26):
        arm = (0.12, 0.12, 0.62 * body)
        build.part(kind, place, arm, at=(x, side, hips + 0.02 * body), shape="cylinder", instance=instance)
    head = (0.22, 0.2, 0.3 * body)
    build.part(kind, place, head, at=(x, 0.0, crown - 0.3 * body), shape="ball", instance=instance)


def add_tree(build: SceneBuilder, place: Placement, instance: int) -> None:
    """A trunk, and a crown of many small lumps with gaps between them."""
    thickness, trunk = build.uniform(0.2, 0.45), build.uniform(2.0, 3.2)
    spread = build.uniform(1.8, 3.4)
    size = (thickness, thickness, trunk + 0.5 * spread)
    build.part("trunk", place, size, shape="cylinder", instance=instance)
    for _ in range(int(build.uniform(12.0, 20.0))):
        lump = build.uniform(0.22, 0.42) * spread
        around, out = build.uniform(0.0, 2 * np.pi), spread * 0.55 * build.uniform(0.0, 1.0) ** 0.5
        at = (
            out * float(np.cos(around)),
            out * float(np.sin(around)),
            trunk - 0.3 + build.uniform(0.0, 0.9) * spread,
        )
        yaw = build.uniform(0.0, 1.5)
        ball = (lump, lump, 0.8 * lump)
        build.part("vegetation", place, ball, at=at, shape="ball", yaw=yaw, instance=instance)


def add_bush(build: SceneBuilder, place: Placement, span: float, instance: int) -> None:
    """Three lumps on the ground."""
    for _ in range(3):
        at = (build.uniform(-0.3, 0.3) * span, build.uniform(-0.3, 0.3) * span, 0.0)
        size = (0.8 * span, 0.8 * span, build.uniform(0.5, 0.9) * span)
        build.part("vegetation", place, size, at=at, shape="ball", yaw=build.uniform(0.0, 1.5), instance=instance)


def add_lamp(build: SceneBuilder, place: Placement, side: int, instance: int) -> None:
    """A lamp post whose arm hangs over the road, which lies towards `-side`."""
    height = build.uniform(4.5, 8.0)
    build.part("pole", place, (0.16, 0.16, height), shape="cylinder", instance=instance)
    build.part("pole", place, (0.1, 1.6, 0.1), at=(0.0, -0.8 * side, height - 0.15), instance=instance)
    build.part("pole", place, (0.25, 0.6, 0.12), at=(0.0, -1.5 * side, height - 0.27), instance=instance)


def add_sign(build: SceneBuilder, place: Placement, instance: int) -> None:
    """A plate across the road's direction, on a thin post."""
    height, plate = build.uniform(2.2, 2.9), build.uniform(0.5, 0.8)
    build.part("pole", place, (0.07, 0.07, height), shape="cylinder", instance=instance)
    build.part("sign", place, (0.03, plate, plate), at=(0.06, 0.0, height - plate), instance=instance)


def add_house(
    build: SceneBuilder, place: Placement, size: tuple[float, float, float], side: int, instance: int
) -> None:
    """Walls, an entrance and window bays towards the road, and a gable roof or a flat one."""
    width, depth, height = size
    build.part("building", place, size, instance=instance)
    front = -side * depth / 2
    bay = (build.uniform(1.5, 4.0), 1.2, build.uniform(2.5, height))
    build.part("building", place, bay, at=(build.uniform(-0.3, 0.3) * width, front, 0.0), instance=instance)
    # Sills and frames stand out by centimetres: a wall of a real street is no plane.
    for storey in np.arange(0.9, height - 1.6, 2.9):
        for x in np.arange(-width / 2 + 1.2, width / 2 - 1.0, build.uniform(2.2, 3.4)):
            at = (float(x), front, float(storey))
            build.part("building", place, (1.1, 0.24, 1.4), at=at, instance=instance)
    if build.uniform(0.0, 1.0) < 0.6:
        roof = (width, depth + 0.8, build.uniform(1.8, 3.2))
        build.part("building", place, roof, at=(0.0, 0.0, height), shape="gable", instance=instance)
