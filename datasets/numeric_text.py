"""Rows of numbers as text, shared by the formats that have an ASCII form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .point_file import PathLike, PointFileError

# A numbered line: its place in the file, counted from 1, and its text.
NumberedLine = tuple[int, str]


def numbered_lines(content: bytes, first: int = 1) -> list[NumberedLine]:
    """Split a text body into its non-blank lines.

    Args:
        content: any bytes; a line that is not UTF-8 is decoded as Latin-1, which never fails.
        first: the number of the first line.

    Returns:
        Number and stripped text of every line that is not blank.
    """
    lines = ((number, line.strip()) for number, line in enumerate(content.splitlines(), first))
    return [(number, _decode(line)) for number, line in lines if line]


def _decode(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line.decode("latin-1")


def parse_rows(
    path: PathLike, lines: Sequence[NumberedLine], columns: int, delimiter: str | None = None
) -> npt.NDArray[np.float64]:
    """Parse lines that hold the same number of values each.

    Args:
        path: the file, for messages.
        lines: at least one line.
        columns: how many values a line must hold.
        delimiter: the character between two values, or None for any white space.

    Returns:
        `[len(lines), columns]` float64.

    Raises:
        PointFileError: a line holds another number of values, or something that is no number;
            the message gives the line.
    """
    try:
        values = np.loadtxt(
            [text for _, text in lines],
            dtype=np.float64,
            comments=None,
            delimiter=delimiter,
            ndmin=2,
        )
    except (ValueError, OverflowError) as error:
        _raise_for_first_bad_line(path, lines, columns, delimiter)
        raise PointFileError(path, "is not a table of numbers: check the export") from error
    if values.shape != (len(lines), columns):
        _raise_for_first_bad_line(path, lines, columns, delimiter)
        raise PointFileError(path, f"does not hold {columns} numbers a line: check the export")
    return values


def is_number(text: str) -> bool:
    """Whether Python reads `text` as one float (NaN and infinities included)."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _raise_for_first_bad_line(
    path: PathLike, lines: Sequence[NumberedLine], columns: int, delimiter: str | None
) -> None:
    for number, text in lines:
        tokens = text.split(delimiter)
        if len(tokens) != columns:
            raise PointFileError(
                path,
                f"line {number} holds {len(tokens)} values where {columns} are expected:"
                " the line is damaged or cut off",
            )
        for token in tokens:
            if not is_number(token):
                raise PointFileError(
                    path, f"line {number}: {token[:40]!r} is not a number: fix or remove the line"
                )
