"""nuScenes: several sweeps of a spinning LiDAR, boxes, and a class for every point. Caesar et al., CVPR 2020."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .boxes import transform_boxes
from .float32_records import read_float32_records
from .folders import DatasetFolderError, folder_error, require_folder
from .label_map import map_labels
from .nuscenes_annotations import read_annotations
from .nuscenes_bin import FIELDS
from .nuscenes_classes import (
    DETECTION_CLASSES,
    DETECTION_OF_CATEGORY,
    LIDARSEG_CLASSES,
    LIDARSEG_OF_CATEGORY,
    scene_is_in,
)
from .nuscenes_tables import Record, Tables, rigid_inverse
from .point_dataset import PointDataset, Transform, chosen_classes
from .point_file import PointFileError, read_bytes
from .sample import Float64, Int32, Sample

PAGE = "nuScenes, Download (Full dataset v1.0, and nuScenes-lidarseg for the points' classes)"
TREE = """
ROOT
├── v1.0-mini                       or v1.0-trainval, v1.0-test: the tables
│   ├── sample.json sample_data.json ego_pose.json calibrated_sensor.json sensor.json scene.json
│   ├── sample_annotation.json instance.json category.json      for boxes
│   └── lidarseg.json                                           for the points' classes
├── samples/LIDAR_TOP/*.pcd.bin
├── sweeps/LIDAR_TOP/*.pcd.bin      for more than one sweep
└── lidarseg/v1.0-mini/*_lidarseg.bin
"""
CHANNEL = "LIDAR_TOP"
MULTI_SWEEP_FIELDS = (*FIELDS, "time_lag")


@dataclass(frozen=True, eq=False)
class _Sweep:
    """One LiDAR scan: its file, its time in microseconds, and `[4, 4]` global from LiDAR."""

    filename: str
    timestamp: int
    pose: Float64


class NuScenes(PointDataset):
    """Key frames of nuScenes with their LiDAR, read from the tables as they are.

    The LiDAR's frame is x right, y ahead, z up. Samples have `points` with `x y z intensity ring time_lag`
    (intensity 0 to 255; seconds before the key frame), `pose` (global from LiDAR at the key frame), `boxes [B, 9]`
    with velocities in the LiDAR's frame, and in `box_data` `num_lidar_points`, `category` and `instance` (tokens).

    Earlier sweeps are brought into the key frame's LiDAR by the car's motion. Points of theirs with both `|x|` and
    `|y|` below `min_distance` in their own frame, which hit the car itself, are removed; the key frame's own
    points all stay, so that the points' classes fit.

    Args:
        root: the folder drawn in `TREE`.
        version: the tables' folder.
        split: `"train"`, `"val"`, `"test"`, `"mini_train"`, `"mini_val"`, or `"all"` scenes of the tables; None:
            `"mini_train"`, `"train"` or `"test"`, by the version.
        sweeps: scans put together, the key frame's included; fewer where a scene begins. 10 is the usual half
            second.
        min_distance: metres; see above.
        classes: detection classes whose boxes are wanted, in the order of their labels.
        labels: read lidarseg's classes of points: 16 from 1 on, 0 ignored; points of earlier sweeps get 0.
        transform: see `PointDataset`.

    Attributes:
        tokens: the key frame's token of each sample.

    Raises:
        DatasetFolderError: the tables or the scans are missing, or the split has no scene in them.
    """

    IGNORE_LABEL = 0
    classes = LIDARSEG_CLASSES

    def __init__(
        self,
        root: str | os.PathLike[str],
        version: str = "v1.0-trainval",
        split: str | None = None,
        *,
        sweeps: int = 1,
        min_distance: float = 1.0,
        classes: Sequence[str] | None = None,
        labels: bool = False,
        transform: Transform | None = None,
    ) -> None:
        super().__init__(transform)
        if isinstance(sweeps, bool) or not isinstance(sweeps, int) or sweeps < 1:
            raise ValueError(f"sweeps must be a whole number >= 1, got {sweeps!r}")
        if split is None:
            split = {"v1.0-mini": "mini_train", "v1.0-test": "test"}.get(version, "train")
        scene_is_in(split, "")
        needed = [version, "samples", *(["lidarseg"] if labels else [])]
        self.root = require_folder(root, *needed, tree=TREE, page=PAGE)
        self.version = version
        self.min_distance = float(min_distance)
        self.box_classes = chosen_classes(classes, DETECTION_CLASSES)
        self.has_labels = labels
        tables = Tables(self.root / version)
        try:
            self._read_tables(tables, split, sweeps)
        except (PointFileError, DatasetFolderError):
            raise
        # Any value may be of a wrong kind: null, a list in place of a token, text in place of a number.
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise PointFileError(
                tables.folder, f"has a record with an unusable value ({str(error)[:100]})"
            ) from None

    def _read_tables(self, tables: Tables, split: str, sweeps: int) -> None:
        self._read_sweeps(tables, self._key_frames(tables, split), sweeps)
        if not self.tokens:
            raise folder_error(f"{tables.folder} has no scene of the split {split!r}", TREE, PAGE)
        self._annotations = read_annotations(tables, self.tokens, self._times)
        self._label_files, self._label_map = self._read_lidarseg(tables) if self.has_labels else ({}, {})

    @staticmethod
    def _key_frames(tables: Tables, split: str) -> dict[str, Record]:
        scenes = {
            token: scene
            for token, scene in tables.by_token("scene", "name").items()
            if scene_is_in(split, scene["name"])
        }
        samples = tables.by_token("sample", "scene_token", "timestamp")
        return {token: sample for token, sample in samples.items() if sample["scene_token"] in scenes}

    def _read_sweeps(self, tables: Tables, wanted: dict[str, Record], sweeps: int) -> None:
        sensors = tables.by_token("sensor", "channel")
        calibrated = {
            token: record
            for token, record in tables.by_token(
                "calibrated_sensor", "sensor_token", "translation", "rotation"
            ).items()
            if tables.pick(sensors, "sensor", record["sensor_token"])["channel"] == CHANNEL
        }
        fields = (
            "sample_token",
            "ego_pose_token",
            "calibrated_sensor_token",
            "filename",
            "timestamp",
            "is_key_frame",
        )
        scans = {
            token: record
            for token, record in tables.by_token("sample_data", *fields, "prev").items()
            if record["calibrated_sensor_token"] in calibrated
        }
        keys = {record["sample_token"]: token for token, record in scans.items() if record["is_key_frame"]}
        frames: list[tuple[str, str, tuple[str, ...]]] = []
        for sample in sorted(wanted, key=lambda token: (wanted[token]["scene_token"], wanted[token]["timestamp"])):
            if sample not in keys:
                raise PointFileError(
                    tables.folder / "sample_data.json", f"has no {CHANNEL} scan for sample {sample[:40]!r}"
                )
            chain = [keys[sample]]
            while len(chain) < sweeps and scans[chain[-1]]["prev"]:
                tables.pick(scans, "sample_data", scans[chain[-1]]["prev"])
                chain.append(scans[chain[-1]]["prev"])
            frames.append((sample, keys[sample], tuple(chain)))
        used = {token for _, _, chain in frames for token in chain}
        ego_poses = tables.by_token("ego_pose", "translation", "rotation")
        self._sweeps = {}
        for token in used:
            record = scans[token]
            ego = tables.pick(ego_poses, "ego_pose", record["ego_pose_token"])
            sensor = calibrated[record["calibrated_sensor_token"]]
            pose = tables.transform("ego_pose", ego) @ tables.transform("calibrated_sensor", sensor)
            self._sweeps[token] = _Sweep(str(record["filename"]), int(record["timestamp"]), pose)
        self.tokens = tuple(sample for sample, _, _ in frames)
        self._scan_tokens = tuple(scan for _, scan, _ in frames)
        self._chains = tuple(chain for _, _, chain in frames)
        self._times = {token: int(record["timestamp"]) for token, record in wanted.items()}

    def _read_lidarseg(self, tables: Tables) -> tuple[dict[str, str], dict[int, int]]:
        path = tables.folder / "category.json"
        mapping: dict[int, int] = {}
        for record in tables.by_token("category", "name").values():
            number = record.get("index")
            if isinstance(number, bool) or not isinstance(number, int):
                raise PointFileError(
                    path, "has no 'index' in its records: unpack nuScenes-lidarseg's tables over it"
                )
            # The label files hold bytes.
            if not 0 <= number <= 255 or number in mapping:
                raise PointFileError(
                    path, f"has an index twice, or one that is not in 0 .. 255: {str(number)[:40]}"
                )
            if record["name"] not in LIDARSEG_OF_CATEGORY:
                raise PointFileError(path, f"has the category {record['name']!r}, which lidarseg does not define")
            mapping[number] = LIDARSEG_OF_CATEGORY[record["name"]]
        rows = tables.by_token("lidarseg", "sample_data_token", "filename").values()
        return {row["sample_data_token"]: row["filename"] for row in rows}, mapping

    def __len__(self) -> int:
        """Number of key frames."""
        return len(self.tokens)

    def read(self, index: int) -> Sample:
        """See `PointDataset.read`."""
        chain = self._chains[index]
        key = self._sweeps[chain[0]]
        from_global = rigid_inverse(key.pose)
        clouds = []
        for number, token in enumerate(chain):
            sweep = self._sweeps[token]
            scan = read_float32_records(self._path(sweep.filename), FIELDS, "a nuScenes sweep").points
            if number:
                scan = scan[~(np.abs(scan[:, :2]) < self.min_distance).all(axis=1)]
                motion = from_global @ sweep.pose
                scan[:, :3] = scan[:, :3].astype(np.float64) @ motion[:3, :3].T + motion[:3, 3]
            lag = np.full((len(scan), 1), 1e-6 * (key.timestamp - sweep.timestamp), np.float32)
            clouds.append(np.concatenate([scan, lag], 1))
        path = self._path(key.filename)
        sample = Sample(np.concatenate(clouds), MULTI_SWEEP_FIELDS, self.tokens[index], path, pose=key.pose)
        if self.has_labels:
            labels = self._labels(index, len(clouds[0]))
            sample = sample.replace(labels=np.pad(labels, (0, len(sample) - len(labels))))
        return self._with_boxes(sample, index, from_global)

    def _path(self, filename: str) -> Path:
        # The tables are data: they do not choose files outside the data set.
        if Path(filename).is_absolute() or ".." in Path(filename).parts:
            raise PointFileError(self.root / self.version, f"names a file outside the data set: {filename[:80]!r}")
        return self.root / filename

    def _with_boxes(self, sample: Sample, index: int, from_global: Float64) -> Sample:
        if self._annotations is None:
            return sample
        found = self._annotations.of_sample(index)
        names = [DETECTION_OF_CATEGORY.get(category) for category in found.categories]
        kept = np.array([name in self.box_classes for name in names], np.bool_)
        chosen = tuple(name for name in names if name in self.box_classes and name is not None)
        return sample.replace(
            # Global coordinates reach kilometres: they become float32 in the LiDAR's frame only.
            boxes=transform_boxes(found.boxes[kept], from_global),
            box_names=chosen,
            box_labels=np.array([self.box_classes.index(name) for name in chosen], np.int32),
            box_data={
                "num_lidar_points": found.num_lidar_points[kept],
                "category": np.array(found.categories, np.str_)[kept],
                "instance": np.array(found.instances, np.str_)[kept],
            },
        )

    def _labels(self, index: int, count: int) -> Int32:
        token = self._scan_tokens[index]
        if token not in self._label_files:
            raise PointFileError(
                self.root / self.version / "lidarseg.json", f"has no record for the scan {token[:40]!r}"
            )
        path = self._path(self._label_files[token])
        original = np.frombuffer(read_bytes(path), np.uint8)
        if len(original) != count:
            raise PointFileError(
                path, f"holds {len(original)} labels for a scan of {count} points: they do not belong together"
            )
        return map_labels(path, original.astype(np.int32), self._label_map)
