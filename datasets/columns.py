"""From the named columns of a file to a `PointCloud`: names, map-scale coordinates, float32."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from .point_cloud import XYZ, PointCloud
from .point_file import PathLike, PointFileError

Column = npt.NDArray[Any]

# Below this distance float32 resolves half a millimetre (its spacing is 2**-11 m up to 2**12 m), a
# fortieth of a LiDAR's noise. Farther out, as in UTM coordinates, the spacing reaches 0.5 m.
FLOAT32_MILLIMETRE_RANGE = 4096.0

_COLOURS = {"red": "r", "green": "g", "blue": "b"}


def canonical_names(names: Iterable[str]) -> list[str]:
    """Give the columns of a file the names that this package uses.

    Lower case; `red green blue` become `r g b`, `i` becomes `intensity`, and CloudCompare's prefix
    `scalar_` goes, each unless the file has another column of that name.

    Args:
        names: as the file spells them.

    Returns:
        One name for each; repeated names stay repeated.
    """
    lowered = [name.strip().lower() for name in names]
    taken = set(lowered)
    result = []
    for name in lowered:
        short = name.removeprefix("scalar_")
        short = {**_COLOURS, "i": "intensity"}.get(short, short)
        if short and short != name and short not in taken:
            taken.add(short)
            name = short
        result.append(name)
    return result


def unnamed_columns(values: npt.NDArray[Any]) -> dict[str, Column]:
    """Name the columns of an array that came without names.

    Args:
        values: `[N, C]`, `C >= 3`, `x y z` first.

    Returns:
        `x y z`, then `intensity` for one further column, `r g b` for three further columns of
        whole numbers from 0 to 255, and `column_3, column_4, ...` where the meaning is unknown.
    """
    extra = values[:, 3:]
    names = [f"column_{index}" for index in range(3, values.shape[1])]
    if len(names) == 1:
        names = ["intensity"]
    elif len(names) == 3 and _looks_like_bytes(extra):
        names = ["r", "g", "b"]
    return {name: values[:, index] for index, name in enumerate([*XYZ, *names])}


def _looks_like_bytes(values: npt.NDArray[Any]) -> bool:
    # Unit normals and colours from 0 to 1 never exceed 1.
    return bool(
        values.size
        and ((values >= 0) & (values <= 255)).all()
        and (values == np.floor(values)).all()
        and values.max() > 1
    )


def check_names(path: PathLike, names: list[str]) -> None:
    """Refuse columns that cannot become a cloud, before any point is read.

    Args:
        path: the file, for the message.
        names: canonical column names.

    Raises:
        PointFileError: `x`, `y` or `z` is missing, or a name stands twice.
    """
    missing = [axis for axis in XYZ if axis not in names]
    if missing:
        found = " ".join(name[:20] for name in names[:8]) or "none"
        raise PointFileError(path, f"has no field {', '.join(missing)} (its fields: {found}): export x, y and z")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise PointFileError(path, f"names the field {repeated[0][:40]!r} twice: rename one")


def cloud_from_columns(
    path: PathLike,
    columns: Mapping[str, Column],
    labels: npt.NDArray[np.int32] | None = None,
) -> PointCloud:
    """Assemble a cloud, `x y z` first and the other columns in the order given.

    An axis that float32 could not hold to a millimetre is shifted by its median, rounded down to
    whole metres so that voxel borders stay where they were; float32 sources are never shifted,
    because they have nothing left to lose.

    Args:
        path: the file, for messages.
        columns: name to `[N]` numbers of any integer or float dtype, the same `N` for all.
        labels: `[N]` class ids, or None.

    Returns:
        The cloud.

    Raises:
        PointFileError: no points; no `x`, `y` or `z`; coordinates beyond float32.
    """
    check_names(path, list(columns))
    count = len(columns["x"])
    if count == 0:
        raise PointFileError(path, "holds no points: export it again with at least one")
    names = [*XYZ, *(name for name in columns if name not in XYZ)]
    points = np.empty((count, len(names)), dtype=np.float32)
    origin = np.zeros(3, dtype=np.float64)
    # A value beyond float32 becomes infinite: coordinates are checked below, attributes may be.
    with np.errstate(over="ignore", invalid="ignore"):
        for index, name in enumerate(names):
            values = columns[name]
            if index < 3 and values.dtype != np.float32:
                origin[index] = _axis_origin(values)
                values = values - origin[index]
                if (np.abs(values[np.isfinite(values)]) > np.finfo(np.float32).max).any():
                    raise PointFileError(path, f"has {name} coordinates beyond float32 (3.4e38): rescale them")
            points[:, index] = values
    return PointCloud(points, tuple(names), labels, origin)


def _axis_origin(values: Column) -> float:
    finite = values[np.isfinite(values)]
    if not finite.size or np.abs(finite.astype(np.float64)).max() <= FLOAT32_MILLIMETRE_RANGE:
        return 0.0
    # The middle value, not the mean of two: their sum may overflow.
    middle = np.partition(finite, finite.size // 2)[finite.size // 2]
    return float(np.floor(middle))
