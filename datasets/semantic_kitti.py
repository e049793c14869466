"""SemanticKITTI: odometry scans with a class and an object for every point. Behley et al., ICCV 2019."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from .float32_records import read_float32_records
from .folders import folder_error, require_folder
from .kitti_bin import FIELDS
from .kitti_calibration import homogeneous, read_matrices
from .label_map import map_labels
from .numeric_text import numbered_lines, parse_rows
from .point_dataset import PointDataset, Transform
from .point_file import PathLike, PointFileError, read_bytes
from .sample import Float64, Int32, Sample
from .semantic_kitti_classes import (
    CLASSES,
    CLASSES_MULTI,
    LEARNING_MAP,
    LEARNING_MAP_INVERSE,
    LEARNING_MAP_INVERSE_MULTI,
    LEARNING_MAP_MULTI,
    ORIGINAL_NAMES,
    SPLITS,
)

PAGE = "SemanticKITTI, Dataset (scans and calibration: The KITTI Vision Benchmark Suite, Visual Odometry 2012)"
TREE = """
ROOT
└── sequences                       or dataset/sequences
    ├── 00
    │   ├── velodyne/000000.bin
    │   ├── labels/000000.label     sequences 00 to 10
    │   ├── calib.txt               with poses.txt: for sample.pose
    │   └── poses.txt
    └── 01 ...
