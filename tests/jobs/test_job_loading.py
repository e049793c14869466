"""Workers that die, and memory that stays where it is."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from job_scans import Fragile, settings, write_scans
from torch.utils.data._utils import signal_handling

from sparseconv.scripts.jobs.job import Outcome, process_scans
from sparseconv.scripts.jobs.loading import for_each
from sparseconv.scripts.jobs.search import find_scans


def collect(items: Any, workers: int) -> tuple[dict[int, int], dict[int, str]]:
    taken: dict[int, int] = {}
    given_up: dict[int, str] = {}
    for_each(items, workers, taken.__setitem__, given_up.__setitem__)
    return taken, given_up


def test_a_dead_worker_costs_the_item_that_kills_it_and_no_other(tmp_path: Path) -> None:
    taken, given_up = collect(Fragile(6, {3}, {4}, tmp_path), 2)
    assert taken == {index: 10 * index for index in range(6) if index != 3}
    assert list(given_up) == [3]
    # The second is what remains where the news of the signal was lost.
    assert "died twice" in given_up[3]
    assert "Killed" in given_up[3] or "exited unexpectedly" in given_up[3]


def test_no_items_and_no_workers(tmp_path: Path) -> None:
    assert collect(Fragile(0, set(), set(), tmp_path), 2) == ({}, {})
    assert collect(Fragile(3, set(), set(), tmp_path), 0) == ({0: 0, 1: 10, 2: 20}, {})


class _Large(Fragile):
    """Items that do not fit a pipe, but for the first."""

    def watched(self, workers: int) -> Fragile:
        copy = super().watched(workers)
        copy.__class__ = _Large
        return copy

    def __getitem__(self, index: int) -> Any:
        return super().__getitem__(index), bytes(8_000_000 if index else 0)


def test_a_message_that_breaks_off_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error that a worker's end raises may be lost; then the parent is left with half of a message."""
    monkeypatch.setattr(signal_handling, "_error_if_any_worker_fails", lambda: None)
    monkeypatch.setattr("sparseconv.scripts.jobs.loading._GRACE", 0.1)
    taken = []

    def consume(index: int, item: Any) -> None:
        if not taken:
            time.sleep(1.0)  # the workers fill the pipe meanwhile
            for worker in multiprocessing.active_children():
                worker.kill()
        taken.append((index, item[0]))

    for_each(_Large(4, set(), set(), tmp_path), 2, consume, lambda index, reason: pytest.fail(reason))
    assert sorted(set(taken)) == [(index, 10 * index) for index in range(4)]


class _Unloadable(Fragile):
    """Cannot be unpickled where the workers are."""

    def watched(self, workers: int) -> Fragile:
        copy = super().watched(workers)
        copy.__class__ = _Unloadable
        return copy

    def __setstate__(self, state: dict[str, Any]) -> None:
        os._exit(3)


def test_workers_that_never_begin_are_an_error_and_no_endless_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparseconv.scripts.jobs.loading._FRUITLESS_DEATHS", 1)
    with pytest.raises(ChildProcessError, match=r"before they read any file .*--jobs 0"):
        collect(_Unloadable(2, set(), set(), tmp_path), 1)


def test_an_error_of_the_consumer_is_its_own(tmp_path: Path) -> None:
    def consume(index: int, item: int) -> None:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        for_each(Fragile(3, set(), set(), tmp_path), 1, consume, lambda index, reason: None)


def _resident_megabytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_does_not_grow_with_the_number_of_scans(tmp_path: Path) -> None:
    write_scans(tmp_path / "in", 340)
    held: dict[int, float] = {}
    outcome = process_scans(
        find_scans([tmp_path / "in"]),
        tmp_path / "out",
        settings(),
        workers=1,
        on_scan=lambda outcome: held.__setitem__(len(outcome.done), _resident_megabytes()),
    )
    assert len(outcome.done) == 340
    early, late = (max(held[n] for n in range(start, start + 40)) for start in (40, 300))
    # The tensors of one scan take 1 to 5 MB; kept, 260 of them would take hundreds. The allocator keeps some tens.
    assert late < early + 60, held


def test_the_outcome_is_json() -> None:
    summary = Outcome(3, 1, {"a"}, failed={"b": "why"}, seconds=2.0).summary()
    assert summary["scans_per_second"] == 0.5 and summary["failed"] == [{"name": "b", "reason": "why"}]
    assert Outcome(0, 0).summary()["scans_per_second"] is None
