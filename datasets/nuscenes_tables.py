"""nuScenes' tables: JSON files of records that name each other by tokens."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from .point_file import PathLike, PointFileError, read_bytes
from .sample import Float64

Record = dict[str, Any]
Picked = TypeVar("Picked")


def read_table(path: PathLike, needed: Iterable[str]) -> list[Record]:
    """Read one table.

    Args:
        path: the `.json` file.
        needed: fields that every record must have.

    Returns:
        Its records.

    Raises:
        PointFileError: the file is missing, is no JSON list of objects, or a record lacks a field.
    """
    try:
        records = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise PointFileError(path, f"is no JSON ({str(error)[:80]}): it is cut off or damaged") from None
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise PointFileError(path, "is no table of nuScenes: expected a list of records")
    for field in needed:
        for number, record in enumerate(records):
            if field not in record:
                raise PointFileError(path, f"lacks {field!r} in record {number}: it is no table of nuScenes")
    return records


class Tables:
    """The tables of one version, each by token.

    Args:
        folder: such as `ROOT/v1.0-mini`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def by_token(self, name: str, *needed: str) -> dict[str, Record]:
        """One table.

        Args:
            name: without `.json`.
            needed: fields beside `token` that every record must have.
        """
        return {record["token"]: record for record in read_table(self.folder / f"{name}.json", ("token", *needed))}

    def pick(self, table: Mapping[str, Picked], name: str, token: object) -> Picked:
        """The record that another one names.

        Raises:
            PointFileError: there is none.
        """
        if not isinstance(token, str) or token not in table:
            raise PointFileError(
                self.folder / f"{name}.json", f"has no record {str(token)[:40]!r}, which is named elsewhere"
            )
        return table[token]

    def transform(self, name: str, record: Record) -> Float64:
        """`[4, 4]` of a record with a `translation` and a `rotation` (quaternion w x y z)."""
        try:
            return pose_matrix(record["translation"], record["rotation"])
        except (TypeError, ValueError) as error:
            raise PointFileError(
                self.folder / f"{name}.json",
                f"has an unusable pose in record {str(record['token'])[:40]!r} ({error})",
            ) from None


def rotation_matrix(quaternion: ArrayLike) -> Float64:
    """`[3, 3]` of a quaternion w x y z, which need not be normalised.

    Raises:
        ValueError: it is not four finite numbers, or is zero.
    """
    w, x, y, z = np.asarray(quaternion, np.float64)
    norm = math.sqrt(w * w + x * x + y * y + z * z)
    if not 0 < norm < math.inf:
        raise ValueError(f"a rotation must be a finite quaternion that is not zero, got {quaternion!r}")
    w, x, y, z = w / norm, x / norm, y / norm, z / norm
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def pose_matrix(translation: ArrayLike, quaternion: ArrayLike) -> Float64:
    """`[4, 4]` of a translation in metres and a quaternion w x y z.

    Raises:
        ValueError: they are not 3 and 4 finite numbers.
    """
    shift = np.asarray(translation, np.float64)
    if shift.shape != (3,) or not np.isfinite(shift).all():
        raise ValueError(f"a translation must be 3 finite metres, got {translation!r}")
    matrix = np.eye(4)
    matrix[:3, :3] = rotation_matrix(quaternion)
    matrix[:3, 3] = shift
    return matrix


def rigid_inverse(matrix: Float64) -> Float64:
    """The inverse of a rotation and a translation, `[4, 4]`."""
    result = np.eye(4)
    result[:3, :3] = matrix[:3, :3].T
    result[:3, 3] = -matrix[:3, :3].T @ matrix[:3, 3]
    return result
