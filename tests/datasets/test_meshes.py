"""Meshes: one tetrahedron in every format, areas by hand, real shapes against Open3D."""

from __future__ import annotations

import struct
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_data import sample

from sparseconv.datasets import PointFileError, TriangleMesh, read_mesh, read_points, sample_surface
from sparseconv.datasets.open3d_import import open3d_or_none

VERTICES = np.array([[0, 0, 0], [3, 0, 0], [0, 4, 0], [0, 0, 5]], float)
FACES = [(0, 2, 1), (0, 1, 3), (0, 3, 2), (1, 2, 3)]


def off_text(keyword: str = "OFF\n4 4 6\n") -> str:
    rows = [" ".join(str(v) for v in row) for row in VERTICES]
    return keyword + "\n".join([*rows, *(f"3 {a} {b} {c}" for a, b, c in FACES)]) + "\n"


def obj_text() -> str:
    rows = ["# a comment", "mtllib some.mtl", *("v " + " ".join(str(v) for v in row) for row in VERTICES)]
    rows += ["vn 0 0 1", "vt 0 0", "f 1/1/1 3/1/1 2/1/1", "f 1//1 2//1 4//1", "f -4 -1 -2", "f 2 3 \\", "4"]
    return "\n".join(rows) + "\n"


def stl_bytes() -> bytes:
    body = b"".join(struct.pack("<12fH", 0, 0, 0, *VERTICES[list(face)].reshape(-1), 0) for face in FACES)
    # Some programs begin binary files with 'solid' too.
    return b"solid binary".ljust(80) + struct.pack("<I", len(FACES)) + body


def stl_text() -> str:
    lines = ["solid tetrahedron"]
    for face in FACES:
        corners = ["vertex " + " ".join(f"{v:e}" for v in VERTICES[i]) for i in face]
        lines += ["facet normal 0 0 0", "outer loop", *corners, "endloop", "endfacet"]
    return "\n".join([*lines, "endsolid tetrahedron"]) + "\n"


def ply_head(form: str, faces: int = 4) -> str:
    axes = "".join(f"property float {axis}\n" for axis in "xyz")
    face = f"element face {faces}\nproperty uchar flags\nproperty list uchar int vertex_indices\n"
    return f"ply\nformat {form} 1.0\nelement vertex 4\n{axes}{face}end_header\n"


def ply_bytes(order: str) -> bytes:
    form = {"<": "binary_little_endian", ">": "binary_big_endian"}[order]
    body = b"".join(struct.pack(f"{order}3f", *row) for row in VERTICES)
    body += b"".join(struct.pack(f"{order}BB3i", 9, 3, *face) for face in FACES)
    return ply_head(form).encode() + body


def ply_text() -> str:
    rows = [" ".join(str(v) for v in row) for row in VERTICES]
    return ply_head("ascii") + "\n".join([*rows, *(f"9 3 {a} {b} {c}" for a, b, c in FACES)]) + "\n"


def float_faces(more: int) -> bytes:
    head = ply_head("binary_little_endian", 1).replace("uchar int", "uchar float").encode()
    body = b"".join(struct.pack("<3f", *row) for row in VERTICES)
    return head + body + struct.pack(f"<BB{3 + more}f", 9, 3 + more, 0.0, 1.9, 2.0, *range(more))