"""


def read_semantic_kitti_labels(path: PathLike, count: int | None = None) -> tuple[Int32, Int32]:
    """Read a `.label` file: little-endian uint32, the class in the lower and the object in the upper 16 bits.

    Args:
        path: the file.
        count: how many points its scan has, or None not to check.

    Returns:
        `[N]` int32 original classes and `[N]` int32 objects (0: none).

    Raises:
        PointFileError: the file is missing or empty, its size is no multiple of 4, or it holds another number.
    """
    content = read_bytes(path)
    if len(content) % 4:
        raise PointFileError(
            path, f"has {len(content)} bytes, not a multiple of 4: it is cut off or no label file"
        )
    packed = np.frombuffer(content, "<u4")
    if count is not None and len(packed) != count:
        raise PointFileError(
            path, f"holds {len(packed)} labels for a scan of {count} points: they do not belong together"
        )
    return (packed & 0xFFFF).astype(np.int32), (packed >> 16).astype(np.int32)


def read_lidar_poses(calibration: PathLike, poses: PathLike) -> Float64:
    """LiDAR poses of an odometry sequence.

    KITTI's `poses.txt` moves the left grey camera; with `Tr` of `calib.txt` (LiDAR to camera) the LiDAR's pose is
    `Tr^-1 P Tr`, relative to its first one.

    Args:
        calibration: `calib.txt`.
        poses: `poses.txt`, 12 numbers a line.

    Returns:
        `[F, 4, 4]` float64, world from LiDAR.

    Raises:
        PointFileError: a file is missing or damaged.
    """
    flat = read_matrices(calibration)
    if flat.get("Tr", np.empty(0)).size != 12:
        raise PointFileError(calibration, "has no 'Tr:' with 12 numbers: it is no odometry calibration")
    camera_from_lidar = homogeneous(flat["Tr"].reshape(3, 4))
    if abs(np.linalg.det(camera_from_lidar)) < 1e-6:
        raise PointFileError(calibration, "has a Tr that cannot be inverted: it is damaged")
    rows = parse_rows(poses, numbered_lines(read_bytes(poses)), 12)
    if not np.isfinite(rows).all():
        raise PointFileError(poses, "holds a number that is not finite: download it again")
    moved = np.tile(np.eye(4), (len(rows), 1, 1))
    moved[:, :3] = rows.reshape(-1, 3, 4)
    return np.linalg.inv(camera_from_lidar) @ moved @ camera_from_lidar


class SemanticKitti(PointDataset):
    """Scans of SemanticKITTI.

    Samples have `points` (x ahead, y left, z up, intensity 0 to 1), `labels`, `instances` (0: none) and `pose`
    (world from LiDAR, relative to the sequence's first scan) where `calib.txt` and `poses.txt` are there.

    Args:
        root: the folder drawn in `TREE`.
        split: `"train"`, `"valid"` (or `"val"`) or `"test"`, the official sequences; or the sequences' numbers.
        task: `"single"`: 19 classes from 1 on, 0 ignored. `"multi"`: 25, moving objects apart. `"original"`: what
            the files hold.
        labels: read the labels; None: unless the split is `"test"`, which has none.
        transform: see `PointDataset`.

    Attributes:
        classes: name of each label of the task (of `"original"`: of each number).
        frames: sequence and frame of each sample, such as `("08", "000123")`.

    Raises:
        DatasetFolderError: a sequence or its labels are missing.
    """

    IGNORE_LABEL = 0

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str | Sequence[int] = "train",
        *,
        task: Literal["single", "multi", "original"] = "single",
        labels: bool | None = None,
        transform: Transform | None = None,
    ) -> None:
        super().__init__(transform)
        if task not in ("single", "multi", "original"):
            raise ValueError(f"task must be 'single', 'multi' or 'original', got {task!r}")
        name = {"val": "valid"}.get(split, split) if isinstance(split, str) else None
        if name is not None and name not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)} or sequence numbers, got {split!r}")
        numbers = SPLITS[name] if name is not None else tuple(int(number) for number in split)
        self.task = task
        self.has_labels = name != "test" if labels is None else labels
        folder = require_folder(root, tree=TREE, page=PAGE)
        self.sequences = folder / "sequences"
        if not self.sequences.is_dir() and (folder / "dataset" / "sequences").is_dir():
            self.sequences = folder / "dataset" / "sequences"
        frames: list[tuple[str, str]] = []
        self._poses: dict[str, Float64] = {}
        for number in numbers:
            sequence = f"{number:02d}"
            needed = [f"{sequence}/velodyne"] + ([f"{sequence}/labels"] if self.has_labels else [])
            require_folder(self.sequences, *needed, tree=TREE, page=PAGE)
            present = sorted(path.stem for path in (self.sequences / sequence / "velodyne").glob("*.bin"))
            if not present:
                raise folder_error(f"{self.sequences / sequence / 'velodyne'} holds no .bin file", TREE, PAGE)
            frames.extend((sequence, frame) for frame in present)
            calibration, poses = (self.sequences / sequence / name for name in ("calib.txt", "poses.txt"))
            if calibration.is_file() and poses.is_file():
                self._poses[sequence] = read_lidar_poses(calibration, poses)
        self.frames = tuple(frames)

    @property
    def classes(self) -> tuple[str, ...] | dict[int, str]:
        """Name of each label."""
        return {"single": CLASSES, "multi": CLASSES_MULTI, "original": ORIGINAL_NAMES}[self.task]  # type: ignore[return-value]

    def __len__(self) -> int:
        """Number of scans."""
        return len(self.frames)

    def read(self, index: int) -> Sample:
        """See `PointDataset.read`."""
        sequence, frame = self.frames[index]
        folder = self.sequences / sequence
        path = folder / "velodyne" / f"{frame}.bin"
        points = read_float32_records(path, FIELDS, "a KITTI scan").points
        labels = instances = None
        if self.has_labels:
            label_path = folder / "labels" / f"{frame}.label"
            original, instances = read_semantic_kitti_labels(label_path, len(points))
            labels = self._mapped(label_path, original)
        return Sample(
            points,
            FIELDS,
            f"{sequence}/{frame}",
            path,
            labels=labels,
            instances=instances,
            pose=self._pose(sequence, frame),
        )

    def _mapped(self, path: Path, original: Int32) -> Int32:
        if self.task == "original":
            map_labels(path, original, {number: number for number in ORIGINAL_NAMES})
            return original
        return map_labels(path, original, LEARNING_MAP if self.task == "single" else LEARNING_MAP_MULTI)

    def _pose(self, sequence: str, frame: str) -> Float64 | None:
        poses = self._poses.get(sequence)
        if poses is None:
            return None
        if not frame.isdigit() or int(frame) >= len(poses):
            raise PointFileError(
                self.sequences / sequence / "poses.txt", f"holds {len(poses)} poses and none for scan {frame}"
            )
        return poses[int(frame)]

    def to_original(self, labels: np.ndarray) -> np.ndarray:
        """Labels of the task as the numbers that the benchmark's server expects (`learning_map_inv`).

        Args:
            labels: whole numbers of any shape.

        Raises:
            ValueError: a number that the task does not have.
        """
        if self.task == "original":
            return labels
        inverse = LEARNING_MAP_INVERSE if self.task == "single" else LEARNING_MAP_INVERSE_MULTI
        labels = np.asarray(labels)
        if labels.size and not (labels.min() >= 0 and labels.max() < len(inverse)):
            raise ValueError(f"labels must lie in 0 .. {len(inverse) - 1}, got {labels.min()} .. {labels.max()}")
        return np.array(list(inverse.values()), np.int32)[labels]
