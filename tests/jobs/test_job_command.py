"""`sparseconv run` on folders, as a user runs it: stopped, gone on with, and with workers shot."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from job_scans import settings, write_scans

from sparseconv.scripts.jobs.job import process_scans
from sparseconv.scripts.jobs.search import find_scans

_PATIENCE = 300
_OPTIONS = ("--voxel-size", "0.5,0.5,0.1")


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sparseconv.scripts.app", "run", *map(str, arguments), *_OPTIONS]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=_PATIENCE)
    return process.returncode, out, err


def records(out: Path) -> dict[str, dict[str, Any]]:
    path = out / "results.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return {record["name"]: record for record in (json.loads(line) for line in lines if line.endswith("\n"))}


def wait_for(process: subprocess.Popen[str], out: Path, count: int) -> None:
    deadline = time.monotonic() + _PATIENCE
    while len(records(out)) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def worker_of(process: subprocess.Popen[str]) -> int:
    """A reading process: the child whose command line says so."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            command = (stat.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == process.pid and b"spawn_main" in command:
            return int(stat.parent.name)
    raise AssertionError("no reading process")


@pytest.fixture
def big(tmp_path: Path) -> tuple[Path, Path]:
    # Enough that a job can be met in its middle.
    write_scans(tmp_path / "in", 60, points=24_000)
    return tmp_path / "in", tmp_path / "out"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds processes in /proc")
def test_interrupted_gone_on_with_and_a_worker_shot(big: tuple[Path, Path]) -> None:
    source, out = big
    (source / "broken.bin").write_bytes(b"\0" * 30)
    process = start(source, "--jobs", 1, "--out", out)
    wait_for(process, out, 5)
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    done = len(records(out))
    assert code == 130 and 5 <= done < 60, err
    assert "the same command goes on from here" in err and "Traceback" not in err

    process = start(source, "--jobs", 2, "--out", out)
    wait_for(process, out, done + 5)
    os.kill(worker_of(process), signal.SIGKILL)
    code, text, err = finish(process)
    assert code == 1, err
    assert f"skipped {done} of 61 scans" in text
    assert "broken.bin: " in err and "1 of 61 scans failed" in err and "Traceback" not in err
    found = records(out)
    assert len(found) == 60
    summary = json.loads((out / "job_summary.json").read_text())
    assert [failure["name"] for failure in summary["failed"]] == ["broken.bin"]

    # In one process and on other numbers of workers: the same bits.
    some = find_scans([source])[:10]
    process_scans(some, out.with_name("alone"), settings(), workers=0)
    for name, record in records(out.with_name("alone")).items():
        for key in ("points", "voxels", "macs", "output_voxels", "output_sha256"):
            assert record[key] == found[name][key], (name, key)


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (("--jobs", 2), "need a folder or files"),
        (("nowhere/*.bin",), "no file matches"),
        ((".", "--save", "everything"), "--save must be features"),
        ((".", "--cluster", "--jobs", 2), "leave it out"),
        ((".", "--weights", "none.pth"), "none.pth"),
        (("notes.pth", "--jobs", 0, "--weights", "notes.pth"), "notes.pth"),
    ],
)
def test_wrong_calls_end_in_one_line(
    arguments: tuple[Any, ...], fragment: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from sparseconv.scripts import app

    (tmp_path / "notes.pth").write_text("no checkpoint")
    argv = ["sparseconv", "run", *map(str, arguments), "--out", str(tmp_path / "out")]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as left:
        patch.chdir(tmp_path)
        patch.setattr(sys, "argv", argv)
        app.main()
    err = capsys.readouterr().err.strip()
    assert left.value.code == 2 and fragment in err and "\n" not in err, err
    assert not (tmp_path / "out").exists()


def test_what_is_printed_is_no_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sparseconv.scripts.jobs.request import run_job

    write_scans(tmp_path / "in", 1)
    out = tmp_path / "[red]"
    run_job([tmp_path / "in"], out, model="VoxelBackBone8x", voxel_size=(0.5, 0.5, 0.1), workers=0)
    assert "[red]/results.jsonl" in capsys.readouterr().out
