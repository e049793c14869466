"""The examples of docs/big_jobs.md and docs/simulated_scenes.md run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

DOCS = Path(__file__).parent.parent / "docs"


def blocks(name: str) -> list[str]:
    found = re.findall(r"```python\n(.*?)```", (DOCS / name).read_text(), re.DOTALL)
    assert len(found) > 1
    return found


def test_scenes() -> None:
    names: dict[str, object] = {}
    for block in blocks("simulated_scenes.md"):
        exec(compile(block, "simulated_scenes.md", "exec"), names)
    assert len(names["merged"]) > 400_000  # type: ignore[arg-type]


def test_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scans").mkdir()
    rng = np.random.default_rng(0)
    cloud = rng.uniform([0, -40, -3, 0], [70, 40, 1, 1], (2000, 4)).astype(np.float32)
    cloud.tofile(tmp_path / "scans/000000.bin")
    results, call = blocks("big_jobs.md")
    # In this process: a spawned one would import the test runner, and deaths have tests of their own.
    exec(compile(call.replace("workers=1", "workers=0"), "big_jobs.md", "exec"), {"__name__": "__main__"})
    exec(compile(results, "big_jobs.md", "exec"), {})
    out = capsys.readouterr().out
    assert "1 done" in out and "{}" in out and "G multiply-adds" in out
