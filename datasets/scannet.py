"""ScanNet v2: reconstructed rooms with a class for every vertex. Dai et al., CVPR 2017."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .folders import folder_error, require_folder
from .label_map import map_labels
from .ply import read_ply
from .point_cloud import PointCloud
from .point_dataset import PointDataset, Transform
from .point_file import PointFileError
from .sample import Int32, Sample

PAGE = "ScanNet (terms of use by e-mail; the lists of scenes are in its repository, Tasks/Benchmark)"
TREE = """
ROOT
├── scannetv2_train.txt scannetv2_val.txt scannetv2_test.txt    one scene a line
├── scans
│   └── scene0000_00
│       ├── scene0000_00_vh_clean_2.ply            points and colours
│       └── scene0000_00_vh_clean_2.labels.ply     classes
└── scans_test
    └── scene0707_00/scene0707_00_vh_clean_2.ply
"""
FIELDS = ("x", "y", "z", "r", "g", "b")

# The benchmark's 20 classes and their numbers among NYU's 40.
NYU40_IDS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 24, 28, 33, 34, 36, 39)
CLASSES = (
    "wall",
    "floor",
    "cabinet",
    "bed",
    "chair",
    "sofa",
    "table",
    "door",
    "window",
    "bookshelf",
    "picture",
    "counter",
    "desk",
    "curtain",
    "refrigerator",
    "shower curtain",
    "toilet",
    "sink",
    "bathtub",
    "otherfurniture",
)
_NYU40 = 40


class ScanNet(PointDataset):
    """Scenes of ScanNet v2.

    Samples have `points` with `x y z r g b` (metres, z up; colours 0 to 255), one for each vertex, and `labels`: 0
    to 19, -1 for the other NYU40 classes and for vertices without one.

    Args:
        root: the folder drawn in `TREE`.
        split: `"train"`, `"val"` or `"test"`, read from the lists; or the scenes' names.
        labels: read the classes; None: unless the split is `"test"`.
        transform: see `PointDataset`.

    Attributes:
        scenes: the name of each sample.

    Raises:
        DatasetFolderError: the list or a scene is missing.
    """

    IGNORE_LABEL = -1
    classes = CLASSES

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str | Sequence[str] = "train",
        *,
        labels: bool | None = None,
        transform: Transform | None = None,
    ) -> None:
        super().__init__(transform)
        self.root = require_folder(root, tree=TREE, page=PAGE)
        self.has_labels = split != "test" if labels is None else labels
        self.scenes = self._listed(split) if isinstance(split, str) else tuple(split)
        for scene in self.scenes:
            if Path(scene).name != scene:
                raise ValueError(f"a scene must be a name such as 'scene0000_00', got {scene!r}")
        self._folders = tuple(self._folder(scene) for scene in self.scenes)

    def _listed(self, split: str) -> tuple[str, ...]:
        if split not in ("train", "val", "test"):
            raise ValueError(f"split must be 'train', 'val', 'test' or names of scenes, got {split!r}")
        path = self.root / f"scannetv2_{split}.txt"
        if not path.is_file():
            raise folder_error(f"{path} does not exist", TREE, PAGE)
        scenes = tuple(path.read_text(encoding="utf-8", errors="replace").split())
        if not scenes:
            raise PointFileError(path, "lists no scenes")
        return scenes

    def _folder(self, scene: str) -> Path:
        for name in ("scans", "scans_test"):
            if (self.root / name / scene).is_dir():
                return self.root / name / scene
        raise folder_error(f"{self.root / 'scans' / scene} does not exist", TREE, PAGE)

    def __len__(self) -> int:
        """Number of scenes."""
        return len(self.scenes)

    def read(self, index: int) -> Sample:
        """See `PointDataset.read`."""
        scene = self.scenes[index]
        path = self._folders[index] / f"{scene}_vh_clean_2.ply"
        cloud = read_ply(path)
        missing = [name for name in FIELDS if name not in cloud.fields]
        if missing:
            raise PointFileError(path, f"has no column {missing[0]}: it is no scene of ScanNet")
        points = np.ascontiguousarray(np.stack([cloud.column(name) for name in FIELDS], 1))
        return Sample(points, FIELDS, scene, path, labels=self._labels(path, cloud) if self.has_labels else None)

    @staticmethod
    def _labels(path: Path, cloud: PointCloud) -> Int32:
        label_path = path.with_name(path.name.removesuffix(".ply") + ".labels.ply")
        labelled = read_ply(label_path)
        if "label" not in labelled.fields:
            raise PointFileError(label_path, "has no column 'label': it is no label file of ScanNet")
        if len(labelled) != len(cloud):
            raise PointFileError(
                label_path,
                f"holds {len(labelled)} vertices and its scene {len(cloud)}: they do not belong together",
            )
        stored = labelled.column("label")
        numbers = stored.astype(np.int32)
        if (numbers != stored).any() or (numbers < 0).any() or (numbers > _NYU40).any():
            raise PointFileError(label_path, f"has labels outside NYU's 0 .. {_NYU40}: it is damaged")
        return map_labels(label_path, numbers, {nyu: label for label, nyu in enumerate(NYU40_IDS)}, others=-1)
