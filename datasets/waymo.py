"""Waymo Open Dataset, perception, version 2 (Parquet). Sun et al., CVPR 2020."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .boxes import as_boxes
from .folders import folder_error, require_folder
from .point_dataset import PointDataset, Transform, chosen_classes
from .point_file import PointFileError
from .range_image import range_image_points, uniform_inclinations
from .sample import Float64, Sample
from .waymo_tables import LASER, TIME, Row, image_of, matrix_of, read_rows

PAGE = "Waymo Open Dataset, Download, Perception Dataset v2 (individual files with modular components)"
TREE = """
ROOT
├── training                        or validation, testing
│   ├── lidar/SEGMENT.parquet
│   ├── lidar_calibration/SEGMENT.parquet
│   ├── lidar_pose/SEGMENT.parquet
│   ├── vehicle_pose/SEGMENT.parquet
│   ├── lidar_box/SEGMENT.parquet            for boxes
│   └── lidar_segmentation/SEGMENT.parquet   for the points' classes
└── validation ...
"""
LASERS = {"TOP": 1, "FRONT": 2, "SIDE_LEFT": 3, "SIDE_RIGHT": 4, "REAR": 5}
FIELDS = ("x", "y", "z", "intensity", "elongation")
# By the number of their type; 0 is unknown.
BOX_CLASSES = ("vehicle", "pedestrian", "sign", "cyclist")
SEGMENTATION_CLASSES = (
    "undefined",
    "car",
    "truck",
    "bus",
    "other_vehicle",
    "motorcyclist",
    "bicyclist",
    "pedestrian",
    "sign",
    "traffic_light",
    "pole",
    "construction_cone",
    "bicycle",
    "motorcycle",
    "building",
    "vegetation",
    "tree_trunk",
    "curb",
    "road",
    "lane_marker",
    "other_ground",
    "walkable",
    "sidewalk",
)
_RETURN = "[{}].range_image_return{}"
_BOX = "[LiDARBoxComponent]."
_BOX_COLUMNS = [
    *(f"{_BOX}box.center.{axis}" for axis in "xyz"),
    *(f"{_BOX}box.size.{axis}" for axis in "xyz"),
    f"{_BOX}box.heading",
]
_BOX_EXTRAS = ("num_lidar_points_in_box", "difficulty_level.detection", "difficulty_level.tracking")
_SPEED = tuple(f"{_BOX}speed.{axis}" for axis in "xyz")


@dataclass(frozen=True, eq=False)
class LaserCalibration:
    """One laser's calibration.

    Attributes:
        extrinsic: `[4, 4]` float64, vehicle from sensor.
        inclinations: `[H]` radians, ascending, or None where they are uniform.
        inclination_range: lowest and highest inclination in radians.
    """

    extrinsic: Float64
    inclinations: Float64 | None
    inclination_range: tuple[float, float]

    def rows(self, height: int) -> Float64:
        """`[height]` inclinations of a range image's rows, from the top down."""
        ascending = self.inclinations
        if ascending is None:
            ascending = uniform_inclinations(*self.inclination_range, height)
        return ascending[::-1]


