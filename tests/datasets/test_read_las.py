from __future__ import annotations

import builtins
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from point_file_writers import write_las

from sparseconv.datasets import PointFileError, read_points

pytest.importorskip("laspy", reason="LAS files are read through laspy")

UTM = np.array([691234.0, 5334123.0, 520.0])
XYZ = np.random.default_rng(0).random((300, 3)) * [200, 100, 30] + UTM


@pytest.mark.parametrize("suffix", [".las", ".laz", ".copc.laz", ".LAS"])
@pytest.mark.parametrize(("point_format", "version"), [(0, "1.2"), (3, "1.2"), (6, "1.4"), (8, "1.4")])
def test_map_coordinates_keep_millimetres(tmp_path: Path, suffix: str, point_format: int, version: str) -> None:
    path = tmp_path / f"a{suffix.lower()}"
    write_las(path, XYZ, point_format=point_format, version=version)
    path = path.rename(tmp_path / f"b{suffix}")
    cloud = read_points(path)
    np.testing.assert_allclose(cloud.xyz + cloud.origin, XYZ, atol=1e-4)
    assert (np.abs(cloud.xyz[:, :2]) < 250).all()
    np.testing.assert_array_equal(cloud.column("intensity"), np.arange(300))
    coloured = point_format in (3, 8)
    assert cloud.fields == ("x", "y", "z", "intensity", *("rgb" if coloured else ""))
    if coloured:
        np.testing.assert_array_equal(cloud.column("g"), (np.arange(300) + 1) % 256)


def test_local_coordinates_are_not_shifted(tmp_path: Path) -> None:
    write_las(tmp_path / "a.las", XYZ - UTM)
    assert read_points(tmp_path / "a.las").origin.tolist() == [0, 0, 0]


def _patched(tmp_path: Path, suffix: str, *changes: tuple[int, str, int]) -> Path:
    path = tmp_path / f"a{suffix}"
    write_las(path, XYZ)
    content = bytearray(path.read_bytes())
    for offset, form, value in changes:
        struct.pack_into(form, content, offset, value)
    path.write_bytes(content)
    return path


COUNT, START, RECORDS, LENGTH = (247, "<Q"), (96, "<I"), (100, "<I"), (105, "<H")
WRONG = {
    "10^12 points": (".las", [(*COUNT, 10**12)], "is cut off: it declares 1000000000000 points"),
    "10^12 points, LAZ": (".laz", [(*COUNT, 10**12)], "has a damaged or cut off LAZ chunk"),
    "no points": (".las", [(*COUNT, 0), (107, "<I", 0)], "holds no points"),
    "2^32 records": (".las", [(*RECORDS, 2**32 - 1)], "has a damaged or cut off LAS header"),
    "points past the end": (".las", [(*START, 2**32 - 1)], "has a damaged or cut off LAS header"),
    "points of 1 byte": (".las", [(*LENGTH, 1)], "has a damaged or cut off LAS header"),
    "unknown point format": (".las", [(104, "<B", 63)], "is damaged or cut off"),
    "no scale": (".las", [(131, "<Q", 0x7FF << 52)], "has a scale or an offset that is not finite"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_hostile_header_is_refused(tmp_path: Path, case: str) -> None:
    suffix, changes, message = WRONG[case]
    path = _patched(tmp_path, suffix, *changes)
    with pytest.raises(PointFileError, match=message) as caught:
        read_points(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")


def test_damaged_chunks_are_refused(tmp_path: Path) -> None:
    path = _patched(tmp_path, ".laz")
    start = struct.unpack_from("<I", path.read_bytes(), 96)[0]
    table = struct.unpack_from("<q", path.read_bytes(), start)[0]
    with pytest.raises(PointFileError, match="declares 4294967295 LAZ chunks"):
        read_points(_patched(tmp_path, ".laz", (table + 4, "<I", 2**32 - 1)))
    with pytest.raises(PointFileError, match="has a damaged or cut off LAZ chunk"):
        read_points(_patched(tmp_path, ".laz", (start + 8 + 36 + 4, "<I", 2**32 - 1)))


@pytest.mark.parametrize("suffix", [".las", ".laz"])
@pytest.mark.parametrize("share", [0.001, 0.02, 0.1, 0.5, 0.99])
def test_a_cut_file_is_refused(tmp_path: Path, suffix: str, share: float) -> None:
    path = _patched(tmp_path, suffix)
    content = path.read_bytes()
    path.write_bytes(content[: max(1, int(share * len(content)))])
    with pytest.raises(PointFileError, match=r"cut off|damaged|does not begin with a LAS header"):
        read_points(path)


def test_without_laspy_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _patched(tmp_path, ".las")
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **named: Any) -> Any:
        if name.startswith("laspy"):
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(PointFileError, match=r'needs laspy.*pip install "sparseconv\[las\]"'):
        read_points(path)
