"""A log has a line by the clock, whatever the scans do; nothing here waits."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from job_scans import settings, write_scans

from sparseconv.scripts.jobs import display as display_module
from sparseconv.scripts.jobs import job
from sparseconv.scripts.jobs.display import Display, Log
from sparseconv.scripts.jobs.job import Outcome, process_scans
from sparseconv.scripts.jobs.search import find_scans


class Clock:
    """Time that passes only while the log waits, and what happens meanwhile."""

    def __init__(self, *events: Callable[[], None]) -> None:
        self.now = 100.0
        self.events = list(events)

    def wait(self, seconds: float) -> bool:
        if not self.events:
            return True
        self.now += seconds
        self.events.pop(0)()
        return False

    def __call__(self) -> float:
        return self.now


def nothing() -> None:
    pass


def test_a_line_every_half_minute_with_a_scan_done_or_not(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Outcome(1005, 2)

    def two() -> None:
        outcome.done.update(("a", "b"))
        outcome.failed["c"] = "why"

    clock = Clock(nothing, nothing, two, nothing)
    log = Log(clock.wait, clock)
    log.start(outcome)
    log.stop()
    assert capsys.readouterr().err.splitlines() == [
        "sparseconv: 0 of 1,003 scans after 30 s",
        "sparseconv: 0 of 1,003 scans after 60 s",
        "sparseconv: 3 of 1,003 scans after 90 s, 0.033 scans/s, 1 failed",
        "sparseconv: 3 of 1,003 scans after 120 s, 0.025 scans/s, 1 failed",
    ]


def test_a_log_that_nobody_reads_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed:
        def write(self, text: str) -> None:
            raise BrokenPipeError

    clock = Clock(nothing, nothing, nothing)
    log = Log(clock.wait, clock)
    with monkeypatch.context() as patch:
        patch.setattr("sys.stderr", Closed())
        log.start(Outcome(1, 0))
        log.stop()
    # It gave up at the first line.
    assert len(clock.events) == 2


def test_stop_ends_a_log_that_waits(capsys: pytest.CaptureFixture[str]) -> None:
    log = Log()
    log.start(Outcome(1, 0))
    log.stop()
    assert not [thread for thread in threading.enumerate() if thread.name == "log of a big job"]
    assert capsys.readouterr().err == ""
    Log().stop()


def test_one_slow_scan_is_no_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lines are written while a scan is in the backbone: it waits there for them."""
    written = threading.Event()
    clock = Clock(nothing, nothing, written.set)
    run = job.Backbone.run

    def slow(self: Any, *arguments: Any) -> Any:
        assert written.wait(60)
        return run(self, *arguments)

    monkeypatch.setattr(job.Backbone, "run", slow)
    write_scans(tmp_path / "in", 1)
    with Display(Log(clock.wait, clock)) as display:
        outcome = process_scans(
            find_scans([tmp_path / "in"]),
            tmp_path / "out",
            settings(),
            workers=0,
            on_start=display.begin,
            on_scan=display.update,
        )
    assert len(outcome.done) == 1
    assert capsys.readouterr().err.splitlines()[:2] == [
        "sparseconv: 0 of 1 scans after 30 s",
        "sparseconv: 0 of 1 scans after 60 s",
    ]


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_terminal_has_a_bar_and_no_lines(monkeypatch: pytest.MonkeyPatch, is_terminal: bool) -> None:
    started: list[Outcome] = []
    monkeypatch.setattr(display_module.err, "_force_terminal", is_terminal)
    monkeypatch.setattr(Log, "start", lambda self, outcome: started.append(outcome))
    with Display() as display:
        display.begin(Outcome(3, 0))
    assert len(started) == (not is_terminal)
