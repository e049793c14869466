"""``sparseconv run`` on many scans: what was asked for, how far it is, and what it came to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer
from rich.markup import escape

from sparseconv.scripts.console import EXIT_INTERRUPTED, complain, out
from sparseconv.scripts.jobs.display import Display
from sparseconv.scripts.jobs.job import Outcome, process_scans
from sparseconv.scripts.jobs.search import find_scans, has_magic
from sparseconv.scripts.jobs.settings import Settings
from sparseconv.scripts.scan import vertices_note
from sparseconv.scripts.voxel_size import spell_size

# At least one scan failed, the others are done.
EXIT_SOME_FAILED = 1
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
    mesh_points: int | None = None,
    seed: int = 0,
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
    settings = Settings.create(
        model, weights, voxel_size=voxel_size, point_range=point_range, mesh_points=mesh_points, seed=seed
    )
    scans = find_scans(sources or [], pattern, skip=folder)
    runner = None
    if ray_address is not None:
        from sparseconv.scripts.jobs.cluster import ray_runner

        runner = ray_runner(ray_address)
    with Display() as display:
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
    _report(outcome, folder, is_size_chosen=voxel_size is None)


def _report(outcome: Outcome, folder: Path, is_size_chosen: bool) -> None:
    rate = f" ({len(outcome.done) / outcome.seconds:.1f} a second)" if outcome.done and outcome.seconds else ""
    out.print(
        f"[bold]ran[/bold]     {len(outcome.done):,} scans in {outcome.seconds:.1f} s{rate}", highlight=False
    )
    out.print(
        f"[bold]wrote[/bold]   {escape(str(folder))}/results.jsonl, job_summary.json",
        highlight=False,
        soft_wrap=True,
    )
    if is_size_chosen and outcome.voxel_sizes:
        sizes = sorted(outcome.voxel_sizes)
        ends = spell_size(sizes[0])
        ends += f" to {spell_size(sizes[-1])}, {len(sizes):,} sizes" if len(sizes) > 1 else ""
        out.print(
            f"[bold]size[/bold]    {ends}: chosen for each scan (--voxel-size names one for all)", highlight=False
        )
    if outcome.vertices_only:
        complain(vertices_note(sorted(outcome.vertices_only)))
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
