"""Meshes on the command line: drawn from on demand, reproducibly, and a word where only vertices are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from sparseconv.scripts.flops import flops
from sparseconv.scripts.run import run
from sparseconv.scripts.scan import load_scan
from sparseconv.scripts.view import view
from sparseconv.scripts.voxelize import voxelize

# A cube of edge 2 around the origin.
CORNERS = [(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]
SQUARES = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
BARE = "read as bare vertices"


def ply(faces: bool = True) -> str:
    head = ["ply", "format ascii 1.0", "element vertex 8", *(f"property float {axis}" for axis in "xyz")]
    body = [" ".join(map(str, corner)) for corner in CORNERS]
    head += [f"element face {len(SQUARES) if faces else 0}", "property list uchar int vertex_indices"]
    body += [f"4 {' '.join(map(str, square))}" for square in SQUARES] if faces else []
    return "\n".join([*head, "end_header", *body, ""])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "cube.ply").write_text(ply())
    (tmp_path / "CORNERS.PLY").write_text(ply(faces=False))
    off = ["OFF", "8 6 0", *(" ".join(map(str, corner)) for corner in CORNERS)]
    (tmp_path / "cube.off").write_text("\n".join([*off, *(f"4 {' '.join(map(str, s))}" for s in SQUARES), ""]))
    np.save(tmp_path / "points.npy", np.random.default_rng(0).normal(0, 1, (50, 3)))
    monkeypatch.chdir(tmp_path)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def call(command: Any, *arguments: Any) -> Any:
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def small(command: Any, *arguments: Any) -> Any:
    """A command on a grid that needs no more than a second."""
    options = ("--voxel-size", "0.25")
    if command is run:
        options += ("--model", "MinkUNet14", "--out", "out")
    if command is view:
        options += ("--out", "a.png")
    return call(command, *(("MinkUNet14",) if command is flops else ()), *arguments, *options)


@pytest.mark.parametrize("name", ["cube.ply", "cube.off"])
def test_points_of_the_surface_and_the_same_ones_again(folder: Path, name: str) -> None:
    first, again, other = (load_scan(folder / name, seed, 500) for seed in (0, 0, 1))
    assert first.from_mesh == "surface" and first.points.shape == (500, 6)
    # Inside no face and outside none: the greatest coordinate is the cube's half edge.
    np.testing.assert_allclose(np.abs(first.points[:, :3]).max(1), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(first.points, again.points)
    assert (first.points != other.points).any()


def test_what_is_read_without_the_option(folder: Path) -> None:
    assert (load_scan(folder / "cube.ply").from_mesh, len(load_scan(folder / "cube.ply").points)) == (
        "vertices",
        8,
    )
    assert load_scan(folder / "CORNERS.PLY").from_mesh is None
    assert (load_scan(folder / "cube.off").from_mesh, len(load_scan(folder / "cube.off").points)) == (
        "surface",
        100_000,
    )
    assert load_scan(folder / "points.npy").from_mesh is None


@pytest.mark.parametrize("command", [run, view, flops, voxelize])
def test_one_note_where_only_vertices_are_read(folder: Path, command: Any) -> None:
    result = small(command, "cube.ply")
    assert result.exit_code == 0, result.output
    (line,) = result.stderr.strip().splitlines()
    assert "cube.ply is a mesh" in line and BARE in line and "--mesh-points" in line
    for arguments in (("cube.ply", "--mesh-points", 300), ("CORNERS.PLY",), ("points.npy",)):
        result = small(command, *arguments)
        assert result.exit_code == 0 and result.stderr == "", (arguments, result.stderr)


@pytest.mark.parametrize("command", [run, view])
def test_a_default_number_of_points_is_said(folder: Path, command: Any) -> None:
    result = small(command, "cube.off")
    assert result.exit_code == 0 and "100,000 points are drawn from its surface; --mesh-points" in result.stderr
    assert small(command, "cube.off", "--mesh-points", 300).stderr == ""


def test_a_run_of_a_mesh(folder: Path) -> None:
    sums = []
    for seed in (0, 0, 7):
        result = small(run, "cube.ply", "--mesh-points", 300, "--seed", seed)
        assert result.exit_code == 0 and "300 points drawn from its surface" in result.output, result.output
        assert json.loads((folder / "out/summary.json").read_text())["scan"]["from_mesh"] == "surface"
        with np.load(folder / "out/features.npz") as arrays:
            sums.append(float(arrays["features"].sum()))
    assert sums[0] == sums[1] != sums[2]


@pytest.mark.parametrize(
    ("command", "arguments", "fragment"),
    [
        (run, ("points.npy",), "draws points from a mesh (.off .obj .stl .ply), got points.npy"),
        (view, ("points.npy",), "got points.npy"),
        (run, (), "got no file"),
        (view, (), "got no file"),
        (flops, (), "got no file"),
        (run, ("CORNERS.PLY",), "no surface to draw points from"),
        (view, ("CORNERS.PLY",), "no surface to draw points from"),
    ],
)
def test_no_mesh_is_one_line_and_code_2(
    folder: Path, command: Any, arguments: tuple[Any, ...], fragment: str
) -> None:
    result = small(command, *arguments, "--mesh-points", 300)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.strip().splitlines()
    assert fragment in line


def test_several_meshes_share_a_note(folder: Path) -> None:
    (folder / "cube2.ply").write_text(ply())
    result = small(flops, "cube.ply", "cube2.ply", "points.npy")
    (line,) = result.stderr.strip().splitlines()
    assert result.exit_code == 0 and "2 files such as cube.ply are meshes" in line
    result = small(voxelize, "cube.ply", "cube2.ply")
    assert result.exit_code == 0 and result.stderr.count("note:") == 1


def test_folders_of_meshes(folder: Path) -> None:
    (folder / "in").mkdir()
    for name in ("cube.ply", "cube.off", "points.npy"):
        (folder / name).rename(folder / "in" / name)
    job = ("in", "--jobs", 0, "--voxel-size", 0.05)
    result = call(run, *job, "--out", "bare")
    assert result.exit_code == 0, result.output
    (line,) = result.stderr.strip().splitlines()
    assert "cube.ply is a mesh" in line and BARE in line
    assert json.loads((folder / "bare/job_summary.json").read_text())["vertices_only"] == ["cube.ply"]

    def records(out: str) -> dict[str, Any]:
        lines = (folder / out / "results.jsonl").read_text().splitlines()
        return {record["name"]: record for record in map(json.loads, lines)}

    for out, seed in (("a", 0), ("b", 0), ("c", 1)):
        result = call(run, *job, "--out", out, "--mesh-points", 400, "--seed", seed)
        assert result.exit_code == 0 and result.stderr == "", result.stderr
    for name, points, kind in (
        ("cube.ply", 400, "surface"),
        ("cube.off", 400, "surface"),
        ("points.npy", 50, None),
    ):
        a, b, c = (records(out)[name] for out in "abc")
        assert (a["points"], a["from_mesh"]) == (points, kind)
        assert a["output_sha256"] == b["output_sha256"]
        assert (a["output_sha256"] == c["output_sha256"]) == (kind is None)
    # Other points are other results.
    result = call(run, *job, "--out", "a", "--mesh-points", 500)
    assert result.exit_code == 2 and "mesh_points 400 there, 500 here" in result.stderr
    result = call(run, *job, "--out", "a")
    assert result.exit_code == 2 and "mesh_points 400 there, not given here" in result.stderr
    result = call(run, *job, "--out", "a", "--mesh-points", 400, "--seed", 5)
    assert result.exit_code == 2 and "seed 0 there, 5 here" in result.stderr
