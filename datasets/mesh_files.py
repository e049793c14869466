"""Meshes from OFF, OBJ, STL and PLY files, and clouds drawn from their surface."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .columns import cloud_from_columns
from .mesh import TriangleMesh, fan, sample_surface
from .numeric_text import NumberedLine, numbered_lines, parse_rows
from .ply_faces import read_ply_mesh
from .point_cloud import PointCloud
from .point_file import PathLike, PointFileError, check_point_file, read_bytes
from .sample import Float64

# As many as a 64-beam scan has; ModelNet40's networks use 1024 to 10,000.
DEFAULT_POINTS = 100_000

_STL_HEADER = 84
_STL_TRIANGLE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])


def read_mesh(path: PathLike) -> TriangleMesh:
    """Read a mesh; polygons become fans of triangles.

    Args:
        path: a file that ends in one of `MESH_SUFFIXES`, in any case.

    Returns:
        The mesh; it may have no triangles.

    Raises:
        PointFileError: whatever is wrong with the file, in one line that begins with its path.
    """
    check_point_file(path)
    reader = MESH_READERS.get(Path(path).suffix.lower())
    if reader is None:
        raise PointFileError(path, f"is no mesh by its suffix; expected one of {' '.join(MESH_READERS)}")
    try:
        return reader(path)
    except PointFileError:
        raise
    except ValueError as error:
        raise PointFileError(path, f"{error}: the mesh is damaged") from None
    except MemoryError as error:
        raise PointFileError(path, "does not fit into memory: split it or free memory") from error


def read_mesh_points(path: PathLike, count: int = DEFAULT_POINTS, seed: int = 0) -> PointCloud:
    """Draw points evenly from a mesh's surface.

    Args:
        path: as `read_mesh`.
        count: how many points, at least one.
        seed: the same one gives the same points.

    Returns:
        A cloud with `x y z` in the file's unit and the normals `nx ny nz` of the triangles.

    Raises:
        PointFileError: see `read_mesh`; or the mesh has no area.
        ValueError: `count` is below 1.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"count must be a whole number of points >= 1, got {count!r}")
    mesh = read_mesh(path)
    try:
        points, normals, _ = sample_surface(mesh, count, np.random.default_rng(seed))
    except ValueError as error:
        raise PointFileError(path, str(error)) from None
    columns = dict(zip(("x", "y", "z"), points.T, strict=True)) | dict(
        zip(("nx", "ny", "nz"), normals.T, strict=True)
    )
    return cloud_from_columns(path, columns)


def read_off(path: PathLike) -> TriangleMesh:
    """Read an OFF file; colours and normals are skipped.

    Many files of ModelNet40 run the keyword and the counts together (`OFF3514 3546 0`); they are read too.
    """
    lines = [
        (number, text)
        for number, line in numbered_lines(read_bytes(path))
        if (text := line.partition("#")[0].strip())
    ]
    keyword = next(
        (word for word in ("OFF", "COFF", "NOFF", "CNOFF") if lines and lines[0][1].startswith(word)), None
    )
    if keyword is None:
        raise PointFileError(path, "does not begin with 'OFF': it is no OFF file")
    number, rest = lines[0][0], lines[0][1][len(keyword) :].strip()
    if rest.startswith("BINARY"):
        raise PointFileError(path, "is a binary OFF file, which hardly any program writes: export it as text")
    lines = [(number, rest), *lines[1:]] if rest else lines[1:]
    counts = lines[0][1].split() if lines else []
    if len(counts) not in (2, 3) or not all(
        count.isascii() and count.isdigit() and len(count) < 19 for count in counts
    ):
        raise PointFileError(path, "has no line with its numbers of vertices, faces and edges")
    vertices, faces = int(counts[0]), int(counts[1])
    if vertices + faces > len(lines) - 1:
        raise PointFileError(
            path, f"is cut off: it declares {vertices} vertices and {faces} faces and holds {len(lines) - 1} lines"
        )
    xyz = _first_columns(path, lines[1 : 1 + vertices], 3)
    return TriangleMesh(xyz, _faces(path, lines[1 + vertices : 1 + vertices + faces]))


def _first_columns(path: PathLike, lines: list[NumberedLine], columns: int) -> Float64:
    if not lines:
        return np.zeros((0, columns))
    cut = []
    for number, text in lines:
        tokens = text.split()
        if len(tokens) < columns:
            raise PointFileError(path, f"line {number} holds {len(tokens)} values where {columns} are expected")
        cut.append((number, " ".join(tokens[:columns])))
    return parse_rows(path, cut, columns)


