"""Map coordinates through the commands: what readers subtract comes back, in ranges and in results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from sparseconv.scripts import view as view_module
from sparseconv.scripts.run import run
from sparseconv.scripts.view import view
from sparseconv.scripts.voxelize import voxelize

# A tile in UTM coordinates, metres.
CORNER = np.array([690_000.0, 5_334_000.0, 512.0])
SIZE = 0.25
# Each scan of a job would start Numba's kernels in a process of its own.
HERE = ("--jobs", "0", "--save", "features")


@pytest.fixture
def tile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Points ``[N, 3]`` float64 in the file ``tile.npy`` of the working folder."""
    points = CORNER + np.random.default_rng(0).uniform(0, 12, (3000, 3))
    np.save(tmp_path / "tile.npy", points)
    monkeypatch.chdir(tmp_path)
    return points


def call(command: Any, *arguments: str) -> Any:
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [*arguments])


def load(path: str) -> dict[str, np.ndarray]:
    with np.load(path) as arrays:
        return dict(arrays)


def cells_of(sites: np.ndarray, origin: np.ndarray) -> set[tuple[int, ...]]:
    """Voxels in the map, counted from the tile's corner."""
    corner = (origin - CORNER) / SIZE
    np.testing.assert_allclose(corner, np.round(corner), atol=1e-6)
    return set(map(tuple, (sites[:, :0:-1] + np.round(corner).astype(int)).tolist()))


def expected_cells(points: np.ndarray) -> set[tuple[int, ...]]:
    return set(map(tuple, np.floor((points - CORNER) / SIZE).astype(int).tolist()))


@pytest.mark.parametrize("bounds", [None, np.r_[CORNER + 3, CORNER + 9]])
def test_results_lie_where_the_file_has_its_points(tile: np.ndarray, bounds: np.ndarray | None) -> None:
    options = ["--voxel-size", str(SIZE), "--out", "out"]
    kept = tile
    if bounds is not None:
        options += ["--range", ",".join(map(str, bounds))]
        kept = tile[((tile >= bounds[:3]) & (tile < bounds[3:])).all(1)]
    result = call(voxelize, "tile.npy", *options)
    assert result.exit_code == 0, result.output
    arrays = load("out/tile.npy.npz")
    assert arrays["origin"].dtype == np.float64
    found, expected = cells_of(arrays["indices"], arrays["origin"]), expected_cells(kept)
    # In float32 a point a micrometre from a border may change sides.
    assert len(found ^ expected) <= 2 and len(found) > 300

    result = call(run, "tile.npy", "--model", "MinkUNet14", *options, "--html", "page.html")
    assert result.exit_code == 0, result.output
    shift = json.loads(Path("out/summary.json").read_text())["scan"]["origin"]
    np.testing.assert_array_less(np.abs(shift[:2] - CORNER[:2]), 13)
    assert f"{shift[0]:.12g} {shift[1]:.12g} 0, which the clouds" in Path("page.html").read_text()
    arrays = load("out/features.npz")
    assert len(cells_of(arrays["input_indices"], arrays["origin"]) ^ expected) <= 2
    assert json.loads(Path("out/summary.json").read_text())["grid"]["origin"] == arrays["origin"].tolist()

    result = call(run, "tile.npy", "--model", "MinkUNet14", *options[:2], *options[4:], "--out", "job", *HERE)
    assert result.exit_code == 0, result.output
    arrays = load("job/features/tile.npy.npz")
    assert len(cells_of(arrays["indices"], arrays["origin"]) ^ expected) <= 2
    assert json.loads(Path("job/results.jsonl").read_text())["origin"] == arrays["origin"].tolist()


def test_a_view_of_a_part_and_its_boxes(tile: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(view_module, "draw_from_above", lambda path, scene: shown.append(scene))
    middle = CORNER + 6
    np.save("boxes.npy", np.array([[*middle, 4, 2, 1.5, 0.3]]))
    bounds = ",".join(map(str, np.r_[CORNER + 3, CORNER + 9]))
    result = call(view, "tile.npy", "--range", bounds, "--boxes", "boxes.npy", "--out", "a.png")
    assert result.exit_code == 0, result.output
    (scene,) = shown
    assert np.abs(scene.centres.mean(0) - scene.boxes[0, :3]).max() < 0.5


def test_a_range_without_points_is_named_as_the_user_gave_it(tile: np.ndarray) -> None:
    result = call(run, "tile.npy", "--voxel-size", "1", "--range", "0,0,0,64,64,64", "--out", "out")
    assert result.exit_code == 2 and "(0.0, 0.0, 0.0, 64.0, 64.0, 64.0)" in result.output, result.output
