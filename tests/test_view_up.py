"""``--up``: what is turned and how, and what a picture's axes are called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from matplotlib.figure import Figure
from typer.testing import CliRunner

import sparseconv as sc
from sparseconv.scripts.picture_axes import axis_words
from sparseconv.scripts.run import run
from sparseconv.scripts.scan import Scan
from sparseconv.scripts.view import view
from sparseconv.visualize import UPS, Scene, birds_eye, draw_from_above, voxel_scene
from sparseconv.visualize.turning import Turn

# Unit vectors of the file that must point up.
DIRECTIONS = {
    "z": (0, 0, 1),
    "-z": (0, 0, -1),
    "y": (0, 1, 0),
    "-y": (0, -1, 0),
    "x": (1, 0, 0),
    "-x": (-1, 0, 0),
}


@pytest.fixture
def labels(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """The axis labels of every picture that is written."""
    found: list[set[str]] = []
    save = Figure.savefig

    def noted(figure: Figure, *arguments: Any, **options: Any) -> None:
        words = {text for axes in figure.axes for text in (axes.get_xlabel(), axes.get_ylabel())}
        found.append(words - {"", "height", "occupied voxels in a column", "feature energy in a column"})
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", noted)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    return found


def call(command: Any, *arguments: Any) -> Any:
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize("up", UPS)
def test_a_turn_is_a_rotation_that_brings_the_axis_up(up: str) -> None:
    turn = Turn.with_up(up)
    matrix = turn.points(np.eye(3)).T
    assert np.linalg.det(matrix) == pytest.approx(1.0)
    np.testing.assert_array_equal(matrix @ np.array(DIRECTIONS[up]), [0, 0, 1])
    # The names say what the rows of the matrix do.
    for row, name in zip(matrix, turn.names(), strict=True):
        np.testing.assert_array_equal(row, DIRECTIONS[name])
    assert turn.is_none == (up == "z")
    low, high = np.array([-1.0, 2, -5]), np.array([3.0, 7, 4])
    corners = np.array([[(low, high)[bit][axis] for axis, bit in enumerate(bits)] for bits in np.ndindex(2, 2, 2)])
    turned = turn.points(corners)
    np.testing.assert_array_equal(turn.bounds([*low, *high]), [*turned.min(0), *turned.max(0)])
    assert turn.edges((1.0, 2.0, 3.0)) == tuple(np.abs(matrix) @ [1.0, 2.0, 3.0])
    assert set(UPS) == set(DIRECTIONS)


def test_a_scene_is_turned_as_a_whole() -> None:
    grid = sc.VoxelGrid.create((0.5, 0.25, 1.0), (10, -2, -3, 15, 3, 4))
    sites = torch.tensor([[0, 0, 1, 2], [0, 5, 19, 9]], dtype=torch.int32)
    x = sc.SparseTensor(torch.rand(2, 4), sites, [7, 20, 10], 1)
    plain = voxel_scene(x, grid, "height")
    scene = voxel_scene(x, grid, "height", up="-y", bounds=(10, -2, -3, 15, 3, 4), driving=True)
    np.testing.assert_allclose(scene.centres, np.stack([*plain.centres.T[[0, 2]], -plain.centres[:, 1]], 1))
    np.testing.assert_array_equal(scene.values, -plain.centres[:, 1])
    assert scene.voxel_size == (0.5, 1.0, 0.25) and scene.bounds == (10, -3, -3, 15, 4, 2)
    # Nothing is forward or left of anything any more.
    assert not scene.driving and scene.axes == ("x", "z")
    assert voxel_scene(x, grid, "height", up="+z").axes == ("x", "y")
    boxes = np.zeros((1, 7))
    with pytest.raises(ValueError, match="boxes stand upright on z"):
        voxel_scene(x, grid, up="y", boxes=boxes)
    assert len(voxel_scene(x, grid, up="z", boxes=boxes).boxes) == 1
    with pytest.raises(ValueError, match="up must be x, y or z"):
        voxel_scene(x, grid, up="w")
    with pytest.raises(ValueError, match="two names"):
        Scene(np.zeros((1, 3)), (1, 1, 1), np.zeros(1), "v", axes=("x",))


def test_a_view_from_above_looks_down_on_the_axis_that_is_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels: list[set[str]]
) -> None:
    # A wall in x and y, 8 by 4; its lower half is out of the range.
    x, y = np.mgrid[0:8:0.1, 0:4:0.1].reshape(2, -1)
    np.save(tmp_path / "wall.npy", np.c_[x, y, np.zeros(len(x))])
    monkeypatch.chdir(tmp_path)
    scenes: list[Scene] = []

    def noted(path: Path, scene: Scene) -> None:
        scenes.append(scene)
        draw_from_above(path, scene)

    monkeypatch.setattr("sparseconv.scripts.view.draw_from_above", noted)
    for up in ("z", "y", "-y", "+x"):
        options = ("--voxel-size", "0.2,0.4,0.6", "--range", "0,2,-1,8,4,1", "--out", "a.png", "--up", up)
        result = call(view, "wall.npy", *options)
        assert result.exit_code == 0, result.output
    for scene, low, high, size in zip(
        scenes,
        ([0, 2, -1], [0, -1, 2], [0, -1, -4], [2, -1, 0]),
        ([8, 4, 1], [8, 1, 4], [8, 1, -2], [4, 1, 8]),
        ((0.2, 0.4, 0.6), (0.2, 0.6, 0.4), (0.2, 0.6, 0.4), (0.4, 0.6, 0.2)),
        strict=True,
    ):
        assert (scene.centres >= low).all() and (scene.centres <= high).all()
        assert scene.bounds == (*low, *high) and scene.voxel_size == size
        np.testing.assert_array_equal(scene.values, scene.centres[:, 2])
    assert labels == [{"x (m)", "y (m)"}, {"x (m)", "-z (m)"}, {"x (m)", "z (m)"}, {"y (m)", "z (m)"}]


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (("scan.bin", "--up", "up"), "--up must be one of z, -z, y"),
        (("scan.bin", "--up", "y", "--boxes", "boxes.npy"), "without --boxes"),
        (("--up", "-z"), "goes with a file"),
    ],
)
def test_what_cannot_be_turned_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], fragment: str
) -> None:
    monkeypatch.chdir(tmp_path)
    np.zeros((20, 4), "<f4").tofile("scan.bin")
    np.save("boxes.npy", np.zeros((1, 7)))
    result = call(view, *arguments)
    assert result.exit_code == 2
    (line,) = result.stderr.strip().splitlines()
    assert fragment in line


def test_words_for_axes() -> None:
    points = np.zeros((1, 3), np.float32)

    def words(
        vehicle: Any = None, up: str = "z", origin: Any = (0, 0, 0), from_mesh: Any = None
    ) -> tuple[str, str]:
        scan = Scan("a", points, ("x", "y", "z"), vehicle, np.array(origin, np.float64), from_mesh)
        return axis_words(scan, Turn.with_up(up))

    assert words() == ("x (m)", "y (m)")
    assert words("KITTI") == ("x (forward)", "y (left)")
    assert words("nuScenes") == ("x (right)", "y (forward)")
    assert words("KITTI", "y") == ("x (m)", "-z (m)")
    assert words(from_mesh="surface") == ("x", "y")
    assert words(origin=(5648349, -20, 0)) == ("x - 5,648,349 (m)", "y + 20 (m)")
    assert words(up="-z", origin=(0, -20, 0)) == ("x (m)", "-(y + 20) (m)")


def test_a_run_calls_the_axes_of_its_picture_what_they_are(tmp_path: Path, labels: list[set[str]]) -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform([0, -40, -3, 0], [70, 40, 1, 1], (3000, 4)).astype(np.float32)
    np.save(tmp_path / "cloud.npy", points)
    points.tofile(tmp_path / "scan.bin")
    for name in ("cloud.npy", "scan.bin"):
        options = ("--model", "MinkUNet14", "--voxel-size", "1", "--out", tmp_path / "out")
        assert call(run, tmp_path / name, *options).exit_code == 0
    assert labels == [{"x (m)", "y (m)"}, {"x (forward)", "y (left)"}]
    x = sc.voxelize(points, 1.0)
    birds_eye(tmp_path / "a.png", points, x.to_sparse(), x.to_sparse(), (1.0, 1.0), x.grid, "t")
    assert labels[-1] == {"x (m)", "y (m)"}
