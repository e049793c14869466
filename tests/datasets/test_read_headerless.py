from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from point_file_writers import pcd_bytes, sample_table

from sparseconv.datasets import PointFileError, read_points

KINDS = {"scan.bin": 4, "sweep.pcd.bin": 5}


@pytest.mark.parametrize("name", KINDS)
def test_values_come_back_exactly(tmp_path: Path, name: str) -> None:
    values = np.random.default_rng(0).normal(size=(7, KINDS[name])).astype("<f4")
    (tmp_path / name).write_bytes(values.tobytes())
    cloud = read_points(tmp_path / name)
    assert cloud.fields == ("x", "y", "z", "intensity", "ring")[: KINDS[name]]
    np.testing.assert_array_equal(cloud.points, values)
    assert cloud.points.flags.writeable


def _with(values: np.ndarray, row: int, column: int, value: float) -> bytes:
    changed = values.copy()
    changed[row, column] = value
    return changed.tobytes()


ZEROS = np.zeros((20, 20), np.float32)
TEXT = b"1.0 2.0 3.0 0.5\n" * 20
WRONG = {
    "text": (TEXT, "is a text file, not .*rename it to end in .xyz"),
    "a PCD": (pcd_bytes(sample_table(), "binary"), "is a PCD file, not .*rename it to end in .pcd"),
    "a LAS": (b"LASF" + bytes(96), "is a LAS file"),
    "cut off": (
        ZEROS.tobytes()[:-3],
        r"has 1597 bytes, not a multiple of the (16|20) bytes a poin",
    ),
    "NaN": (_with(ZEROS, 3, 0, np.nan), "has NaN or infinite values in 1 of (100|80) points"),
    "infinite": (_with(ZEROS, 3, 7, np.inf), "has NaN or infinite values in 1 of (100|80) points"),
    "absurd": (_with(ZEROS, 2, 0, 2e6), r"has a coordinate of 2e\+06 m: it is not"),
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_a_scan_is_refused(tmp_path: Path, name: str, case: str) -> None:
    content, message = WRONG[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PointFileError, match=message) as caught:
        read_points(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))
