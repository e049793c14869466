"""The faces of a PLY file, which `read_ply` skips."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .mesh import TriangleMesh, fan
from .numeric_text import numbered_lines
from .ply import end_of_element, places_of_records, read_ply
from .ply_header import PlyElement, PlyHeader, parse_ply_header
from .point_file import PathLike, PointFileError, read_bytes

_LISTS = ("vertex_indices", "vertex_index")


def read_ply_mesh(path: PathLike) -> TriangleMesh:
    """Read vertices and faces of a PLY file.

    Args:
        path: the file.

    Returns:
        The mesh, without the shift that `read_ply` gives to map coordinates.

    Raises:
        PointFileError: as `read_ply`; or there is no face element with a list of vertices.
    """
    cloud = read_ply(path)
    # A signalling NaN in the file is a NaN like any other.
    with np.errstate(invalid="ignore"):
        vertices = cloud.xyz.astype(np.float64) + cloud.origin
    content = read_bytes(path)
    header = parse_ply_header(path, content)
    place = next((number for number, item in enumerate(header.elements) if item.name.lower() == "face"), None)
    if place is None:
        raise PointFileError(path, "has no face element: it holds points, not a mesh")
    faces = header.elements[place]
    column = next((number for number, item in enumerate(faces.properties) if item.name in _LISTS), None)
    if column is None or faces.properties[column].count_type is None:
        raise PointFileError(path, f"has no list {_LISTS[0]} in its faces")
    read = _binary_faces if header.byte_order else _ascii_faces
    return TriangleMesh(vertices, read(path, content, header, place, column))


def _ascii_faces(
    path: PathLike, content: bytes, header: PlyHeader, place: int, column: int
) -> npt.NDArray[np.int64]:
    faces = header.elements[place]
    lines = numbered_lines(content[header.data_offset :], header.data_line)
    first = sum(element.count for element in header.elements[:place] if element.properties)
    if len(lines) < first + faces.count:
        raise _cut_off(path, faces)
    triangles: list[tuple[int, int, int]] = []
    for number, text in lines[first : first + faces.count]:
        tokens, at = text.split(), 0
        try:
            for item in faces.properties[:column]:
                at += 1 + (int(tokens[at]) if item.count_type else 0)
            size = int(tokens[at])
            corners = [int(token) for token in tokens[at + 1 : at + 1 + max(size, 0)]]
        except (ValueError, IndexError):
            raise PointFileError(path, f"line {number} is no face: {text[:40]!r}") from None
        if len(corners) != size:
            raise PointFileError(path, f"line {number} is no face: it declares {size} corners")
        triangles.extend(fan(corners))
    try:
        return np.array(triangles, np.int64).reshape(-1, 3)
    except OverflowError:
        raise PointFileError(path, "has a face that names a vertex beyond 64 bits: it is damaged") from None


def _binary_faces(
    path: PathLike, content: bytes, header: PlyHeader, place: int, column: int
) -> npt.NDArray[np.int64]:
    faces = header.elements[place]
    offset = header.data_offset
    for element in header.elements[:place]:
        offset = end_of_element(path, content, offset, element, header.byte_order)
    lists = [item for item in faces.properties if item.count_type]
    item = faces.properties[column]
    corner = np.dtype(header.byte_order + item.type)
    if corner.kind not in "iu":
        raise PointFileError(path, f"names the vertices of its faces by {item.type}: expected whole numbers")
    triangle = _triangle_record(faces, column, header.byte_order)
    # Nearly every mesh is all triangles, whose records have one size.
    if len(lists) == 1 and faces.count * triangle.itemsize <= len(content) - offset:
        table = np.frombuffer(content, triangle, faces.count, offset)
        if (table["count"] == 3).all():
            return table["corners"].astype(np.int64)
    triangles: list[tuple[int, int, int]] = []
    for places in places_of_records(path, content, offset, faces, header.byte_order):
        start, length = places[column]
        triangles.extend(fan(np.frombuffer(content, corner, length, start).tolist()))
    return np.array(triangles, np.int64).reshape(-1, 3)


def _triangle_record(faces: PlyElement, column: int, byte_order: str) -> np.dtype[np.void]:
    fields: list[tuple[str, str] | tuple[str, str, int]] = []
    for number, item in enumerate(faces.properties):
        if number == column:
            fields.append(("count", byte_order + (item.count_type or "u1")))
            fields.append(("corners", byte_order + item.type, 3))
        else:
            fields.append((f"f{number}", byte_order + item.type))
    return np.dtype(fields)


def _cut_off(path: PathLike, faces: PlyElement) -> PointFileError:
    return PointFileError(path, f"is cut off in its {faces.count} faces: download or export it again")
