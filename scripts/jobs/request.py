"""``sparseconv run`` on many scans: what was asked for, how far it is, and what it came to."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sparseconv.scripts.console import complain, err, out
from sparseconv.scripts.jobs.job import Outcome, process_scans
from sparseconv.scripts.jobs.search import find_scans, has_magic
from sparseconv.scripts.jobs.settings import Settings

# At least one scan failed, the others are done; after Ctrl-C as shells have it.
EXIT_SOME_FAILED = 1
EXIT_INTERRUPTED = 130
# A log gets a line this often, in seconds, where there is no terminal for a bar.
_LOG_EVERY = 30.0
# Failures printed in full; all of them stand in job_summary.json.
_SHOWN_FAILURES = 20


def is_job(
    files: Sequence[Path] | None,
    jobs: int | None,
    pattern: str | None,
    save: str | None,
    overwrite: bool,
    on_cluster: bool,
) -> bool:
    """Whether a command line asks for a big job rather than for one scan, layer by layer.

    Raises:
        ValueError: an option of big jobs without anything to work on.
    """
    asked = jobs is not None or pattern is not None or save is not None or overwrite or on_cluster
    if not files:
        if asked:
            raise ValueError("--jobs, --pattern, --save, --overwrite, --cluster and --ray need a folder or files")
        return False
    return asked or len(files) > 1 or files[0].is_dir() or has_magic(files[0])


def run_job(
    sources: Sequence[Path] | None,
    folder: Path,
    *,
    model: str,
    voxel_size: tuple[float, ...] | None = None,
    point_range: tuple[float, ...] | None = None,
    weights: Path | None = None,
    workers: int | None = None,
    pattern: str | None = None,
    save: str | None = None,
    overwrite: bool = False,
    ray_address: str | None = None,
) -> None:
    """Find the scans, run them, and say what came of it.

    Raises:
        ValueError: a wrong call, or a folder of other results.
        typer.Exit: code 1 where scans failed, 130 after Ctrl-C.
    """
    if save not in (None, "features"):
        raise ValueError(f"--save must be features, got {save!r}")
    if ray_address is not None and workers is not None:
        raise ValueError("--jobs counts this machine's reading processes; Ray places its own tasks: leave it out")
    if all((folder / name).exists() for name in ("summary.json", "features.npz", "birds_eye.png")):
        raise ValueError(f"{folder}: holds the results of one scan; name another --out for those of a big job")
    settings = Settings.create(model, weights, voxel_size=voxel_size, point_range=point_range)
    scans = find_scans(sources or [], pattern, skip=folder)
    runner = None
    if ray_address is not None:
        from sparseconv.scripts.jobs.cluster import ray_runner

        runner = ray_runner(ray_address)
    with _Display() as display:
        outcome = process_scans(
            scans,
            folder,
            settings,
            workers=1 if workers is None else workers,
            save_features=save is not None,
            overwrite=overwrite,
            runner=runner,
            on_start=display.begin,
            on_scan=display.update,
        )
    _report(outcome, folder)


class _Display:
    """A bar with the rate on a terminal; now and then a line in a log."""

    def __init__(self) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=err,
            transient=True,
            disable=not err.is_terminal,
        )
        self._task = self._bar.add_task("running", total=None, rate="")
        self._logged = time.perf_counter()

    def __enter__(self) -> _Display:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def begin(self, outcome: Outcome) -> None:
        """Say what is left."""
        left = outcome.total - outcome.skipped
        if outcome.skipped:
            out.print(
                f"[bold]skipped[/bold] {outcome.skipped:,} of {outcome.total:,} scans: done already "
                "(--overwrite runs them again)",
                highlight=False,
            )
        self._bar.update(self._task, total=left)

    def update(self, outcome: Outcome) -> None:
        """Show how far the job is."""
        finished = len(outcome.done) + len(outcome.failed)
        failed = f", {len(outcome.failed)} failed" if outcome.failed else ""
        rate = f"{finished / outcome.seconds:.1f} scans/s{failed}" if outcome.seconds else ""
        self._bar.update(self._task, completed=finished, rate=rate)
        now = time.perf_counter()
        if not err.is_terminal and now - self._logged > _LOG_EVERY:
            self._logged = now
            left = outcome.total - outcome.skipped
            sys.stderr.write(f"sparseconv: {finished:,} of {left:,}, {rate}\n")
            sys.stderr.flush()


def _report(outcome: Outcome, folder: Path) -> None:
    rate = f" ({len(outcome.done) / outcome.seconds:.1f} a second)" if outcome.done and outcome.seconds else ""
    out.print(
        f"[bold]ran[/bold]     {len(outcome.done):,} scans in {outcome.seconds:.1f} s{rate}", highlight=False
    )
    out.print(
        f"[bold]wrote[/bold]   {escape(str(folder))}/results.jsonl, job_summary.json",
        highlight=False,
        soft_wrap=True,
    )
    if outcome.not_finite:
        complain(
            f"note: the outputs of {len(outcome.not_finite):,} scans hold numbers that are not finite, such as "
            f"{min(outcome.not_finite)}; all stand in {folder}/job_summary.json"
        )
    for name in sorted(outcome.failed)[:_SHOWN_FAILURES]:
        complain(f"{name}: {outcome.failed[name]}")
    if len(outcome.failed) > _SHOWN_FAILURES:
        hidden = len(outcome.failed) - _SHOWN_FAILURES
        complain(f"and {hidden:,} more, all in {folder}/job_summary.json")
    if outcome.interrupted:
        left = outcome.total - outcome.skipped - len(outcome.done)
        complain(f"interrupted with {left:,} scans left: the same command goes on from here")
        raise typer.Exit(EXIT_INTERRUPTED)
    if outcome.failed:
        complain(f"{len(outcome.failed):,} of {outcome.total:,} scans failed; a next call tries them again")
        raise typer.Exit(EXIT_SOME_FAILED)
