"""The implicit GEMM without a device: its tables, its tile shapes, and its kernels in Triton's interpreter."""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sparseconv.backends.cuda import implicit_gemm_tuning
from sparseconv.backends.cuda.implicit_gemm_table import (
    MapTables,
    Ready,
    build_tasks,
    single_tap_tasks,
)
from sparseconv.backends.cuda.implicit_gemm_tiles import (
    MOST_TAPS,
    ConvolutionTile,
    GradientTile,
    Problem,
    convolution_tile,
    gradient_tile,
    pairs_per_task,
)
from sparseconv.backends.cuda.implicit_gemm_tuning import TunedTiles

HERE = Path(__file__).parent

# in_rows, out_rows, tap_offsets
PairMap = tuple[Tensor, Tensor, Tensor]


@pytest.mark.parametrize(
    ("checks", "fewest"),
    [
        ("interpreted_convolution.py", 85),
        ("interpreted_gradients.py", 45),
        ("interpreted_tables.py", 15),
        ("interpreted_backend.py", 3),
    ],
)
def test_in_the_interpreter(checks: str, fewest: int, tmp_path: Path) -> None:
    """Triton decides when it is imported whether to interpret, so these checks have a process of their own."""
    pytest.importorskip("triton", reason="Triton has no wheel for this system")
    environment = os.environ | {
        "TRITON_INTERPRET": "1",
        "NUMBA_ENABLE_CUDASIM": "1",
        "TRITON_CACHE_DIR": str(tmp_path / "triton"),
        "SPARSECONV_CACHE_DIR": str(tmp_path / "sparseconv"),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    path = HERE / "implicit_gemm" / checks
    done = subprocess.run([*command, path], env=environment, cwd=HERE.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None and int(passed[1]) >= fewest, done.stdout
    assert "skipped" not in done.stdout, done.stdout


def test_the_host_side_needs_no_triton_and_no_driver() -> None:
    script = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch\n"
        "from sparseconv.backends.cuda import implicit_gemm, implicit_gemm_autotune\n"
        "x = torch.ones(2, 4)\n"
        "print(implicit_gemm.usable(x, torch.ones(3, 1, 4), 1))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "False", done.stdout + done.stderr


@given(st.lists(st.integers(0, 90), min_size=1, max_size=9), st.integers(1, 40))
def test_tasks_cover_each_tap_in_order(counts: list[int], length: int) -> None:
    offsets = torch.tensor([0, *counts]).cumsum(0)
    tasks = build_tasks(offsets, torch.device("cpu"), length)
    assert tasks.firsts[-1] == len(tasks.bounds)
    for tap in range(len(counts)):
        covered = [
            pair
            for task in range(int(tasks.firsts[tap]), int(tasks.firsts[tap + 1]))
            for pair in range(*tasks.bounds[task].tolist())
        ]
        assert covered == list(range(int(offsets[tap]), int(offsets[tap + 1])))
    sizes = tasks.bounds.diff(dim=1)
    assert ((sizes > 0) & (sizes <= length)).all()
    if len(counts) == 1:
        alone = single_tap_tasks(counts[0], torch.device("cpu"), length)
        assert torch.equal(alone.bounds, tasks.bounds) and torch.equal(alone.firsts, tasks.firsts)


class TestMapTables:
    """Values kept for maps."""

    def columns(self) -> PairMap:
        return torch.arange(4, dtype=torch.int32), torch.arange(4, dtype=torch.int32), torch.tensor([0, 4])

    def test_built_once_and_found_through_other_tensor_objects(self) -> None:
        tables, (a, b, offsets) = MapTables(), self.columns()
        first = tables.get(a, b, offsets, ("what",), object)
        assert tables.get(a.detach(), b[:], offsets.clone(), ("what",), object) is first
        assert tables.get(a, b, offsets, ("other",), object) is not first
        assert tables.get(b, a, offsets, ("what",), object) is not first
        assert tables.get(a, b, torch.tensor([0, 2, 4]), ("what",), object) is not first
        assert tables.get(a[1:], b[1:], torch.tensor([0, 3]), ("what",), object) is not first
        assert tables.get(a[:3], b[:3], torch.tensor([0, 3]), ("what",), object) is not first

    @pytest.mark.parametrize("column", [0, 1])
    def test_forgotten_with_either_column(self, column: int) -> None:
        tables, columns = MapTables(), list(self.columns())
        tables.get(*columns, ("what",), object)
        assert len(tables) == 1
        del columns[column]
        gc.collect()
        assert len(tables) == 0

    def test_kept_while_only_a_view_lives(self) -> None:
        tables, (a, b, offsets) = MapTables(), self.columns()
        tables.get(a, b, offsets, ("what",), object)
        view = a[2:]
        del a
        gc.collect()
        assert len(tables) == 1
        del view
        gc.collect()
        assert len(tables) == 0

    def test_a_column_written_in_place_is_another_map(self) -> None:
        tables, (a, b, offsets) = MapTables(), self.columns()
        first = tables.get(a, b, offsets, ("what",), object)
        a += 1
        assert tables.get(a, b, offsets, ("what",), object) is not first

    def test_built_in_inference_mode_and_used_in_training(self) -> None:
        tables = MapTables()
        with torch.inference_mode():
            a, b, offsets = self.columns()
            kept = tables.get(a, b, offsets, ("t",), lambda: a + b)
        assert not kept.is_inference()
        assert tables.get(a, b, offsets, ("t",), object) is kept

    def test_a_build_that_fails_keeps_nothing(self) -> None:
        tables, (a, b, offsets) = MapTables(), self.columns()

        def fail() -> object:
            raise RuntimeError("no memory")

        with pytest.raises(RuntimeError, match="no memory"):
            tables.get(a, b, offsets, ("what",), fail)
        assert tables.get(a, b, offsets, ("what",), lambda: 5) == 5


def test_columns_with_another_stride_are_another_map() -> None:
    """``column[:4]`` and ``column[::2]`` begin alike in the same memory."""
    tables, offsets = MapTables(), torch.tensor([0, 4])
    a, b = torch.arange(8, dtype=torch.int32), torch.arange(8, dtype=torch.int32)
    first = tables.get(a[:4], b[:4], offsets, ("what",), object)
    assert tables.get(a[::2], b[:4], offsets, ("what",), object) is not first
    assert tables.get(a[:4], b[::2], offsets, ("what",), object) is not first
    assert tables.get(a[:4], b[:4], offsets, ("what",), object) is first


def test_another_stream_waits_for_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """With stand-ins for the streams: what is asked of which, not whether a device obeys."""
    asked: list[tuple[Any, ...]] = []

    class Stream(SimpleNamespace):
        def wait_event(self, event: Any) -> None:
            asked.append(("wait", self.name, event))

    class Recorded:
        def record_stream(self, stream: Any) -> None:
            asked.append(("keep", stream.name))

    built, other = Stream(name="built", device="cuda"), Stream(name="other", device="cuda")
    ready = Ready(built, "filled")
    now, captured = [built], [False]
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: now[0])
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: captured[0])
    tensors: Any = (Recorded(),)
    ready.wait(tensors)
    assert asked == []
    now[0] = other
    ready.wait(tensors)
    assert asked == [("wait", "other", "filled"), ("keep", "other")]
    captured[0] = True
    ready.wait(tensors)
    assert len(asked) == 2
    assert Ready.now(torch.device("cpu")).stream is None


