"""A simulated room, scanned from tripods or filmed by a depth camera that is carried through it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from .boxes import as_boxes, transform_boxes
from .ray_casting import cast_rays, check_caster
from .room_layout import BOX_CLASSES, CLASS_ID, CLASSES, RoomPlan, room_scene, standing_places
from .sample import Sample
from .scene import Scene, points_of_objects
from .solids import Float64, Int32, Rays

SENSORS = ("tripod", "camera")
FIELDS = ("x", "y", "z", "r", "g", "b")

# A terrestrial scanner sees all but a cone below its tripod; it errs by millimetres at any indoor distance.
_LOWEST, _TRIPOD_HEIGHT, _TRIPOD_NOISE = -60.0, 1.5, 0.002
# A depth camera's field of view in degrees, its shortest and longest distance in metres, and the standard
# deviation of its depth z, 0.0012 + 0.0019 (z - 0.4)^2 (Nguyen et al., Modeling Kinect Sensor Noise for Improved
# 3D Reconstruction and Tracking, 3DIMPVT 2012).
_VIEW = (58.5, 45.6)
_NEAREST, _FARTHEST, _CAMERA_HEIGHT = 0.4, 6.0, 1.5
# Share of a surface's light that does not depend on where it faces, and the noise of a colour channel.
_AMBIENT, _COLOUR_NOISE = 0.45, 4.0
_GLASS_DROPOUT, _DROPOUT = 0.5, 0.01


@dataclass(frozen=True)
class SimulatedRoom:
    """An indoor scene: a room of S3DIS's classes, with colours, and every point's class and object.

    The frame is the room's: x and y along its walls, z up, metres, the origin in a lower corner.

    Attributes:
        seed: chooses the room, the sensor's way and the noise; the same seed gives the same points.
        sensor: `"tripod"`: panoramas from a few places, as S3DIS and terrestrial scanners; `"camera"`: depth
            images along a way through the room, as ScanNet.
        views: panoramas or images; None: 3 or 40.
        resolution: rays of a view: columns and rows; None: 720 x 300 or 160 x 120.
        noise: standard deviation of the measured distance, as a multiple of what such a sensor has.
        caster: as of `SimulatedStreet`, with the same promise.

    Raises:
        ValueError: an attribute out of range.

    Example:
        >>> room = SimulatedRoom(seed=1, views=1, resolution=(90, 40), caster="numpy")
        >>> sample = room.scan()
        >>> sample.fields
        ('x', 'y', 'z', 'r', 'g', 'b')
        >>> SimulatedRoom.CLASSES[sample.labels[0]]
        'ceiling'
    """

    seed: int = 0
    sensor: str = "tripod"
    views: int | None = None
    resolution: tuple[int, int] | None = None
    noise: float = 1.0
    caster: str = "auto"

    CLASSES: ClassVar[tuple[str, ...]] = CLASSES
    BOX_CLASSES: ClassVar[tuple[str, ...]] = BOX_CLASSES

    def __post_init__(self) -> None:
        if self.sensor not in SENSORS:
            raise ValueError(f"sensor must be one of {', '.join(SENSORS)}, got {self.sensor!r}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int | np.integer) or self.seed < 0:
            raise ValueError(f"seed must be a whole number >= 0, got {self.seed!r}")
        if self.views is not None and not _is_count(self.views):
            raise ValueError(f"views must be at least 1 and whole, got {self.views!r}")
        if self.resolution is not None and (
            not isinstance(self.resolution, Sequence)
            or len(self.resolution) != 2
            or not all(_is_count(rays) for rays in self.resolution)
        ):
            raise ValueError(
                f"resolution must be columns and rows, both at least 1 and whole, got {self.resolution!r}"
            )
        if not 0.0 <= self.noise < np.inf:
            raise ValueError(f"noise must be a multiple >= 0, got {self.noise!r}")
        check_caster(self.caster)

    @property
    def size(self) -> tuple[float, float, float]:
        """Length, width and height of the room in metres."""
        return room_scene(self.seed)[1].size

    def __len__(self) -> int:
        """Number of views."""
        return self.views if self.views is not None else (3 if self.sensor == "tripod" else 40)

    def scan(self) -> Sample:
        """All views in one cloud.

        Returns:
            A sample in the room's frame: fields `x y z r g b` (0 to 255), `labels` of `CLASSES`, `instances` (0:
            the shell), `boxes` `[B, 7]` of every object of `BOX_CLASSES` with `box_data["instance"]` and
            `box_data["num_points"]`, and `point_data["view"]`.

        Raises:
            RuntimeError: the caster is `"open3d"` and Open3D cannot load.
        """
        scene, plan = room_scene(self.seed)
        parts = [self._view(scene, plan, number) for number in range(len(self))]
        points, labels, instances = (np.concatenate([part[column] for part in parts]) for column in range(3))
        views = np.repeat(np.arange(len(parts), dtype=np.int32), [len(part[0]) for part in parts])
        return self._sample(scene, points, labels, instances, name=f"room {self.seed}", point_data={"view": views})

    def frame(self, index: int = 0) -> Sample:
        """One view, in the sensor's own frame: x ahead, y left, z up, `pose` to the room's.

        A tripod's view has boxes; a camera's has none, since its frame is tilted and boxes stand upright.

        Args:
            index: of the view.

        Raises:
            IndexError: no such view.
            RuntimeError: the caster is `"open3d"` and Open3D cannot load.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"view {index} of {len(self)}")
        scene, plan = room_scene(self.seed)
        points, labels, instances = self._view(scene, plan, index)
        pose = self.poses()[index]
        own = points.copy()
        own[:, :3] = (points[:, :3].astype(np.float64) - pose[:3, 3]) @ pose[:3, :3]
        sample = self._sample(scene, own, labels, instances, name=f"room {self.seed}, view {index}", pose=pose)
        if self.sensor == "camera" or sample.boxes is None:
            # A camera is tilted, and boxes stand upright.
            return sample.replace(boxes=None, box_names=(), box_labels=None, box_data={})
        return sample.replace(boxes=transform_boxes(sample.boxes, np.linalg.inv(pose)))

    def frames(self) -> Iterator[Sample]:
        """All views, one at a time."""
        for index in range(len(self)):
            yield self.frame(index)

    def poses(self) -> Float64:
        """`[V, 4, 4]` from each view's sensor to the room."""
        scene, plan = room_scene(self.seed)
        poses = np.tile(np.eye(4), (len(self), 1, 1))
        if self.sensor == "tripod":
            places = standing_places(scene, plan, self.seed, len(self))
            poses[:, :2, 3], poses[:, 2, 3] = places, _TRIPOD_HEIGHT
            return poses
        # Round by three free places, above the furniture and off the walls, turning about twice on the way.
        corners = np.array(standing_places(scene, plan, self.seed, 3))
        along = 3 * np.arange(len(self)) / len(self)
        stop, share = along.astype(int), along % 1.0
        walk = corners[stop] * (1 - share)[:, None] + corners[(stop + 1) % 3] * share[:, None]
        turn = 4 * np.pi * np.arange(len(self)) / len(self)
        tilt = np.deg2rad(-12 + 22 * np.sin(5 * turn))
        ahead = np.stack([np.cos(turn) * np.cos(tilt), np.sin(turn) * np.cos(tilt), np.sin(tilt)], -1)
        left = np.stack([-np.sin(turn), np.cos(turn), np.zeros_like(turn)], -1)
        poses[:, :3, :3] = np.stack([ahead, left, np.cross(ahead, left)], -1)
        poses[:, :2, 3], poses[:, 2, 3] = walk, _CAMERA_HEIGHT
        return poses

    def _view(self, scene: Scene, plan: RoomPlan, number: int) -> tuple[npt.NDArray[np.float32], Int32, Int32]:
        """Points `[N, 6]` of one view in the room's frame, their classes and objects."""
        pose = self.poses()[number]
        own = self._directions()
        rng = np.random.default_rng([self.seed, 2, number])
        # Numbers of each ray, hit or not, as in `SimulatedStreet`.
        noise = rng.standard_normal((4, len(own)))
        survival = rng.random(len(own))
        rays = Rays.from_point(own @ pose[:3, :3].T, pose[:3, 3])
        solid, distance, cosine = cast_rays(rays, scene.solids, self.caster)
        depth = distance * (own[:, 0] if self.sensor == "camera" else 1.0)
        reach = (_NEAREST, _FARTHEST) if self.sensor == "camera" else (0.1, np.inf)
        glass = scene.classes[np.maximum(solid, 0)] == CLASS_ID["window"]
        kept = (solid >= 0) & (depth > reach[0]) & (depth < reach[1])
        kept &= survival >= np.where(glass, _GLASS_DROPOUT, _DROPOUT)
        solid, distance, cosine, own = solid[kept], distance[kept], cosine[kept], own[kept]
        noise, origins, directions = noise[:, kept], rays.origins[kept], rays.directions[kept]
        if self.sensor == "camera":
            # The error is one of depth, so it grows along slanting rays.
            sigma = (0.0012 + 0.0019 * (depth[kept] - 0.4) ** 2) / own[:, 0]
        else:
            sigma = np.full(len(solid), _TRIPOD_NOISE)
        exact = origins + directions * distance[:, None]
        points = np.empty((len(solid), 6), np.float32)
        points[:, :3] = exact + directions * (self.noise * sigma * noise[0])[:, None]
        light = _AMBIENT + (1 - _AMBIENT) * np.sqrt(cosine)
        base = scene.palette[scene.tints[solid]] * (light * _texture(exact, scene.classes[solid]))[:, None]
        points[:, 3:] = np.round(np.clip(base + _COLOUR_NOISE * self.noise * noise[1:].T, 0, 255))
        return points, scene.classes[solid].astype(np.int32), scene.instances[solid].astype(np.int32)

    def _directions(self) -> Float64:
        """`[R, 3]` unit vectors in the sensor's frame, row after row from the top."""
        if self.sensor == "tripod":
            columns, rows = self.resolution or (720, 300)
            elevation = np.deg2rad(np.linspace(90.0 - 75.0 / rows, _LOWEST, rows))[:, None]
            azimuth = (-2 * np.pi * np.arange(columns) / columns)[None, :]
            flat = np.cos(elevation)
            parts = [flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation) + 0 * azimuth]
            return np.stack(parts, -1).reshape(-1, 3)
        columns, rows = self.resolution or (160, 120)
        wide, high = np.tan(np.deg2rad(np.array(_VIEW) / 2))
        y = wide * (1 - 2 * (np.arange(columns) + 0.5) / columns)[None, :]
        z = high * (1 - 2 * (np.arange(rows) + 0.5) / rows)[:, None]
        pixels = np.stack([np.ones((rows, columns)), y + 0 * z, z + 0 * y], -1).reshape(-1, 3)
        return pixels / np.linalg.norm(pixels, axis=1, keepdims=True)

    def _sample(
        self,
        scene: Scene,
        points: npt.NDArray[np.float32],
        labels: Int32,
        instances: Int32,
        **more: Any,
    ) -> Sample:
        objects = scene.objects
        numbers = np.array([item.instance for item in objects], np.int32)
        arguments: dict[str, Any] = {
            "labels": labels,
            "instances": instances,
            "boxes": as_boxes(np.array([item.box for item in objects], np.float64).reshape(-1, 7)),
            "box_names": tuple(item.kind for item in objects),
            "box_labels": np.array([BOX_CLASSES.index(item.kind) for item in objects], np.int32),
            "box_data": {
                "instance": numbers,
                "num_points": points_of_objects(instances, numbers),
            },
            **more,
        }
        return Sample(points, FIELDS, **arguments)


def _is_count(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) >= 1


def _texture(points: Float64, classes: Int32) -> Float64:
    """Brightness `[N]` around 1: floor tiles with joints, the grain of wood, plaster."""
    brightness = np.ones(len(points))
    floor = classes == CLASS_ID["floor"]
    tile = points[floor, :2] % 0.6
    joint = (tile < 0.012).any(axis=1)
    odd = (np.floor(points[floor, :2] / 0.6).sum(axis=1) % 2).astype(bool)
    brightness[floor] = np.where(joint, 0.55, np.where(odd, 0.93, 1.0))
    wood = np.isin(classes, [CLASS_ID["table"], CLASS_ID["door"]])
    brightness[wood] = 1 + 0.06 * np.sin(90 * points[wood, 0] + 6 * np.sin(7 * points[wood, 1]))
    wall = np.isin(classes, [CLASS_ID["wall"], CLASS_ID["ceiling"], CLASS_ID["column"]])
    brightness[wall] = 1 + 0.015 * np.sin(40 * points[wall].sum(axis=1))
    return brightness
