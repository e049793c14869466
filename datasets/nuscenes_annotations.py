"""nuScenes' boxes in the global frame, as arrays: a million of them are kept and pickled as quickly as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .nuscenes_tables import Record, Tables
from .point_file import PointFileError
from .sample import Float64, Int32

# The devkit takes a velocity from annotations at most this many seconds apart, twice as many from both neighbours.
_LONGEST_STEP = 1.5
_FIELDS = ("sample_token", "instance_token", "translation", "size", "rotation", "prev", "next", "num_lidar_pts")
_TABLE = "sample_annotation"


@dataclass(frozen=True, eq=False)
class FrameAnnotations:
    """The boxes of one key frame.

    Attributes:
        boxes: `[B, 9]` float64 in the global frame; see `boxes`.
        categories: the `B` category names.
        instances: the `B` tokens of the objects.
        num_lidar_points: `[B]` int32.
    """

    boxes: Float64
    categories: list[str]
    instances: list[str]
    num_lidar_points: Int32


@dataclass(frozen=True, eq=False)
class Annotations:
    """The boxes of all key frames, those of one behind each other.

    Attributes:
        boxes: `[A, 9]` float64.
        categories: `[A]` rows of `names`.
        names: category names.
        instances: `[A]` tokens, as bytes.
        num_lidar_points: `[A]` int32.
        offsets: `[S + 1]`: key frame s has rows `offsets[s]` to `offsets[s + 1]`.
    """

    boxes: Float64
    categories: Int32
    names: tuple[str, ...]
    instances: npt.NDArray[np.bytes_]
    num_lidar_points: Int32
    offsets: npt.NDArray[np.int64]

    def of_sample(self, index: int) -> FrameAnnotations:
        """The boxes of key frame number `index`."""
        rows = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        return FrameAnnotations(
            self.boxes[rows],
            [self.names[number] for number in self.categories[rows]],
            [token.decode() for token in self.instances[rows].tolist()],
            self.num_lidar_points[rows],
        )


def read_annotations(tables: Tables, samples: Sequence[str], times: Mapping[str, int]) -> Annotations | None:
    """Read the boxes of key frames, with their velocities.

    A velocity is the way between the annotations before and after, as the devkit's `box_velocity` has it; NaN
    where there is no other one, or where they lie too far apart.

    Args:
        tables: of one version.
        samples: tokens of the key frames, in the order wanted.
        times: microseconds of these and of all other key frames of the same scenes.

    Returns:
        The boxes, or None where the version has none.

    Raises:
        PointFileError: a table is damaged.
    """
    path = tables.folder / f"{_TABLE}.json"
    if not path.is_file():
        return None
    categories = {record["token"]: record["name"] for record in tables.by_token("category", "name").values()}
    names = tuple(dict.fromkeys(categories.values()))
    number_of = {name: number for number, name in enumerate(names)}
    instances = tables.by_token("instance", "category_token")
    records = tables.by_token(_TABLE, *_FIELDS)
    place = {token: number for number, token in enumerate(samples)}
    own = [record for record in records.values() if record["sample_token"] in place]
    own.sort(key=lambda record: place[record["sample_token"]])
    kinds = []
    for record in own:
        instance = tables.pick(instances, "instance", record["instance_token"])
        tables.pick(categories, "category", instance["category_token"])
        kinds.append(number_of[categories[instance["category_token"]]])
    counts = np.bincount([place[record["sample_token"]] for record in own], minlength=len(samples))
    try:
        tokens = np.array([str(record["instance_token"]).encode("ascii") for record in own], np.bytes_)
        boxes = _global_boxes(own)
        points = np.array([record["num_lidar_pts"] for record in own], np.int32).reshape(-1)
    except (ValueError, TypeError, OverflowError) as error:
        raise PointFileError(path, f"has a record with an unusable box ({str(error)[:100]})") from None
    boxes[:, 7:] = _velocities(tables, own, records, times)
    return Annotations(
        boxes,
        np.array(kinds, np.int32).reshape(-1),
        names,
        tokens,
        points,
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
    )


def _columns(records: list[Record], name: str, width: int) -> Float64:
    values = np.array([record[name] for record in records], np.float64).reshape(-1, width)
    if len(values) != len(records) or not np.isfinite(values).all():
        raise ValueError(f"{name} must be {width} finite numbers")
    return values


def _global_boxes(records: list[Record]) -> Float64:
    boxes = np.full((len(records), 9), np.nan)
    boxes[:, :3] = _columns(records, "translation", 3)
    # Stored as width, length, height.
    boxes[:, 3:6] = _columns(records, "size", 3)[:, [1, 0, 2]]
    if not (boxes[:, 3:6] > 0).all():
        raise ValueError("size must be positive")
    w, x, y, z = _columns(records, "rotation", 4).T
    if ((w * w + x * x + y * y + z * z) == 0).any():
        raise ValueError("rotation must be a quaternion that is not zero")
    # The direction of the turned x axis; a common factor changes no angle.
    boxes[:, 6] = np.arctan2(2 * (x * y + w * z), w * w + x * x - y * y - z * z)
    return boxes


def _velocities(
    tables: Tables, own: list[Record], records: Mapping[str, Record], times: Mapping[str, int]
) -> npt.NDArray[Any]:
    path = tables.folder / f"{_TABLE}.json"
    before = [tables.pick(records, _TABLE, record["prev"]) if record["prev"] else record for record in own]
    after = [tables.pick(records, _TABLE, record["next"]) if record["next"] else record for record in own]
    both = np.array([bool(record["prev"]) and bool(record["next"]) for record in own], np.bool_)
    try:
        start = np.array([times[record["sample_token"]] for record in before], np.int64)
        end = np.array([times[record["sample_token"]] for record in after], np.int64)
        moved = _columns(after, "translation", 3) - _columns(before, "translation", 3)
    except KeyError:
        raise PointFileError(path, "has an object whose annotations lie in different scenes") from None
    except (ValueError, TypeError) as error:
        raise PointFileError(path, f"has a record with an unusable box ({str(error)[:100]})") from None
    seconds = 1e-6 * (end - start)
    known = (seconds > 0) & (seconds <= _LONGEST_STEP * np.where(both, 2, 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(known[:, None], moved[:, :2] / seconds[:, None], np.nan)
