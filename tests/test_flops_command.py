"""``sparseconv flops``: models by name and path, means over scans, files that fail, JSON, CSV and pictures."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from sparseconv import SparseTensor, voxelize
from sparseconv.flops import count_forward, count_training
from sparseconv.scripts.flops import flops

MODEL = """
import torch
from torch import nn
import sparseconv as sc

def make_model(in_channels, width=8):
    return sc.Sequential(
        sc.SubMConv3d(in_channels, width, 3), sc.BatchNorm(width), sc.ReLU(), sc.SparseConv3d(width, 16, 3, 2, 1)
    )

class Fixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = sc.SubMConv3d(4, 8, 3)
    def forward(self, x):
        return {"out": self.conv(x)}

ready = make_model(4)
not_a_model = 3

def six_columns(in_channels):
    assert in_channels == 6
    return sc.SubMConv3d(6, 8, 3)

def needs_two(in_channels, other):
    return nn.Linear(in_channels, other)
"""
SPCONV_MODEL = """
import spconv.pytorch as spconv
from torch import nn

class Net(spconv.SparseModule):
    def __init__(self, input_channels):
        super().__init__()
        self.body = spconv.SparseSequential(spconv.SubMConv3d(input_channels, 8, 3, indice_key="a"), nn.ReLU())
    def forward(self, x):
        return self.body(x).dense()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three scans of four columns, a model and a broken file; the working folder."""
    rng = np.random.default_rng(0)
    scans = tmp_path / "scans"
    scans.mkdir()
    for number in range(3):
        cloud = rng.normal(0, 2 + number, (900, 4)).astype(np.float32)
        np.save(scans / f"{number}.npy", cloud)
    (tmp_path / "own.py").write_text(MODEL)
    (tmp_path / "theirs.py").write_text(SPCONV_MODEL)
    (tmp_path / "broken.bin").write_bytes(b"\0" * 30)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments: Any) -> Any:
    app = typer.Typer()
    app.command()(flops)
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "150"})


def expected_input(path: Path, size: float = 0.5) -> SparseTensor:
    """The scan on a grid of its own extent: at least 32 cells an axis, and one more on top."""
    points = np.load(path)
    low = np.floor(points[:, :3].min(0) / size)
    cells = np.maximum(np.floor(points[:, :3].max(0) / size) + 2 - low, 32)
    voxels = voxelize(points, size, [*(low * size), *((low + cells) * size)])
    shape = voxels.spatial_shape
    assert shape is not None
    return SparseTensor(voxels.features, voxels.indices, [shape[0] + 1, *shape[1:]], 1)


def test_means_over_a_folder_are_those_of_the_library(folder: Path) -> None:
    result = call(
        *("own.py:make_model", "scans", "--voxel-size", "0.5", "--json", "a.json", "--csv", "a.csv", "--backward")
    )
    assert result.exit_code == 0, result.output
    written = json.loads((folder / "a.json").read_text())
    model = _own().make_model(4).train()
    counts = [count_training(model, expected_input(folder / "scans" / f"{n}.npy")) for n in range(3)]
    for name in ("macs", "dilated_macs", "dense_macs", "backward_macs", "sparse_bytes", "dense_bytes"):
        values = [getattr(count, name) for count in counts]
        assert len(set(values)) == 3, name
        assert [scan[name] for scan in written["scans"]] == values, name
        spread = written["total"][name]
        assert spread["mean"] == pytest.approx(np.mean(values)) and spread["std"] == pytest.approx(np.std(values))
        assert (spread["low"], spread["high"]) == (min(values), max(values))
    assert written["total"]["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    shares = written["total"]["family_shares"]
    assert set(shares) == {"submanifold", "strided"} and sum(shares.values()) == pytest.approx(1)
    assert [layer["name"] for layer in written["layers"]] == ["0", "3"]
    assert written["layers"][0]["pairs"]["mean"] == pytest.approx(np.mean([c.layers[0].pairs for c in counts]))
    assert f"{2e-9 * np.mean([count.macs for count in counts]):.3f}" in result.output
    with (folder / "a.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 and [row["name"] for row in rows] == ["0", "3"] * 3
    assert [int(row["macs"]) for row in rows[:2]] == [layer.macs for layer in counts[0].layers]


def _own() -> Any:
    namespace: dict[str, Any] = {}
    exec(MODEL, namespace)
    return type("Own", (), {"make_model": staticmethod(namespace["make_model"])})


@pytest.mark.parametrize("model", ["own:Fixed", "own.Fixed", "own.py:Fixed", "own.py:ready", "theirs.py:Net"])
def test_models_by_path(folder: Path, model: str) -> None:
    result = call(model, "scans/0.npy", "--voxel-size", "0.5", "--json", "a.json")
    assert result.exit_code == 0, result.output
    first = json.loads((folder / "a.json").read_text())["layers"][0]
    x = expected_input(folder / "scans" / "0.npy")
    (layer, *_) = count_forward(_own().make_model(4).eval(), x).layers
    assert first["macs"]["mean"] == layer.macs and first["dilated_macs"]["mean"] == layer.dilated_macs


def test_a_file_that_fails_leaves_the_others_and_code_1(folder: Path) -> None:
    np.save(folder / "wide.npy", np.random.default_rng(1).normal(0, 2, (50, 7)).astype(np.float32))
    (folder / "none").mkdir()
    result = call(
        *("own.py:Fixed", "broken.bin", "missing.bin", "scans/0.npy", "wide.npy", "none", "--voxel-size", "0.5"),
        *("--json", "a.json"),
    )
    assert result.exit_code == 1
    written = json.loads((folder / "a.json").read_text())
    assert [Path(scan["scan"]).name for scan in written["scans"]] == ["0.npy"]
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 4 == len(written["errors"])
    for line, name, fragment in zip(
        lines,
        ("broken.bin", "missing.bin", "wide.npy", "none"),
        ("16", "no such file", "channels", "no point file"),
        strict=True,
    ):
        assert name in line and fragment in line, line
    assert call("own.py:Fixed", "missing.bin").exit_code == 1


def test_a_model_for_the_columns_of_the_scans_alone(folder: Path) -> None:
    """It cannot be built for any other number, four of them included."""
    np.save(folder / "wide.npy", np.random.default_rng(1).normal(0, 2, (50, 6)).astype(np.float32))
    options = ("--voxel-size", "0.5", "--json", "a.json")
    result = call("own.py:six_columns", "wide.npy", *options)
    assert result.exit_code == 0, result.output
    # Built for none of the scans: the call's fault. For the first alone: the second scan's.
    assert call("own.py:six_columns", "scans", *options).exit_code == 2
    result = call("own.py:six_columns", "wide.npy", "scans/0.npy", *options)
    assert result.exit_code == 1 and len(json.loads((folder / "a.json").read_text())["scans"]) == 1


def test_a_folder_holds_the_scans_that_a_run_would_find(folder: Path) -> None:
    for name in ("calib.txt", ".hidden.npy", "deep/.cache/1.npy"):
        (folder / "scans" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "scans" / name).write_text("P0: 1 0 0\n")
    for source in ("scans", "scans/*.npy"):
        result = call("own.py:make_model", source, "--voxel-size", "0.5", "--json", "a.json")
        assert result.exit_code == 0, result.output
        found = [scan["scan"] for scan in json.loads((folder / "a.json").read_text())["scans"]]
        assert [Path(name).name for name in found] == ["0.npy", "1.npy", "2.npy"]
        assert all(Path(name).is_file() for name in found)


def test_picture_and_voxel_sizes(folder: Path) -> None:
    result = call("own.py:make_model", "scans/0.npy", "scans/1.npy", "--voxel-size", "0.5", "--plot", "a.png")
    assert result.exit_code == 0, result.output
    content = (folder / "a.png").read_bytes()
    assert content.startswith(b"\x89PNG") and len(content) > 20_000
    assert "0.75 x 0.75 x 0.75" in result.output and "2 x 2 x 2" in result.output
    result = call(
        *("own.py:make_model", "scans/0.npy", "--voxel-sizes", "0.5,0.5x0.5x1,2", "--json", "a.json"),
        *("--plot", "a.svg"),
    )
    assert result.exit_code == 0, result.output
    sizes = json.loads((folder / "a.json").read_text())["voxel_sizes"]
    assert [size["voxel_size"] for size in sizes] == [[0.5] * 3, [0.5, 0.5, 1.0], [2.0] * 3]
    macs = [size["total"]["macs"]["mean"] for size in sizes]
    x = expected_input(folder / "scans" / "0.npy", 2.0)
    assert macs[2] == count_forward(_own().make_model(4).eval(), x).macs
    assert b"<svg" in (folder / "a.svg").read_bytes()


def test_the_table_says_its_voxel_size(folder: Path) -> None:
    def title(*arguments: Any) -> str:
        result = call("own.py:make_model", *arguments)
        assert result.exit_code == 0, result.output
        return next(line.strip() for line in result.output.splitlines() if line.strip().startswith("own.py"))

    assert title("scans/0.npy", "--voxel-sizes", "0.5x0.5x1,2") == (
        "own.py:make_model, 0.npy, voxels of 0.5 x 0.5 x 1"
    )
    # The one named alone comes first, whatever the curve has.
    assert title("scans/0.npy", "--voxel-size", "2", "--voxel-sizes", "0.5,1").endswith(", voxels of 2 x 2 x 2")
    # Objects of 1.5 and 3 m: each scan has its own size.
    for name, side in (("small", 1.5), ("large", 3.0)):
        np.save(folder / f"{name}.npy", np.random.default_rng(0).uniform(0, side, (300, 4)))
    said = title("small.npy", "large.npy", "--json", "a.json")
    assert said == "own.py:make_model, mean of 2 scans, voxels of 0.006 x 0.006 x 0.006 to 0.01 x 0.01 x 0.01"
    written = json.loads((folder / "a.json").read_text())
    assert [size["voxel_size"] for size in written["voxel_sizes"]] == [None]
    assert [scan["voxel_size"][0] for scan in written["scans"]] == [0.006, 0.01]


def test_a_driving_grid_is_enlarged_to_the_cells_that_a_backbone_needs(folder: Path) -> None:
    rng = np.random.default_rng(2)
    points = np.c_[
        rng.uniform(1, 60, 3000), rng.uniform(-30, 30, 3000), rng.uniform(-2, 0, 3000), rng.random(3000)
    ]
    points.astype("<f4").tofile(folder / "scan.bin")
    for size, cells in (("0.1", 40), ("0.4", 32)):
        result = call("VoxelBackBone8x", "scan.bin", "--voxel-size", size, "--json", "a.json")
        assert result.exit_code == 0, result.output
        (scan,) = json.loads((folder / "a.json").read_text())["scans"]
        assert scan["spatial_shape"][0] == cells + 1
    # A range that the user names is taken as it is.
    named = ("--range", "0,-40,-3,70.4,40,1", "--voxel-size", "0.4")
    result = call("VoxelBackBone8x", "scan.bin", *named)
    assert result.exit_code == 1 and "scan.bin" in result.stderr and "larger than the grid" in result.stderr


def test_the_street_and_a_registered_model_without_ends() -> None:
    result = call("MinkUNet14", "--voxel-size", "0.4")
    assert result.exit_code == 0, result.output
    assert "simulated street" in result.output and "pointwise" in result.output


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (("ResNet",), "VoxelBackBone8x"),
        (("own.py",), "own.py:make_model"),
        (("own.py:nothing",), "make_model"),
        (("own.py:not_a_model",), "int"),
        (("own.py:needs_two",), "other"),
        (("absent.py:make",), "no such file"),
        (("no.such.package:Class",), "no module"),
        (("own.py:make_model", "--voxel-sizes", "0.1,small"), "numbers"),
        (("own.py:make_model", "--voxel-size", "-1"), "positive"),
        (("own.py:make_model", "--plot", "a.docx"), ".png"),
        (("own.py:make_model", "--json", "no/such/folder/a.json"), "folder that exists"),
    ],
)
def test_bad_options_end_in_one_line_and_code_2(folder: Path, arguments: tuple[str, ...], fragment: str) -> None:
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and fragment in lines[0], result.stderr
