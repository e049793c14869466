"""S3DIS: six areas of office buildings, object by object. Armeni et al., CVPR 2016."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .folders import folder_error, require_folder
from .numeric_text import NumberedLine, numbered_lines, parse_rows
from .point_dataset import PointDataset, Transform
from .point_file import PathLike, PointFileError, read_bytes
from .s3dis_classes import CLASSES
from .sample import Float32, Float64, Int32, Sample

PAGE = "Large Scale Parsing, Stanford 3D Indoor Scene Dataset (Stanford3dDataset_v1.2_Aligned_Version)"
TREE = """
ROOT                                or the folder that holds Stanford3dDataset_v1.2_Aligned_Version
├── Area_1
│   └── office_1
│       └── Annotations
│           ├── chair_1.txt         x y z r g b, one point a line
│           └── wall_1.txt
└── Area_2 ...
"""
FIELDS = ("x", "y", "z", "r", "g", "b")
AREAS = (1, 2, 3, 4, 5, 6)
# The annotators' fourteenth class, which has no place among the benchmark's 13.
_CLUTTER_TOO = ("stairs",)
_OBJECT = re.compile(r"([A-Za-z]+)_\d+\.txt")
_CONTROL = dict.fromkeys([*range(9), *range(14, 32), 127], " ")


class S3DIS(PointDataset):
    """Rooms of S3DIS, read from the objects' files.

    Samples have `points` with `x y z r g b` (metres, z up; colours 0 to 255), in the order of the files' names,
    `labels` 0 to 12 and `instances` (the file's number within the room, from 0).

    The published files have known faults. A control character between two numbers, as in line 180389 of
    `Area_5/hallway_6/Annotations/ceiling_1.txt`, is read as the space that it replaced, with a warning that names
    file and line; a line that does not come out as six numbers even so is an error. Files whose name is not
    `class_number.txt`, such as the second copy `wall_3 (1).txt`, are left out with a warning.

    Args:
        root: the folder drawn in `TREE`.
        split: `"train"`: all areas but `test_area`; `"test"`: that one; or the numbers of areas.
        test_area: 5 by custom; six-fold cross validation takes each in turn.
        transform: see `PointDataset`.

    Attributes:
        rooms: each sample's name, such as `"Area_5/office_1"`.

    Raises:
        DatasetFolderError: an area is missing, or holds no room.
    """

    IGNORE_LABEL = -1
    classes = CLASSES

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str | Sequence[int] = "train",
        *,
        test_area: int = 5,
        transform: Transform | None = None,
    ) -> None:
        super().__init__(transform)
        if test_area not in AREAS:
            raise ValueError(f"test_area must be 1 to 6, got {test_area!r}")
        if isinstance(split, str):
            if split not in ("train", "test"):
                raise ValueError(f"split must be 'train', 'test' or numbers of areas, got {split!r}")
            areas = tuple(area for area in AREAS if (area == test_area) == (split == "test"))
        else:
            areas = tuple(split)
            if not areas or any(area not in AREAS for area in areas):
                raise ValueError(f"areas must be numbers from 1 to 6, got {split!r}")
        folder = require_folder(root, tree=TREE, page=PAGE)
        inner = folder / "Stanford3dDataset_v1.2_Aligned_Version"
        self.root = inner if inner.is_dir() else folder
        rooms: list[str] = []
        for area in areas:
            name = f"Area_{area}"
            require_folder(self.root, name, tree=TREE, page=PAGE)
            found = sorted(path.parent.name for path in (self.root / name).glob("*/Annotations") if path.is_dir())
            if not found:
                raise folder_error(f"{self.root / name} holds no room with Annotations", TREE, PAGE)
            rooms.extend(f"{name}/{room}" for room in found)
        self.rooms = tuple(rooms)

    def __len__(self) -> int:
        """Number of rooms."""
        return len(self.rooms)

    def read(self, index: int) -> Sample:
        """See `PointDataset.read`."""
        folder = self.root / self.rooms[index] / "Annotations"
        clouds: list[Float32] = []
        labels: list[Int32] = []
        instances: list[Int32] = []
        for path in sorted(folder.glob("*.txt")):
            match = _OBJECT.fullmatch(path.name)
            if match is None:
                warnings.warn(
                    f"{path} is no object file of S3DIS (class_number.txt) and is left out", stacklevel=2
                )
                continue
            label = _label(path, match[1])
            rows = read_object(path)
            labels.append(np.full(len(rows), label, np.int32))
            instances.append(np.full(len(rows), len(clouds), np.int32))
            clouds.append(rows.astype(np.float32))
        if not clouds:
            raise folder_error(f"{folder} holds no object", TREE, PAGE)
        return Sample(
            np.concatenate(clouds),
            FIELDS,
            self.rooms[index],
            folder,
            labels=np.concatenate(labels),
            instances=np.concatenate(instances),
        )


def _label(path: Path, name: str) -> int:
    if name in CLASSES:
        return CLASSES.index(name)
    if name in _CLUTTER_TOO:
        return CLASSES.index("clutter")
    raise PointFileError(path, f"is an object of the unknown class {name!r}; expected one of {', '.join(CLASSES)}")


def read_object(path: PathLike) -> Float64:
    """Read one object's file: `x y z r g b` a line.

    Args:
        path: the file.

    Returns:
        `[N, 6]` float64.

    Raises:
        PointFileError: a line does not hold six finite numbers; the message gives the line.
    """
    content = read_bytes(path)
    repaired: list[int] = []
    lines: list[NumberedLine] = []
    for number, line in numbered_lines(content):
        cleaned = line.translate(_CONTROL)
        if cleaned != line:
            repaired.append(number)
        lines.append((number, cleaned))
    if not lines:
        raise PointFileError(path, "holds no points: download it again")
    rows = parse_rows(path, lines, len(FIELDS))
    if not np.isfinite(rows).all():
        raise PointFileError(path, "holds a number that is not finite: download it again")
    if repaired:
        listed = ", ".join(str(number) for number in repaired[:5])
        warnings.warn(
            f"{os.fspath(path)}: control characters in line {listed} were read as spaces ({len(repaired)} lines)",
            stacklevel=2,
        )
    return rows
