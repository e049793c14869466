"""ShapeNetPart: 16,881 objects of 16 kinds, 50 parts, with normals. Yi et al., SIGGRAPH Asia 2016."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .folders import folder_error, require_folder
from .numeric_text import numbered_lines, parse_rows
from .point_dataset import PointDataset, Transform, chosen_classes
from .point_file import PathLike, PointFileError, read_bytes
from .sample import Sample

PAGE = "ShapeNet, Part annotation (shapenetcore_partanno_segmentation_benchmark_v0_normal)"
TREE = """
ROOT
├── synsetoffset2category.txt
├── train_test_split
│   ├── shuffled_train_file_list.json
│   ├── shuffled_val_file_list.json
│   └── shuffled_test_file_list.json
├── 02691156
│   └── 1021a0914a7207aff927ed529ad90a11.txt    x y z nx ny nz part, one point a line
└── 02773838 ...
"""
FIELDS = ("x", "y", "z", "nx", "ny", "nz")

# Category to its parts, which are numbered through all categories in this order.
PARTS = {
    "Airplane": range(4),
    "Bag": range(4, 6),
    "Cap": range(6, 8),
    "Car": range(8, 12),
    "Chair": range(12, 16),
    "Earphone": range(16, 19),
    "Guitar": range(19, 22),
    "Knife": range(22, 24),
    "Lamp": range(24, 28),
    "Laptop": range(28, 30),
    "Motorbike": range(30, 36),
    "Mug": range(36, 38),
    "Pistol": range(38, 41),
    "Rocket": range(41, 44),
    "Skateboard": range(44, 47),
    "Table": range(47, 50),
}
CLASSES = tuple(PARTS)
_SPLITS = {"train": ("train",), "val": ("val",), "trainval": ("train", "val"), "test": ("test",)}
_ENTRY = re.compile(r"shape_data/(\d+)/([0-9A-Za-z._-]+)")


class ShapeNetPart(PointDataset):
    """Objects of ShapeNetPart (the version with normals).

    Samples have `points` with `x y z nx ny nz`, `class_id` (0 to 15, by `CLASSES`) and `labels`: the part of each
    point, 0 to 49 over all categories; `PARTS` says which belong to which.

    Args:
        root: the folder drawn in `TREE`.
        split: `"train"`, `"val"`, `"trainval"` or `"test"`, the official lists.
        classes: categories wanted; their `class_id` stays the one among all 16.
        transform: see `PointDataset`.

    Raises:
        DatasetFolderError: a list is missing.
    """

    IGNORE_LABEL = -1
    classes = CLASSES

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str = "train",
        *,
        classes: Sequence[str] | None = None,
        transform: Transform | None = None,
    ) -> None:
        super().__init__(transform)
        if split not in _SPLITS:
            raise ValueError(f"split must be one of {', '.join(_SPLITS)}, got {split!r}")
        wanted = chosen_classes(classes, CLASSES)
        lists = [f"train_test_split/shuffled_{part}_file_list.json" for part in _SPLITS[split]]
        self.root = require_folder(root, "synsetoffset2category.txt", *lists, tree=TREE, page=PAGE)
        category_of = read_categories(self.root / "synsetoffset2category.txt")
        objects: list[tuple[str, Path]] = []
        for name in lists:
            for folder, stem in _read_list(self.root / name):
                if folder not in category_of:
                    raise PointFileError(self.root / name, f"lists an object of the unknown category {folder}")
                if category_of[folder] in wanted:
                    objects.append((category_of[folder], self.root / folder / f"{stem}.txt"))
        if not objects:
            raise folder_error(f"{self.root} lists no object of {', '.join(wanted)} in {split!r}", TREE, PAGE)
        self.objects = tuple(objects)

    def __len__(self) -> int:
        """Number of objects."""
        return len(self.objects)

    def read(self, index: int) -> Sample:
        """See `PointDataset.read`."""
        category, path = self.objects[index]
        lines = numbered_lines(read_bytes(path))
        if not lines:
            raise PointFileError(path, "holds no points: download it again")
        rows = parse_rows(path, lines, 7)
        if not np.isfinite(rows).all():
            raise PointFileError(path, "holds a number that is not finite: download it again")
        parts = rows[:, 6]
        own = PARTS[category]
        if (parts != np.floor(parts)).any() or parts.min() < own.start or parts.max() >= own.stop:
            raise PointFileError(
                path, f"has a part outside {own.start} .. {own.stop - 1}, those of the category {category}"
            )
        return Sample(
            rows[:, :6].astype(np.float32),
            FIELDS,
            f"{category}/{path.stem}",
            path,
            labels=parts.astype(np.int32),
            class_id=CLASSES.index(category),
        )


def read_categories(path: PathLike) -> dict[str, str]:
    """Read `synsetoffset2category.txt`: folder to category.

    Raises:
        PointFileError: a line is no pair, or names a category that is none of the 16.
    """
    found = {}
    for number, line in numbered_lines(read_bytes(path)):
        words = line.split()
        if len(words) != 2 or words[0] not in CLASSES or not words[1].isdigit():
            raise PointFileError(path, f"line {number} is no category and its number: {line[:40]!r}")
        found[words[1]] = words[0]
    return found


def _read_list(path: Path) -> list[tuple[str, str]]:
    try:
        entries = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise PointFileError(path, f"is no JSON ({str(error)[:80]}): download it again") from None
    if not isinstance(entries, list):
        raise PointFileError(path, "is no list of objects: download it again")
    found = []
    for entry in entries:
        match = _ENTRY.fullmatch(entry) if isinstance(entry, str) else None
        if match is None:
            raise PointFileError(path, f"lists {str(entry)[:60]!r}; expected 'shape_data/NUMBER/NAME'")
        found.append((match[1], match[2]))
    return found
