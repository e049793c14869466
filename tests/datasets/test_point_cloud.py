from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from sparseconv.datasets import PointCloud, PointFileError


def test_a_cloud_names_its_columns() -> None:
    points = np.arange(10, dtype=np.float32).reshape(2, 5)
    cloud = PointCloud(points, ("x", "y", "z", "intensity", "ring"), np.array([4, 5], np.int32))
    assert len(cloud) == 2
    assert np.shares_memory(cloud.xyz, points)
    assert cloud.xyz.tolist() == [[0, 1, 2], [5, 6, 7]]
    assert cloud.column("ring").tolist() == [4, 9]
    assert cloud.origin.tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="no column 'colour': this cloud has x y z intensity ring"):
        cloud.column("colour")


GOOD = np.zeros((3, 4), np.float32)
XYZI = ("x", "y", "z", "intensity")
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a list": ({"points": [[0.0] * 4]}, "points must be a NumPy array of float32, got list"),
    "float64": ({"points": GOOD.astype(np.float64)}, r"pass points.astype\(np.float32\)"),
    "flat": ({"points": GOOD.ravel()}, r"points must have shape \[N, 4\]"),
    "a column too many": ({"points": np.zeros((3, 5), np.float32)}, r"got \(3, 5\)"),
    "transposed": ({"points": np.zeros((4, 3), np.float32).T}, "must be C-contiguous"),
    "fields in a list": ({"fields": ["x", "y", "z", "i"]}, "fields must be a tuple"),
    "no x first": ({"fields": ("i", "x", "y", "z")}, "fields must begin with 'x', 'y', 'z'"),
    "a name twice": ({"fields": ("x", "y", "z", "x")}, "fields must be all different"),
    "labels of int64": ({"labels": np.zeros(3, np.int64)}, "labels must be an array of int32"),
    "labels too short": ({"labels": np.zeros(2, np.int32)}, "with N = 3 points, got"),
    "origin of 2": ({"origin": np.zeros(2)}, "origin must hold 3 finite metres"),
    "origin NaN": ({"origin": np.full(3, np.nan)}, "origin must hold 3 finite metres"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_malformed_cloud_is_refused(case: str) -> None:
    changes, message = BAD[case]
    arguments: dict[str, Any] = {"points": GOOD, "fields": XYZI}
    with pytest.raises(ValueError, match=message):
        PointCloud(**(arguments | changes))


def test_the_error_is_one_line_and_survives_a_process_border() -> None:
    error = PointFileError("a\nb.ply", "is bad\r\n: fix it")
    assert str(error) == "a b.ply: is bad  : fix it"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert isinstance(error, ValueError)
