"""Points as text: XYZ, TXT and CSV."""

from __future__ import annotations

import re

from .colours import colours_to_byte_range
from .columns import canonical_names, check_names, cloud_from_columns, unnamed_columns
from .numeric_text import NumberedLine, is_number, numbered_lines, parse_rows
from .point_cloud import XYZ, PointCloud
from .point_file import PathLike, PointFileError, read_bytes

_COMMENTS = ("#", "//")
_SEPARATORS = re.compile(r"[\s,;]+")


def read_text(path: PathLike) -> PointCloud:
    """Read a table of points, one a line.

    Values are separated by white space, commas or semicolons; with semicolons, a comma is a
    decimal comma. `#` and `//` start a comment. Names come from a header line, or from the last
    comment before the points where it names `x y z`; without either, the first three columns are
    `x y z` and the others are named by `unnamed_columns`. A first line that holds one whole number
    is a point count and is skipped.

    Args:
        path: the file.

    Returns:
        The cloud.

    Raises:
        PointFileError: the file is not text, a line is no row of numbers, the header names no
            `x y z`, or there are fewer than three columns or no points.
    """
    content = read_bytes(path).removeprefix(b"\xef\xbb\xbf")
    if b"\0" in content:
        raise PointFileError(path, "is a binary file, not text: check its suffix")
    lines, comment = _without_comments(numbered_lines(content))
    if len(lines) > 1 and lines[0][1].isdecimal():
        lines = lines[1:]
    if not lines:
        raise PointFileError(path, "holds no points: expected one 'x y z' a line")
    names: list[str] | None = None
    # A header names every column; a line with a number in it is a damaged row, reported as such.
    if not any(is_number(token) for token in _names(lines[0][1])):
        names = _names(lines[0][1])
        lines = lines[1:]
        check_names(path, canonical_names(names))
        if not lines:
            raise PointFileError(path, "holds no points: nothing follows its header line")
    lines, delimiter = _with_one_delimiter(lines)
    width = len(names) if names else len(lines[0][1].split(delimiter))
    if width < 3:
        raise PointFileError(path, f"line {lines[0][0]} holds {width} values; expected x y z first")
    rows = parse_rows(path, lines, width, delimiter)
    if names is None:
        described = canonical_names(_names(comment))
        # A comment is only a guess at a header: it counts where it fits the table exactly.
        if len(described) == len(set(described)) == width and set(XYZ) <= set(described):
            names = described
    if names is None:
        return cloud_from_columns(path, unnamed_columns(rows))
    columns = {name: rows[:, index] for index, name in enumerate(canonical_names(names))}
    return cloud_from_columns(path, colours_to_byte_range(columns))


def _without_comments(lines: list[NumberedLine]) -> tuple[list[NumberedLine], str]:
    """The lines without comments, and the last comment that stands before them."""
    rows: list[NumberedLine] = []
    heading = ""
    for number, line in lines:
        text = line
        for mark in _COMMENTS:
            if mark in text:
                text, _, comment = text.partition(mark)
                heading = heading if rows else comment.strip("#/ \t")
        text = text.strip()
        if text:
            rows.append((number, text))
    return rows, heading


def _names(line: str) -> list[str]:
    return [name for name in _SEPARATORS.split(line.replace('"', "").strip()) if name]


def _with_one_delimiter(lines: list[NumberedLine]) -> tuple[list[NumberedLine], str | None]:
    first = lines[0][1]
    if ";" in first:
        return [(number, text.replace(",", ".").rstrip("; ")) for number, text in lines], ";"
    if "," in first:
        return [(number, text.rstrip(", ")) for number, text in lines], ","
    return lines, None
