from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from point_file_writers import pcd_bytes, sample_table, table

from sparseconv.datasets import PointCloud, PointFileError, read_points
from sparseconv.datasets.pcd_header import ENCODINGS


def _read(path: Path, content: bytes) -> PointCloud:
    path.write_bytes(content)
    return read_points(path)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_round_trip(tmp_path: Path, encoding: str, lower: bool, newline: str) -> None:
    rows = sample_table(61)
    cloud = _read(tmp_path / "a.pcd", pcd_bytes(rows, encoding, lower=lower, newline=newline))
    assert cloud.fields == ("x", "y", "z", "intensity", "tag", "ring", "time")
    for name in cloud.fields:
        np.testing.assert_array_equal(cloud.column(name), rows[name].astype(np.float32))


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("dtype", [np.float32, np.uint32, np.int32])
@pytest.mark.parametrize("name", ["rgb", "rgba", "RGB"])
def test_packed_colours_become_columns(tmp_path: Path, encoding: str, dtype: type[np.generic], name: str) -> None:
    colours = np.array([[255, 128, 1], [0, 0, 0], [7, 8, 9]], np.uint32)
    packed = colours[:, 0] << 16 | colours[:, 1] << 8 | colours[:, 2]
    zeros = np.zeros(3, np.float32)
    rows = table({"x": zeros, name: packed.view(dtype), "y": zeros, "z": zeros})
    cloud = _read(tmp_path / "a.pcd", pcd_bytes(rows, encoding))
    assert cloud.fields == ("x", "y", "z", "r", "g", "b")
    np.testing.assert_array_equal(cloud.points[:, 3:], colours)


def test_a_colour_written_as_an_integer_in_a_float_field(tmp_path: Path) -> None:
    rows = table({name: np.zeros(2, np.float32) for name in ("x", "y", "z", "rgb")})
    content = pcd_bytes(rows, "ascii").replace(b"0.0 0.0 0.0 0.0", b"0 0 0 16711935")
    assert _read(tmp_path / "a.pcd", content).points[:, 3:].tolist() == [[255, 0, 255]] * 2
    for number in (b"nan", b"-inf", b"1e300"):
        black = content.replace(b"16711935", number)
        assert _read(tmp_path / "a.pcd", black).points[:, 3:].tolist() == [[0, 0, 0]] * 2


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_arrays_are_expanded_and_descriptors_and_padding_skipped(tmp_path: Path, encoding: str) -> None:
    rng = np.random.default_rng(0)
    rows = table(
        {
            "_": rng.random((5, 3)).astype(np.float32),
            "fpfh": rng.random((5, 33)).astype(np.float32),
            "Normal": rng.random((5, 3)).astype(np.float32),
            "x": rng.random(5).astype(np.float32),
            "y": rng.random(5).astype(np.float32),
            "z": rng.random(5).astype(np.float32),
        }
    )
    cloud = _read(tmp_path / "a.pcd", pcd_bytes(rows, encoding))
    assert cloud.fields == ("x", "y", "z", "normal_0", "normal_1", "normal_2")
    np.testing.assert_array_equal(cloud.points[:, 3:], rows["Normal"])
    np.testing.assert_array_equal(cloud.column("z"), rows["z"])


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_missing_returns_of_an_organised_cloud_stay(tmp_path: Path, encoding: str) -> None:
    rows = sample_table(12)
    for axis in "xyz":
        rows[axis][[0, 5]] = np.nan
    content = pcd_bytes(rows, encoding)
    content = content.replace(b"WIDTH 12\nHEIGHT 1\n", b"WIDTH 4\nHEIGHT 3\n")
    cloud = _read(tmp_path / "a.pcd", content)
    assert np.flatnonzero(np.isnan(cloud.xyz).all(axis=1)).tolist() == [0, 5]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_map_coordinates_keep_millimetres(tmp_path: Path, encoding: str) -> None:
    rng = np.random.default_rng(0)
    x, y, z = rng.random((3, 9)) * 100 + np.array([[691000.0], [5334000.0], [500.0]])
    cloud = _read(tmp_path / "a.pcd", pcd_bytes(table({"x": x, "y": y, "z": z}), encoding))
    np.testing.assert_allclose(cloud.xyz + cloud.origin, np.column_stack([x, y, z]), atol=1e-4)
    assert cloud.origin[2] == 0


def test_count_and_points_may_be_left_out(tmp_path: Path) -> None:
    content = pcd_bytes(sample_table(9), "binary")
    lines = [line for line in content.split(b"\n") if not line.startswith((b"COUNT", b"POINTS"))]
    assert len(_read(tmp_path / "a.pcd", b"\n".join(lines))) == 9