PROBLEMS = [
    Problem(rows, depth, width, groups, dtype, precision)  # type: ignore[arg-type]
    for rows in (1, 5000, 10**6)
    for depth, width in ((1, 1), (3, 16), (16, 17), (32, 64), (33, 128), (64, 32), (128, 256), (512, 20), (0, 5))
    for groups in (1, 4)
    for dtype, precision in (
        (torch.float32, "ieee"),
        (torch.float32, "tf32"),
        (torch.bfloat16, "ieee"),
        (torch.float16, "ieee"),
    )
]


def test_tiles_fit_every_device_that_is_served() -> None:
    for problem in PROBLEMS:
        tile, gradient = convolution_tile(problem), gradient_tile(problem)
        size = problem.dtype.itemsize
        # Hopper keeps a stage more than `ahead`; 99 KiB is what the smallest devices give a program.
        assert (tile.ahead + 1) * (tile.rows + tile.columns) * tile.channels * size <= 99 * 1024
        assert (gradient.ahead + 1) * (gradient.outputs + gradient.inputs) * gradient.pairs * size <= 99 * 1024
        # wgmma multiplies 64 rows for each four warps.
        assert tile.rows >= 16 * tile.warps
        assert tile.taps <= MOST_TAPS
        assert tile.columns < 2 * max(16, problem.width) and tile.channels < 2 * max(16, problem.depth)
        assert pairs_per_task(problem) % gradient.pairs == 0


def test_tiles_that_no_kernel_has_are_refused() -> None:
    for shape in ((24, 16, 16, 4, 2, 31), (64, 8, 16, 4, 2, 31), (64, 16, 16, 3, 2, 31), (64, 16, 16, 4, 0, 31)):
        with pytest.raises(ValueError, match="a tile"):
            ConvolutionTile(*shape)
    with pytest.raises(ValueError, match="31 taps, got 32"):
        ConvolutionTile(64, 16, 16, 4, 2, 32)
    with pytest.raises(ValueError, match="powers of two"):
        GradientTile(16, 20, 16, 4, 2)