CONTENTS = {
    "plain.off": off_text().encode(),
    "joined.off": off_text("OFF4 4 6\n").encode(),
    "oneline.OFF": off_text("OFF 4 4\n").encode(),
    "comments.off": off_text("# made by hand\nOFF # here\n\n4 4 0 # counts\n").encode(),
    "shape.obj": obj_text().encode(),
    "tabs.obj": obj_text().replace("v ", "v\t").replace("f ", "f\t ").encode(),
    "binary.stl": stl_bytes(),
    "text.STL": stl_text().encode(),
    "little.ply": ply_bytes("<"),
    "big.ply": ply_bytes(">"),
    "text.ply": ply_text().encode(),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_every_format_gives_the_same_surface(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(CONTENTS[name])
    mesh = read_mesh(path)
    corners = sorted(mesh.vertices[mesh.triangles].reshape(-1, 9).tolist())
    assert corners == sorted(VERTICES[list(face)].reshape(-1).tolist() for face in FACES)
    # Half of 12, 15, 20 and the slanted side, outwards.
    slanted = np.sqrt(12.0**2 + 15.0**2 + 20.0**2)
    assert sorted(np.linalg.norm(mesh.normals(), axis=1)) == pytest.approx([12, 15, 20, slanted])
    cloud = read_points(path, mesh_points=500, seed=3)
    assert cloud.fields == ("x", "y", "z", "nx", "ny", "nz") and len(cloud) == 500
    x, y, z = cloud.xyz.T.astype(float)
    on_a_side = np.minimum(
        np.minimum(np.abs(x), np.abs(y)), np.minimum(np.abs(z), np.abs(x / 3 + y / 4 + z / 5 - 1))
    )
    assert on_a_side.max() < 1e-6 and (x / 3 + y / 4 + z / 5).max() < 1 + 1e-6 and cloud.xyz.min() > -1e-6
    np.testing.assert_allclose(np.linalg.norm(cloud.points[:, 3:], axis=1), 1, rtol=1e-5)
    assert (read_points(path, mesh_points=500, seed=3).points == cloud.points).all()
    assert (read_points(path, mesh_points=500, seed=4).points != cloud.points).any()


def test_points_fall_evenly(tmp_path: Path) -> None:
    mesh = TriangleMesh(VERTICES, np.array(FACES))
    points, normals, triangle = sample_surface(mesh, 40_000, np.random.default_rng(0))
    area = np.linalg.norm(mesh.normals(), axis=1)
    share = area / area.sum()
    counts = np.bincount(triangle, minlength=4)
    # Five standard deviations of a binomial.
    assert (np.abs(counts - 40_000 * share) < 5 * np.sqrt(40_000 * share * (1 - share))).all()
    for side in range(4):
        inside = points[triangle == side]
        middle = VERTICES[list(FACES[side])].mean(0)
        assert np.linalg.norm(inside.mean(0) - middle) < 0.1
        np.testing.assert_allclose(normals[triangle == side] @ mesh.normals()[side], area[side])
    # In a right triangle a quarter lies beyond the middle of each leg.
    bottom = points[triangle == 0]
    for axis, length in ((0, 3), (1, 4)):
        assert np.mean(bottom[:, axis] > length / 2) == pytest.approx(0.25, abs=0.02)


def test_polygons_become_fans(tmp_path: Path) -> None:
    path = tmp_path / "square.off"
    path.write_text("OFF\n5 2 0\n0 0 0 1 2 3\n1 0 0\n1 1 0\n0 1 0\n2 2 2\n4 0 1 2 3 0.5 0.5 0.5\n2 0 4\n")
    mesh = read_mesh(path)
    assert mesh.triangles.tolist() == [[0, 1, 2], [0, 2, 3]]
    path = tmp_path / "mixed.ply"
    body = b"".join(struct.pack("<3f", *row) for row in VERTICES)
    body += struct.pack("<BB4i", 0, 4, 0, 1, 2, 3) + struct.pack("<BB3i", 0, 3, 1, 2, 3)
    path.write_bytes(ply_head("binary_little_endian", 2).encode() + body)
    assert read_mesh(path).triangles.tolist() == [[0, 1, 2], [0, 2, 3], [1, 2, 3]]


def test_ply_without_a_number_stays_its_vertices(tmp_path: Path) -> None:
    path = tmp_path / "a.ply"
    path.write_bytes(ply_bytes("<"))
    assert (read_points(path).xyz == VERTICES.astype(np.float32)).all()
    path.write_text(
        "ply\nformat ascii 1.0\nelement vertex 1\n"
        "property float x\nproperty float y\nproperty float z\nend_header\n1 2 3\n"
    )
    with pytest.raises(PointFileError, match="no face element"):
        read_points(path, mesh_points=5)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.off", b"PLY\n", "does not begin with 'OFF'"),
        ("a.off", b"OFF BINARY\n", "binary OFF"),
        ("a.off", b"OFF\n", "no line with its numbers"),
        ("a.off", b"OFF\n-1 2 3\n", "no line with its numbers"),
        ("a.off", b"OFF\n999999999999 2 3\n1 2 3\n", "is cut off: it declares 999999999999"),
        ("a.off", off_text().encode()[:-9], "is cut off"),
        ("a.off", off_text().replace("3 1 2 3", "3 1 2 4").encode(), "a face names vertex 4 of 4"),
        ("a.off", off_text().replace("3 1 2 3", "3 1 2 -1").encode(), "a face names vertex -1 of 4"),
        ("a.off", off_text().replace("3 1 2 3", "9 1 2 3").encode(), "line 10 is no face"),
        ("a.off", off_text().replace("3 1 2 3", "3 1 2 99999999999999999999").encode(), "beyond 64 bits"),
        ("a.off", off_text().replace("3.0 0.0 0.0", "3.0 nan 0.0").encode(), "not finite"),
        ("a.off", off_text().replace("3.0 0.0 0.0", "3.0 0.0").encode(), "line 4 holds 2 values"),
        ("a.off", b"OFF\n1 0 0\n1 2 3\n", "no triangle with an area"),
        ("a.off", b"OFF\n3 1 0\n1 2 3\n1 2 3\n1 2 3\n3 0 1 2\n", "no triangle with an area"),
        ("a.obj", b"f 1 2 3\n", "no line 'v x y z'"),
        ("a.obj", b"v 1 2 3\nf 0 1 1\n", "counted from 1"),
        ("a.obj", b"v 1 2 3\nf 1 1\n", "three at least"),
        ("a.obj", b"v 1 2 3\nf 1 1 -2\n", "before the first one"),
        ("a.obj", b"v 1 2 3\nf 1 1 a\n", "line 2 is no face"),
        ("a.obj", b"v 1 2 3\nf 1 1 5\n", "a face names vertex 4 of 1"),
        ("a.obj", b"v 1 2\n", "line 1 holds 2 values"),
        ("a.obj", b"v 1 2 3\n\0", "is a binary file"),
        ("a.stl", stl_bytes()[:-1], "is no STL file, or cut off: 4 triangles"),
        ("a.stl", b"short", "is no STL file"),
        ("a.stl", stl_text().encode()[:-30], "is cut off"),
        ("a.stl", stl_text().replace("vertex", "corner", 1).encode(), "is cut off: it holds 11 corners"),
        ("a.ply", ply_bytes("<")[:-3], "is cut off or damaged in its element 'face'"),
        ("a.ply", ply_text().replace("9 3 1 2 3", "9 3 1 2").encode(), "line 18 is no face"),
        ("a.ply", ply_text().replace("9 3 1 2 3", "9 3 1 2 7").encode(), "a face names vertex 7 of 4"),
        ("a.ply", float_faces(0), "names the vertices of its faces by f4: expected whole numbers"),
        ("a.ply", float_faces(4), "names the vertices of its faces by f4: expected whole numbers"),
        ("a.ply", ply_text().replace("vertex_indices", "loops").encode(), "no list vertex_indices"),
    ],
)
def test_damaged_meshes(tmp_path: Path, name: str, content: bytes, problem: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(PointFileError, match=problem) as caught:
        read_points(path, mesh_points=10)
    assert str(caught.value).startswith(f"{path}: ") and str(caught.value).isprintable()


def test_arguments() -> None:
    with pytest.raises(ValueError, match="vertices must have shape"):
        TriangleMesh(np.zeros((3, 2)), np.zeros((1, 3), int))
    with pytest.raises(ValueError, match="count must be"):
        sample_surface(TriangleMesh(VERTICES, np.array(FACES)), -1, np.random.default_rng(0))


def test_bad_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.off"
    path.write_text(off_text())
    for count in (0, -3, True, 2.5):
        with pytest.raises(ValueError, match="whole number of points >= 1"):
            read_points(path, mesh_points=count)  # type: ignore[arg-type]
    with pytest.raises(PointFileError, match="is no mesh by its suffix"):
        (tmp_path / "a.bin").write_bytes(b"1234")
        read_mesh(tmp_path / "a.bin")


@given(st.floats(-300, 300))
def test_any_scale_is_drawn_from(exponent: float) -> None:
    mesh = TriangleMesh(VERTICES * 10.0 ** (exponent / 2), np.array(FACES))
    points, normals, triangle = sample_surface(mesh, 20, np.random.default_rng(0))
    assert np.isfinite(points).all() and Counter(triangle.tolist())
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1)


@pytest.mark.parametrize("name", ["mesh/ballA.off", "mesh/bunny.ply", "mesh/fandisk.obj"])
def test_real_shapes_as_open3d_reads_them(name: str) -> None:
    path = sample(name)
    mesh = read_mesh(path)
    open3d = open3d_or_none()
    if open3d is None:
        pytest.skip("Open3D does not load here")
    theirs = open3d.io.read_triangle_mesh(str(path))
    corners = np.asarray(theirs.vertices)[np.asarray(theirs.triangles)]
    area = (
        0.5 * np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1).sum()
    )
    assert len(mesh.triangles) == len(corners)
    assert 0.5 * np.linalg.norm(mesh.normals(), axis=1).sum() == pytest.approx(area, rel=1e-5)
    cloud = read_points(path, mesh_points=200)
    assert (cloud.xyz.min(0) >= corners.min((0, 1)) - 1e-4).all()
    assert (cloud.xyz.max(0) <= corners.max((0, 1)) + 1e-4).all()
