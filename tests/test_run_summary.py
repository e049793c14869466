"""``summary.json`` is JSON whatever the scan holds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import typer
from typer.testing import CliRunner

from sparseconv.scripts.run import run


def refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def test_an_intensity_that_is_no_number_is_counted(tmp_path: Path) -> None:
    points = np.random.default_rng(0).normal(0, 2, (800, 4)).astype(np.float32)
    points[5, 3] = np.nan
    np.save(tmp_path / "scan.npy", points)
    app = typer.Typer()
    app.command()(run)
    result = CliRunner().invoke(
        app, [str(tmp_path / "scan.npy"), "--voxel-size", "0.25", "--out", str(tmp_path / "out")]
    )
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "out/summary.json").read_text(), parse_constant=refuse)
    with np.load(tmp_path / "out/features.npz") as arrays:
        features = arrays["features"]
    rows = int((~np.isfinite(features)).any(1).sum())
    assert rows > 0 and summary["output"]["not_finite"] == rows and summary["output"]["feature_norm"] is None
    assert summary["voxels_not_finite"] == 1
    assert f"{rows} of {len(features)} output voxels" in result.stderr and "intensity" in result.stderr
