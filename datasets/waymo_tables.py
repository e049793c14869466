"""Waymo's version 2 files: one Parquet table for each component and segment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .point_file import PointFileError, brief, check_point_file
from .sample import Float64

REMEDY = 'needs pyarrow to be read: pip install "sparseconv[waymo]"'

SEGMENT = "key.segment_context_name"
TIME = "key.frame_timestamp_micros"
LASER = "key.laser_name"
Row = dict[str, Any]

# Two range images of the top laser take 5 MB, and a row group may hold those of a whole segment.
_IMAGES_AT_ONCE = 8
_ROWS_AT_ONCE = 4096


def read_rows(
    path: Path, columns: list[str], *, time: int | None = None, optional: tuple[str, ...] = ()
) -> list[Row]:
    """Rows of one component.

    Args:
        path: the `.parquet` file.
        columns: those that it must have.
        time: only the rows of this frame, in microseconds; None: all.
        optional: columns that are read where the file has them, and are None elsewhere.

    Returns:
        One dictionary a row. Lists come as NumPy arrays, null as None.

    Raises:
        PointFileError: pyarrow is not installed; the file is missing, damaged or lacks a column.
    """
    check_point_file(path)
    try:
        import pyarrow
        from pyarrow import parquet
    except (ImportError, OSError):
        raise PointFileError(path, REMEDY) from None
    try:
        # One file at a time: pyarrow's data-set reader would guess partitions from the names of folders.
        with parquet.ParquetFile(path) as file:
            present = set(file.schema_arrow.names)
            missing = [name for name in columns if name not in present]
            if missing:
                raise PointFileError(
                    path, f"has no column {missing[0]}: it is another component or another version"
                )
            wanted = [*columns, *(name for name in optional if name in present)]
            rows = []
            for group in range(file.num_row_groups):
                for table in _matching(file, group, wanted, time):
                    rows.extend(_rows(table))
    except PointFileError:
        raise
    # Arrow's errors for damaged files have no common base but Exception.
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        raise PointFileError(path, f"is no readable Parquet file ({brief(error)}): download it again") from None
    for row in rows:
        for name in optional:
            row.setdefault(name, None)
    return rows


def _matching(file: Any, group: int, columns: list[str], time: int | None) -> Iterator[Any]:
    """The rows of a row group that belong to a frame, in parts that fit into memory however large the group is."""
    if time is None:
        yield file.read_row_group(group, columns)
        return
    if not _may_hold(file, group, time):
        return
    found = np.flatnonzero(file.read_row_group(group, [TIME])[TIME].to_numpy() == time)
    if not len(found):
        return
    at_once = _IMAGES_AT_ONCE if any(name.endswith(".values") for name in columns) else _ROWS_AT_ONCE
    start = 0
    for batch in file.iter_batches(batch_size=at_once, row_groups=[group], columns=columns):
        here = found[(found >= start) & (found < start + batch.num_rows)] - start
        if len(here):
            yield batch.take(here)
        start += batch.num_rows
        if start > found[-1]:
            return


def _may_hold(file: Any, group: int, time: int) -> bool:
    metadata = file.metadata.row_group(group)
    for number in range(metadata.num_columns):
        column = metadata.column(number)
        if column.path_in_schema == TIME and column.statistics is not None and column.statistics.has_min_max:
            return bool(column.statistics.min <= time <= column.statistics.max)
    return True


def _rows(table: Any) -> list[Row]:
    names = table.schema.names
    return [{name: _value(table[name][number]) for name in names} for number in range(table.num_rows)]


def _value(scalar: Any) -> Any:
    # A range image has a million numbers: as an array, not as a list of Python's.
    if not scalar.is_valid:
        return None
    if hasattr(scalar, "values"):
        return scalar.values.to_numpy(zero_copy_only=False)
    return scalar.as_py()


def image_of(path: Path, row: Row, prefix: str, channels: int) -> np.ndarray | None:
    """A range image of a row.

    Args:
        path: the file, for messages.
        row: with `PREFIX.values` and `PREFIX.shape`.
        prefix: such as `[LiDARComponent].range_image_return1`.
        channels: expected in the last dimension.

    Returns:
        `[H, W, channels]`, or None where it is null.

    Raises:
        PointFileError: values and shape do not fit.
    """
    values, shape = row[f"{prefix}.values"], row[f"{prefix}.shape"]
    if values is None or shape is None or (len(values) == 0 and len(shape) == 0):
        return None
    extents = [int(extent) for extent in shape]
    if (
        len(extents) != 3
        or extents[2] != channels
        or min(extents) < 0
        or len(values) != np.prod(extents, dtype=object)
    ):
        raise PointFileError(
            path, f"has {len(values)} values for {prefix} of shape {extents}; expected [H, W, {channels}]"
        )
    return np.asarray(values).reshape(extents)


def matrix_of(path: Path, row: Row, name: str) -> Float64:
    """A `[4, 4]` transform of a row.

    Raises:
        PointFileError: it has not 16 finite numbers, or cannot be inverted.
    """
    values = row[name]
    if values is None or len(values) != 16 or not np.isfinite(values).all():
        raise PointFileError(path, f"has no 16 finite numbers in {name}")
    matrix = np.asarray(values, np.float64).reshape(4, 4)
    if abs(np.linalg.det(matrix)) < 1e-6:
        raise PointFileError(path, f"has a transform that cannot be inverted in {name}")
    return matrix
