"""What stands in a simulated room, each built of a few solids."""

from __future__ import annotations

import numpy as np

from .scene import Placement, SceneBuilder, Triple

_WOOD: tuple[Triple, ...] = ((176, 137, 96), (139, 98, 62), (206, 178, 140), (235, 232, 226))
_FABRIC: tuple[Triple, ...] = ((60, 72, 92), (40, 40, 44), (128, 48, 44), (72, 96, 76), (150, 148, 144))
_METAL: tuple[Triple, ...] = ((120, 122, 126), (52, 54, 58))
_BOOKS: tuple[Triple, ...] = (
    (150, 40, 40),
    (40, 70, 130),
    (60, 110, 70),
    (200, 170, 80),
    (90, 60, 110),
    (225, 220, 210),
)


def add_table(build: SceneBuilder, place: Placement, size: Triple, instance: int) -> None:
    """A top on four legs."""
    length, width, height = size
    build.stand("table", place, instance)
    tint = build.tint(*_WOOD)
    build.part("table", place, (length, width, 0.04), at=(0.0, 0.0, height - 0.04), instance=instance, tint=tint)
    leg = build.tint(*_METAL)
    for x in (-1, 1):
        for y in (-1, 1):
            at = (x * (length / 2 - 0.06), y * (width / 2 - 0.06), 0.0)
            build.part("table", place, (0.05, 0.05, height - 0.04), at=at, instance=instance, tint=leg)


def add_chair(build: SceneBuilder, place: Placement, instance: int) -> None:
    """A seat on four legs, and a back behind the one who sits, who looks along x."""
    seat, height = build.uniform(0.42, 0.48), build.uniform(0.8, 0.98)
    build.stand("chair", place, instance)
    tint, leg = build.tint(*_FABRIC), build.tint(*_METAL)
    build.part("chair", place, (0.46, 0.46, 0.06), at=(0.0, 0.0, seat - 0.06), instance=instance, tint=tint)
    back = (0.05, 0.44, height - seat - 0.08)
    build.part("chair", place, back, at=(-0.21, 0.0, seat + 0.08), instance=instance, tint=tint)
    for x in (-0.2, 0.2):
        for y in (-0.2, 0.2):
            tall = height - 0.1 if x < 0 else seat - 0.06
            build.part("chair", place, (0.035, 0.035, tall), at=(x, y, 0.0), instance=instance, tint=leg)


def add_sofa(build: SceneBuilder, place: Placement, size: Triple, instance: int) -> None:
    """A seat of two or three cushions, a back and two arms."""
    length, width, height = size
    build.stand("sofa", place, instance)
    tint = build.tint(*_FABRIC)
    build.part("sofa", place, (width, length, 0.3), at=(0.0, 0.0, 0.06), instance=instance, tint=tint)
    build.part(
        "sofa", place, (0.22, length, height - 0.3), at=(0.11 - width / 2, 0.0, 0.3), instance=instance, tint=tint
    )
    for side in (-1, 1):
        at = (0.0, side * (length / 2 - 0.09), 0.3)
        build.part("sofa", place, (width, 0.18, 0.28), at=at, instance=instance, tint=tint)
    cushions = 2 if length < 1.7 else 3
    room = (length - 0.38) / cushions
    for number in range(cushions):
        at = (0.1, (number - (cushions - 1) / 2) * room, 0.36)
        build.part("sofa", place, (width - 0.26, room - 0.02, 0.12), at=at, instance=instance, tint=tint)