class TestTunedTiles:
    """Tiles on disk."""

    problem = Problem(5000, 32, 64, 1, torch.float32, "ieee")
    tile = ConvolutionTile(64, 32, 32, 4, 2, 16)
    device = torch.device("cpu")

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("triton", reason="Triton has no wheel for this system")
        self.folder = tmp_path
        monkeypatch.setenv("SPARSECONV_CACHE_DIR", str(tmp_path))

    def find(self, problem: Problem) -> object:
        return TunedTiles().find(ConvolutionTile, problem, self.device)

    def test_what_is_recorded_is_found_by_another_process(self) -> None:
        assert self.find(self.problem) is None
        TunedTiles().record(self.tile, self.problem, self.device)
        TunedTiles().record(GradientTile(16, 16, 16, 4, 2), self.problem, self.device)
        assert self.find(self.problem) == self.tile
        nearly = Problem(4100, 32, 64, 1, torch.float32, "ieee")
        assert self.find(nearly) == self.tile
        for other in (
            Problem(9000, 32, 64, 1, torch.float32, "ieee"),
            Problem(5000, 64, 32, 1, torch.float32, "ieee"),
            Problem(5000, 32, 64, 2, torch.float32, "ieee"),
            Problem(5000, 32, 64, 1, torch.float32, "tf32"),
            Problem(5000, 32, 64, 1, torch.bfloat16, "ieee"),
        ):
            assert self.find(other) is None
        assert [path.suffix for path in self.folder.rglob("*") if path.is_file()] == [".json"]

    def test_another_card_other_sources_and_another_triton_start_anew(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        TunedTiles().record(self.tile, self.problem, self.device)
        for name, value in (("_card", lambda device: "B300"), ("_sources_digest", lambda: "0123")):
            with monkeypatch.context() as patch:
                patch.setattr(implicit_gemm_tuning, name, value)
                assert self.find(self.problem) is None
        with monkeypatch.context() as patch:
            patch.setattr(implicit_gemm_tuning.importlib.metadata, "version", lambda name: "9.9")
            assert self.find(self.problem) is None
        assert self.find(self.problem) == self.tile

    @pytest.mark.parametrize(
        "content",
        [
            "",
            "{",
            "[1]",
            '{"convolution: x": 3}',
            '{"other: x": {}}',
            '{"convolution: x": {"rows": 7}}',
            '{"gradient: x": {"outputs": "64", "inputs": 16, "pairs": 16, "warps": 4, "ahead": 2}}',
            "\x00",
        ],
    )
    def test_a_damaged_file_is_as_if_there_were_none(self, content: str) -> None:
        TunedTiles().record(self.tile, self.problem, self.device)
        (path,) = self.folder.rglob("*.json")
        path.write_text(content)
        assert self.find(self.problem) is None
        TunedTiles().record(self.tile, self.problem, self.device)
        assert self.find(self.problem) == self.tile

    def test_a_folder_that_cannot_be_written_costs_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        (self.folder / "file").write_text("")
        monkeypatch.setenv("SPARSECONV_CACHE_DIR", str(self.folder / "file" / "inside"))
        tiles = TunedTiles()
        tiles.record(self.tile, self.problem, self.device)
        assert tiles.find(ConvolutionTile, self.problem, self.device) == self.tile

    def test_two_processes_add_to_one_file(self) -> None:
        first, second = TunedTiles(), TunedTiles()
        other = Problem(5000, 16, 16, 1, torch.float32, "ieee")
        for tiles in (first, second):
            assert tiles.find(ConvolutionTile, self.problem, self.device) is None
        first.record(self.tile, self.problem, self.device)
        second.record(self.tile, other, self.device)
        assert self.find(self.problem) == self.find(other) == self.tile
        (path,) = self.folder.rglob("*.json")
        assert len(json.loads(path.read_text())) == 2

    def test_forgetting(self) -> None:
        tiles = TunedTiles()
        tiles.record(self.tile, self.problem, self.device)
        tiles.forget(self.device)
        assert tiles.find(ConvolutionTile, self.problem, self.device) is None
        assert self.find(self.problem) is None


def test_torch_decides_on_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    from sparseconv.backends.cuda.implicit_gemm import problem_of

    def precision(dtype: torch.dtype = torch.float32) -> str:
        return problem_of(1, torch.empty(0, 4, dtype=dtype), 4, 1).precision

    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    try:
        for allowed, expected in ((True, "tf32"), (False, "ieee")):
            matmul.allow_tf32 = allowed
            assert precision() == expected
            assert precision(torch.bfloat16) == "ieee"
    finally:
        matmul.allow_tf32 = before
