"""PLY files: ascii and binary of both byte orders."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .colours import colours_to_byte_range
from .columns import canonical_names, check_names, cloud_from_columns
from .numeric_text import numbered_lines, parse_rows
from .ply_header import PlyElement, PlyHeader, parse_ply_header
from .point_cloud import PointCloud
from .point_file import PathLike, PointFileError, read_bytes


def read_ply(path: PathLike) -> PointCloud:
    """Read the vertices of a PLY file; faces and other elements are skipped.

    Args:
        path: the file.

    Returns:
        The cloud, with every scalar property of the vertices as a column. `red green blue` become
        `r g b` from 0 to 255, and `scalar_intensity` becomes `intensity`.

    Raises:
        PointFileError: the header or the body is damaged or cut off; there is no vertex element,
            no vertex, or no `x y z`; the vertices have list properties.
    """
    content = read_bytes(path)
    header = parse_ply_header(path, content)
    position = next((i for i, element in enumerate(header.elements) if element.name.lower() == "vertex"), None)
    if position is None:
        found = ", ".join(element.name[:20] for element in header.elements[:6]) or "none"
        raise PointFileError(path, f"has no vertex element (its elements: {found}): export points")
    before, vertices = header.elements[:position], header.elements[position]
    names = canonical_names(item.name for item in vertices.properties)
    check_names(path, names)
    if vertices.has_lists:
        raise PointFileError(path, "has lists in its vertex element: export it without them")
    if vertices.count == 0:
        raise PointFileError(path, "holds no points: export it again with at least one")
    values = (
        _binary_vertices(path, content, header, before, vertices)
        if header.byte_order
        else _ascii_vertices(path, content, header, before, vertices)
    )
    columns = dict(zip(names, values, strict=True))
    return cloud_from_columns(path, colours_to_byte_range(columns))


def _ascii_vertices(
    path: PathLike,
    content: bytes,
    header: PlyHeader,
    before: tuple[PlyElement, ...],
    vertices: PlyElement,
) -> list[npt.NDArray[Any]]:
    lines = numbered_lines(content[header.data_offset :], header.data_line)
    first = sum(element.count for element in before if element.properties)
    if len(lines) < first + vertices.count:
        raise _cut_off(path, vertices, f"{max(0, len(lines) - first)} lines of them")
    rows = parse_rows(path, lines[first : first + vertices.count], len(vertices.properties))
    return [
        rows[:, index] if item.type[0] == "f" else _whole_where_possible(rows[:, index])
        for index, item in enumerate(vertices.properties)
    ]


def _whole_where_possible(values: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    # Integers keep their kind, by which the range of colours is judged. Text may declare an
    # integer and hold something else.
    if (np.abs(values) < 2.0**53).all():
        return values.astype(np.int64)
    return values


def _binary_vertices(
    path: PathLike,
    content: bytes,
    header: PlyHeader,
    before: tuple[PlyElement, ...],
    vertices: PlyElement,
) -> list[npt.NDArray[Any]]:
    offset = header.data_offset
    for element in before:
        offset = end_of_element(path, content, offset, element, header.byte_order)
    record = vertices.record(header.byte_order)
    if vertices.count * record.itemsize > len(content) - offset:
        raise _cut_off(path, vertices, f"{max(0, len(content) - offset)} bytes for them")
    table = np.frombuffer(content, dtype=record, count=vertices.count, offset=offset)
    return [_native(table[name]) for name in record.names or ()]


def _native(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def end_of_element(path: PathLike, content: bytes, offset: int, element: PlyElement, byte_order: str) -> int:
    """Where a binary element ends.

    Args:
        path: the file, for messages.
        content: the whole file.
        offset: where the element begins.
        element: as the header describes it.
        byte_order: `"<"` or `">"`.

    Returns:
        The offset of the first byte behind it; for an element without lists it may lie beyond the content.

    Raises:
        PointFileError: a list reaches beyond the content.
    """
    if not element.has_lists:
        return offset + element.count * element.record(byte_order).itemsize
    for places in places_of_records(path, content, offset, element, byte_order):
        start, length = places[-1]
        offset = start + length * int(element.properties[-1].type[1])
    return offset


def places_of_records(
    path: PathLike, content: bytes, offset: int, element: PlyElement, byte_order: str
) -> Iterator[list[tuple[int, int]]]:
    """Walk over the records of a binary element with lists.

    Args:
        path: the file, for messages.
        content: the whole file.
        offset: where the element begins.
        element: as the header describes it.
        byte_order: `"<"` or `">"`.

    Yields:
        Of each record, for each property: the offset of its first value, and how many values it has.

    Raises:
        PointFileError: a value or a list reaches beyond the content.
    """
    endian: Literal["little", "big"] = "little" if byte_order == "<" else "big"
    steps = [
        (
            int(item.type[1]),
            int(item.count_type[1]) if item.count_type else 0,
            bool(item.count_type and item.count_type[0] == "i"),
        )
        for item in element.properties
    ]
    # Every record takes at least the byte of a list's length, so the loop ends with the content.
    for _ in range(element.count):
        places = []
        for size, count_size, is_signed in steps:
            length = 1
            if count_size:
                field = content[offset : offset + count_size]
                length = int.from_bytes(field, endian, signed=is_signed)
                offset += count_size
            if length < 0 or offset + length * size > len(content):
                raise PointFileError(
                    path,
                    f"is cut off or damaged in its element {element.name[:30]!r}: download or export it again",
                )
            places.append((offset, length))
            offset += length * size
        yield places


def _cut_off(path: PathLike, vertices: PlyElement, found: str) -> PointFileError:
    return PointFileError(
        path,
        f"is cut off: it declares {vertices.count} points and holds {found}: download it again",
    )
