from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from point_file_writers import ply_bytes, sample_table, table

from sparseconv.datasets import PointCloud, PointFileError, read_points
from sparseconv.datasets.ply_header import FORMATS


def _read(path: Path, content: bytes) -> PointCloud:
    path.write_bytes(content)
    return read_points(path)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("faces_first", [False, True])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_round_trip(tmp_path: Path, form: str, faces_first: bool, newline: str) -> None:
    rows = sample_table(61)
    content = ply_bytes(rows, form, faces_first=faces_first, newline=newline)
    cloud = _read(tmp_path / "a.ply", content)
    assert cloud.fields == ("x", "y", "z", "intensity", "tag", "ring", "time")
    for name in cloud.fields:
        np.testing.assert_array_equal(cloud.column(name), rows[name].astype(np.float32))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("colours", "expected"),
    [
        (np.array([0, 128, 255], np.uint8), [0, 128, 255]),
        (np.array([0, 128 * 257, 65535], np.uint16), [0, 128, 255]),
        (np.array([0, 128 * 256, 65280], np.uint16), [0, 128, 255]),
        (np.array([0, 128, 255], np.uint16), [0, 128, 255]),
        (np.array([0, 0.5, 1], np.float32), [0, 127.5, 255]),
        (np.array([0, 128, 255], np.float32), [0, 128, 255]),
    ],
)
def test_colours_end_up_from_0_to_255(
    tmp_path: Path, form: str, colours: np.ndarray, expected: list[float]
) -> None:
    zeros = np.zeros(3, np.float32)
    rows = table(dict.fromkeys("xyz", zeros) | dict.fromkeys(("red", "green", "blue"), colours))
    cloud = _read(tmp_path / "a.ply", ply_bytes(rows, form))
    assert cloud.fields == ("x", "y", "z", "r", "g", "b")
    assert cloud.points[:, 3:].T.tolist() == [expected] * 3


def test_cloudcompare_scalars_lose_their_prefix(tmp_path: Path) -> None:
    zeros = np.zeros(3, np.float32)
    rows = table(dict.fromkeys(("x", "y", "z", "scalar_Intensity", "scalar_x"), zeros))
    cloud = _read(tmp_path / "a.ply", ply_bytes(rows, "binary_little_endian"))
    assert cloud.fields == ("x", "y", "z", "intensity", "scalar_x")


@pytest.mark.parametrize("number", ["nan", "inf", "-1e300", "7.5"])
def test_text_that_breaks_its_declared_integer_type(tmp_path: Path, number: str) -> None:
    rows = sample_table(2)
    rows["tag"] = 77
    content = ply_bytes(rows, "ascii").replace(b" 77 ", f" {number} ".encode())
    assert len(_read(tmp_path / "a.ply", content)) == 2


LITTLE = ply_bytes(sample_table(), "binary_little_endian", faces_first=True)
ASCII = ply_bytes(sample_table(), "ascii")
VERTEX = b"element vertex 23"
HUGE = b"1" + b"0" * 12
WRONG = {
    "no PLY": (b"plywood\n", "does not begin with 'ply'"),
    "a cut header": (LITTLE[:150], "has no end_header line"),
    "no format": (LITTLE.replace(b"format", b"comment"), "has no format line in its PLY header"),
    "another format": (
        LITTLE.replace(b"_little", b"_middle"),
        "line 2 of the PLY header is not val",
    ),
    "unknown type": (
        LITTLE.replace(b"property short", b"property half").replace(b"property float", b"property half"),
        "has the unknown type 'half'",
    ),
    "negative size": (
        LITTLE.replace(VERTEX, b"element vertex -1"),
        "line 8 of the PLY header is no",
    ),
    "list of float length": (
        LITTLE.replace(b"list uchar", b"list float"),
        "counts a list in float",
    ),
    "a property of nothing": (b"ply\nproperty int x\nend_header\n", "line 2 of the PLY header is"),
    "a short property": (LITTLE.replace(b"uchar tag", b"tag"), "is not a valid property"),
    "no vertices": (LITTLE.replace(b"vertex 23", b"edge 23"), r"has no vertex element \(its elem"),
    "no y": (LITTLE.replace(b" y\n", b" v\n"), "has no field y"),
    "lists of vertices": (
        ASCII.replace(b"property double y\n", b"property double y\nproperty list uchar int n\n"),
        "has lists in its vertex element",
    ),
    "10^12 points": (
        LITTLE.replace(VERTEX, b"element vertex " + HUGE),
        "is cut off: it declares 10",
    ),
    "10^12 lines": (ASCII.replace(VERTEX, b"element vertex " + HUGE), "and holds 25 lines of them"),
    "10^12 faces": (
        LITTLE.replace(b"face 2", b"face " + HUGE),
        "is cut off or damaged in its elem",
    ),
    "no points": (LITTLE.replace(VERTEX, b"element vertex 0"), "holds no points"),
    "cut off": (LITTLE[:-1], r"is cut off: it declares 23 points and holds \d+ bytes"),
    "a word": (ASCII.replace(b" 0.", b" zero.", 1), r"line \d+: 'zero\.\d+' is not a number"),
}


@pytest.mark.parametrize("case", WRONG)
def test_damage_is_refused(tmp_path: Path, case: str) -> None:
    content, message = WRONG[case]
    with pytest.raises(PointFileError, match=message) as caught:
        _read(tmp_path / "a.ply", content)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "a.ply: "))


def test_a_negative_list_length_is_refused(tmp_path: Path) -> None:
    content = LITTLE.replace(b"list uchar int", b"list char int")
    start = content.index(b"end_header\n") + len(b"end_header\n")
    content = content[: start + 1] + b"\xff" + content[start + 2 :]
    with pytest.raises(PointFileError, match="is cut off or damaged in its element 'face'"):
        _read(tmp_path / "a.ply", content)
