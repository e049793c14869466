"""Class numbers from one numbering to another."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from .point_file import PathLike, PointFileError
from .sample import Int32

_UNKNOWN = np.iinfo(np.int32).min


def map_labels(
    path: PathLike, labels: npt.NDArray[np.integer], mapping: Mapping[int, int], *, others: int | None = None
) -> Int32:
    """Rename class numbers.

    Args:
        path: the file that they came from, for the message.
        labels: `[N]` whole numbers >= 0.
        mapping: old number, from 0 to some hundreds (a table is made of them), to new one.
        others: the new number of those that `mapping` lacks; None: they are an error.

    Returns:
        `[N]` int32.

    Raises:
        PointFileError: a number that `mapping` lacks, and `others` is None.
    """
    table = np.full(max(mapping, default=0) + 1, _UNKNOWN if others is None else others, np.int32)
    for old, new in mapping.items():
        table[old] = new
    known = (labels >= 0) & (labels < len(table))
    result = np.where(known, table[np.where(known, labels, 0)], _UNKNOWN if others is None else others)
    if others is None and (result == _UNKNOWN).any():
        unknown = np.unique(labels[result == _UNKNOWN])
        listed = ", ".join(str(number) for number in unknown[:8])
        raise PointFileError(
            path,
            f"has {int((result == _UNKNOWN).sum())} labels that the data set does not define ({listed}): it is "
            "damaged or of another data set",
        )
    return result.astype(np.int32)