def add_bookcase(build: SceneBuilder, place: Placement, size: Triple, instance: int) -> None:
    """Two sides, a back, shelves, and books on most of them; it opens along x."""
    depth, length, height = size
    build.stand("bookcase", place, instance)
    tint = build.tint(*_WOOD)
    for side in (-1, 1):
        at = (0.0, side * (length / 2 - 0.012), 0.0)
        build.part("bookcase", place, (depth, 0.024, height), at=at, instance=instance, tint=tint)
    back = (0.012, length - 0.04, height)
    build.part("bookcase", place, back, at=(0.006 - depth / 2, 0.0, 0.0), instance=instance, tint=tint)
    shelves = int(height / 0.36)
    gap = (height - 0.024) / shelves
    for number in range(shelves + 1):
        shelf = (depth - 0.012, length - 0.05, 0.024)
        build.part("bookcase", place, shelf, at=(0.006, 0.0, number * gap), instance=instance, tint=tint)
    for number in range(shelves):
        y = -length / 2 + 0.04
        while y < length / 2 - 0.1:
            thick = build.uniform(0.02, 0.06)
            book = (depth * build.uniform(0.6, 0.85), thick, build.uniform(0.6, 0.85) * gap)
            # Books belong to the case, as annotators of real rooms have it.
            at = (-0.03, y + thick / 2, number * gap + 0.024)
            build.part("bookcase", place, book, at=at, instance=instance, tint=build.tint(*_BOOKS))
            y += thick + (0.002 if build.uniform(0.0, 1.0) < 0.85 else build.uniform(0.05, 0.3))


def add_things_on(build: SceneBuilder, place: Placement, size: Triple, instances: tuple[int, ...]) -> None:
    """Clutter on a table: a screen, a keyboard, a box, a mug."""
    length, width, height = size
    top = Placement(place.x, place.y, place.z + height, place.yaw)
    for number, instance in enumerate(instances):
        x, y = build.uniform(-0.38, 0.38) * length, build.uniform(-0.25, 0.25) * width
        spot = Placement(*top.at(x, y), z=top.z, yaw=place.yaw + build.uniform(-0.4, 0.4))
        if number == 0:
            build.stand("clutter", spot, instance)
            dark = build.tint((30, 30, 34))
            build.part("clutter", spot, (0.2, 0.24, 0.02), instance=instance, tint=dark)
            build.part("clutter", spot, (0.04, 0.05, 0.16), at=(-0.03, 0.0, 0.0), instance=instance, tint=dark)
            build.part("clutter", spot, (0.03, 0.52, 0.32), at=(0.0, 0.0, 0.14), instance=instance, tint=dark)
        else:
            tall = build.uniform(0.05, 0.22)
            item = (build.uniform(0.08, 0.3), build.uniform(0.08, 0.3), tall)
            shape = "box" if build.uniform(0.0, 1.0) < 0.7 else "cylinder"
            build.stand("clutter", spot, instance)
            build.part("clutter", spot, item, shape=shape, instance=instance, tint=build.tint(*_BOOKS, *_METAL))


def add_floor_clutter(build: SceneBuilder, place: Placement, instance: int) -> None:
    """A bin, a carton, or a plant in a pot."""
    choice = build.uniform(0.0, 1.0)
    if choice < 0.35:
        size = (0.3, 0.3, build.uniform(0.3, 0.5))
        build.stand("clutter", place, instance)
        tint = build.tint(*_METAL)
        build.part("clutter", place, size, shape="cylinder", instance=instance, tint=tint)
    elif choice < 0.7:
        size = (build.uniform(0.3, 0.5), build.uniform(0.25, 0.45), build.uniform(0.2, 0.4))
        build.stand("clutter", place, instance)
        build.part("clutter", place, size, instance=instance, tint=build.tint((181, 150, 110)))
    else:
        build.stand("clutter", place, instance)
        pot = build.tint((150, 84, 60), (230, 228, 222))
        build.part("clutter", place, (0.34, 0.34, 0.34), shape="cylinder", instance=instance, tint=pot)
        build.part(
            "clutter",
            place,
            (0.04, 0.04, 0.6),
            at=(0.0, 0.0, 0.3),
            instance=instance,
            tint=build.tint((96, 72, 48)),
        )
        for _ in range(9):
            around, out, up = build.uniform(0.0, 2 * np.pi), build.uniform(0.0, 0.22), build.uniform(0.5, 0.95)
            at = (out * float(np.cos(around)), out * float(np.sin(around)), up)
            leaf = build.tint((70, 120, 60))
            build.part("clutter", place, (0.24, 0.24, 0.2), at=at, shape="ball", instance=instance, tint=leaf)
