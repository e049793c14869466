from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sparseconv.datasets import PointCloud, PointFileError, read_points


def _read(folder: Path, text: str | bytes, name: str = "a.xyz") -> PointCloud:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_points(path)


XYZI = ("x", "y", "z", "intensity")
SPELLINGS = {
    "spaces": "1 2 3 4\n5 6 7 8\n",
    "tabs, no final newline": "1\t2\t3\t4\n5\t6\t7\t8",
    "Windows lines": "1 2 3 4\r\n5 6 7 8\r\n",
    "old Macintosh lines": "1 2 3 4\r5 6 7 8\r",
    "ragged spaces and blank lines": "\n  1   2 3\t4  \n\n 5 6 7 8\n\n",
    "commas": "1,2,3,4\n5,6,7,8\n",
    "commas and spaces": "1, 2, 3, 4\n5, 6, 7, 8\n",
    "a trailing comma": "1,2,3,4,\n5,6,7,8,\n",
    "semicolons": "1;2;3;4\n5;6;7;8\n",
    "decimal commas": "1,0;2,0;3,0;4,0\n5,0;6,0;7,0;8,0\n",
    "exponents": "1e0 20E-1 3.0 +4\n5 6 7 8\n",
    "comments": "# scan 1\n1 2 3 4 # first\n// second\n5 6 7 8\n",
    "a header": "x y z intensity\n1 2 3 4\n5 6 7 8\n",
    "a quoted header": '"X","Y","Z","Intensity"\n1,2,3,4\n5,6,7,8\n',
    "a header in another order": "i;z;y;x\n4;3;2;1\n8;7;6;5\n",
    "a header in a comment": "//X Y Z Scalar_Intensity\n1 2 3 4\n5 6 7 8\n",
    "a byte order mark": "\ufeffx y z i\n1 2 3 4\n5 6 7 8\n",
    "a point count": "2\n1 2 3 4\n5 6 7 8\n",
}


@pytest.mark.parametrize("case", SPELLINGS)
@pytest.mark.parametrize("suffix", [".xyz", ".txt", ".csv", ".CSV"])
def test_spellings_of_one_cloud(tmp_path: Path, case: str, suffix: str) -> None:
    cloud = _read(tmp_path, SPELLINGS[case], f"a{suffix}")
    assert cloud.fields == XYZI
    assert cloud.points.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]


def test_names_may_have_accents(tmp_path: Path) -> None:
    for encoding in ("utf-8", "latin-1"):
        cloud = _read(tmp_path, "x y z H\u00f6he\n1 2 3 4\n".encode(encoding))
        assert cloud.fields == ("x", "y", "z", "h\u00f6he")


UNNAMED = {
    "1 2 3": ("x", "y", "z"),
    "1 2 3 200 100 0": ("x", "y", "z", "r", "g", "b"),
    "1 2 3 0 0 1": ("x", "y", "z", "column_3", "column_4", "column_5"),
    "1 2 3 0.5 9 9": ("x", "y", "z", "column_3", "column_4", "column_5"),
    "1 2 3 4 5": ("x", "y", "z", "column_3", "column_4"),
}


@pytest.mark.parametrize("line", UNNAMED)
def test_columns_without_names(tmp_path: Path, line: str) -> None:
    assert _read(tmp_path, line).fields == UNNAMED[line]


def test_map_coordinates_keep_millimetres(tmp_path: Path) -> None:
    cloud = _read(tmp_path, "691000.1234 5334000.5678 500.25\n691010.0001 5334000.25 501\n")
    assert cloud.origin[2] == 0
    world = cloud.xyz + cloud.origin
    expected = [[691000.1234, 5334000.5678, 500.25], [691010.0001, 5334000.25, 501]]
    np.testing.assert_allclose(world, expected, atol=1e-4)


WRONG: dict[str, tuple[str | bytes, str]] = {
    "only comments": ("# nothing\n\n", "holds no points: expected one 'x y z' a line"),
    "only a header": ("x y z\n", "holds no points: nothing follows its header line"),
    "binary": (b"\x00\x01" * 50, "is a binary file, not text"),
    "UTF-16": ("x y z".encode("utf-16"), "is a binary file, not text"),
    "Latin-1 prose": ("gr\u00fc\u00dfe an alle\n".encode("latin-1"), "has no field x, y, z"),
    "two columns": ("1 2\n3 4\n", "line 1 holds 2 values; expected x y z first"),
    "other names": ("lat,lon,h\n1,2,3\n", "has no field x, y, z .its fields: lat lon h.: export"),
    "a name twice": ("x y z a a\n1 2 3 4 5\n", "names the field 'a' twice"),
    "a short line": ("1 2 3\n\n4 5\n", "line 3 holds 2 values where 3 are expected"),
    "a word": ("x,y,z,c\n1,2,3,4\n1,2,3,car\n", "line 3: 'car' is not a number"),
    "an empty cell": ("1,2,3\n1,,3\n", "line 2: '' is not a number"),
    "a header with a number": ("P0: 1 2 3\n", "line 1: 'P0:' is not a number"),
    "beyond float32": ("1e300 2 3\n-1e300 0 0\n", "has x coordinates beyond float32"),
}


@pytest.mark.parametrize("case", WRONG)
def test_damage_is_refused(tmp_path: Path, case: str) -> None:
    content, message = WRONG[case]
    with pytest.raises(PointFileError, match=message) as caught:
        _read(tmp_path, content)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "a.xyz: "))
