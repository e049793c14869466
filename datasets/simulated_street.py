"""A spinning laser scanner that drives along a simulated street: scans, sequences and their exact annotations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from .boxes import as_boxes
from .point_cloud import PointCloud
from .ray_casting import cast_rays, check_caster
from .sample import Sample
from .scene import Scene, points_of_objects
from .solids import Float64, Rays
from .street_layout import BOX_CLASSES, CLASS_ID, CLASSES, ground_class, is_marking, street_scene

# The mounting height of KITTI's laser scanner above the road, in metres.
SENSOR_HEIGHT = 1.73
# Elevation of the first and last beam of the upper and of the lower half of a Velodyne HDL-64E, in
# degrees: its upper lasers stand a third of a degree apart, its lower ones half a degree.
_UPPER_BEAMS = (2.0, -8.33)
_LOWER_BEAMS = (-8.83, -24.8)

# Share of a laser pulse's energy that each class gives back, 0 to 1.
_REFLECTANCE = {
    "road": 0.25,
    "sidewalk": 0.35,
    "terrain": 0.40,
    "building": 0.40,
    "fence": 0.35,
    "car": 0.30,
    "pedestrian": 0.35,
    "pole": 0.50,
    "trunk": 0.30,
    "vegetation": 0.40,
    "truck": 0.35,
    "cyclist": 0.35,
    "sign": 0.99,
}
_PAINT = 0.75
# Depth of a surface that a solid stands for, as a standard deviation in metres: leaves, above all.
_ROUGHNESS = {"vegetation": 0.12, "terrain": 0.02, "building": 0.01}
# Share of pulses that never return even at close range: dark and shiny surfaces.
_BASE_DROPOUT = 0.02
_CLASS_DROPOUT = {"car": 0.12, "truck": 0.06, "building": 0.04, "vegetation": 0.05}
# Share of pulses lost at the greatest range, growing with the square of the distance.
_RANGE_DROPOUT = 0.5
# The sensor's way within its lane: metres to the left, and a full sway in metres of way.
_SWAY, _SWAY_LENGTH = 0.3, 60.0


@dataclass(frozen=True)
class SimulatedStreet:
    """A laser scanner in a random street: one scan, or as many as wanted of a drive.

    Frames are KITTI's: x forward, y left, z up, metres, the sensor at the origin, 1.73 m above the road. The world
    is x along the street, the road at z = 0. With the default sensor a scan has about 105,000 points and a density
    close to that of a real 64-beam scan. Buildings, trees, poles and parked cars stand; cars, trucks, cyclists and
    pedestrians move, each at a constant speed during a sweep. The street has no end, and a frame does not depend
    on those before it.

    Attributes:
        seed: chooses the street and the noise; the same seed gives the same frames.
        beams: lasers, stacked from +2 to -24.8 degrees of elevation.
        columns: firings in one turn.
        max_range: metres; farther surfaces give no point.
        range_noise: metres, standard deviation of the measured distance.
        caster: `"auto"` (Open3D where it loads, else NumPy), `"open3d"` or `"numpy"`. Layout, boxes and noise do
            not depend on it, and the points only where a ray grazes an edge within float32 rounding (a few of
            100,000).
        speed: of the sensor and the traffic in its lane, metres a second.
        rate: turns a second; frame i is taken at i / rate.
        motion_compensated: whether points are put where they would have been seen from the sensor's place in the
            middle of the turn, as KITTI's are; else each stays in the frame in which it was measured.

    Raises:
        ValueError: an attribute out of range.

    Example:
        >>> street = SimulatedStreet(seed=1, beams=16, columns=360, caster="numpy")
        >>> cloud = street.scan()
        >>> cloud.fields
        ('x', 'y', 'z', 'intensity')
        >>> sample = street.frame(3)
        >>> len(sample.labels) == len(sample.instances) == len(sample)
        True
        >>> sample.boxes.shape[1]
        9
    """

    seed: int = 0
    beams: int = 64
    columns: int = 1800
    max_range: float = 120.0
    range_noise: float = 0.02
    caster: str = "auto"
    speed: float = 8.0
    rate: float = 10.0
    motion_compensated: bool = True

    CLASSES: ClassVar[tuple[str, ...]] = CLASSES
    BOX_CLASSES: ClassVar[tuple[str, ...]] = BOX_CLASSES

    def __post_init__(self) -> None:
        for name, least in (("seed", 0), ("beams", 1), ("columns", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
                raise ValueError(f"{name} must be a whole number >= {least}, got {value!r}")
        if not 0.0 < self.max_range <= 1000.0:
            raise ValueError(f"max_range must be positive metres, at most 1000, got {self.max_range!r}")
        if not 0.0 <= self.range_noise < np.inf:
            raise ValueError(f"range_noise must be metres >= 0, got {self.range_noise!r}")
        if not 0.0 <= self.speed <= 60.0:
            raise ValueError(f"speed must be 0 to 60 metres a second, got {self.speed!r}")
        if not 0.0 < self.rate < np.inf:
            raise ValueError(f"rate must be turns a second > 0, got {self.rate!r}")
        check_caster(self.caster)

    def scan(self, index: int = 0) -> PointCloud:
        """Simulate one turn.

        Args:
            index: of the frame.

        Returns:
            A cloud with fields `x y z intensity` (intensity from 0 to 0.99 in hundredths, as in KITTI), beam after
            beam from the top, and `labels`: indices into `CLASSES`.

        Raises:
            RuntimeError: the caster is `"open3d"` and Open3D cannot load.
        """
        sample = self.frame(index)
        return PointCloud(sample.points, sample.fields, sample.labels)

    def frame(self, index: int = 0) -> Sample:
        """One turn with all that is known about it.

        Args:
            index: of the frame, from 0 on.

        Returns:
            A sample: `points` as `scan` gives them; `labels`; `instances` (0: ground; an object keeps its number
            over the frames, and a tree, a house or a pole has one too); `boxes` `[B, 9]` of everything of
            `BOX_CLASSES` whose centre is within `max_range`, where it is in the middle of the turn, with its
            velocity over ground; `box_data["instance"]` and `box_data["num_points"]`, which is 0 where something
            hides it; `pose` from the sensor to the world; `point_data["time"]` in seconds from the middle of the
            turn, `point_data["ring"]` the beam.

        Raises:
            ValueError: a negative index.
            RuntimeError: the caster is `"open3d"` and Open3D cannot load.
        """
        if isinstance(index, bool) or not isinstance(index, int | np.integer) or index < 0:
            raise ValueError(f"index must be a whole number >= 0, got {index!r}")
        rng = np.random.default_rng([self.seed, int(index), len(CLASSES)])
        time = index / self.rate
        scene = street_scene(self.seed, time, self.speed * time, reach=self.max_range, speed=self.speed)
        seen_from, yaw = self._place(time)
        rays, beam_directions = self._rays(time, seen_from, yaw)
        # Every ray draws its own numbers, hit or not: a grazing ray that two casters judge differently leaves the
        # noise of all of the others as it is.
        range_noise, intensity_noise = rng.standard_normal((2, len(rays)))
        survival = rng.random(len(rays))

        solid, distance, cosine = cast_rays(rays, scene.solids.shifted(-seen_from), self.caster)
        down = -rays.directions[:, 2]
        ground = np.where(down > 0, (seen_from[2] + rays.origins[:, 2]) / np.maximum(down, 1e-9), np.inf)
        on_ground = ground < distance
        distance, cosine = np.where(on_ground, ground, distance), np.where(on_ground, down, cosine)

        seen = np.flatnonzero(distance < self.max_range)
        hit = seen_from + rays.origins[seen] + rays.directions[seen] * distance[seen, None]
        on_ground, solid = on_ground[seen], np.maximum(solid[seen], 0)
        labels = np.where(on_ground, ground_class(hit[:, 1]), scene.classes[solid]).astype(np.int32)
        instances = np.where(on_ground, 0, scene.instances[solid]).astype(np.int32)
        lost = _BASE_DROPOUT + _by_class(_CLASS_DROPOUT)[labels]
        lost = lost + _RANGE_DROPOUT * (distance[seen] / self.max_range) ** 2
        kept = survival[seen] >= lost
        spread = np.hypot(self.range_noise, _by_class(_ROUGHNESS)[labels])
        measured = np.maximum(distance[seen] + spread * range_noise[seen], 0.0)

        points = np.empty((int(kept.sum()), 4), dtype=np.float32)
        if self.motion_compensated:
            xyz = (rays.origins[seen] + rays.directions[seen] * measured[:, None]) @ _turn(yaw)
        else:
            xyz = beam_directions[seen] * measured[:, None]
        points[:, :3] = xyz[kept]
        reflectance = _by_class(_REFLECTANCE)[labels]
        painted = (labels == CLASS_ID["road"]) & is_marking(hit[:, 0], hit[:, 1])
        brightness = np.where(painted, _PAINT, reflectance) * np.sqrt(cosine[seen])
        brightness = brightness + 0.05 * intensity_noise[seen]
        points[:, 3] = np.round(np.clip(brightness[kept], 0.0, 0.99), 2)
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = _turn(yaw), seen_from
        return Sample(
            points,
            ("x", "y", "z", "intensity"),
            name=f"street {self.seed}, frame {index}",
            labels=labels[kept],
            instances=instances[kept],
            pose=pose,
            point_data={
                "time": rays.times[seen][kept].astype(np.float32),
                "ring": (seen[kept] // self.columns).astype(np.int32),
            },
            **self._boxes(scene, pose, instances[kept]),
        )

    def frames(self, count: int, start: int = 0) -> Iterator[Sample]:
        """Consecutive frames, one at a time.

        Args:
            count: how many.
            start: the first one's index.
        """
        for index in range(start, start + count):
            yield self.frame(index)

    def sweeps(self, index: int, count: int) -> Sample:
        """A frame together with those before it, in its own coordinates, as nuScenes' detectors take them.

        Args:
            index: of the frame.
            count: sweeps, the frame's own included; before frame 0 there are none.

        Returns:
            `frame(index)` with more points and a further field `time_lag`: seconds before the middle of the
            frame's own turn. What moves leaves a trail. `box_data["num_points"]` counts the frame's own.
        """
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count!r}")
        newest = self.frame(index)
        assert newest.pose is not None
        to_newest = np.linalg.inv(newest.pose)
        parts = [newest, *(self.frame(i) for i in range(index - 1, max(-1, index - count), -1))]
        clouds = []
        for age, part in enumerate(parts):
            assert part.pose is not None
            matrix = to_newest @ part.pose
            xyz = part.xyz.astype(np.float64) @ matrix[:3, :3].T + matrix[:3, 3] if age else part.xyz
            lag = age / self.rate - part.point_data["time"]
            clouds.append(np.column_stack([xyz, part.points[:, 3], lag]).astype(np.float32))
        return newest.replace(
            points=np.concatenate(clouds),
            fields=(*newest.fields, "time_lag"),
            labels=np.concatenate([part.labels for part in parts if part.labels is not None]),
            instances=np.concatenate([part.instances for part in parts if part.instances is not None]),
            point_data={
                name: np.concatenate([part.point_data[name] for part in parts]) for name in newest.point_data
            },
        )

    def _place(self, time: npt.ArrayLike) -> tuple[Float64, Float64]:
        """Where the sensor is `[..., 3]`, and its yaw `[...]`."""
        x = self.speed * np.asarray(time, np.float64)
        wave = 2 * np.pi / _SWAY_LENGTH
        y = _SWAY / 2 * (1 - np.cos(wave * x))
        yaw = np.arctan(_SWAY / 2 * wave * np.sin(wave * x))
        return np.stack([x, y, np.full_like(x, SENSOR_HEIGHT)], -1), yaw

    def _rays(self, time: float, seen_from: Float64, yaw: Float64) -> tuple[Rays, Float64]:
        """One turn's rays with the world's axes around `seen_from`, and their directions in the sensor's."""
        upper = (self.beams + 1) // 2
        degrees = np.concatenate(
            [np.linspace(*_UPPER_BEAMS, upper), np.linspace(*_LOWER_BEAMS, self.beams - upper)]
        )
        elevation = np.deg2rad(degrees)[:, None]
        azimuth = (-2 * np.pi / self.columns * np.arange(self.columns))[None, :]
        own = _unit_vectors(elevation, azimuth)
        # The turn begins and ends behind the sensor: straight ahead is time 0.
        lap = (-azimuth / (2 * np.pi) + 0.5) % 1.0 - 0.5
        times = np.broadcast_to(lap / self.rate, (self.beams, self.columns)).reshape(-1)
        places, yaws = self._place(time + lap[0] / self.rate)
        turned = _unit_vectors(elevation, azimuth + yaws[None, :])
        origins = np.tile(places - seen_from, (self.beams, 1))
        return Rays(origins, turned, times), own

    def _boxes(self, scene: Scene, pose: Float64, instances: npt.NDArray[np.int32]) -> dict[str, Any]:
        """Boxes of a frame, as a sample's arguments."""
        objects = scene.objects
        world = np.array([item.box for item in objects], np.float64).reshape(-1, 7)
        to_sensor = np.linalg.inv(pose)
        yaw = np.arctan2(pose[1, 0], pose[0, 0])
        velocity = np.array([item.velocity for item in objects], np.float64).reshape(-1, 2)
        centers = world[:, :3] @ to_sensor[:3, :3].T + to_sensor[:3, 3]
        near = np.flatnonzero(np.linalg.norm(centers, axis=1) < self.max_range)
        rows = np.column_stack(
            [centers, world[:, 3:6], world[:, 6] - yaw, velocity @ to_sensor[:2, :2].T],
        )[near]
        names = tuple(objects[number].kind for number in near)
        numbers = np.array([objects[number].instance for number in near], np.int32)
        return {
            "boxes": as_boxes(rows),
            "box_names": names,
            "box_labels": np.array([BOX_CLASSES.index(name) for name in names], np.int32),
            "box_data": {
                "instance": numbers,
                "num_points": points_of_objects(instances, numbers),
            },
        }


def _unit_vectors(elevation: npt.NDArray[np.floating], azimuth: npt.NDArray[np.floating]) -> Float64:
    """`[E * A, 3]` of elevations `[E, 1]` and azimuths `[1, A]`."""
    flat = np.cos(elevation)
    return np.stack(
        [flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation) * np.ones_like(azimuth)], axis=-1
    ).reshape(-1, 3)


def _turn(yaw: Float64) -> Float64:
    """`[3, 3]` about the vertical."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    return np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])


def _by_class(values: dict[str, float]) -> npt.NDArray[np.float64]:
    table = np.zeros(len(CLASSES))
    for name, value in values.items():
        table[CLASS_ID[name]] = value
    return table
