"""KITTI's object labels, and their boxes in the LiDAR's frame."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .boxes import as_boxes
from .kitti_calibration import KittiCalibration
from .numeric_text import numbered_lines
from .point_file import PathLike, PointFileError, read_bytes
from .sample import Float32, Float64, Int32

KITTI_CLASSES = ("Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc")
DONT_CARE = "DontCare"

# The benchmark's three levels: least height of the image box in pixels, highest occlusion, highest truncation.
_LEVELS = ((40.0, 0, 0.15), (25.0, 1, 0.30), (25.0, 2, 0.50))
_COLUMNS = 15


@dataclass(frozen=True, eq=False)
class KittiLabels:
    """The lines of a label file, one row each, `DontCare` included.

    Attributes:
        types: the `B` object types.
        truncated: `[B]` float32, 0 to 1: the share outside the image.
        occluded: `[B]` int32: 0 visible, 1 partly, 2 largely occluded, 3 unknown.
        alpha: `[B]` float32 radians, observation angle.
        image_boxes: `[B, 4]` float32 pixels: left, top, right, bottom.
        sizes: `[B, 3]` float64 metres: height, width, length.
        bottoms: `[B, 3]` float64 metres: middle of the lower face in the rectified camera frame.
        rotation_y: `[B]` float64 radians about the camera's downward axis.
    """

    types: tuple[str, ...]
    truncated: Float32
    occluded: Int32
    alpha: Float32
    image_boxes: Float32
    sizes: Float64
    bottoms: Float64
    rotation_y: Float64

    @classmethod
    def read(cls, path: PathLike) -> KittiLabels:
        """Read a file of `training/label_2`; an empty one has no objects.

        Raises:
            PointFileError: a line has fewer than 15 values (a 16th, a detector's score, is ignored), an unknown
                type, or something that is no finite number.
        """
        types: list[str] = []
        rows: list[list[float]] = []
        for number, line in numbered_lines(_content(path)):
            kind, *values = line.split()
            if len(values) not in (_COLUMNS - 1, _COLUMNS):
                raise PointFileError(
                    path, f"line {number} holds {len(values) + 1} values where {_COLUMNS} are expected"
                )
            if kind not in (*KITTI_CLASSES, DONT_CARE):
                raise PointFileError(
                    path,
                    f"line {number} has the unknown type {kind[:30]!r}; expected one of "
                    f"{', '.join(KITTI_CLASSES)} or {DONT_CARE}",
                )
            try:
                row = [float(value) for value in values[: _COLUMNS - 1]]
            except ValueError:
                raise PointFileError(path, f"line {number} holds something that is not a number") from None
            if not np.isfinite(row).all():
                raise PointFileError(path, f"line {number} holds a number that is not finite")
            if kind != DONT_CARE and min(row[7:10]) <= 0:
                raise PointFileError(path, f"line {number} has a size that is not positive: {row[7:10]}")
            types.append(kind)
            rows.append(row)
        table = np.array(rows, np.float64).reshape(-1, _COLUMNS - 1)
        return cls(
            tuple(types),
            table[:, 0].astype(np.float32),
            table[:, 1].astype(np.int32),
            table[:, 2].astype(np.float32),
            table[:, 3:7].astype(np.float32),
            table[:, 7:10],
            table[:, 10:13],
            table[:, 13],
        )

    def lidar_boxes(self, calibration: KittiCalibration) -> Float32:
        """All boxes in the LiDAR's frame; the rows of `DontCare` are meaningless.

        The middle of the lower face is brought into the LiDAR's frame, and the centre lies half the height above
        it, as OpenPCDet does. Camera and LiDAR are within a degree of each other.

        Returns:
            `[B, 7]` float32; see `boxes`.
        """
        height, width, length = self.sizes.T
        bottoms = calibration.rect_to_lidar(self.bottoms)
        bottoms[:, 2] += height / 2
        heading = -(self.rotation_y + np.pi / 2)
        return as_boxes(np.column_stack([bottoms, length, width, height, heading]))

    def difficulty(self) -> Int32:
        """`[B]`: 0 easy, 1 moderate, 2 hard, -1 beyond hard, by the benchmark's rules."""
        height = self.image_boxes[:, 3] - self.image_boxes[:, 1]
        result = np.full(len(self.types), -1, np.int32)
        for level in (2, 1, 0):
            least, occlusion, truncation = _LEVELS[level]
            fits = (height >= least) & (self.occluded <= occlusion) & (self.truncated <= np.float32(truncation))
            result[fits] = level
        return result


def _content(path: PathLike) -> bytes:
    # A frame without objects has an empty file, which is an error for points only.
    file = Path(path)
    return b"" if file.is_file() and file.stat().st_size == 0 else read_bytes(path)
