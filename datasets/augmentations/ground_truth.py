"""Ground-truth sampling: objects of other frames, pasted where nothing stands. Yan et al., SECOND, 2018."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sparseconv.datasets.arrays import read_npz_arrays
from sparseconv.datasets.boxes import overlap_bev, points_in_boxes
from sparseconv.datasets.point_file import PathLike, PointFileError
from sparseconv.datasets.sample import Float32, Int32, Sample

_ARRAYS = ("points", "offsets", "boxes", "names", "fields")


@dataclass(frozen=True, eq=False, repr=False)
class ObjectDatabase:
    """Objects cut out of frames, each with its points, in the frame of its sensor.

    Attributes:
        fields: names of the points' columns.
        points: `[P, 3 + F]` float32, the objects' points behind each other.
        offsets: `[K + 1]` int64: object k has rows `offsets[k]` to `offsets[k + 1]`.
        boxes: `[K, 7 or 9]` float32.
        names: the `K` class names.
        labels: `[P]` int32 class of each point, or None where the frames had none.
    """

    fields: tuple[str, ...]
    points: Float32
    offsets: np.ndarray
    boxes: Float32
    names: tuple[str, ...]
    labels: Int32 | None = None

    def __post_init__(self) -> None:
        count = len(self.names)
        ascending = len(self.offsets) == count + 1 and (np.diff(self.offsets) >= 0).all()
        if not ascending or self.offsets[0] != 0 or self.offsets[-1] != len(self.points):
            raise ValueError(f"offsets must ascend from 0 to {len(self.points)} points over {count} objects")
        if self.points.ndim != 2 or self.points.shape[1] != len(self.fields) or self.points.dtype != np.float32:
            raise ValueError(f"points must be float32 [P, {len(self.fields)}], got {self.points.shape}")
        if self.boxes.ndim != 2 or self.boxes.shape[1] not in (7, 9) or len(self.boxes) != count:
            raise ValueError(f"boxes must have shape [{count}, 7 or 9], got {self.boxes.shape}")
        if self.labels is not None and self.labels.shape != (len(self.points),):
            raise ValueError(f"labels must have shape [{len(self.points)}], got {self.labels.shape}")

    def __len__(self) -> int:
        """Number of objects."""
        return len(self.names)

    def __repr__(self) -> str:
        """Sizes only."""
        return f"ObjectDatabase(objects={len(self)}, points={len(self.points)})"

    @classmethod
    def collect(
        cls, samples: Iterable[Sample], *, classes: Sequence[str] | None = None, min_points: int = 5
    ) -> ObjectDatabase:
        """Cut every labelled object out of frames.

        Args:
            samples: a data set without random transforms, or some of its samples. Where some have boxes with
                velocities, those of the others are NaN.
            classes: names wanted; all by default.
            min_points: objects with fewer points are left out.

        Raises:
            ValueError: a sample has no boxes, the samples' fields differ, or no object is left.
        """
        parts: list[Float32] = []
        labels: list[Int32] = []
        boxes: list[Float32] = []
        names: list[str] = []
        fields: tuple[str, ...] | None = None
        for sample in samples:
            if sample.boxes is None:
                raise ValueError(f"sample {sample.name!r} has no boxes to cut objects out by")
            if fields is not None and sample.fields != fields:
                raise ValueError(f"the samples must have the same fields, got {fields} and {sample.fields}")
            fields = sample.fields
            inside = points_in_boxes(sample.points, sample.boxes)
            for number, name in enumerate(sample.box_names):
                rows = np.flatnonzero(inside[:, number])
                if (classes is None or name in classes) and len(rows) >= min_points:
                    parts.append(sample.points[rows])
                    boxes.append(sample.boxes[number])
                    names.append(name)
                    if sample.labels is not None:
                        labels.append(sample.labels[rows])
        if fields is None or not parts:
            raise ValueError(
                "no object with enough points in these samples: lower min_points, or name other classes"
            )
        if labels and len(labels) != len(parts):
            raise ValueError("some of the samples have labels of points and others have none")
        width = max(len(box) for box in boxes)
        offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
        return cls(
            fields,
            np.concatenate(parts),
            offsets,
            np.stack([np.pad(box, (0, width - len(box)), constant_values=np.nan) for box in boxes]),
            tuple(names),
            np.concatenate(labels) if labels else None,
        )

    def save(self, path: PathLike) -> None:
        """Write the database as an NPZ file of plain arrays; nothing in it is pickled.

        Args:
            path: gets the suffix `.npz` where it has none, as from `numpy.savez`.
        """
        labels: dict[str, Any] = {} if self.labels is None else {"labels": self.labels}
        np.savez_compressed(
            path,
            points=self.points,
            offsets=self.offsets,
            boxes=self.boxes,
            names=np.frombuffer("\n".join(self.names).encode(), np.uint8),
            fields=np.frombuffer("\n".join(self.fields).encode(), np.uint8),
            **labels,
        )

    @classmethod
    def load(cls, path: PathLike) -> ObjectDatabase:
        """Read what `save` wrote.

        Args:
            path: as given to `save`: with the suffix `.npz` or without.

        Raises:
            PointFileError: the file is damaged, or something else.
        """
        with_suffix = Path(f"{os.fspath(path)}.npz")
        arrays = read_npz_arrays(with_suffix if with_suffix.is_file() and not Path(path).exists() else path)
        missing = [name for name in _ARRAYS if name not in arrays]
        if missing:
            raise PointFileError(path, f"has no array {missing[0]!r}: it is no database of objects")
        labels = arrays.get("labels")
        try:
            # Files of earlier versions hold no labels as none for any point.
            if labels is not None and len(labels) == 0 < len(arrays["points"]):
                labels = None
            names = arrays["names"].astype(np.uint8).tobytes().decode().split("\n")
            return cls(
                tuple(arrays["fields"].astype(np.uint8).tobytes().decode().split("\n")),
                arrays["points"],
                arrays["offsets"].astype(np.int64),
                arrays["boxes"].astype(np.float32),
                tuple(names) if len(arrays["offsets"]) > 1 else (),
                None if labels is None else labels.astype(np.int32),
            )
        except (ValueError, TypeError, IndexError) as error:
            raise PointFileError(path, f"is no database of objects ({error})") from None


def paste_objects(
    sample: Sample,
    rng: np.random.Generator,
    database: ObjectDatabase,
    counts: Mapping[str, int],
    *,
    box_classes: Sequence[str] | None = None,
) -> Sample:
    """Paste objects of other frames at the place where they stood.

    For each class so many are drawn, without repetition, that the frame would have `counts` of them. One that
    would overlap a box of the frame, or one pasted before it, seen from above, is passed over. Points of the
    frame inside a pasted box are removed, as if the object hid them; those behind it stay.

    Args:
        sample: with boxes, and with labels if, and only if, the database has them.
        rng: decides which.
        database: with the same fields, in the same sensor's frame. Paste before other augmentations.
        counts: objects wanted in the frame, by class.
        box_classes: the data set's `box_classes`, to label the new boxes; needed where the sample has
            `box_labels`.

    Returns:
        The frame's points, then the objects' in the order of their boxes. Instances of new points are 0. New rows
        of `point_data` and `box_data` are zeros, or empty strings; `box_data["pasted"]` says which boxes are new.

    Raises:
        ValueError: the sample has no boxes, or does not fit the database.
    """
    if sample.boxes is None or sample.fields != database.fields:
        raise ValueError(f"the sample must have boxes and the fields {database.fields}, got {sample.fields}")
    if (sample.labels is None) != (database.labels is None):
        raise ValueError("labels of points must be in both the sample and the database, or in neither")
    if sample.box_labels is not None and box_classes is None:
        raise ValueError("pass box_classes=dataset.box_classes, by which the new boxes are labelled")
    chosen: list[int] = []
    occupied = sample.boxes[:, :7]
    for name, count in counts.items():
        wanted = count - sum(present == name for present in sample.box_names)
        candidates = np.array([number for number, known in enumerate(database.names) if known == name], np.int64)
        if wanted <= 0 or not len(candidates):
            continue
        for number in rng.choice(candidates, min(wanted, len(candidates)), replace=False):
            box = database.boxes[number : number + 1, :7]
            if not overlap_bev(box, occupied).any():
                chosen.append(int(number))
                occupied = np.concatenate([occupied, box])
    return _with_objects(sample, database, chosen, box_classes)


def _with_objects(
    sample: Sample, database: ObjectDatabase, chosen: list[int], box_classes: Sequence[str] | None
) -> Sample:
    boxes = np.zeros((0, 7), np.float32) if sample.boxes is None else sample.boxes
    pasted = np.concatenate([np.zeros(len(boxes), np.bool_), np.ones(len(chosen), np.bool_)])
    if not chosen:
        return sample.replace(box_data={**sample.box_data, "pasted": pasted})
    width = boxes.shape[1]
    new = database.boxes[chosen]
    new = np.pad(new, ((0, 0), (0, max(width - new.shape[1], 0))), constant_values=np.nan)[:, :width]
    kept = sample.select_points(np.flatnonzero(~points_in_boxes(sample.points, new).any(axis=1)))
    rows = np.concatenate([np.arange(database.offsets[k], database.offsets[k + 1]) for k in chosen])
    names = tuple(database.names[k] for k in chosen)
    changes: dict[str, Any] = {
        "points": np.concatenate([kept.points, database.points[rows]]),
        "point_data": {name: _grown(values, len(rows)) for name, values in kept.point_data.items()},
        "boxes": np.concatenate([boxes, new]),
        "box_names": sample.box_names + names,
        "box_data": {name: _grown(values, len(chosen)) for name, values in sample.box_data.items()},
    }
    changes["box_data"]["pasted"] = pasted
    if kept.labels is not None and database.labels is not None:
        changes["labels"] = np.concatenate([kept.labels, database.labels[rows]])
    if kept.instances is not None:
        changes["instances"] = _grown(kept.instances, len(rows))
    if sample.box_labels is not None and box_classes is not None:
        order = list(box_classes)
        unknown = [name for name in names if name not in order]
        if unknown:
            raise ValueError(f"box_classes has no {unknown[0]!r}, of which objects were asked for")
        changes["box_labels"] = np.concatenate(
            [sample.box_labels, np.array([order.index(name) for name in names], np.int32)]
        )
    return kept.replace(**changes)


def _grown(values: np.ndarray, count: int) -> np.ndarray:
    return np.concatenate([values, np.zeros((count, *values.shape[1:]), values.dtype)])
