from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from point_file_writers import minimal_files

from sparseconv.datasets import SUPPORTED_SUFFIXES, PointCloud, PointFileError, read_points
from sparseconv.datasets.point_file import read_bytes


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return minimal_files(tmp_path_factory.mktemp("valid"))


def _file(valid: dict[str, Path], suffix: str) -> Path:
    if suffix not in valid:
        pytest.skip("laspy is not installed")
    return valid[suffix]


def _refusal(path: Path | str) -> str:
    with pytest.raises(PointFileError) as caught:
        read_points(path)
    message = str(caught.value)
    assert message.isprintable()
    return message


@pytest.mark.parametrize("suffix", SUPPORTED_SUFFIXES)
def test_every_suffix_in_any_case_has_a_reader(valid: dict[str, Path], suffix: str, tmp_path: Path) -> None:
    path = _file(valid, suffix)
    loud = tmp_path / f"A{suffix.upper()}"
    loud.write_bytes(path.read_bytes())
    for name in (path, str(path), loud):
        cloud = read_points(name)
        assert isinstance(cloud, PointCloud)
        # From surfaces a fixed number of points is drawn.
        assert len(cloud) == (100_000 if suffix in (".off", ".obj", ".stl") else 40)
        assert cloud.points.flags.owndata or cloud.points.base is not None
    assert ("ring" in cloud.fields) == (suffix in (".pcd.bin", ".pcd", ".ply"))


def test_a_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "none.bin"
    assert _refusal(path) == f"{path}: no such file: check the path"


def test_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "velodyne.bin"
    folder.mkdir()
    assert _refusal(folder).startswith(f"{folder}: is a folder: give the path of one point file")


@pytest.mark.parametrize("suffix", SUPPORTED_SUFFIXES)
def test_an_empty_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"")
    assert _refusal(path).startswith(f"{path}: is empty (0 bytes)")


@pytest.mark.parametrize("name", ["cloud.e57", "cloud", ".bin.gz", "pcd", "kitti_bin"])
def test_an_unknown_suffix(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"abc")
    message = _refusal(path)
    assert message.startswith(f"{path}: unknown suffix (")
    assert message.endswith("expected one of " + " ".join(SUPPORTED_SUFFIXES))


def test_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    assert "cannot be opened" in _refusal(str(tmp_path / "a\0b.bin"))
    assert "cannot be opened" in _refusal(tmp_path / ("a" * 5000 + ".bin"))
    assert "no such file" in _refusal(str(tmp_path / "two\nlines\udcff.bin"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.bin")
    assert "is not an ordinary file" in _refusal(tmp_path / "a.bin")


def test_a_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(16))

    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert _refusal(path) == f"{path}: cannot be read (Permission denied)"

    def exhaust(self: Path) -> bytes:
        raise MemoryError

    monkeypatch.setattr(Path, "read_bytes", exhaust)
    assert "16 bytes do not fit into memory" in _refusal(path)
    with pytest.raises(PointFileError):
        read_bytes(path)


@pytest.mark.parametrize("suffix", [".pcd", ".ply", ".las", ".laz", ".xyz", ".npy", ".npz"])
def test_a_cut_file_never_gives_the_whole_cloud(valid: dict[str, Path], suffix: str, tmp_path: Path) -> None:
    content = _file(valid, suffix).read_bytes()
    path = tmp_path / f"a{suffix}"
    for share in np.linspace(0.02, 0.9, 30):
        path.write_bytes(content[: int(share * len(content))])
        try:
            assert len(read_points(path)) < 40, suffix
        except PointFileError as error:
            assert str(error).isprintable()


IMPORT_PROBE = """
import sys
import sparseconv
before = set(sys.modules)
import sparseconv.datasets
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(new & {"open3d", "laspy", "lazrs", "torch", "matplotlib", "numba", "datasets"}))
"""


def test_importing_the_package_loads_nothing_heavy() -> None:
    run = subprocess.run([sys.executable, "-c", IMPORT_PROBE], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""


@pytest.mark.skipif(sys.platform != "linux", reason="address space limits are Linux's")
def test_hostile_sizes_do_not_allocate(valid: dict[str, Path], tmp_path: Path) -> None:
    head = "FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nWIDTH {0}\nPOINTS {0}\nDATA binary\n"
    (tmp_path / "a.pcd").write_text(head.format(10**12) + "0" * 900)
    ply = "ply\nformat binary_little_endian 1.0\nelement vertex {}\n" + "".join(
        f"property float {axis}\n" for axis in "xyz"
    )
    (tmp_path / "a.ply").write_text(ply.format(10**12) + "end_header\n" + "0" * 900)
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 4)}"
    (tmp_path / "a.npy").write_bytes(
        b"\x93NUMPY\x01\x00" + (len(header) + 1).to_bytes(2, "little") + header + b"\n" + bytes(99)
    )
    program = (
        "import resource, sys\n"
        "from sparseconv.datasets import PointFileError, read_points\n"
        "limit = 256 << 20\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + limit, used + limit))\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n"
        "        read_points(path)\n"
        "    except PointFileError as error:\n"
        "        print('cut off' in str(error))\n"
    )
    files = [str(tmp_path / f"a{suffix}") for suffix in (".pcd", ".ply", ".npy")]
    run = subprocess.run([sys.executable, "-c", program, *files], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["True"] * 3
