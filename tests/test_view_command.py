"""``sparseconv view``: files and the street as pictures, boxes and labels, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from matplotlib.image import imread
from scans import data_folder
from typer.testing import CliRunner

from sparseconv.scripts import view as view_module
from sparseconv.scripts.view import view

LABEL = (
    "Car 0.00 0 -1.57 600 180 650 220 1.5 1.7 4.0 -2.0 1.6 10.0 0.3\nDontCare -1 -1 -10 0 0 1 1 -1 -1 -1 0 0 0 0\n"
)
CALIB = """P0: 1 0 0 0 0 1 0 0 0 0 1 0
P1: 1 0 0 0 0 1 0 0 0 0 1 0
P2: 1 0 0 0 0 1 0 0 0 0 1 0
P3: 1 0 0 0 0 1 0 0 0 0 1 0
R0_rect: 1 0 0 0 1 0 0 0 1
Tr_velo_to_cam: 0 -1 0 0 0 0 -1 0 1 0 0 0
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """KITTI's layout with one frame, and no display."""
    for name in ("velodyne", "label_2", "calib"):
        (tmp_path / name).mkdir()
    rng = np.random.default_rng(0)
    ground = np.c_[rng.uniform(-30, 30, (4000, 2)), rng.normal(-1.7, 0.02, 4000), rng.uniform(0, 1, 4000)]
    ground.astype("<f4").tofile(tmp_path / "velodyne" / "000000.bin")
    rng.integers(0, 3, 4000).astype("<u4").tofile(tmp_path / "000000.label")
    (tmp_path / "label_2" / "000000.txt").write_text(LABEL)
    (tmp_path / "calib" / "000000.txt").write_text(CALIB)
    np.save(tmp_path / "boxes.npy", np.array([[10.0, 2, -1, 4, 2, 1.5, 0.3]]))
    monkeypatch.chdir(tmp_path)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def call(*arguments: Any) -> Any:
    app = typer.Typer()
    app.command()(view)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def red_pixels(path: Path) -> int:
    image = imread(path)[..., :3]
    return int(((image[..., 0] > 0.7) & (image[..., 1:] < 0.3).all(2)).sum())


def car_pixels(path: Path) -> int:
    """Pixels of the colour that cars have, as voxels and as boxes."""
    return int((np.abs(imread(path)[..., :3] - np.array([0x2F, 0x6F, 0xDE]) / 255) < 0.02).all(2).sum())


@pytest.mark.parametrize("boxes", [("--boxes", "label_2/000000.txt"), ("--boxes", "boxes.npy"), ()])
def test_a_scan_with_its_boxes(folder: Path, boxes: tuple[str, ...]) -> None:
    result = call("velodyne/000000.bin", "--color", "intensity", "--voxel-size", "0.4", *boxes, "--out", "a.png")
    assert result.exit_code == 0, result.output
    assert "intensity" in result.output and "a.png" in result.output
    assert (red_pixels(folder / "a.png") + car_pixels(folder / "a.png") > 100) == bool(boxes)


def test_without_a_display_a_picture_is_named_after_the_scan(folder: Path) -> None:
    result = call("velodyne/000000.bin", "--voxel-size", "0.5", "--color", "degree")
    assert result.exit_code == 0, result.output
    assert (folder / "000000_above.png").is_file()


def test_with_a_display_a_window_opens_and_no_file_is_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []
    monkeypatch.setenv("DISPLAY", ":9")
    monkeypatch.setattr(view_module, "show", shown.append)
    assert call("velodyne/000000.bin").exit_code == 0
    assert len(shown) == 1 and len(shown[0].centres) > 1000
    assert not list(folder.glob("*.png"))

    def fails(scene: Any) -> None:
        raise RuntimeError("no window here")

    monkeypatch.setattr(view_module, "show", fails)
    result = call("velodyne/000000.bin")
    assert result.exit_code == 0 and "no window here" in result.stderr
    assert (folder / "000000_above.png").is_file()


def test_labels_of_points(folder: Path) -> None:
    result = call("velodyne/000000.bin", "--labels", "000000.label", "--voxel-size", "1", "--out", "a.png")
    assert result.exit_code == 0, result.output
    assert "coloured by label" in result.output
    result = call("velodyne/000000.bin", "--labels", "boxes.npy", "--out", "b.png")
    assert result.exit_code == 2 and "labels" in result.stderr


def test_the_street_has_labels_and_boxes_of_its_own(folder: Path) -> None:
    result = call(*("--view", "space", "--voxel-size", "0.3", "--renderer", "matplotlib", "--out", "a.png"))
    assert result.exit_code == 0, result.output
    assert "coloured by label" in result.output and "matplotlib" in result.output
    assert car_pixels(folder / "a.png") > 300


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (("missing.bin",), "no such file"),
        (("velodyne/000000.bin", "--color", "speed"), "intensity"),
        (("velodyne/000000.bin", "--color", "label"), "no labels"),
        (("velodyne/000000.bin", "--view", "below"), "above, space"),
        (("velodyne/000000.bin", "--renderer", "crayon"), "matplotlib"),
        (("velodyne/000000.bin", "--out", "a.jpg"), ".png"),
        (("velodyne/000000.bin", "--out", "no/such/a.png"), "folder that exists"),
        (("velodyne/000000.bin", "--range", "500,500,0,501,501,1"), "none of its"),
        (("velodyne/000000.bin", "--voxel-size", "0"), "positive"),
        (("velodyne/000000.bin", "--boxes", "nowhere.txt"), "--calib"),
        (("velodyne/000000.bin", "--boxes", "velodyne/000000.bin", "--calib", "calib/000000.txt"), "000000.bin"),
        (("--labels", "000000.label"), "name it"),
    ],
)
def test_mistakes_end_in_one_line_and_code_2(folder: Path, arguments: tuple[str, ...], fragment: str) -> None:
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and fragment in lines[0], result.stderr
    assert not list(folder.glob("*.png"))


def test_an_array_that_holds_no_boxes_is_refused(folder: Path) -> None:
    np.save(folder / "bad.npy", np.zeros((3, 4)))
    result = call("velodyne/000000.bin", "--boxes", "bad.npy")
    assert result.exit_code == 2 and "[B, 7 or more]" in result.stderr
    with (folder / "bad.npy").open("wb") as file:
        np.savez(file, boxes=np.zeros((3, 7)))
    result = call("velodyne/000000.bin", "--boxes", "bad.npy")
    assert result.exit_code == 2 and "NPZ archive" in result.stderr


def test_a_real_scan_and_its_labelled_pedestrian(folder: Path) -> None:
    data = data_folder()
    if data is None:
        pytest.skip("no real scan: set SPARSECONV_DATA to the folder that has it")
    kitti = data / "kitti" / "training"
    scan, labels = kitti / "velodyne" / "000000.bin", kitti / "label_2" / "000000.txt"
    result = call(scan, "--boxes", labels, "--range", "2,-8,-3,16,8,2", "--out", "a.png")
    assert result.exit_code == 0, result.output
    image = imread(folder / "a.png")[..., :3]
    # The colour of pedestrians.
    assert (np.abs(image - np.array([0xE3, 0x34, 0x2F]) / 255) < 0.02).all(2).sum() > 100
