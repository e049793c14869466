"""``sparseconv bench``: this library beside its peers, in one run of alternating rounds."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from sparseconv.scripts.benchmarks.case_data import CaseData
from sparseconv.scripts.benchmarks.cases import DETECTOR, WORKLOADS, Case, all_cases
from sparseconv.scripts.benchmarks.environments import REQUIREMENTS, PeerMissingError, python_of
from sparseconv.scripts.benchmarks.growth import growth_cases, time_growth
from sparseconv.scripts.benchmarks.machine import describe_machine, usable_cores
from sparseconv.scripts.benchmarks.plot import save_ratios
from sparseconv.scripts.benchmarks.report import (
    best_dense_rate,
    dense_shares,
    print_results,
    print_startup,
    result_record,
    wide_console,
)
from sparseconv.scripts.benchmarks.rounds import Field
from sparseconv.scripts.benchmarks.samples import CaseResult
from sparseconv.scripts.benchmarks.scenes import read_scans
from sparseconv.scripts.benchmarks.startup import measure_startup
from sparseconv.scripts.benchmarks.workers import PROGRAMS, Program
from sparseconv.scripts.console import EXIT_INTERRUPTED, complain, one_line_errors, out, progress
from sparseconv.scripts.output import complete_folder

_ROUNDS, _QUICK_ROUNDS = 5, 3


def _choose(text: str, known: tuple[str, ...], option: str) -> tuple[str, ...]:
    """Names separated by commas, in the order of ``known``; ``all`` or ``none`` of them."""
    if text in ("all", "none"):
        return known if text == "all" else ()
    wanted = text.split(",")
    for name in wanted:
        if name not in known:
            raise ValueError(f"{option}: no {name!r}; there are {', '.join(known)}, and all")
    return tuple(name for name in known if name in wanted)


def _programs(peers: tuple[str, ...], threads: int) -> tuple[list[Program], dict[str, str]]:
    """Every program that can be started, and the reasons of those that cannot."""
    here = Path(sys.executable)
    settings = tuple(sorted({1, threads}))
    found = [
        Program("ours", "ours", PROGRAMS / "ours.py", here, settings),
        Program("plain torch", "plain torch", PROGRAMS / "plain_torch.py", here, settings),
    ]
    left_out = {}
    for peer in peers:
        file = PROGRAMS / f"{peer}_cpu.py"
        try:
            python = python_of(peer)
        except PeerMissingError as error:
            left_out[peer] = str(error)
            continue
        if peer != "spconv":
            found.append(Program(peer, peer, file, python, settings))
            continue
        # Its threads are OpenMP's own, set when the process starts.
        found += [
            Program(f"spconv, {number} thr", peer, file, python, (number,), is_trusted=number == 1)
            for number in settings
        ]
    return found, left_out


def _measure(cases: list[Case], field: Field, data: CaseData, rounds: int) -> list[CaseResult]:
    """Results of all cases, or after Ctrl-C of those measured by then; a line for each where no bar is seen."""
    results: list[CaseResult] = []
    with progress() as bar, contextlib.suppress(KeyboardInterrupt):
        turns = rounds * len(field.programs)
        task = bar.add_task("measuring", total=len(cases) * turns)
        for number, case in enumerate(cases):
            bar.update(task, description=f"{case.workload}: {case.name}")
            results.append(field.run(case, data, rounds, lambda: bar.advance(task)))
            bar.update(task, completed=(number + 1) * turns)
            if bar.disable:
                complain(f"measured {number + 1} of {len(cases)} cases: {case.workload}, {case.name}")
    return results


def _describe(machine: dict[str, Any], source: str, threads: int, rounds: int, facts: dict[str, Any]) -> None:
    out.print(
        f"[bold]machine[/bold]  {machine['processor']}, {machine['cores']} cores, {machine['system']}\n"
        f"[bold]run[/bold]      {source}; up to {threads} threads, {rounds} alternating rounds, {machine['date']}",
        highlight=False,
    )
    for name, fact in facts.items():
        versions = ", ".join(f"{package} {version}" for package, version in fact["versions"].items())
        settings = " or ".join(map(str, fact["thread settings"]))
        out.print(f"[bold]{name}[/bold]: {versions}; threads {settings}", highlight=False)


@one_line_errors
def bench(
    out_dir: Annotated[Path, typer.Option("--out", help="Folder for the results.")] = Path("bench_output"),
    workloads: Annotated[str, typer.Option(help=f"Of {', '.join(WORKLOADS)}.")] = "all",
    peers: Annotated[str, typer.Option(help=f"Of {', '.join(REQUIREMENTS)}; or none.")] = "all",
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds of each case.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Most threads; default: all cores.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Few rounds of W1 on one scene, and W5.")] = False,
) -> None:
    """Measure this library beside plain torch and its peers, round by round in one run.

    Writes bench.json (every sample) and ratios.png into the folder; Ctrl-C ends it with what is measured. Peers
    are installed into virtual environments of their own at their first use; one that cannot be is named and left
    out. Scans come from the folder $SPARSECONV_DATA, or from a simulated street.
    """
    chosen = _choose(workloads, tuple(WORKLOADS), "--workloads")
    cases = [case for case in [*all_cases(quick), *([] if quick else growth_cases())] if case.workload in chosen]
    rounds = rounds or (_QUICK_ROUNDS if quick else _ROUNDS)
    threads = threads or usable_cores()
    machine, scans = describe_machine(), read_scans()
    data = CaseData(scans)
    with complete_folder(out_dir) as staging, tempfile.TemporaryDirectory(prefix="sparseconv-bench-") as folder:
        with progress() as bar:
            bar.add_task("environments of the peers", total=None)
            programs, left_out = _programs(_choose(peers, tuple(REQUIREMENTS), "--peers"), threads)
        with Field(programs, Path(folder)) as field:
            left_out |= field.left_out
            results = _measure(cases, field, data, rounds)
        is_whole = len(results) == len(cases)
        if cases and not results:
            # Nothing to write: what an earlier run left in the folder stays.
            raise KeyboardInterrupt
        has_starts = "startup" in chosen and not quick and is_whole
        starts = measure_startup(data.scene(DETECTOR), threads) if has_starts else []
        names = list(field.facts)
        _describe(machine, scans.source, threads, rounds, field.facts)
        for peer, reason in left_out.items():
            out.print(f"[red]left out[/red]: {peer}: {reason}", highlight=False)
        if not is_whole:
            out.print(f"[red]stopped[/red] after {len(results)} of {len(cases)} cases", highlight=False)
        page = wide_console()
        print_results(page, results, names)
        if starts:
            print_startup(page, starts)
        record = {
            "machine": machine,
            "source": scans.source,
            "threads": threads,
            "rounds": rounds,
            "programs": field.facts,
            "left_out": left_out,
            "is_whole": is_whole,
            "best_dense_gflops": best_dense_rate(results),
            "dense_shares": dense_shares(results),
            "growth": time_growth(results),
            "cases": [result_record(result) for result in results],
            "startup": [asdict(start) for start in starts],
        }
        (staging / "bench.json").write_text(json.dumps(record, indent=1) + "\n")
        title = f"{machine['processor']}, up to {threads} threads, {scans.source}"
        save_ratios(staging / "ratios.png", results, names, title)
    out.print(f"[bold]wrote[/bold]    {out_dir}/bench.json, ratios.png", highlight=False)
    if not is_whole:
        raise typer.Exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    typer.run(bench)