class Waymo(PointDataset):
    """Frames of the Waymo Open Dataset in the vehicle's frame (x ahead, y left, z up).

    Range images become points by calibration; those of the top laser also by the pose of each pixel, since the
    vehicle moves while it turns. Samples have `points` with `x y z intensity elongation` as recorded (intensity is
    unbounded: detectors take its `tanh`), `pose` (world from vehicle), `calibration` (laser name to
    `LaserCalibration`), `boxes`, `box_data` with `id`, `num_lidar_points_in_box`, `difficulty_level.detection`,
    `difficulty_level.tracking` and `speed [B, 3]` as stored, and `point_data` with `laser` (1 to 5), `return` (1
    or 2) and `no_label_zone`.

    Args:
        root: the folder drawn in `TREE`.
        split: `"training"`, `"validation"`, `"testing"`, or another folder's name.
        segments: their names; all by default.
        lasers: of `LASERS`.
        returns: `(1,)`, `(2,)` or `(1, 2)`.
        boxes: read the boxes; None: where the split has `lidar_box`.
        classes: box types wanted, in the order of their labels.
        segmentation: read the points' classes, and take only the frames that have them. Points of lasers without
            classes (all but the top one) get 0.
        transform: see `PointDataset`.

    Attributes:
        frames: segment and microseconds of each sample.

    Raises:
        DatasetFolderError: a component is missing.
        PointFileError: pyarrow is not installed, or a file is damaged.
    """

    IGNORE_LABEL = 0
    classes = SEGMENTATION_CLASSES

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str = "training",
        *,
        segments: Sequence[str] | None = None,
        lasers: Sequence[str] = tuple(LASERS),
        returns: Sequence[int] = (1, 2),
        boxes: bool | None = None,
        classes: Sequence[str] | None = None,
        segmentation: bool = False,
        transform: Transform | None = None,
    ) -> None:
        super().__init__(transform)
        self.lasers = chosen_classes(lasers, tuple(LASERS))
        self.returns = tuple(returns)
        if not self.returns or any(number not in (1, 2) for number in self.returns):
            raise ValueError(f"returns must be (1,), (2,) or (1, 2), got {returns}")
        self.box_classes = chosen_classes(classes, BOX_CLASSES)
        components = ["lidar", "lidar_calibration", "lidar_pose", "vehicle_pose"]
        components += ["lidar_box"] if boxes else []
        components += ["lidar_segmentation"] if segmentation else []
        require_folder(root, *(f"{split}/{component}" for component in components), tree=TREE, page=PAGE)
        self.folder = Path(root) / split
        self.has_boxes = (self.folder / "lidar_box").is_dir() if boxes is None else boxes
        self.has_labels = segmentation
        key_component = "lidar_segmentation" if segmentation else "vehicle_pose"
        if segments is None:
            segments = sorted(path.stem for path in (self.folder / key_component).glob("*.parquet"))
        if not segments:
            raise folder_error(f"{self.folder / key_component} holds no .parquet file", TREE, PAGE)
        frames: list[tuple[str, int]] = []
        for segment in segments:
            rows = read_rows(self._file(key_component, segment), [TIME])
            frames.extend((segment, time) for time in sorted({int(row[TIME]) for row in rows}))
        self.frames = tuple(frames)

    def _file(self, component: str, segment: str) -> Path:
        return self.folder / component / f"{segment}.parquet"

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.frames)

    def calibration(self, segment: str) -> dict[str, LaserCalibration]:
        """Calibration of a segment's lasers, by name."""
        path = self._file("lidar_calibration", segment)
        prefix = "[LiDARCalibrationComponent]."
        low, high, values = (f"{prefix}beam_inclination.{name}" for name in ("min", "max", "values"))
        found = {}
        for row in read_rows(path, [LASER, f"{prefix}extrinsic.transform", low, high], optional=(values,)):
            name = _laser(path, row)
            inclinations = (
                None if row[values] is None or not len(row[values]) else np.asarray(row[values], np.float64)
            )
            found[name] = LaserCalibration(
                matrix_of(path, row, f"{prefix}extrinsic.transform"),
                inclinations,
                (float(row[low]), float(row[high])),
            )
        return found

    def read(self, index: int) -> Sample:
        """See `PointDataset.read`."""
        segment, time = self.frames[index]
        path = self._file("vehicle_pose", segment)
        name = "[VehiclePoseComponent].world_from_vehicle.transform"
        rows = read_rows(path, [TIME, name], time=time)
        if not rows:
            raise PointFileError(path, f"has no frame {time}")
        pose = matrix_of(path, rows[0], name)
        sample = self._points(segment, time, pose)
        return self._with_boxes(sample, segment, time) if self.has_boxes else sample

    def _points(self, segment: str, time: int, pose: Float64) -> Sample:
        path = self._file("lidar", segment)
        calibration = self.calibration(segment)
        images = self._images("lidar", "LiDARComponent", segment, time, 4, self.returns)
        poses = self._images("lidar_pose", "LiDARPoseComponent", segment, time, 6, (1,))
        classes = {}
        if self.has_labels:
            classes = self._images(
                "lidar_segmentation", "LiDARSegmentationLabelComponent", segment, time, 2, self.returns
            )
        parts: list[tuple[np.ndarray, ...]] = []
        for laser in self.lasers:
            for number in self.returns:
                image = images.get((laser, number))
                if image is None:
                    continue
                if laser not in calibration:
                    raise PointFileError(self._file("lidar_calibration", segment), f"has no laser {laser}")
                parts.append(
                    self._part(
                        path,
                        laser,
                        number,
                        image,
                        poses.get((laser, 1)),
                        classes.get((laser, number)),
                        calibration[laser],
                        pose,
                    )
                )
        if not parts:
            raise PointFileError(path, f"has no range image of {', '.join(self.lasers)} in frame {time}")
        points, labels, instances, lasers, returns, zones = (
            np.concatenate(column) for column in zip(*parts, strict=True)
        )
        return Sample(
            points,
            FIELDS,
            f"{segment}/{time}",
            path,
            labels=labels if self.has_labels else None,
            instances=instances if self.has_labels else None,
            pose=pose,
            calibration=calibration,
            point_data={"laser": lasers, "return": returns, "no_label_zone": zones},
        )

    @staticmethod
    def _part(
        path: Path,
        laser: str,
        number: int,
        image: np.ndarray,
        pixel_poses: np.ndarray | None,
        classes: np.ndarray | None,
        calibration: LaserCalibration,
        pose: Float64,
    ) -> tuple[np.ndarray, ...]:
        """Points of one return of one laser, and what is known of each."""
        seen = image[..., 0] > 0
        try:
            xyz = range_image_points(
                image[..., 0],
                calibration.rows(image.shape[0]),
                calibration.extrinsic,
                pixel_poses=pixel_poses,
                frame_pose=pose,
            )
        except ValueError as error:
            raise PointFileError(
                path, f"has a range image of {laser} that does not fit its calibration or poses ({error})"
            ) from None
        if classes is not None and classes.shape[:2] != image.shape[:2]:
            raise PointFileError(path, f"has a range image of {laser} of another size than its classes")
        picked = np.zeros((len(xyz), 2), np.int32) if classes is None else classes[seen].astype(np.int32)
        if ((picked[:, 1] < 0) | (picked[:, 1] >= len(SEGMENTATION_CLASSES))).any():
            raise PointFileError(path, "has points of a class that the data set does not define")
        pixels = image[seen]
        points = np.concatenate([xyz.astype(np.float32), pixels[:, 1:3].astype(np.float32)], 1)
        if not np.isfinite(points).all():
            raise PointFileError(path, f"has a range, an intensity or an elongation of {laser} that is not finite")
        count = len(points)
        return (
            points,
            picked[:, 1],
            picked[:, 0],
            np.full(count, LASERS[laser], np.int8),
            np.full(count, number, np.int8),
            pixels[:, 3] > 0,
        )

    def _images(
        self, component: str, kind: str, segment: str, time: int, channels: int, returns: Sequence[int]
    ) -> dict[tuple[str, int], np.ndarray]:
        path = self._file(component, segment)
        prefixes = {number: _RETURN.format(kind, number) for number in returns}
        columns = [f"{prefix}.{part}" for prefix in prefixes.values() for part in ("values", "shape")]
        found = {}
        for row in read_rows(path, [TIME, LASER, *columns], time=time):
            for number, prefix in prefixes.items():
                image = image_of(path, row, prefix, channels)
                if image is not None:
                    found[_laser(path, row), number] = image
        return found

    def _with_boxes(self, sample: Sample, segment: str, time: int) -> Sample:
        path = self._file("lidar_box", segment)
        extras = tuple(f"{_BOX}{name}" for name in _BOX_EXTRAS)
        needed = [TIME, "key.laser_object_id", f"{_BOX}type", *_BOX_COLUMNS]
        rows = read_rows(path, needed, time=time, optional=(*extras, *_SPEED))
        for row in rows:
            if row[f"{_BOX}type"] not in range(len(BOX_CLASSES) + 1):
                raise PointFileError(path, f"has a box of the unknown type {row[f'{_BOX}type']}")
        names = ["unknown" if row[f"{_BOX}type"] == 0 else BOX_CLASSES[row[f"{_BOX}type"] - 1] for row in rows]
        wanted = [number for number, name in enumerate(names) if name in self.box_classes]
        rows = [rows[number] for number in wanted]
        boxes = np.array([[row[name] for name in _BOX_COLUMNS] for row in rows], np.float64).reshape(-1, 7)
        if not np.isfinite(boxes).all() or (boxes[:, 3:6] <= 0).any():
            raise PointFileError(
                path, "has a box with a size that is not positive, or a number that is not finite"
            )
        chosen = tuple(names[number] for number in wanted)
        speed = np.array([[row[name] for name in _SPEED] for row in rows], np.float64).reshape(-1, 3)
        counts = {
            name: np.array([row[column] or 0 for row in rows], np.int64).reshape(-1)
            for name, column in zip(_BOX_EXTRAS, extras, strict=True)
        }
        return sample.replace(
            boxes=as_boxes(boxes),
            box_names=chosen,
            box_labels=np.array([self.box_classes.index(name) for name in chosen], np.int32),
            box_data={
                "id": np.array([row["key.laser_object_id"] for row in rows], np.str_),
                "speed": speed,
                **counts,
            },
        )


def _laser(path: Path, row: Row) -> str:
    for name, number in LASERS.items():
        if row[LASER] == number:
            return name
    raise PointFileError(path, f"names the unknown laser {row[LASER]}")
