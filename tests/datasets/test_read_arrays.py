from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparseconv.datasets import PointFileError, read_points

VALUES = np.arange(20, dtype=np.float32).reshape(5, 4)


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2", "<i4", "u1"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_round_trip(tmp_path: Path, dtype: str, order: Any, suffix: str) -> None:
    values = np.asarray(VALUES.astype(dtype), order=order)
    path = tmp_path / f"a{suffix}"
    if suffix == ".npy":
        np.save(path, values)
    else:
        np.savez_compressed(path, anything=values)
    cloud = read_points(path)
    assert cloud.fields == ("x", "y", "z", "intensity")
    np.testing.assert_array_equal(cloud.points, VALUES)


def test_an_archive_may_hold_labels_and_more(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", other=np.zeros(3), points=VALUES, labels=np.arange(5))
    cloud = read_points(tmp_path / "a.npz")
    assert cloud.labels is not None
    assert cloud.labels.dtype == np.int32
    assert cloud.labels.tolist() == [0, 1, 2, 3, 4]


def _npy(values: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values, **options)
    return stream.getvalue()


def _npz(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def _bomb() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("points.npy", bytes(10_000_000))
    return stream.getvalue()


GOOD = _npy(VALUES)
OBJECTS = np.array([[{}, 1, 2]], dtype=object)
WRONG = {
    "no NPY": (".npy", b"hello", "has a damaged NPY header"),
    "cut header": (".npy", GOOD[:40], "has a damaged NPY header"),
    "cut off": (
        ".npy",
        GOOD[:-1],
        r"is cut off: the array of shape \(5, 4\) takes 80 bytes and 79",
    ),
    "10^12 points": (
        ".npy",
        GOOD.replace(b"(5, 4), }            ", b"(1000000000000, 4), }"),
        "is cut off: the array of shape .1000000000000, 4. takes 16000000000000 bytes and 80",
    ),
    "negative": (
        ".npy",
        GOOD.replace(b"(5, 4)", b"(-5,4)"),
        r"declares the shape \(-5, 4\)|damaged",
    ),
    "version 9": (".npy", GOOD[:6] + b"\x09" + GOOD[7:], "has a damaged NPY|has NPY version"),
    "pickled objects": (
        ".npy",
        _npy(OBJECTS, allow_pickle=True),
        "holds object values; expected num",
    ),
    "strings": (".npy", _npy(np.array([["a", "b", "c"]])), "holds <U1 values; expected numbers"),
    "records": (".npy", _npy(np.zeros(3, [("x", "f4")])), "expected numbers: save it as float32"),
    "flat": (
        ".npy",
        _npy(np.zeros(12)),
        r"holds an array of shape \(12,\); expected \[N, 3 or more",
    ),
    "two columns": (".npy", _npy(np.zeros((5, 2))), r"shape \(5, 2\); expected \[N, 3 or more\]"),
    "no points": (".npy", _npy(np.zeros((0, 4))), "holds no points"),
    "no ZIP": (".npz", b"hello", "is not a readable NPZ archive"),
    "cut archive": (".npz", _npz(points=VALUES)[:-30], "is not a readable NPZ archive"),
    "two arrays": (".npz", _npz(a=VALUES, b=VALUES), r"has no array 'points' \(its arrays: a, b\)"),
    "no arrays": (".npz", _npz(), r"has no array 'points' \(its arrays: none\)"),
    "a bomb": (".npz", _bomb(), "uses an unusual ZIP method"),
    "short labels": (
        ".npz",
        _npz(points=VALUES, labels=np.arange(3)),
        "expected 5 integers, one a",
    ),
    "wide labels": (
        ".npz",
        _npz(points=VALUES, labels=np.full(5, 2**40)),
        "has labels beyond 32 bits",
    ),
    "labels of text": (".npz", _npz(points=VALUES, labels=np.array(["a"])), "holds <U1 values"),
}


@pytest.mark.parametrize("case", WRONG)
def test_damage_is_refused(tmp_path: Path, case: str) -> None:
    suffix, content, message = WRONG[case]
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(PointFileError, match=message) as caught:
        read_points(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
