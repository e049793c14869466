"""The benchmark: a whole run on a small cloud, and its refusal to print the speed of a wrong result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparseconv.scripts.bench import _measure
from sparseconv.scripts.benchmarks.case_data import CaseData
from sparseconv.scripts.benchmarks.cases import Case, Target, all_cases
from sparseconv.scripts.benchmarks.growth import growth_cases, surface
from sparseconv.scripts.benchmarks.report import result_record
from sparseconv.scripts.benchmarks.rounds import Field
from sparseconv.scripts.benchmarks.samples import CaseResult
from sparseconv.scripts.benchmarks.scenes import Scans
from sparseconv.scripts.benchmarks.verify import mismatch, tolerance
from sparseconv.scripts.benchmarks.workers import PROGRAMS, Program

WRONG = """
import numpy as np
PACKAGES = ("numpy",)
def subm(arrays, options):
    output = {"indices": arrays["indices"], "features": np.zeros_like(arrays["features"])}
    return lambda: output, lambda output: output
STEPS = {"subm": subm}
"""
DYING = "import os\nPACKAGES = ()\ndef subm(arrays, options):\n    os._exit(3)\nSTEPS = {'subm': subm}\n"


def cloud(points: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.uniform((5, -5, -2, 0), (15, 5, 0, 1), (points, 4)).astype(np.float32)


def test_a_quick_run_writes_every_sample(tmp_path: Path) -> None:
    for folder in ("velodyne", "velodyne_reduced"):
        path = tmp_path / "data" / "kitti" / "training" / folder / "000000.bin"
        path.parent.mkdir(parents=True)
        cloud(2000).tofile(path)
    command = [sys.executable, "-m", "sparseconv.scripts.app", "bench", "--quick", "--peers", "none"]
    result = subprocess.run(
        [*command, "--rounds", "1", "--workloads", "W1,W5", "--threads", "1", "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        env=os.environ | {"SPARSECONV_DATA": str(tmp_path / "data")},
        check=False,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["bench.json", "ratios.png"]
    record = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert record["left_out"] == {} and record["threads"] == 1 and record["source"] == "KITTI 000000"
    assert {case["workload"] for case in record["cases"]} == {"W1", "W5"}
    for case in record["cases"]:
        for name, timing in case["programs"].items():
            assert timing["problem"] is None, (case["name"], name, timing["problem"])
            assert timing["min"] <= timing["median"] <= timing["upper"] and min(timing["seconds"]) > 0
    assert "plain torch" in result.stdout and record["machine"]["processor"] in result.stdout


def test_ctrl_c_keeps_what_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    class Interrupted:
        programs = ("ours",)

        def run(self, case: Case, data: object, rounds: int, on_turn: object) -> str:
            if case is cases[2]:
                raise KeyboardInterrupt
            return case.name

    cases = all_cases(False)[:5]
    field: Any = Interrupted()
    data: Any = None
    assert _measure(cases, field, data, 3) == [case.name for case in cases[:2]]
    assert "measured 2 of 5 cases" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--peers", "spconf"], ["--workloads", "W1,W99"]])
def test_unknown_names_end_in_one_line_and_code_2(option: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sparseconv.scripts.app", "bench", *option, "--out", str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 2 and len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert option[1].split(",")[-1] in result.stderr


def run_beside(peer: str, tmp_path: Path) -> tuple[CaseResult, dict[str, str]]:
    """A small layer, run by this library and by a program with the given source."""
    (tmp_path / "peer.py").write_text(peer)
    here = Path(sys.executable)
    programs = [
        Program("ours", "ours", PROGRAMS / "ours.py", here, (1,)),
        Program("peer", "peer", tmp_path / "peer.py", here, (1,)),
        Program("peer, fast", "peer", tmp_path / "peer.py", here, (1,), is_trusted=False),
    ]
    options = {"channels": 4, "backward": False, "cached": True}
    case = Case("W1", "small", "subm", "10 voxels", options, Target("peer", 1.0))
    with Field(programs, tmp_path) as field:
        return field.run(case, CaseData(Scans("test", cloud(10), cloud(10))), 2, lambda: None), field.left_out


def test_a_wrong_result_has_no_speed(tmp_path: Path) -> None:
    result, left_out = run_beside(WRONG, tmp_path)
    assert not left_out and len(result.timings["ours"].seconds) >= 2
    for name in ("peer", "peer, fast"):
        problem = result.timings[name].problem
        assert problem is not None and "features differs" in problem
        assert result.timings[name].seconds == [] and result.ratio(name) is None
        assert result.timings[name].difference == problem
    assert result.reached is None
    assert "seconds" not in result_record(result)["programs"]["peer"]


def test_a_program_that_dies_or_cannot_start_is_named(tmp_path: Path) -> None:
    result, left_out = run_beside(DYING, tmp_path)
    assert not left_out and "code 3" in str(result.timings["peer"].problem)
    result, left_out = run_beside("import no_such_module", tmp_path)
    assert "no_such_module" in left_out["peer"] and list(result.timings) == ["ours"]


def test_rows_are_compared_as_a_set() -> None:
    indices = np.array([[0, 1, 2, 3], [0, 3, 2, 1], [0, 0, 0, 0]])
    features = np.array([[1.0], [2.0], [3.0]])
    ours = {"indices": indices, "features": features}
    turned = {"indices": indices[::-1], "features": features[::-1]}
    assert mismatch(ours, turned, 1e-6) is None
    wrong = (
        ({"indices": indices[:2], "features": features[:2]}, "2 rows instead of 3"),
        ({"indices": indices + 1, "features": features}, "sites differ"),
        ({"indices": indices, "features": features[::-1]}, "features differs"),
        ({"indices": indices, "features": np.full((3, 1), np.nan)}, "features differs"),
        ({"indices": indices, "features": np.ones((3, 2))}, "shape"),
        ({"features": features}, "no sites"),
    )
    for theirs, words in wrong:
        assert words in str(mismatch(ours, theirs, 1e-6))


def test_tolerance_allows_rounding_and_no_lost_term() -> None:
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(500, 432)).astype(np.float32), rng.normal(size=(432, 16)).astype(np.float32)
    exact = left.astype(np.float64) @ right
    relative = tolerance(432)
    assert mismatch({"features": exact}, {"features": left @ right}, relative) is None
    left[7, 100] = 0
    assert mismatch({"features": exact}, {"features": left @ right}, relative) is not None


def test_gradients_of_a_network_are_compared_in_norm() -> None:
    ours = np.random.default_rng(0).standard_normal((64, 27, 32)).astype(np.float32)
    name, flipped, swapped = "gradient of weight", ours.copy(), ours.copy()
    flipped[3, 4] += 0.5
    swapped[:, [0, 1]] = swapped[:, [1, 0]]
    assert mismatch({name: ours}, {name: flipped}, 1e-5) is not None
    assert mismatch({name: ours}, {name: flipped}, 1e-5, is_training=True) is None
    assert "in norm" in str(mismatch({name: ours}, {name: swapped}, 1e-5, is_training=True))
    assert "in norm" in str(mismatch({name: ours}, {name: ours * np.nan}, 1e-5, is_training=True))


def test_cases_are_distinct_and_the_surface_is_one_voxel_thick() -> None:
    cases = [*all_cases(quick=False), *growth_cases()]
    names = [(case.workload, case.name) for case in cases]
    assert len(set(names)) == len(names)
    scene = surface(1000)
    assert len(np.unique(scene.indices.numpy(), axis=0)) == 1000
    assert (scene.indices[:, 1:].amax(0).numpy() < np.array(scene.shape)).all()
