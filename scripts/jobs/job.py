"""A big job as a function: what is left to do, each scan once, and what came of it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sparseconv.scripts.jobs.backbone import Backbone, WeightsChanged
from sparseconv.scripts.jobs.interrupts import noted_interrupts
from sparseconv.scripts.jobs.loading import for_each, is_worker_death
from sparseconv.scripts.jobs.reading import Failure, ReadResult, ScanFiles, one_line
from sparseconv.scripts.jobs.records import Record, Records
from sparseconv.scripts.jobs.search import ScanFile
from sparseconv.scripts.jobs.settings import Settings
from sparseconv.voxelization import voxelize


@dataclass
class Outcome:
    """What a job has come to so far.

    Attributes:
        total: scans of the job.
        skipped: scans whose results were there before.
        done: names of the scans that were run.
        not_finite: names of those whose output holds numbers that are not finite.
        vertices_only: names of those that are meshes of which only the vertices were read.
        voxel_sizes: that the scans were run at, along x, y, z.
        failed: reasons by name.
        seconds: wall time.
        interrupted: whether Ctrl-C ended it.
    """

    total: int
    skipped: int
    done: set[str] = field(default_factory=set)
    not_finite: set[str] = field(default_factory=set)
    vertices_only: set[str] = field(default_factory=set)
    voxel_sizes: set[tuple[float, ...]] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    interrupted: bool = False

    def count(self, record: Record) -> None:
        """Take a scan's result in; once more changes nothing."""
        self.failed.pop(record["name"], None)
        self.done.add(record["name"])
        if record.get("output_not_finite"):
            self.not_finite.add(record["name"])
        if record["from_mesh"] == "vertices":
            self.vertices_only.add(record["name"])
        self.voxel_sizes.add(tuple(record["voxel_size"]))

    def summary(self) -> Record:
        """Everything as JSON."""
        peak = _peak_megabytes()
        return {
            "scans": self.total,
            "skipped": self.skipped,
            "done": len(self.done),
            "not_finite": sorted(self.not_finite),
            "vertices_only": sorted(self.vertices_only),
            "failed": [{"name": name, "reason": self.failed[name]} for name in sorted(self.failed)],
            "interrupted": self.interrupted,
            "seconds": round(self.seconds, 3),
            "scans_per_second": round(len(self.done) / self.seconds, 3) if self.seconds else None,
            "peak_memory_mb": None if peak is None else round(peak, 1),
        }


def _peak_megabytes() -> float | None:
    """The most memory that this process ever held, its workers not counted; None where Windows keeps that."""
    try:
        import resource
    except ModuleNotFoundError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else 1024 * peak / 1e6


def process_scans(
    scans: Sequence[ScanFile],
    folder: Path,
    settings: Settings,
    *,
    workers: int = 1,
    save_features: bool = False,
    overwrite: bool = False,
    runner: Callable[..., None] | None = None,
    on_start: Callable[[Outcome], None] = lambda outcome: None,
    on_scan: Callable[[Outcome], None] = lambda outcome: None,
) -> Outcome:
    """Run every scan that the folder has no result of, and add its result there.

    Args:
        scans: the job's list, names all different.
        folder: for the results.
        settings: model, weights and grid.
        workers: processes that read and voxelize; 0: this one does.
        save_features: keep the output of every scan in ``features/NAME.npz``.
        overwrite: run scans again that are done, and throw results of other settings away.
        runner: what goes through the scans; None: this machine, see :func:`run_here`.
        on_start: called once it is known what is left.
        on_scan: called after every scan.

    Returns:
        The outcome. Ctrl-C ends the job early: what is done stays, and the next call goes on.

    Raises:
        ValueError: the folder cannot be used, or holds other results.
        OSError: results cannot be written.
    """
    with Records(folder, settings, overwrite) as records, noted_interrupts() as interrupts:
        left = [scan for scan in scans if overwrite or not records.is_done(scan, save_features)]
        outcome = Outcome(len(scans), len(scans) - len(left))
        on_start(outcome)
        start = time.perf_counter()

        def add(record: Record) -> None:
            records.add(record)
            outcome.count(record)
            outcome.seconds = time.perf_counter() - start
            on_scan(outcome)
            interrupts.check()

        def fail(name: str, reason: str) -> None:
            outcome.failed[name] = reason
            outcome.seconds = time.perf_counter() - start
            on_scan(outcome)
            interrupts.check()

        try:
            if left:
                keep = folder.absolute() if save_features else None
                (runner or run_here)(left, settings, keep, workers, add, fail)
        except KeyboardInterrupt:
            outcome.interrupted = True
            # It may have fallen between a result's write and its count.
            for record in records.added():
                outcome.count(record)
        outcome.seconds = time.perf_counter() - start
        records.finish(outcome.summary())
    return outcome


def run_here(
    scans: Sequence[ScanFile],
    settings: Settings,
    features: Path | None,
    workers: int,
    add: Callable[[Record], None],
    fail: Callable[[str, str], None],
) -> None:
    """Go through scans on this machine: workers read and voxelize, this process runs the backbone.

    Args:
        scans: all to be run.
        settings: of the job.
        features: folder of the job where features are kept there, else None.
        workers: reading processes.
        add: called with each record.
        fail: called with the name and the reason of a scan that cannot be used.
    """
    backbone = Backbone(settings, features)
    # Compiled here once, the workers find the kernels on disk.
    voxelize(np.zeros((1, 3), np.float32), 1.0)

    def consume(index: int, item: ReadResult) -> None:
        scan = scans[index]
        if isinstance(item, Failure):
            fail(scan.name, item.reason)
            return
        record: Any = None
        try:
            record = backbone.run(scan, item)
        except (OSError, WeightsChanged):
            raise
        except Exception as error:
            if is_worker_death(error):
                raise
            fail(scan.name, one_line(error))
        if record is not None:
            add(record)

    for_each(ScanFiles(scans, settings), workers, consume, lambda index, why: fail(scans[index].name, why))