def _faces(path: PathLike, lines: list[NumberedLine]) -> npt.NDArray[np.int64]:
    triangles: list[tuple[int, int, int]] = []
    for number, text in lines:
        tokens = text.split()
        try:
            size = int(tokens[0])
            corners = [int(token) for token in tokens[1 : 1 + max(size, 0)]]
        except ValueError:
            raise PointFileError(path, f"line {number} is no face: {text[:40]!r}") from None
        if size < 1 or len(corners) != size:
            raise PointFileError(path, f"line {number} is no face: it declares {tokens[0][:20]} corners")
        triangles.extend(fan(corners))
    return _triangle_array(path, triangles)


def _triangle_array(path: PathLike, triangles: list[tuple[int, int, int]]) -> npt.NDArray[np.int64]:
    try:
        return np.array(triangles, np.int64).reshape(-1, 3)
    except OverflowError:
        raise PointFileError(path, "has a face that names a vertex beyond 64 bits: it is damaged") from None


def read_obj(path: PathLike) -> TriangleMesh:
    """Read the vertices and faces of a Wavefront OBJ file; everything else is skipped."""
    content = read_bytes(path)
    if b"\0" in content:
        raise PointFileError(path, "is a binary file, not OBJ: check its suffix")
    rows: list[NumberedLine] = []
    triangles: list[tuple[int, int, int]] = []
    for number, line in numbered_lines(content.replace(b"\\\r\n", b" ").replace(b"\\\n", b" ")):
        kind, rest = (*line.partition("#")[0].split(None, 1), "", "")[:2]
        if kind == "v":
            rows.append((number, rest))
        elif kind == "f":
            try:
                corners = [int(token.partition("/")[0]) for token in rest.split()]
            except ValueError:
                raise PointFileError(path, f"line {number} is no face: {line[:40]!r}") from None
            if 0 in corners or len(corners) < 3:
                raise PointFileError(path, f"line {number} is no face: corners are counted from 1, three at least")
            # A negative corner counts back from the last vertex so far.
            absolute = [corner - 1 if corner > 0 else len(rows) + corner for corner in corners]
            if min(absolute) < 0:
                raise PointFileError(path, f"line {number} names a vertex before the first one")
            triangles.extend(fan(absolute))
    if not rows:
        raise PointFileError(path, "has no line 'v x y z': it is no OBJ file")
    return TriangleMesh(_first_columns(path, rows, 3), _triangle_array(path, triangles))


def read_stl(path: PathLike) -> TriangleMesh:
    """Read an STL file, binary or text; each triangle keeps corners of its own."""
    content = read_bytes(path)
    # Binary files may begin with 'solid' too, so their size decides.
    count = int.from_bytes(content[80:84], "little") if len(content) >= _STL_HEADER else -1
    if count >= 0 and len(content) == _STL_HEADER + count * _STL_TRIANGLE.itemsize:
        table = np.frombuffer(content, _STL_TRIANGLE, count, _STL_HEADER)
        # A signalling NaN in the file is a NaN like any other.
        with np.errstate(invalid="ignore"):
            corners = table["corners"].reshape(-1, 3).astype(np.float64)
    elif content.lstrip()[:5].lower() == b"solid" and b"\0" not in content:
        rows = []
        for number, line in numbered_lines(content):
            words = line.split()
            if words[0].lower() == "vertex":
                rows.append((number, " ".join(words[1:])))
        if len(rows) % 3 or b"endsolid" not in content.lower():
            raise PointFileError(path, f"is cut off: it holds {len(rows)} corners of triangles, or no 'endsolid'")
        corners = _first_columns(path, rows, 3)
    else:
        raise PointFileError(
            path,
            f"is no STL file, or cut off: {count} triangles take {_STL_HEADER + max(count, 0) * 50} bytes, it has "
            f"{len(content)}",
        )
    return TriangleMesh(corners, np.arange(len(corners), dtype=np.int64).reshape(-1, 3))


MESH_READERS: dict[str, Callable[[PathLike], TriangleMesh]] = {
    ".off": read_off,
    ".obj": read_obj,
    ".stl": read_stl,
    ".ply": read_ply_mesh,
}
MESH_SUFFIXES = tuple(MESH_READERS)
