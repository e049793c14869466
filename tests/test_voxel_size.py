"""The voxel size of a command that names none: what each kind of cloud gets, and what is said about it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from scans import data_folder, synthetic_scan
from typer.testing import CliRunner

from sparseconv.scripts.flops import flops
from sparseconv.scripts.run import run
from sparseconv.scripts.scan import Scan, load_scan
from sparseconv.scripts.scan_grid import grid_for
from sparseconv.scripts.view import view
from sparseconv.scripts.voxel_size import default_voxel_size, picture_voxel_size, roomier_size


def cloud(points: Any, vehicle: Any = None) -> Scan:
    return Scan("cloud", np.asarray(points, np.float32), ("x", "y", "z"), vehicle)


def lattice(side: int, spacing: float) -> np.ndarray:
    """A flat regular grid of points, none of them on the border of a voxel."""
    x, y = np.mgrid[0:side, 0:side].reshape(2, -1) * spacing + 0.01
    return np.c_[x, y, np.full(side * side, 0.01)]


def mean_points(points: np.ndarray, size: float) -> float:
    """By numpy alone."""
    return len(points) / len(np.unique(np.floor(points / size).astype(np.int64), axis=0))


def call(command: Any, *arguments: Any) -> Any:
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_scans_of_vehicles_keep_their_sizes() -> None:
    points = synthetic_scan(beams=8, steps=200)
    for vehicle, bounded, size in (
        ("KITTI", True, (0.05, 0.05, 0.1)),
        ("KITTI", False, (0.05,) * 3),
        ("nuScenes", True, (0.05,) * 3),
    ):
        assert default_voxel_size(cloud(points, vehicle), bounded).edges == size
        assert picture_voxel_size(cloud(points, vehicle)).edges == (0.1,) * 3


@pytest.mark.parametrize(("side", "size"), [(0.156, 0.0006), (1.7, 0.007), (5.9, 0.02), (12.0, 0.05)])
def test_small_objects_are_cut_into_256(side: float, size: float) -> None:
    points = np.random.default_rng(0).uniform(0, side, (60, 3))
    points[:2] = [0, 0, 0], [side, 0, 0]
    chosen = default_voxel_size(cloud(points), True)
    assert chosen.edges == pytest.approx((size,) * 3) and chosen.reason is not None
    assert size == 0.05 or "1/256 of the longest side" in chosen.reason


def test_a_sparse_wide_cloud_gets_voxels_of_more_than_a_point() -> None:
    for spacing in (0.3, 2.0, 90.0):
        points = lattice(60, spacing)
        chosen = default_voxel_size(cloud(points), True)
        size = chosen.edges[0]
        assert spacing < size < 3 * spacing and len(set(chosen.edges)) == 1
        assert mean_points(points, size) >= 1.3
        assert chosen.reason is not None and f"{mean_points(points, size):.1f} points" in chosen.reason
        assert "at 0.05, 1.00" in chosen.reason


def test_a_dense_wide_cloud_keeps_5_centimetres() -> None:
    points = np.random.default_rng(0).uniform([0, 0, 0], [15, 1, 0.05], (40_000, 3))
    chosen = default_voxel_size(cloud(points), True)
    assert chosen.edges == (0.05,) * 3
    assert f"{mean_points(points, 0.05):.1f} points" in str(chosen.reason)


def test_points_that_are_not_finite_or_out_of_range_do_not_count() -> None:
    # A dense corner in a sparse field.
    field, corner = lattice(60, 5.0), lattice(100, 0.02)
    points = np.concatenate([field, corner, np.full((5, 3), np.nan)])
    whole = default_voxel_size(cloud(points), False)
    inside = default_voxel_size(cloud(points), False, (0, 0, -1, 2, 2, 1))
    outside = default_voxel_size(cloud(points), False, (3, 3, -1, 300, 300, 1))
    assert whole.edges == inside.edges == (0.05,) * 3
    assert outside.edges[0] > 5.0
    # No point in the range: the message is the caller's.
    assert default_voxel_size(cloud(points), False, (900, 900, 0, 901, 901, 1)).edges == (0.05,) * 3
    with pytest.raises(ValueError, match="no point has finite"):
        default_voxel_size(cloud(np.full((5, 3), np.nan)), False)


def test_too_few_points_for_any_size() -> None:
    for points in ([[1, 2, 3]], [[0, 0, 0], [500, 0, 0]], np.full((4, 3), 7.0)):
        assert default_voxel_size(cloud(points), False).edges == (0.05,) * 3
    assert roomier_size(np.zeros((0, 3), np.float32), 0.05) is None
    assert roomier_size(np.array([[0, 0, 0], [500, 0, 0]], np.float32), 0.05) is None


def test_a_cloud_of_a_continent_is_no_error() -> None:
    # At 0.05 its voxels would have no numbers of 63 bits.
    points = np.random.default_rng(0).uniform(0, 3e6, (5000, 3))
    chosen = default_voxel_size(cloud(points), False)
    assert mean_points(points, chosen.edges[0]) >= 1.3


def test_sizes_rise_in_steps_that_are_easy_to_say() -> None:
    points = np.asarray(lattice(60, 1.0), np.float32)
    for size, expected in ((0.05, 1.5), (1.5, 2.0), (2.0, 3.0), (3.5, 5.0), (5.0, 7.0)):
        found = roomier_size(points, size)
        assert found is not None and found[0] == expected
        assert found[1] == pytest.approx(mean_points(points, expected))


def test_a_picture_is_no_finer_than_it_can_show() -> None:
    few = np.random.default_rng(0).uniform(0, 0.15, (400, 3))
    assert picture_voxel_size(cloud(few)).edges[0] == pytest.approx(0.15 / 40, abs=5e-4)
    wide = lattice(400, 0.25)
    # 100 m along: 300 voxels at most, and here the spacing asks for coarser ones.
    assert default_voxel_size(cloud(wide), False) == picture_voxel_size(cloud(wide))
    dense = np.random.default_rng(0).uniform([0, 0, 0], [60, 1, 0.05], (90_000, 3))
    assert picture_voxel_size(cloud(dense)).edges == (0.2,) * 3
    # A range is shown as large as the picture is.
    assert picture_voxel_size(cloud(dense), (0, 0, -1, 12, 1, 1)).edges == (0.05,) * 3
    assert picture_voxel_size(cloud(dense), (100, 0, -1, 112, 1, 1)).edges == (0.05,) * 3


def test_run_view_and_flops_agree_and_say_which_size_and_why(tmp_path: Path) -> None:
    path = tmp_path / "field.npy"
    np.save(path, lattice(300, 0.7))
    chosen = default_voxel_size(load_scan(path), False)
    said = f"1: {chosen.reason} (--voxel-size names another)"
    ran = call(run, path, "--model", "MinkUNet14", "--out", tmp_path / "out")
    assert ran.exit_code == 0 and f"size    {said}" in ran.output, ran.output
    assert "nearly every voxel" not in ran.output
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["grid"]["voxel_size"] == [1.0] * 3 and summary["grid"]["voxel_size_reason"] == chosen.reason
    seen = call(view, path, "--out", tmp_path / "a.png")
    assert seen.exit_code == 0 and f"voxels of {said}" in seen.output, seen.output
    counted = call(flops, "MinkUNet14", path, "--json", tmp_path / "a.json")
    assert counted.exit_code == 0 and f"1 x 1 x {said}" in counted.output, counted.output
    (scan,) = json.loads((tmp_path / "a.json").read_text())["scans"]
    assert scan["voxels"] == summary["voxels"] and scan["voxel_size_reason"] == chosen.reason


def test_the_warning_names_a_size_that_is_better(tmp_path: Path) -> None:
    path = tmp_path / "field.npy"
    np.save(path, lattice(60, 0.7))
    result = call(run, path, "--model", "MinkUNet14", "--voxel-size", "0.2", "--out", tmp_path / "out")
    assert result.exit_code == 0 and "size    " not in result.output
    mean = mean_points(lattice(60, 0.7), 1.0)
    assert (
        f"nearly every voxel holds one point, so that layers find few neighbours: --voxel-size 1 puts {mean:.1f}"
        in (result.output)
    )
    result = call(run, path, "--model", "MinkUNet14", "--voxel-size", "1", "--out", tmp_path / "out")
    assert result.exit_code == 0 and "nearly every voxel" not in result.output
    np.save(path, [[0.0, 0, 0], [40, 0, 0], [0, 40, 0]])
    result = call(run, path, "--model", "MinkUNet14", "--out", tmp_path / "out")
    assert result.exit_code == 0 and "too few points for any voxel size" in result.output


def test_real_scans() -> None:
    data = data_folder()
    if data is None:
        pytest.skip("no real scan: set SPARSECONV_DATA to the folder that has it")
    nuscenes = next(iter((data / "nuscenes").glob("*.pcd.bin")))
    for path, bounded, size in (
        (data / "kitti/training/velodyne/000000.bin", True, (0.05, 0.05, 0.1)),
        (nuscenes, True, (0.05,) * 3),
        (data / "mesh/bunny.ply", True, (0.0006,) * 3),
        (data / "ply/target.ply", True, (0.05,) * 3),
        (data / "las/autzen_trim.laz", True, (3.0,) * 3),
    ):
        if path.is_file() and (path.suffix != ".laz" or pytest.importorskip("laspy")):
            grid = grid_for(load_scan(path), bounded, None, None)
            assert grid.grid.voxel_size == size, path
