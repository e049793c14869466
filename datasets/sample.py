"""The value that every data set returns: one frame, with whatever is known about its points and boxes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .point_cloud import XYZ

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False, repr=False)
class Sample:
    """One frame, room or object of a data set.

    Attributes:
        points: `[N, 3 + F]` float32: metres in the first three columns, then one column an attribute.
        fields: the `3 + F` column names; the first three are `"x", "y", "z"`.
        name: what the data set calls this sample; unique within it.
        path: the file that the points came from.
        labels: `[N]` int32 class of each point, or None where there is none.
        instances: `[N]` int32 object of each point, or None.
        boxes: `[B, 7]` float32 `x y z dx dy dz heading`, or `[B, 9]` with `vx vy` after them; see `boxes`.
            None where the data set has no boxes, `[0, 7]` where this frame has none.
        box_names: the `B` class names.
        box_labels: `[B]` int32 indices into the data set's `box_classes`, or None.
        class_id: the class of the whole object (ModelNet40, ShapeNetPart), or None.
        pose: `[4, 4]` float64 from the frame of the points, as the data set gives them, to the world, or None.
        calibration: of the sensors, in the data set's own type, or None.
        augmentation: `[4, 4]` float64, what augmentations did to the coordinates: current = augmentation @
            original. `pose` and `calibration` speak of the original ones.
        point_data: further arrays of `N` rows.
        box_data: further arrays of `B` rows.

    Raises:
        ValueError: shapes or dtypes differ from the above.
    """

    points: Float32
    fields: tuple[str, ...]
    name: str = ""
    path: Path | None = None
    labels: Int32 | None = None
    instances: Int32 | None = None
    boxes: Float32 | None = None
    box_names: tuple[str, ...] = ()
    box_labels: Int32 | None = None
    class_id: int | None = None
    pose: Float64 | None = None
    calibration: Any = None
    augmentation: Float64 | None = None
    point_data: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    box_data: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.fields[:3] != XYZ or len(set(self.fields)) != len(self.fields):
            raise ValueError(f"fields must be different names that begin with 'x', 'y', 'z', got {self.fields}")
        _check(self.points, "points", np.float32, (None, len(self.fields)))
        rows = len(self.points)
        for name in ("labels", "instances"):
            if getattr(self, name) is not None:
                _check(getattr(self, name), name, np.int32, (rows,))
        for name, values in self.point_data.items():
            _check(values, f"point_data[{name!r}]", None, (rows, ...))
        if self.boxes is None:
            if self.box_names or self.box_labels is not None or self.box_data:
                raise ValueError("box_names, box_labels and box_data describe boxes: give boxes too")
        else:
            _check(self.boxes, "boxes", np.float32, (None, None))
            if self.boxes.shape[1] not in (7, 9):
                raise ValueError(
                    f"boxes must have shape [B, 7] (x y z dx dy dz heading) or [B, 9] (vx vy after them), got "
                    f"{self.boxes.shape}"
                )
            count = len(self.boxes)
            if len(self.box_names) != count:
                raise ValueError(f"box_names must hold one name for each of {count} boxes, got {self.box_names}")
            if self.box_labels is not None:
                _check(self.box_labels, "box_labels", np.int32, (count,))
            for name, values in self.box_data.items():
                _check(values, f"box_data[{name!r}]", None, (count, ...))
        for name in ("pose", "augmentation"):
            if getattr(self, name) is not None:
                _check(getattr(self, name), name, np.float64, (4, 4))

    @property
    def xyz(self) -> Float32:
        """`[N, 3]` float32 coordinates, a view of `points`."""
        return self.points[:, :3]

    def __len__(self) -> int:
        """Number of points."""
        return len(self.points)

    def __repr__(self) -> str:
        """Sizes only."""
        boxes = "" if self.boxes is None else f", boxes={len(self.boxes)}"
        return f"Sample({self.name!r}, points={len(self.points)}, fields={self.fields}{boxes})"

    def replace(self, **changes: Any) -> Sample:
        """A copy with other values for some attributes."""
        return dataclasses.replace(self, **changes)

    def select_points(self, rows: npt.NDArray[Any]) -> Sample:
        """A copy with some of the points, and with what is known of each.

        Args:
            rows: `[N]` bool, or row numbers in the order wanted.
        """
        return self.replace(
            points=self.points[rows],
            labels=None if self.labels is None else self.labels[rows],
            instances=None if self.instances is None else self.instances[rows],
            point_data={name: values[rows] for name, values in self.point_data.items()},
        )

    def select_boxes(self, rows: npt.NDArray[Any]) -> Sample:
        """A copy with some of the boxes, and with what is known of each.

        Args:
            rows: `[B]` bool, or row numbers in the order wanted.

        Raises:
            ValueError: the sample has no boxes.
        """
        if self.boxes is None:
            raise ValueError("this sample has no boxes")
        numbers = np.arange(len(self.boxes))[rows]
        return self.replace(
            boxes=self.boxes[numbers],
            box_names=tuple(self.box_names[number] for number in numbers),
            box_labels=None if self.box_labels is None else self.box_labels[numbers],
            box_data={name: values[numbers] for name, values in self.box_data.items()},
        )


def _check(values: object, name: str, dtype: type[np.generic] | None, shape: tuple[Any, ...]) -> None:
    if not isinstance(values, np.ndarray) or (dtype is not None and values.dtype != dtype):
        got = values.dtype if isinstance(values, np.ndarray) else type(values).__name__
        raise ValueError(f"{name} must be a NumPy array of {np.dtype(dtype)}, got {got}")
    open_end = shape[-1] is ...
    wanted = shape[:-1] if open_end else shape
    fits = values.ndim >= len(wanted) if open_end else values.ndim == len(wanted)
    if not fits or any(w is not None and w != s for w, s in zip(wanted, values.shape, strict=False)):
        described = ", ".join("..." if w is ... else "any" if w is None else str(w) for w in shape)
        raise ValueError(f"{name} must have shape [{described}], got {values.shape}")
