"""A street without ends: what stands and moves where, drawn block by block from a seed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from .scene import Placement, Scene, SceneBuilder
from .solids import Float64
from .street_objects import (
    add_bush,
    add_car,
    add_cyclist,
    add_house,
    add_lamp,
    add_pedestrian,
    add_sign,
    add_tree,
    add_truck,
)

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
    "truck",
    "cyclist",
    "sign",
)
CLASS_ID = {name: index for index, name in enumerate(CLASSES)}
# What a detector is to find.
BOX_CLASSES = ("car", "truck", "pedestrian", "cyclist")

# The sensor drives in the right-hand lane of two 3.5 m lanes with a parking lane on either side: the road runs
# along x from RIGHT_KERB to LEFT_KERB (y, metres), sidewalks and gardens lie beyond. The road's surface is z = 0.
RIGHT_KERB, LEFT_KERB = -3.95, 7.45
_SIDEWALK_WIDTH = 2.4
_KERB_HEIGHT = 0.12
_ONCOMING_LANE = 3.5
# Between the lanes and the parked cars there is just room for a bicycle.
_CYCLE_LANES = ((-1.4, 1), (4.95, -1))

# Metres along the street that are drawn at once; nothing of a block reaches farther out than _OVERHANG.
_BLOCK = 60.0
_OVERHANG = 6.0
# Instances of a block, and independent streams of blocks: what stands, and traffic in each of its frames.
_INSTANCES = 400
_STREAMS = ("standing", "ahead", "oncoming", "cycling right", "cycling left")
# Pedestrians walk to and fro over this length, metres.
_WALK = 8.0


def ground_class(y: Float64) -> npt.NDArray[np.int32]:
    """The class of the ground plane at a lateral position.

    Args:
        y: `[N]` float64 metres to the left of the right-hand lane's middle.

    Returns:
        `[N]` int32: road between the kerbs, terrain beyond.
    """
    on_road = (y > RIGHT_KERB) & (y < LEFT_KERB)
    return np.where(on_road, CLASS_ID["road"], CLASS_ID["terrain"]).astype(np.int32)


def is_marking(x: Float64, y: Float64) -> npt.NDArray[np.bool_]:
    """Where the road is painted: a broken line between the lanes, whole ones beside the parking lanes.

    Args:
        x: `[N]` metres along the street.
        y: `[N]` metres across it.
    """
    middle = (np.abs(y - _ONCOMING_LANE / 2) < 0.07) & (x % 9.0 < 3.0)
    edges = (np.abs(y - RIGHT_KERB - 2.15) < 0.06) | (np.abs(y - LEFT_KERB + 2.15) < 0.06)
    return middle | edges


def street_scene(seed: int, time: float, x: float, *, reach: float, speed: float) -> Scene:
    """The street around a place, as it is at a time.

    Args:
        seed: chooses the street.
        time: seconds since the sensor was at x = 0.
        x: metres along the street.
        reach: metres before and behind that must be complete.
        speed: of the traffic in the sensor's lane, metres a second; the sensor's own.

    Returns:
        Objects' positions at `time`; velocities say where they are shortly before and after.
    """
    build = SceneBuilder(np.random.default_rng(0), CLASS_ID)
    rates = np.random.default_rng([seed, len(_STREAMS)]).uniform([7.0, 3.8, 3.8], [14.0, 5.5, 5.5])
    # Every stream is drawn in a frame that moves along with it.
    drifts = (0.0, speed, -rates[0], rates[1], -rates[2])
    for stream, drift in enumerate(drifts):
        start = x - reach - _OVERHANG - drift * time
        stop = x + reach + _OVERHANG - drift * time
        for block in range(int(start // _BLOCK), int(stop // _BLOCK) + 1):
            build.rng = np.random.default_rng([seed, stream, _natural(block)])
            numbers = _instance_numbers(stream, block)
            if stream == 0:
                _add_block(build, block, numbers, time)
            else:
                _add_traffic(build, stream, (block, drift, time), numbers)
    return build.scene()


def _natural(block: int) -> int:
    return 2 * block if block >= 0 else -2 * block - 1


def _instance_numbers(stream: int, block: int) -> Iterator[int]:
    first = 1 + (_natural(block) * len(_STREAMS) + stream) * _INSTANCES
    return iter(range(first, first + _INSTANCES))


def _add_block(build: SceneBuilder, block: int, numbers: Iterator[int], time: float) -> None:
    start = block * _BLOCK
    for side, kerb in ((-1, RIGHT_KERB), (1, LEFT_KERB)):
        # A side street, where there is one, leaves a gap.
        crossing = start + build.uniform(12.0, 48.0) if build.uniform(0.0, 1.0) < 0.45 else None
        _add_sidewalk(build, side, kerb, (start, crossing))
        _add_houses(build, side, kerb, (start, crossing), numbers)
        _add_trees_and_poles(build, side, kerb, (start, crossing), numbers)
        _add_parked_cars(build, side, kerb, (start, crossing), numbers)
        _add_pedestrians(build, side, kerb, (start, time), numbers)


def _add_sidewalk(build: SceneBuilder, side: int, kerb: float, stretch: tuple[float, float | None]) -> None:
    start, crossing = stretch
    y = kerb + side * _SIDEWALK_WIDTH / 2
    ends = [(start, start + _BLOCK)]
    if crossing is not None:
        ends = [(start, crossing - 4.0), (crossing + 4.0, start + _BLOCK)]
    for first, last in ends:
        place = Placement((first + last) / 2, y)
        build.part("sidewalk", place, (last - first, _SIDEWALK_WIDTH, _KERB_HEIGHT))


def _add_houses(
    build: SceneBuilder, side: int, kerb: float, stretch: tuple[float, float | None], numbers: Iterator[int]
) -> None:
    start, crossing = stretch
    front = kerb + side * _SIDEWALK_WIDTH
    x = start + build.uniform(0.0, 3.0)
    while (room := start + _BLOCK - x) > 8.0:
        width = min(build.uniform(9.0, 22.0), room)
        setback, depth = build.uniform(0.5, 6.0), build.uniform(8.0, 13.0)
        height, gap = build.uniform(5.5, 14.0), build.uniform(0.0, 5.0)
        middle = x + width / 2
        x += width + gap
        if crossing is not None and abs(middle - crossing) < width / 2 + 5.0:
            continue
        place = Placement(middle, front + side * (setback + depth / 2), yaw=build.uniform(-0.015, 0.015))
        add_house(build, place, (width, depth, height), side, next(numbers))
        if setback > 2.5:
            _add_garden(build, side, (front, middle), (width, setback), numbers)


def _add_garden(
    build: SceneBuilder,
    side: int,
    corner: tuple[float, float],
    size: tuple[float, float],
    numbers: Iterator[int],
) -> None:
    (front, middle), (width, setback) = corner, size
    if build.uniform(0.0, 1.0) < 0.5:
        fence = (width * 0.8, 0.12, build.uniform(0.8, 1.4))
        build.part("fence", Placement(middle, front + side * 0.3), fence, instance=next(numbers))
    else:
        # A hedge is a row of bushes.
        number = next(numbers)
        height = build.uniform(0.8, 1.5)
        for x in np.arange(-0.4 * width, 0.4 * width, 0.7):
            place = Placement(middle + float(x), front + side * 0.6, yaw=build.uniform(0.0, 1.5))
            lump = (1.0, 0.9, height * build.uniform(0.85, 1.1))
            build.part("vegetation", place, lump, shape="ball", instance=number)
    for _ in range(int(build.uniform(1.0, 5.0))):
        y = front + side * build.uniform(1.4, max(1.5, setback - 0.7))
        place = Placement(middle + build.uniform(-0.4, 0.4) * width, y)
        add_bush(build, place, build.uniform(0.5, 1.4), next(numbers))


def _add_trees_and_poles(
    build: SceneBuilder, side: int, kerb: float, stretch: tuple[float, float | None], numbers: Iterator[int]
) -> None:
    start, crossing = stretch
    x = start + build.uniform(2.0, 8.0)
    while x < start + _BLOCK - 2.0:
        choice = build.uniform(0.0, 1.0)
        if crossing is None or abs(x - crossing) > 5.0:
            place = Placement(x, kerb + side * 0.45, _KERB_HEIGHT)
            if choice < 0.35:
                add_lamp(build, place, side, next(numbers))
            elif choice < 0.5:
                place.yaw = 0.0 if side > 0 else np.pi
                add_sign(build, place, next(numbers))
            else:
                add_tree(build, place, next(numbers))
        x += build.uniform(7.0, 14.0)


def _add_parked_cars(
    build: SceneBuilder, side: int, kerb: float, stretch: tuple[float, float | None], numbers: Iterator[int]
) -> None:
    start, crossing = stretch
    x = start + build.uniform(3.0, 5.0)
    while x < start + _BLOCK - 3.0:
        yaw = build.uniform(-0.04, 0.04) + (0.0 if side < 0 or build.uniform(0.0, 1.0) < 0.3 else np.pi)
        taken = build.uniform(0.0, 1.0) < 0.6
        if taken and (crossing is None or abs(x - crossing) > 8.0):
            add_car(build, Placement(x, kerb - side * 1.1, yaw=yaw), next(numbers))
        x += build.uniform(5.5, 8.0)


def _add_pedestrians(
    build: SceneBuilder, side: int, kerb: float, where: tuple[float, float], numbers: Iterator[int]
) -> None:
    start, time = where
    for _ in range(int(build.uniform(1.0, 4.0))):
        x, y = start + build.uniform(2.0, _BLOCK - 2.0), kerb + side * build.uniform(1.05, 2.0)
        pace, phase = build.uniform(0.6, 1.6), build.uniform(0.0, 2.0)
        # To and fro: ahead while the phase is below 1, back while it is below 2.
        phase = (phase + pace * time / _WALK) % 2.0
        ahead = phase < 1.0
        walked = _WALK * (phase if ahead else 2.0 - phase)
        place = Placement(
            x + walked - _WALK / 2,
            y,
            _KERB_HEIGHT,
            yaw=0.0 if ahead else np.pi,
            velocity=(pace if ahead else -pace, 0.0),
        )
        add_pedestrian(build, place, next(numbers))


def _add_traffic(
    build: SceneBuilder, stream: int, moment: tuple[int, float, float], numbers: Iterator[int]
) -> None:
    """One block of a stream, drawn in the stream's frame and set down where it is by now."""
    block, drift, time = moment
    cycling = stream >= 3
    x = block * _BLOCK + build.uniform(6.0, 14.0 if not cycling else 40.0)
    while x < (block + 1) * _BLOCK - 6.0:
        lateral, sway = build.uniform(-0.2, 0.2), build.uniform(-0.02, 0.02)
        is_truck = build.uniform(0.0, 1.0) < 0.12
        # The sensor drives at the place 0 of its own stream, and keeps a following distance.
        clear = stream != 1 or abs(x) > 14.0
        if cycling:
            y, way = _CYCLE_LANES[stream - 3]
            place = Placement(x + drift * time, y, yaw=(0.0 if way > 0 else np.pi), velocity=(drift, 0.0))
            add_cyclist(build, place, next(numbers))
            x += build.uniform(25.0, 60.0)
            continue
        y = (0.0 if stream == 1 else _ONCOMING_LANE) + (0.4 * lateral if is_truck else lateral)
        yaw = sway + (0.0 if stream == 1 else np.pi)
        place = Placement(x + drift * time, y, yaw=yaw, velocity=(drift, 0.0))
        number = next(numbers)
        if clear:
            (add_truck if is_truck else add_car)(build, place, number)
        x += build.uniform(16.0, 40.0)
