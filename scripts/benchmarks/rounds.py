"""One case through all programs: prepared, verified, then timed in alternating rounds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from sparseconv.scripts.benchmarks.case_data import Arrays, CaseData
from sparseconv.scripts.benchmarks.cases import Case
from sparseconv.scripts.benchmarks.samples import CaseResult, Timing
from sparseconv.scripts.benchmarks.verify import mismatch, storage_tolerance, tolerance
from sparseconv.scripts.benchmarks.workers import Program, Worker, WorkerError

# One turn of a program: samples for this long, and no more than so many.
_TURN_SECONDS = 0.05
_TURN_REPEATS = 20
# A program that has taken this long on a case gets no further turn.
_CASE_SECONDS = 10
# Threads of the program before may spin for some milliseconds after their last parallel region.
_PAUSE = 0.02


class Field:
    """The programs that run against each other, their workers, and what is known of each.

    Args:
        programs: ours first: the others are verified against it.
        folder: for data on the way to the workers and back, and for their logs.
    """

    def __init__(self, programs: list[Program], folder: Path) -> None:
        self.programs = programs
        self._folder = folder
        self._workers: dict[str, Worker] = {}
        self.facts: dict[str, dict[str, Any]] = {}
        self.left_out: dict[str, str] = {}

    def __enter__(self) -> Field:
        for program in list(self.programs):
            try:
                answer = self._worker(program).ask("hello", limit=120)
            except (WorkerError, OSError) as error:
                self.left_out[program.name] = str(error)
                self.programs.remove(program)
                continue
            self.facts[program.name] = answer | {"thread settings": list(program.threads)}
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers.values():
            worker.close()

    def _worker(self, program: Program) -> Worker:
        """The program's process, a new one where the last one died."""
        worker = self._workers.get(program.name)
        if worker is None or not worker.is_alive:
            if worker is not None:
                worker.close()
            worker = Worker(program, self._folder / f"{program.file.stem}.log")
            self._workers[program.name] = worker
        return worker

    def run(self, case: Case, data: CaseData, rounds: int, on_turn: Callable[[], None]) -> CaseResult:
        """Time a case with every program that has its kind of step."""
        arrays, options, macs = data.build(case)
        path = self._folder / "case.npz"
        np.savez(path, **arrays)  # type: ignore[arg-type]
        able = [program for program in self.programs if self._can_run(program, case)]
        timings = {program.name: Timing(program.peer) for program in able}
        reference: Arrays | None = None
        relative = max(tolerance(_terms(case, arrays), case.depth), storage_tolerance(case.half_ulp, case.depth))
        for program in able:
            output = self._prepare(program, case, options, path, timings[program.name])
            if output is None:
                continue
            if reference is None:
                reference = output
            else:
                difference = mismatch(
                    reference,
                    output,
                    relative,
                    is_training=case.step == "network" and case.options["backward"],
                )
                if program.is_trusted:
                    timings[program.name].problem = difference
                timings[program.name].difference = difference
        self._withhold_untrusted(able, timings)
        for turn in range(rounds):
            start = turn % len(able) if able else 0
            for program in able[start:] + able[:start]:
                self._turn(program, timings[program.name])
                on_turn()
        peak = self._peak(able[0]) if case.is_ours_alone and able else None
        for program in able:
            if self._workers[program.name].is_alive:
                self._workers[program.name].ask("free")
        rows = len(next((arrays[name] for name in ("indices", "points") if name in arrays), ()))
        return CaseResult(case, timings, macs, rows, peak)

    def _can_run(self, program: Program, case: Case) -> bool:
        is_wanted = program.peer == "ours" or not case.is_ours_alone
        return is_wanted and case.step in self.facts[program.name]["steps"]

    def _peak(self, program: Program) -> int | None:
        try:
            return int(self._workers[program.name].ask("memory")["bytes"])
        except WorkerError:
            return None

    def _prepare(
        self, program: Program, case: Case, options: dict[str, Any], data: Path, timing: Timing
    ) -> Arrays | None:
        output = self._folder / "output.npz"
        output.unlink(missing_ok=True)
        request = asdict(case) | {"options": options, "data": str(data), "output": str(output)}
        try:
            answer = self._worker(program).ask("prepare", threads=list(program.threads), **request)
        except WorkerError as error:
            timing.problem = str(error)
            return None
        timing.threads = answer["threads"]
        with np.load(output) as arrays:
            return {**arrays}

    @staticmethod
    def _withhold_untrusted(programs: list[Program], timings: dict[str, Timing]) -> None:
        """A column whose own output proves nothing stands or falls with its peer's verified column."""
        for program in programs:
            if program.is_trusted:
                continue
            for other in programs:
                if other.peer == program.peer and other.is_trusted and timings[program.name].problem is None:
                    timings[program.name].problem = timings[other.name].problem

    def _turn(self, program: Program, timing: Timing) -> None:
        if timing.problem is not None or sum(timing.seconds) > _CASE_SECONDS:
            return
        time.sleep(_PAUSE)
        try:
            answer = self._workers[program.name].ask("run", seconds=_TURN_SECONDS, repeats=_TURN_REPEATS)
        except WorkerError as error:
            timing.problem = str(error)
            return
        timing.seconds += answer["seconds"]


def _terms(case: Case, arrays: Arrays) -> int:
    """Products in the longest sum that is compared."""
    if case.options.get("backward"):
        # A weight's gradient sums over the pairs of its tap: at most one a row.
        return len(arrays["indices"])
    weights = [array[0].size for array in arrays.values() if array.ndim == 5]
    return max(weights, default=1)
