"""A room: its shell, and furniture that stands free, along walls and around tables."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np

from .room_objects import (
    add_bookcase,
    add_chair,
    add_floor_clutter,
    add_sofa,
    add_table,
    add_things_on,
)
from .s3dis_classes import CLASSES
from .scene import Placement, Scene, SceneBuilder, Triple

CLASS_ID = {name: index for index, name in enumerate(CLASSES)}
# Objects that have a box of their own, as indoor detectors are trained on.
BOX_CLASSES = ("window", "door", "table", "chair", "sofa", "bookcase", "board", "clutter")

_WALL = 0.2
# Free of furniture around a place where somebody, or a scanner, stands.
_CLEARANCE = 0.45
_ATTEMPTS = 60


@dataclass(eq=False)
class RoomPlan:
    """A room's size and what of its floor is taken.

    Attributes:
        size: length, width, height in metres; one lower corner is the origin.
        taken: circles x y radius.
    """

    size: Triple
    taken: list[Triple] = field(default_factory=list)

    def is_free(self, x: float, y: float, radius: float) -> bool:
        """Whether a circle lies in the room and touches nothing that is taken."""
        inside = radius < x < self.size[0] - radius and radius < y < self.size[1] - radius
        return inside and all(np.hypot(x - a, y - b) >= radius + r for a, b, r in self.taken)

    def find(self, build: SceneBuilder, radius: float) -> tuple[float, float] | None:
        """A free circle anywhere, or None where none was met."""
        for _ in range(_ATTEMPTS):
            x, y = build.uniform(0.0, self.size[0]), build.uniform(0.0, self.size[1])
            if self.is_free(x, y, radius):
                return x, y
        return None


def room_scene(seed: int) -> tuple[Scene, RoomPlan]:
    """A room, and where its floor is free.

    Args:
        seed: chooses everything.
    """
    build = SceneBuilder(np.random.default_rng([seed, 0]), CLASS_ID)
    plan = RoomPlan((build.uniform(5.0, 9.0), build.uniform(4.0, 7.0), build.uniform(2.5, 3.2)))
    numbers = itertools.count(1)
    _add_shell(build, plan)
    walls = _Walls(build, plan)
    walls.add_door(next(numbers))
    for _ in range(int(build.uniform(1.0, 4.0))):
        walls.add_window(next(numbers))
    if build.uniform(0.0, 1.0) < 0.8:
        walls.add_board(next(numbers))
    for _ in range(int(build.uniform(1.0, 4.0))):
        walls.add_bookcase(next(numbers))
    if build.uniform(0.0, 1.0) < 0.6:
        walls.add_sofa(next(numbers))
    for _ in range(int(build.uniform(1.0, 5.0))):
        _add_table_group(build, plan, numbers)
    for _ in range(int(build.uniform(2.0, 6.0))):
        spot = plan.find(build, 0.4)
        if spot is not None:
            plan.taken.append((*spot, 0.4))
            add_floor_clutter(build, Placement(*spot, yaw=build.uniform(0.0, 3.0)), next(numbers))
    return build.scene(), plan


def _add_shell(build: SceneBuilder, plan: RoomPlan) -> None:
    length, width, height = plan.size
    middle = Placement(length / 2, width / 2)
    floor = build.tint((150, 132, 110), (120, 118, 114), (172, 150, 118))
    white = build.tint((236, 234, 228))
    paint = build.tint((226, 222, 210), (208, 216, 220), (224, 212, 190))
    outer = (length + 2 * _WALL, width + 2 * _WALL, _WALL)
    build.part("floor", middle, outer, at=(0.0, 0.0, -_WALL), tint=floor)
    build.part("ceiling", middle, outer, at=(0.0, 0.0, height), tint=white)
    for side in (-1, 1):
        end = (side * (length + _WALL) / 2, 0.0, 0.0)
        build.part("wall", middle, (_WALL, width + 2 * _WALL, height), at=end, tint=paint)
        along = (0.0, side * (width + _WALL) / 2, 0.0)
        build.part("wall", middle, (length, _WALL, height), at=along, tint=paint)
    if build.uniform(0.0, 1.0) < 0.5:
        x = build.uniform(-0.3, 0.3) * length
        build.part("beam", middle, (0.25, width, 0.3), at=(x, 0.0, height - 0.3), tint=white)
    if build.uniform(0.0, 1.0) < 0.5:
        corner = (float(build.rng.choice([-1, 1])), float(build.rng.choice([-1, 1])))
        at = (corner[0] * (length / 2 - 0.2), corner[1] * (width / 2 - 0.2), 0.0)
        build.part("column", middle, (0.4, 0.4, height), at=at, tint=paint)
        plan.taken.append((length / 2 + at[0], width / 2 + at[1], 0.35))


class _Walls:
    """Places things along the four walls, none before another."""

    def __init__(self, build: SceneBuilder, plan: RoomPlan) -> None:
        self.build = build
        self.plan = plan
        self._used: list[list[tuple[float, float]]] = [[], [], [], []]

    def _place(self, width: float, depth: float) -> Placement | None:
        """A stretch of wall that is free, as a placement that faces the room, its middle half a depth off."""
        length, across, _ = self.plan.size
        for _ in range(_ATTEMPTS):
            wall = int(self.build.rng.integers(4))
            span = length if wall % 2 else across
            at = self.build.uniform(width / 2 + 0.1, span - width / 2 - 0.1) if span > width + 0.2 else None
            if at is None or any(low - width / 2 < at < high + width / 2 for low, high in self._used[wall]):
                continue
            off = depth / 2
            x, y, yaw = (
                (off, at, 0.0),
                (at, off, np.pi / 2),
                (length - off, at, np.pi),
                (at, across - off, -np.pi / 2),
            )[wall]
            reach = float(np.hypot(width / 2, depth / 2))
            if any(np.hypot(x - a, y - b) < reach + r for a, b, r in self.plan.taken):
                continue
            self._used[wall].append((at - width / 2 - 0.05, at + width / 2 + 0.05))
            return Placement(x, y, yaw=yaw)
        return None

    def _block(self, place: Placement, width: float, depth: float) -> None:
        """Take the floor before a wall with a row of circles."""
        for y in np.arange(-width / 2, width / 2 + 0.01, max(0.2, depth / 2)):
            self.plan.taken.append((*place.at(0.0, float(y)), depth / 2 + 0.05))

    def add_door(self, instance: int) -> None:
        """A leaf in a frame, and free floor before it."""
        place = self._place(1.0, 0.06)
        if place is None:
            return
        self.build.stand("door", place, instance)
        leaf = self.build.tint((142, 104, 70), (214, 208, 196))
        frame = self.build.tint((96, 80, 64))
        self.build.part("door", place, (0.03, 0.88, 2.04), at=(-0.015, 0.0, 0.0), instance=instance, tint=leaf)
        for side in (-0.47, 0.47):
            self.build.part("door", place, (0.06, 0.06, 2.04), at=(0.0, side, 0.0), instance=instance, tint=frame)
        self.build.part("door", place, (0.06, 1.0, 0.06), at=(0.0, 0.0, 2.04), instance=instance, tint=frame)
        self.plan.taken.append((*place.at(0.5, 0.0), 0.5))

    def add_window(self, instance: int) -> None:
        """A pane in a frame with a bar across."""
        width, height = self.build.uniform(0.9, 1.8), self.build.uniform(1.0, 1.4)
        place = self._place(width, 0.06)
        if place is None:
            return
        place.z = 0.9
        self.build.stand("window", place, instance)
        glass, frame = self.build.tint((160, 190, 210)), self.build.tint((240, 240, 240))
        pane = (0.02, width - 0.06, height - 0.06)
        self.build.part("window", place, pane, at=(-0.02, 0.0, 0.03), instance=instance, tint=glass)
        for y in (-width / 2 + 0.03, 0.0, width / 2 - 0.03):
            bar = (0.06, 0.06, height - 0.12)
            self.build.part("window", place, bar, at=(0.0, y, 0.06), instance=instance, tint=frame)
        for z in (0.0, height - 0.06):
            self.build.part("window", place, (0.06, width, 0.06), at=(0.0, 0.0, z), instance=instance, tint=frame)

    def add_board(self, instance: int) -> None:
        """A whiteboard."""
        width = self.build.uniform(1.2, 2.2)
        place = self._place(width, 0.05)
        if place is None:
            return
        place.z = 0.95
        self.build.stand("board", place, instance)
        white = self.build.tint((250, 250, 250))
        self.build.part("board", place, (0.03, width, 1.1), at=(-0.01, 0.0, 0.0), instance=instance, tint=white)
        tray = self.build.tint((130, 132, 136))
        self.build.part("board", place, (0.05, width, 0.03), instance=instance, tint=tray)

    def add_bookcase(self, instance: int) -> None:
        """Against a wall."""
        size = (0.32, self.build.uniform(0.7, 1.4), min(self.build.uniform(1.2, 2.1), self.plan.size[2] - 0.4))
        place = self._place(size[1], size[0])
        if place is not None:
            self._block(place, size[1], size[0])
            add_bookcase(self.build, place, size, instance)

    def add_sofa(self, instance: int) -> None:
        """Against a wall."""
        size = (self.build.uniform(1.4, 2.1), 0.85, 0.78)
        place = self._place(size[0], size[1] + 0.06)
        if place is not None:
            self._block(place, size[0], size[1])
            add_sofa(self.build, place, size, instance)


def _add_table_group(build: SceneBuilder, plan: RoomPlan, numbers: itertools.count[int]) -> None:
    """A table with things on it and chairs around it."""
    size = (build.uniform(1.1, 1.8), build.uniform(0.65, 0.9), build.uniform(0.7, 0.76))
    radius = float(np.hypot(size[0], size[1])) / 2 + 0.45
    spot = plan.find(build, radius)
    if spot is None:
        return
    plan.taken.append((*spot, radius))
    table = Placement(*spot, yaw=build.uniform(0.0, np.pi))
    add_table(build, table, size, next(numbers))
    add_things_on(build, table, size, tuple(next(numbers) for _ in range(int(build.uniform(1.0, 4.0)))))
    for side in (-1, 1):
        for x in (-0.25, 0.25):
            if build.uniform(0.0, 1.0) < 0.7:
                # Pushed under the table or pulled back, turned a little.
                y = side * (size[1] / 2 + build.uniform(0.05, 0.3))
                yaw = table.yaw - side * np.pi / 2 + build.uniform(-0.3, 0.3)
                add_chair(build, Placement(*table.at(x * size[0], y), yaw=yaw), next(numbers))


def standing_places(scene: Scene, plan: RoomPlan, seed: int, count: int) -> list[tuple[float, float]]:
    """Places for a tripod or a head, free of everything, as far from each other as some tries find.

    Args:
        scene: the room's solids.
        plan: its floor.
        seed: of the tries.
        count: how many.
    """
    rng = np.random.default_rng([seed, 1])
    length, width, _ = plan.size
    tries = rng.uniform([0.5, 0.5], [length - 0.5, width - 0.5], (400, 2))
    # Free of every solid's own circle: stricter than needed for long ones along walls, which leave the middle.
    centers, half = scene.solids.centers, scene.solids.sizes / 2
    blocks = (scene.solids.centers[:, 2] - half[:, 2] < 2.0) & (half[:, :2].max(axis=1) < 1.6)
    gaps = np.linalg.norm(tries[:, None] - centers[None, blocks, :2], axis=-1)
    room = (gaps - np.linalg.norm(half[blocks, :2], axis=1)).min(axis=1, initial=np.inf)
    free = tries[room > _CLEARANCE]
    if not len(free):
        free = tries[[int(np.argmax(room))]]
    chosen = [free[0]]
    while len(chosen) < count:
        nearest = np.min([np.linalg.norm(free - place, axis=1) for place in chosen], axis=0)
        chosen.append(free[int(np.argmax(nearest))])
    return [(float(x), float(y)) for x, y in chosen]
