"""KITTI's 3D object detection benchmark. Geiger, Lenz, Urtasun, CVPR 2012."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .float32_records import read_float32_records
from .folders import folder_error, require_folder
from .kitti_bin import FIELDS
from .kitti_calibration import KittiCalibration
from .kitti_labels import DONT_CARE, KITTI_CLASSES, KittiLabels
from .point_dataset import PointDataset, Transform, chosen_classes
from .point_file import PointFileError
from .sample import Sample

PAGE = "The KITTI Vision Benchmark Suite, 3D Object Detection Evaluation 2017"
TREE = """
ROOT
├── ImageSets/{train,val,trainval,test}.txt   for the splits of these names; one frame number a line
├── training
│   ├── velodyne/000000.bin                   or another folder of scans, such as velodyne_reduced
│   ├── calib/000000.txt
│   ├── label_2/000000.txt
│   └── image_2/000000.png                    optional: only its size is read
└── testing
    ├── velodyne/000000.bin
    └── calib/000000.txt
"""

_SPLIT_FILES = {"train": "training", "val": "training", "trainval": "training", "test": "testing"}
_FOLDERS = ("training", "testing")
# Most of the training images; the others differ by up to 6 rows and 18 columns.
USUAL_IMAGE_SHAPE = (375, 1242)


class KittiObject(PointDataset):
    """Scans, calibrations and boxes of KITTI's object benchmark.

    Samples have `points` (x ahead, y left, z up, intensity 0 to 1), `calibration` (`KittiCalibration`), and for
    the training frames `boxes` in the LiDAR's frame (see `boxes`), `box_names`, `box_labels` and in `box_data`
    `truncated`, `occluded`, `alpha`, `image_boxes [B, 4]` and `difficulty` (0 easy, 1 moderate, 2 hard, -1
    beyond).

    Args:
        root: the folder drawn in `TREE`.
        split: `"train"`, `"val"`, `"trainval"` or `"test"`, which are read from `ImageSets`; or `"training"` or
            `"testing"`: every scan of that folder.
        classes: the types whose boxes are wanted, in the order of their labels; all eight by default. `DontCare`
            never becomes a box; `dont_care(index)` gives its image regions.
        scans: the folder of the scans.
        camera_view: keep only the points that fall into the left colour image.
        image_shape: height and width for `camera_view` where `image_2` lacks the image.
        transform: see `PointDataset`.

    Raises:
        DatasetFolderError: the folder or the split's file is missing.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str = "train",
        *,
        classes: Sequence[str] | None = None,
        scans: str = "velodyne",
        camera_view: bool = False,
        image_shape: tuple[int, int] = USUAL_IMAGE_SHAPE,
        transform: Transform | None = None,
    ) -> None:
        super().__init__(transform)
        if split not in (*_SPLIT_FILES, *_FOLDERS):
            raise ValueError(f"split must be one of {', '.join((*_SPLIT_FILES, *_FOLDERS))}, got {split!r}")
        self.folder = Path(root) / _SPLIT_FILES.get(split, split)
        subfolder = self.folder.name
        self.root = require_folder(root, f"{subfolder}/{scans}", f"{subfolder}/calib", tree=TREE, page=PAGE)
        self.has_labels = subfolder == "training"
        if self.has_labels:
            require_folder(root, "training/label_2", tree=TREE, page=PAGE)
        self.box_classes = chosen_classes(classes, KITTI_CLASSES)
        self.scans = scans
        self.camera_view = camera_view
        self.image_shape = image_shape
        self.frames = self._listed(split) if split in _SPLIT_FILES else self._present()

    def _present(self) -> tuple[str, ...]:
        frames = tuple(sorted(path.stem for path in (self.folder / self.scans).glob("*.bin")))
        if not frames:
            raise folder_error(f"{self.folder / self.scans} holds no .bin file", TREE, PAGE)
        return frames

    def _listed(self, split: str) -> tuple[str, ...]:
        path = self.root / "ImageSets" / f"{split}.txt"
        if not path.is_file():
            raise folder_error(
                f"{path} does not exist: it lists the frames of {split!r} (the detectors' repositories carry it); "
                f"split={self.folder.name!r} takes every frame of the folder",
                TREE,
                PAGE,
            )
        frames = tuple(path.read_text(encoding="utf-8", errors="replace").split())
        if not frames:
            raise PointFileError(path, "lists no frames")
        bad = [frame for frame in frames if not frame.isascii() or not frame.isdigit()]
        if bad:
            raise PointFileError(path, f"lists {bad[0][:30]!r}; expected frame numbers such as 000123")
        return frames

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.frames)

    def calibration(self, index: int) -> KittiCalibration:
        """The calibration of one frame."""
        return KittiCalibration.read(self.folder / "calib" / f"{self.frames[index]}.txt")

    def labels(self, index: int) -> KittiLabels:
        """The label file of one frame as it stands, `DontCare` included."""
        return KittiLabels.read(self.folder / "label_2" / f"{self.frames[index]}.txt")

    def read(self, index: int) -> Sample:
        """See `PointDataset.read`."""
        frame = self.frames[index]
        path = self.folder / self.scans / f"{frame}.bin"
        points = read_float32_records(path, FIELDS, "a KITTI scan").points
        calibration = self.calibration(index)
        if self.camera_view:
            points = points[calibration.in_image(points[:, :3], self._image_shape(frame))]
        sample = Sample(points, FIELDS, frame, path, calibration=calibration)
        if not self.has_labels:
            return sample
        labels = self.labels(index)
        sample = sample.replace(
            boxes=labels.lidar_boxes(calibration),
            box_names=labels.types,
            box_labels=np.array(
                [self.box_classes.index(name) if name in self.box_classes else -1 for name in labels.types],
                np.int32,
            ),
            box_data={
                "truncated": labels.truncated,
                "occluded": labels.occluded,
                "alpha": labels.alpha,
                "image_boxes": labels.image_boxes,
                "difficulty": labels.difficulty(),
            },
        )
        return sample.select_boxes(np.array([name in self.box_classes for name in labels.types], np.bool_))

    def dont_care(self, index: int) -> np.ndarray:
        """`[D, 4]` float32: image regions (left, top, right, bottom) in which objects are not labelled."""
        labels = self.labels(index)
        return labels.image_boxes[np.array([name == DONT_CARE for name in labels.types], np.bool_)]

    def _image_shape(self, frame: str) -> tuple[int, int]:
        path = self.folder / "image_2" / f"{frame}.png"
        if not path.is_file():
            return self.image_shape
        with path.open("rb") as stream:
            head = stream.read(24)
        if len(head) < 24 or head[:8] != b"\x89PNG\r\n\x1a\n" or head[12:16] != b"IHDR":
            raise PointFileError(path, "is not a PNG image: download it again, or remove it to use image_shape")
        width, height = struct.unpack(">II", head[16:24])
        return height, width
