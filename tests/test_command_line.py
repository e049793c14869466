"""The commands as a user runs them: in a process of their own."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scans import data_folder
from scans import scan as read_scan

ROOT = Path(__file__).parent.parent
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def call(
    *arguments: str | Path, script: Path | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess:
    start = [sys.executable, str(script)] if script else [sys.executable, "-m", "sparseconv"]
    return subprocess.run(
        [*start, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, check=False, timeout=300
    )


@pytest.fixture(scope="module")
def scan_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scan") / "000000.bin"
    read_scan().tofile(path)
    return path


def check_results(folder: Path, channels: int) -> dict:
    assert sorted(path.name for path in folder.iterdir()) == ["birds_eye.png", "features.npz", "summary.json"]
    picture = (folder / "birds_eye.png").read_bytes()
    assert picture.startswith(PNG_SIGNATURE)
    width, height = struct.unpack(">II", picture[16:24])
    assert width > 1000 and height > 400
    summary = json.loads((folder / "summary.json").read_text())
    arrays = np.load(folder / "features.npz")
    assert arrays["features"].shape == (summary["output"]["voxels"], channels)
    assert np.isfinite(arrays["features"]).all() and np.abs(arrays["features"]).max() > 0
    assert arrays["indices"].shape[0] == arrays["features"].shape[0]
    assert len(arrays["input_indices"]) == summary["voxels"]
    return summary


def test_run_on_a_scan_file_counts_every_layer(scan_file: Path, tmp_path: Path) -> None:
    result = call("run", scan_file, "--out", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    summary = check_results(tmp_path / "out", 128)
    assert summary["grid"]["spatial_shape"] == [40, 1600, 1408]
    layers = summary["layers"]
    assert len(layers) == 12
    for layer in layers:
        assert layer["macs"] == layer["pairs"] * layer["c_in"] * layer["c_out"]
        assert layer["name"] in result.stdout
        assert layer["milliseconds"] > 0
        assert layer["n_out"] <= layer["pairs"] <= 27 * layer["n_out"]
    # A submanifold 3x3x3 layer on SECOND's grid: cells x taps x channels.
    assert layers[0]["dense_macs"] == 41 * 1600 * 1408 * 27 * 4 * 16
    assert summary["total"]["gflops"] == pytest.approx(2e-9 * sum(layer["macs"] for layer in layers))
    if data_folder() is not None:
        assert summary["scan"]["points"] == 115_384


def test_run_without_a_file_scans_a_street(tmp_path: Path) -> None:
    result = call("run", "--out", tmp_path / "out", "--model", "VoxelResBackBone8x", "--seed", "3")
    assert result.returncode == 0, result.stderr
    summary = check_results(tmp_path / "out", 128)
    assert "seed 3" in summary["scan"]["name"]
    assert summary["scan"]["points"] > 80_000


def test_run_on_the_extent_of_any_cloud(tmp_path: Path) -> None:
    points = np.random.default_rng(0).normal(5000, 3, (4000, 3))
    np.save(tmp_path / "cloud.npy", points)
    result = call("run", tmp_path / "cloud.npy", "--out", tmp_path / "out", "--voxel-size", "0.2", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    summary = check_results(tmp_path / "out", 128)
    assert summary["scan"]["outside"] == 0
    assert summary["voxels"] > 1000


def test_voxelize_writes_what_the_library_gives(scan_file: Path, tmp_path: Path) -> None:
    from sparseconv import voxelize

    result = call("voxelize", scan_file, "--voxel-size", "0.2", "--out", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    expected = voxelize(np.fromfile(scan_file, np.float32).reshape(-1, 4), 0.2)
    arrays = np.load(tmp_path / "out" / "000000.bin.npz")
    for name in ("features", "indices", "num_points", "point_rows"):
        np.testing.assert_array_equal(arrays[name], getattr(expected, name).numpy())
    assert f"{len(expected.indices):,}" in result.stdout
    assert f"wrote 1 file NAME.npz in {tmp_path / 'out'}" in result.stdout


def test_script_files_run_by_themselves(scan_file: Path, tmp_path: Path) -> None:
    result = call(scan_file, "--voxel-size", "0.2", script=ROOT / "scripts" / "voxelize.py", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "voxels" in result.stdout
    result = call("--help", script=ROOT / "scripts" / "run.py", cwd=tmp_path)
    assert result.returncode == 0 and "--model" in result.stdout


def bad_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """Name of the case: the file, and what its message must say."""
    contents = {
        "truncated": ("short.bin", b"\0" * 30, "16"),
        "text": ("notes.bin", b"these are my notes about the scan, not points\n" * 32, "text"),
        "empty": ("empty.bin", b"", "empty"),
        "unknown": ("scan.docx", b"PK", "suffix"),
        "broken pcd": (
            "broken.pcd",
            b"# .PCD v0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nDATA binary\n",
            "broken.pcd",
        ),
        "no points": ("none.xyz", b"# nothing\n", "points"),
    }
    cases = {"missing": (folder / "missing.bin", "no such file")}
    for case, (name, content, fragment) in contents.items():
        (folder / name).write_bytes(content)
        cases[case] = (folder / name, fragment)
    return cases


@pytest.mark.parametrize("command", ["run", "voxelize"])
def test_bad_files_end_in_one_line_and_code_2(command: str, tmp_path: Path) -> None:
    for case, (path, fragment) in bad_files(tmp_path).items():
        out = tmp_path / "out"
        result = call(command, path, "--out", out)
        assert result.returncode == 2, (case, result.stdout, result.stderr)
        lines = result.stderr.strip().splitlines()
        assert len(lines) == 1, (case, result.stderr)
        assert path.name in lines[0] and fragment in lines[0], (case, lines[0])
        assert "Traceback" not in result.stderr
        assert not out.exists() or not list(out.iterdir()), case


def test_names_with_brackets_are_printed_as_they_are(tmp_path: Path) -> None:
    cloud = tmp_path / "a[red].npy"
    np.save(cloud, np.random.default_rng(0).normal(0, 2, (300, 3)))
    for arguments in (("voxelize", cloud), ("run", cloud, "--voxel-size", "0.2", "--out", tmp_path / "[o]")):
        result = call(*arguments, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert "a[red].npy" in result.stdout


def test_one_bad_file_does_not_stop_the_others(scan_file: Path, tmp_path: Path) -> None:
    result = call("voxelize", tmp_path / "missing.bin", scan_file, "--out", tmp_path / "out")
    assert result.returncode == 2
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["000000.bin.npz"]


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (("run", "--model", "ResNet"), "VoxelBackBone8x"),
        (("run", "--voxel-size", "small"), "numbers"),
        (("run", "--voxel-size", "0"), "positive"),
        (("run", "--range", "0,0,0"), "6 numbers"),
        (("run", "--range", "1000,1000,1000,1001,1001,1001"), "range"),
    ],
)
def test_bad_options_end_in_one_line_and_code_2(arguments: tuple[str, ...], fragment: str, tmp_path: Path) -> None:
    result = call(*arguments, "--out", tmp_path / "out")
    assert result.returncode == 2, (result.stdout, result.stderr)
    lines = [line for line in result.stderr.strip().splitlines() if "note:" not in line]
    assert len(lines) == 1 and fragment in lines[0], result.stderr
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_a_file_in_place_of_the_folder_is_refused(scan_file: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    result = call("run", scan_file, "--out", tmp_path / "out")
    assert result.returncode == 2
    assert "is a file" in result.stderr
    assert (tmp_path / "out").read_text() == "mine"


def test_version() -> None:
    from sparseconv import __version__

    result = call("--version")
    assert (result.returncode, result.stdout) == (0, f"sparseconv {__version__}\n"), result.stderr


def test_one_scan_and_a_big_job_share_no_folder(scan_file: Path, tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "job.json").write_text("{}")
    result = call("run", scan_file, "--out", tmp_path / "job")
    assert result.returncode == 2 and "results of a big job" in result.stderr
    (tmp_path / "one").mkdir()
    for name in ("summary.json", "features.npz", "birds_eye.png"):
        (tmp_path / "one" / name).touch()
    result = call("run", scan_file.parent, "--out", tmp_path / "one")
    assert result.returncode == 2 and "results of one scan" in result.stderr
    assert not (tmp_path / "one" / "job.json").exists()
