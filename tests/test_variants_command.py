"""``sparseconv variants``: the table, its files, its pictures, and what it refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from sparseconv.dense_ops.catalogue import VARIANTS
from sparseconv.scripts.variants import variants

SMALL = ("--size", "16", "--channels", "8", "--rounds", "1")


def call(*arguments: str | Path) -> tuple[int, str, str]:
    app = typer.Typer()
    app.command()(variants)
    result = CliRunner().invoke(app, list(map(str, arguments)))
    return result.exit_code, result.stdout, result.stderr


def test_every_variant_is_measured_and_written(tmp_path: Path) -> None:
    code, _, errors = call(*SMALL, "--batch", "2", "--json", tmp_path / "v.json", "--csv", tmp_path / "v.csv")
    assert code == 0, errors
    record = json.loads((tmp_path / "v.json").read_text())
    assert record["input"] == [2, 8, 16, 16] and record["rounds"] == 1 and record["seed"] == 0
    rows = {row["name"]: row for row in record["variants"]}
    assert list(rows) == list(VARIANTS)
    plain = rows["standard"]
    assert plain["output"] == [2, 8, 16, 16]
    assert plain["macs"] == 2 * 16 * 16 * 8 * 8 * 9 and plain["parameters"] == 8 * 8 * 9 + 8
    assert rows["strided"]["output"] == [2, 8, 8, 8] and rows["transposed"]["output"] == [2, 8, 32, 32]
    # Two layers of a high and a low half: (1/2 + 1/8) of a plain layer's multiply-adds each.
    assert rows["octave"]["macs"] == 2 * 0.625 * plain["macs"]
    for row in rows.values():
        assert row["forward_ms"] > 0 and row["to_plain"] > 0 and row["training_ms"] is None
    lines = list(csv.DictReader((tmp_path / "v.csv").read_text().splitlines()))
    assert [line["name"] for line in lines] == list(VARIANTS)
    assert lines[0]["output"] == "2x8x16x16" and int(lines[0]["macs"]) == plain["macs"]


def test_bench_adds_plain_torch_and_training(tmp_path: Path) -> None:
    chosen = "standard,depthwise,involution,deformable"
    code, _, errors = call(*SMALL, "--bench", "--only", chosen, "--json", tmp_path / "v.json", "--threads", "1")
    assert code == 0, errors
    rows = json.loads((tmp_path / "v.json").read_text())["variants"]
    assert [row["name"] for row in rows] == chosen.split(",")
    for row in rows:
        assert row["to_torch"] == pytest.approx(row["forward_ms"] / row["torch_forward_ms"])
        assert row["training_to_torch"] == pytest.approx(row["training_ms"] / row["torch_training_ms"])


def test_pictures_are_the_same_in_every_run(tmp_path: Path) -> None:
    chosen = "cross_hv,deformable"
    for folder in ("one", "two"):
        code, _, errors = call(*SMALL, "--only", chosen, "--out", tmp_path / folder)
        assert code == 0, errors
        names = sorted(path.name for path in (tmp_path / folder).iterdir())
        assert names == ["all_variants.png", "cross_hv.png", "deformable.png"]
    for name in names:
        one, two = (matplotlib.image.imread(tmp_path / folder / name) for folder in ("one", "two"))
        assert min(one.shape[:2]) > 400 and one.std() > 0.05
        assert np.array_equal(one, two)
    code, _, _ = call(*SMALL, "--only", chosen, "--out", tmp_path / "three", "--seed", "1")
    other = matplotlib.image.imread(tmp_path / "three" / "deformable.png")
    assert not np.array_equal(other, matplotlib.image.imread(tmp_path / "one" / "deformable.png"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--only", "circular"), "no variant 'circular'; there are standard, reflect"),
        (("--channels", "6"), "multiple of 4, got 6"),
        (("--size", "15", "--only", "octave"), "multiples of 2"),
        (("--json", "/nowhere/v.json"), "--json must name a file in a folder that exists"),
        (("--csv", "/"), "--csv must name a file"),
    ],
)
def test_a_wrong_call_is_one_line(arguments: tuple[str, ...], message: str) -> None:
    code, _, errors = call(*SMALL, *arguments)
    assert code == 2
    assert message in errors and errors.count("\n") == 1


def test_a_name_in_brackets_is_printed_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "[red].json"
    code, printed, errors = call(*SMALL, "--json", path)
    assert code == 0, errors
    assert "[red].json" in printed
