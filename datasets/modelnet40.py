"""ModelNet40: 12,311 meshes of 40 kinds of objects. Wu et al., CVPR 2015."""

from __future__ import annotations

import os

import numpy as np

from .folders import folder_error, require_folder
from .mesh import sample_surface
from .mesh_files import read_off
from .point_dataset import PointDataset, Transform
from .point_file import PointFileError
from .sample import Sample

PAGE = "Princeton ModelNet, ModelNet40.zip"
TREE = """
ROOT
├── airplane
│   ├── train/airplane_0001.off
│   └── test/airplane_0627.off
└── bathtub ...
"""
FIELDS = ("x", "y", "z", "nx", "ny", "nz")
CLASSES = (
    "airplane",
    "bathtub",
    "bed",
    "bench",
    "bookshelf",
    "bottle",
    "bowl",
    "car",
    "chair",
    "cone",
    "cup",
    "curtain",
    "desk",
    "door",
    "dresser",
    "flower_pot",
    "glass_box",
    "guitar",
    "keyboard",
    "lamp",
    "laptop",
    "mantel",
    "monitor",
    "night_stand",
    "person",
    "piano",
    "plant",
    "radio",
    "range_hood",
    "sink",
    "sofa",
    "stairs",
    "stool",
    "table",
    "tent",
    "toilet",
    "tv_stand",
    "vase",
    "wardrobe",
    "xbox",
)


class ModelNet40(PointDataset):
    """Objects of ModelNet40, as points drawn evenly over their surface.

    Samples have `points` with `x y z nx ny nz` and `class_id`. The meshes have no common unit: by default they are
    moved and scaled into the unit sphere about the centre of the points drawn, as is the custom.

    Args:
        root: the folder drawn in `TREE`.
        split: `"train"` or `"test"`.
        points: how many are drawn from each mesh.
        normalize: into the unit sphere; False: the file's own coordinates.
        seed: of the drawing. An object gets the same points in every epoch, for one seed.
        transform: see `PointDataset`.

    Raises:
        DatasetFolderError: no class's folder is there, or none holds a mesh of the split.
    """

    classes = CLASSES

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str = "train",
        *,
        points: int = 2048,
        normalize: bool = True,
        seed: int = 0,
        transform: Transform | None = None,
    ) -> None:
        super().__init__(transform)
        if split not in ("train", "test"):
            raise ValueError(f"split must be 'train' or 'test', got {split!r}")
        if isinstance(points, bool) or not isinstance(points, int) or points < 1:
            raise ValueError(f"points must be a whole number >= 1, got {points!r}")
        folder = require_folder(root, tree=TREE, page=PAGE)
        self.root = folder / "ModelNet40" if (folder / "ModelNet40").is_dir() else folder
        self.points = points
        self.normalize = normalize
        self.seed = seed
        self.objects = tuple(
            (label, path)
            for label, name in enumerate(CLASSES)
            for path in sorted((self.root / name / split).glob("*.off"))
        )
        if not self.objects:
            raise folder_error(f"{self.root} holds no mesh of the split {split!r}", TREE, PAGE)

    def __len__(self) -> int:
        """Number of objects."""
        return len(self.objects)

    def read(self, index: int) -> Sample:
        """See `PointDataset.read`."""
        label, path = self.objects[index]
        try:
            mesh = read_off(path)
            drawn, normals, _ = sample_surface(mesh, self.points, np.random.default_rng([self.seed, index]))
        except PointFileError:
            raise
        except ValueError as error:
            raise PointFileError(path, f"{error}: download it again") from None
        if self.normalize:
            drawn = drawn - drawn.mean(axis=0)
            drawn = drawn / max(float(np.linalg.norm(drawn, axis=1).max()), np.finfo(np.float64).tiny)
        points = np.concatenate([drawn, normals], 1).astype(np.float32)
        return Sample(points, FIELDS, f"{CLASSES[label]}/{path.stem}", path, class_id=label)
