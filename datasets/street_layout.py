"""A street as boxes: what stands where, drawn from a random generator."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from .ray_casting import Boxes, Float64

CLASSES = (
    "road",
    "sidewalk",
    "terrain",
    "building",
    "fence",
    "car",
    "pedestrian",
    "pole",
    "trunk",
    "vegetation",
)
CLASS_ID = {name: index for index, name in enumerate(CLASSES)}

# The mounting height of KITTI's laser scanner above the road, in metres.
SENSOR_HEIGHT = 1.73
_GROUND = -SENSOR_HEIGHT

# The sensor drives in the right-hand lane of two 3.5 m lanes with a parking lane on either side:
# the road runs from RIGHT_KERB to LEFT_KERB (y, metres), sidewalks and gardens lie beyond.
RIGHT_KERB, LEFT_KERB = -3.95, 7.45
_SIDEWALK_WIDTH = 2.4
_KERB_HEIGHT = 0.12
_HALF_LENGTH = 120.0
_ONCOMING_LANE = 3.5


@dataclass(eq=False)
class _Builder:
    """Collects boxes that stand on the ground."""

    rng: np.random.Generator
    centers: list[tuple[float, float, float]] = field(default_factory=list)
    sizes: list[tuple[float, float, float]] = field(default_factory=list)
    yaws: list[float] = field(default_factory=list)
    classes: list[int] = field(default_factory=list)

    def add(
        self,
        kind: str,
        position: tuple[float, float],
        size: tuple[float, float, float],
        *,
        yaw: float = 0.0,
        above: float = 0.0,
    ) -> None:
        """Add one box; `above` is the height of its bottom over the road."""
        self.centers.append((*position, _GROUND + above + size[2] / 2))
        self.sizes.append(size)
        self.yaws.append(yaw)
        self.classes.append(CLASS_ID[kind])

    def uniform(self, low: float, high: float) -> float:
        """One number between two limits."""
        return float(self.rng.uniform(low, high))


def street_layout(rng: np.random.Generator) -> tuple[Boxes, npt.NDArray[np.int32]]:
    """Lay out both sides of a street around the sensor, 240 m of it along x.

    Args:
        rng: the source of every choice; the same state gives the same street.

    Returns:
        The boxes and the class of each, `[B]` int32 indices into `CLASSES`. The ground itself is
        no box; see `ground_class`.
    """
    build = _Builder(rng)
    for side, kerb in ((-1, RIGHT_KERB), (1, LEFT_KERB)):
        crossing = build.uniform(25.0, 60.0) * rng.choice([-1.0, 1.0])
        _add_sidewalk(build, side, kerb, crossing)
        _add_buildings(build, side, kerb, crossing)
        _add_trees_and_poles(build, side, kerb)
        _add_parked_cars(build, side, kerb, crossing)
        _add_pedestrians(build, side, kerb)
    _add_traffic(build)
    boxes = Boxes(
        np.array(build.centers, dtype=np.float64),
        np.array(build.sizes, dtype=np.float64),
        np.array(build.yaws, dtype=np.float64),
    )
    return boxes, np.array(build.classes, dtype=np.int32)


def ground_class(y: Float64) -> npt.NDArray[np.int32]:
    """The class of the ground plane at a lateral position.

    Args:
        y: `[N]` float64 metres to the left of the sensor.

    Returns:
        `[N]` int32: road between the kerbs, terrain beyond.
    """
    on_road = (y > RIGHT_KERB) & (y < LEFT_KERB)
    return np.where(on_road, CLASS_ID["road"], CLASS_ID["terrain"]).astype(np.int32)


def _add_sidewalk(build: _Builder, side: int, kerb: float, crossing: float) -> None:
    y = kerb + side * _SIDEWALK_WIDTH / 2
    for start, stop in ((-_HALF_LENGTH, crossing - 4.0), (crossing + 4.0, _HALF_LENGTH)):
        size = (stop - start, _SIDEWALK_WIDTH, _KERB_HEIGHT)
        build.add("sidewalk", ((start + stop) / 2, y), size)


def _add_buildings(build: _Builder, side: int, kerb: float, crossing: float) -> None:
    front = kerb + side * _SIDEWALK_WIDTH
    x = -_HALF_LENGTH
    while x < _HALF_LENGTH:
        width = build.uniform(9.0, 22.0)
        setback = build.uniform(0.5, 6.0)
        depth = build.uniform(8.0, 13.0)
        height = build.uniform(5.5, 14.0)
        gap = build.uniform(0.0, 5.0)
        middle = x + width / 2
        x += width + gap
        if abs(middle - crossing) < width / 2 + 5.0:
            continue
        y = front + side * (setback + depth / 2)
        yaw = build.uniform(-0.02, 0.02)
        build.add("building", (middle, y), (width, depth, height), yaw=yaw)
        # An entrance or a bay stands out, so that walls are not one plane.
        bay = (build.uniform(1.5, 4.0), 1.2, build.uniform(2.5, height))
        bay_x = middle + build.uniform(-0.3, 0.3) * width
        build.add("building", (bay_x, front + side * setback), bay, yaw=yaw)
        if setback > 2.5:
            _add_garden(build, side, front, middle, width, setback)


def _add_garden(build: _Builder, side: int, front: float, middle: float, width: float, setback: float) -> None:
    if build.uniform(0.0, 1.0) < 0.5:
        size = (width * 0.8, 0.12, build.uniform(0.8, 1.4))
        build.add("fence", (middle, front + side * 0.3), size)
    else:
        size = (width * 0.8, 0.7, build.uniform(0.7, 1.5))
        build.add("vegetation", (middle, front + side * 0.6), size)
    for _ in range(int(build.uniform(1.0, 5.0))):
        span = build.uniform(0.5, 1.4)
        position = (
            middle + build.uniform(-0.4, 0.4) * width,
            front + side * build.uniform(1.4, max(1.5, setback - 0.5)),
        )
        build.add("vegetation", position, (span, span, span * 0.9), yaw=build.uniform(0.0, 1.5))


def _add_trees_and_poles(build: _Builder, side: int, kerb: float) -> None:
    y = kerb + side * 0.5
    x = -_HALF_LENGTH + build.uniform(2.0, 10.0)
    while x < _HALF_LENGTH:
        if build.uniform(0.0, 1.0) < 0.4:
            height = build.uniform(4.0, 8.0)
            build.add("pole", (x, y), (0.15, 0.15, height))
            build.add("pole", (x, y - side * 0.8), (0.12, 1.6, 0.12), above=height - 0.2)
        else:
            _add_tree(build, x, y)
        x += build.uniform(8.0, 16.0)


def _add_tree(build: _Builder, x: float, y: float) -> None:
    thickness = build.uniform(0.2, 0.45)
    trunk = build.uniform(2.0, 3.2)
    build.add("trunk", (x, y), (thickness, thickness, trunk), yaw=build.uniform(0.0, 1.5))
    spread = build.uniform(1.6, 3.2)
    for _ in range(7):
        lump = build.uniform(0.35, 0.6) * spread
        position = (x + build.uniform(-0.4, 0.4) * spread, y + build.uniform(-0.4, 0.4) * spread)
        above = trunk - 0.3 + build.uniform(0.0, 0.8) * spread
        size = (lump, lump, lump * 0.8)
        build.add("vegetation", position, size, yaw=build.uniform(0.0, 1.5), above=above)


def _add_parked_cars(build: _Builder, side: int, kerb: float, crossing: float) -> None:
    x = -70.0
    while x < 70.0:
        position = (x, kerb - side * 1.15)
        yaw = build.uniform(-0.04, 0.04)
        if build.uniform(0.0, 1.0) < 0.6 and abs(x - crossing) > 8.0:
            _add_car(build, position, yaw)
        x += build.uniform(5.5, 8.0)


def _add_traffic(build: _Builder) -> None:
    # The nearest car keeps 14 m, a following distance; the sensor itself stands at x = 0.
    for lane in (0.0, _ONCOMING_LANE):
        for sign in (-1, 1):
            x = build.uniform(14.0, 30.0)
            while x < 90.0:
                yaw = build.uniform(-0.03, 0.03)
                _add_car(build, (sign * x, lane + build.uniform(-0.2, 0.2)), yaw)
                x += build.uniform(18.0, 45.0)


def _add_car(build: _Builder, position: tuple[float, float], yaw: float) -> None:
    length, width = build.uniform(3.9, 4.8), build.uniform(1.65, 1.85)
    height = build.uniform(1.4, 1.75)
    x, y = position
    # The body floats over the road as on wheels, and the cabin reaches into it.
    build.add("car", position, (length, width, 0.62 * height - 0.25), yaw=yaw, above=0.25)
    back = 0.08 * length
    cabin = (x - back * float(np.cos(yaw)), y - back * float(np.sin(yaw)))
    size = (0.55 * length, 0.86 * width, 0.5 * height)
    build.add("car", cabin, size, yaw=yaw, above=0.5 * height)
    for corner_x in (-0.3, 0.3):
        offset = corner_x * length
        axle = (x + offset * float(np.cos(yaw)), y + offset * float(np.sin(yaw)))
        build.add("car", axle, (0.6, width * 0.98, 0.6), yaw=yaw)


def _add_pedestrians(build: _Builder, side: int, kerb: float) -> None:
    for _ in range(int(build.uniform(3.0, 9.0))):
        x, y = build.uniform(-40.0, 40.0), kerb + side * build.uniform(1.0, 2.2)
        height, yaw = build.uniform(1.5, 1.9), build.uniform(0.0, 3.0)
        above = _KERB_HEIGHT
        build.add("pedestrian", (x, y), (0.28, 0.3, 0.5 * height), yaw=yaw, above=above)
        torso = (0.3, 0.5, 0.35 * height)
        build.add("pedestrian", (x, y), torso, yaw=yaw, above=above + 0.48 * height)
        head = (0.2, 0.2, 0.16 * height)
        build.add("pedestrian", (x, y), head, yaw=yaw, above=above + 0.84 * height)
