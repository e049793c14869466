"""Whatever bytes a file holds, reading it gives a cloud or a `PointFileError` of one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from point_file_writers import minimal_files, pcd_bytes, ply_bytes, sample_table

from sparseconv.datasets import SUPPORTED_SUFFIXES, PointCloud, PointFileError, read_points

# Values that headers and counts trip over.
SPICES = [
    b"\xff" * 8,
    b"\0" * 8,
    b"\x7f" * 4,
    b"-1",
    b"999999999999",
    b"\n",
    b" ",
    b"nan",
    b"1e999",
]

EDIT = st.tuples(
    st.sampled_from(["replace", "insert", "delete", "cut"]),
    st.floats(0.0, 1.0),
    st.one_of(st.sampled_from(SPICES), st.binary(min_size=1, max_size=6)),
)


def _edit(content: bytes, edits: list[tuple[str, float, bytes]]) -> bytes:
    for action, share, piece in edits:
        # The square keeps most edits in the first quarter, where headers are.
        at = int(share * share * len(content))
        if action == "replace":
            content = content[:at] + piece + content[at + len(piece) :]
        elif action == "insert":
            content = content[:at] + piece + content[at:]
        elif action == "delete":
            content = content[:at] + content[at + len(piece) :]
        else:
            content = content[: int(share * len(content))]
    return content


def _read(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        cloud = read_points(path)
    except PointFileError as error:
        message = str(error)
        assert message.startswith(f"{path}: ")
        assert message.isprintable()
        assert len(message) < len(str(path)) + 500
    else:
        assert isinstance(cloud, PointCloud)
        assert len(cloud) > 0
        assert cloud.points.dtype == np.float32


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    base = tmp_path_factory.mktemp("valid")
    files = {suffix: [path] for suffix, path in minimal_files(base).items()}
    rows = sample_table(9)
    for suffix, name, content in (
        (".pcd", "ascii", pcd_bytes(rows, "ascii")),
        (".pcd", "binary", pcd_bytes(rows, "binary")),
        (".ply", "ascii", ply_bytes(rows, "ascii")),
        (".ply", "little", ply_bytes(rows, "binary_little_endian")),
    ):
        path = base / f"{name}{suffix}"
        path.write_bytes(content)
        files[suffix].append(path)
    return files


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.parametrize("suffix", SUPPORTED_SUFFIXES)
@given(content=st.binary(min_size=1, max_size=600))
@example(content=b"\x93NUMPY\x01\x00")
@example(content=b"ply\n")
@example(content=b"LASF" + bytes(400))
@example(content=b"PK\x05\x06" + bytes(18))
@settings(max_examples=60, deadline=None)
def test_random_bytes(folder: Path, suffix: str, content: bytes) -> None:
    _read(folder / f"random{suffix}", content)


def test_signalling_nan(folder: Path, valid: dict[str, list[Path]]) -> None:
    for suffix in (".stl", ".bin", ".ply", ".pcd"):
        content = valid[suffix][-1].read_bytes()
        # The last four bytes that are a coordinate, or lie among features.
        for at in range(len(content) - 24, len(content) - 4):
            _read(folder / f"nan{suffix}", content[:at] + b"\x01\x00\x80\x7f" + content[at + 4 :])


@pytest.mark.parametrize("suffix", SUPPORTED_SUFFIXES)
@given(which=st.integers(0, 2), edits=st.lists(EDIT, min_size=1, max_size=5))
@settings(max_examples=150, deadline=None)
def test_damaged_files(
    folder: Path,
    valid: dict[str, list[Path]],
    suffix: str,
    which: int,
    edits: list[tuple[str, float, bytes]],
) -> None:
    if suffix not in valid:
        pytest.skip("laspy is not installed")
    content = valid[suffix][which % len(valid[suffix])].read_bytes()
    _read(folder / f"damaged{suffix}", _edit(content, edits))