BINARY = pcd_bytes(sample_table(), "binary")
LZF = pcd_bytes(sample_table(), "binary_compressed")
ASCII = pcd_bytes(sample_table(), "ascii")
SIZE = LZF.index(b"DATA binary_compressed\n") + len(b"DATA binary_compressed\n")
HUGE = b"1" + b"0" * 12
WRONG = {
    "no PCD": (b"hello world\n", "line 1 of the PCD header begins with 'hello', which is no PCD"),
    "only a header": (BINARY[:120], "has no DATA line"),
    "a long comment": (b"# " + b"a" * 100000, "has no DATA line"),
    "unknown encoding": (
        BINARY.replace(b"DATA binary", b"DATA zip"),
        "has DATA 'zip'; expected as",
    ),
    "no x": (BINARY.replace(b" x ", b" u "), r"has no field x \(its fields: intensity z u tag"),
    "x twice": (BINARY.replace(b" tag ", b" x "), "names the field 'x' twice"),
    "unknown type": (BINARY.replace(b"TYPE F", b"TYPE X"), "has TYPE X SIZE 4; expected F with"),
    "a float of 2 bytes": (BINARY.replace(b"SIZE 4", b"SIZE 2"), "has TYPE F SIZE 2; expected"),
    "a size missing": (BINARY.replace(b"SIZE 4 ", b"SIZE "), "has 6 values in SIZE for 7 FIELDS"),
    "no fields": (BINARY.replace(b"FIELDS", b"# "), "has no FIELDS line"),
    "negative width": (
        BINARY.replace(b"WIDTH 23", b"WIDTH -23"),
        "has WIDTH '-23'; expected a whol",
    ),
    "negative count": (BINARY.replace(b"COUNT 1", b"COUNT -1"), "has COUNT '-1'; expected a whole"),
    "huge count": (
        BINARY.replace(b"COUNT 1", b"COUNT " + HUGE),
        "declares 4000000000023 bytes a po",
    ),
    "other area": (
        BINARY.replace(b"WIDTH 23", b"WIDTH 24"),
        "declares POINTS 23 but WIDTH x HEIGHT",
    ),
    "a huge number": (BINARY.replace(b"S 23", b"S " + b"9" * 5000), "has POINTS '999999"),
    "no number of points": (
        BINARY.replace(b"POINTS 23\n", b"").replace(b"WIDTH 23\n", b""),
        "has neither POINTS nor WIDTH",
    ),
    "10^12 points": (
        BINARY.replace(b"POINTS 23", b"POINTS " + HUGE).replace(b"WIDTH 23", b"WIDTH " + HUGE),
        "is cut off: it declares 1000000000000 points and holds",
    ),
    "10^12 lines": (
        ASCII.replace(b"POINTS 23", b"POINTS " + HUGE).replace(b"WIDTH 23", b"WIDTH " + HUGE),
        "is cut off: it declares 1000000000000 points and holds 23 lines of points",
    ),
    "no points": (
        BINARY.replace(b"POINTS 23", b"POINTS 0").replace(b"WIDTH 23", b"WIDTH 0"),
        "holds no points",
    ),
    "cut off": (BINARY[:-1], "is cut off: it declares 23 points"),
    "cut off, LZF": (LZF[:-1], "is cut off: it declares 23 points and holds .* compressed bytes"),
    "no LZF sizes": (LZF[: SIZE + 5], "is cut off: .* no compressed data"),
    "another LZF size": (
        LZF[: SIZE + 4] + b"\xff\xff\xff\xff" + LZF[SIZE + 8 :],
        "declares 4294967295 bytes after decompression, but 23 points of",
    ),
    "LZF from nothing": (
        LZF[:SIZE] + b"\x01\0\0\0" + LZF[SIZE + 4 :],
        "compressed ones: more than LZF can give",
    ),
    "damaged LZF": (LZF[: SIZE + 8] + b"\xff" * (len(LZF) - SIZE - 8), "has damaged compressed da"),
    "a word": (ASCII.replace(b"\n0.", b"\nzero.", 1), r"line \d+: 'zero\.\d+' is not a number"),
    "a short line": (ASCII[:-20] + b"\n", r"line 34 holds \d values where 7 are expected"),
}


@pytest.mark.parametrize("case", WRONG)
def test_damage_is_refused(tmp_path: Path, case: str) -> None:
    content, message = WRONG[case]
    with pytest.raises(PointFileError, match=message) as caught:
        _read(tmp_path / "a.pcd", content)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "a.pcd: "))
