"""Results at the terminal: a table for each workload."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from sparseconv.scripts.benchmarks.cases import WORKLOADS
from sparseconv.scripts.benchmarks.growth import AIM, REFERENCE, SIZES, time_growth
from sparseconv.scripts.benchmarks.samples import CaseResult, Timing
from sparseconv.scripts.benchmarks.startup import StartUp
from sparseconv.scripts.console import out

# At 64 channels a layer should run at this share of the machine's best dense rate.
DENSE_SHARE = 0.7
_PAGE_WIDTH = 150
_SHARE_CHANNELS = 64


def milliseconds(seconds: float) -> str:
    """Three digits that matter."""
    value = 1000 * seconds
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:,.{digits}f}"


def _cell(result: CaseResult, name: str) -> str:
    timing = result.timings.get(name)
    if timing is None:
        return ""
    if timing.problem is not None:
        return "[red]withheld[/red]" if timing.threads is not None else "-"
    if not timing.seconds:
        return "-"
    low, first, median, third = map(milliseconds, timing.quartiles)
    ratio = result.ratio(name)
    share = f"  [bold]{ratio:.2f}x[/bold]" if name != "ours" and ratio else ""
    return f"{median}{share}\n[dim]{low} {first}-{third}[/dim]"


def _target(result: CaseResult) -> str:
    target, reached = result.case.target, result.reached
    if target is None:
        return ""
    aim = f"{target.peer} {target.ratio:g}x"
    if reached is None:
        return aim
    return f"{aim}\n" + ("[green]met[/green]" if reached >= target.ratio else f"[red]{reached:.2f}x[/red]")


def _table(workload: str, results: Sequence[CaseResult], names: Sequence[str]) -> Table:
    shown = [name for name in names if any(_cell(result, name) not in ("", "-") for result in results)]
    table = Table(
        title=WORKLOADS[workload], box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, title_justify="left"
    )
    table.add_column("case", overflow="fold")
    for name in shown:
        table.add_column(name, justify="right")
    has_rates = any(result.macs for result in results)
    if has_rates:
        table.add_column("GFLOP/s", justify="right")
    has_targets = any(result.case.target for result in results)
    if has_targets:
        table.add_column("target", justify="right")
    for result in results:
        rate = result.rate("ours" if "ours" in result.timings else shown[0]) if shown else None
        cells = [_cell(result, name) for name in shown]
        cells += [f"{rate:.0f}" if rate else ""] if has_rates else []
        table.add_row(result.case.name, *cells, *([_target(result)] if has_targets else []))
    return table


def _growth_table(results: Sequence[CaseResult]) -> Table:
    table = Table(
        title=WORKLOADS["W6"], box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, title_justify="left"
    )
    for name in ("voxels", "ms", "lower-upper quartile", "ns / voxel", "peak MiB", "bytes / voxel"):
        table.add_column(name, justify="right")
    for result in results:
        timing, peak = result.timings["ours"], result.peak_bytes
        if timing.median is None:
            table.add_row(f"{result.rows:,}", timing.problem or "-")
            continue
        _, first, median, third = timing.quartiles
        memory = ("-", "-") if peak is None else (f"{peak / 2**20:,.0f}", f"{peak / result.rows:,.0f}")
        spread, each = f"{milliseconds(first)}-{milliseconds(third)}", f"{1e9 * median / result.rows:,.0f}"
        table.add_row(f"{result.rows:,}", milliseconds(median), spread, each, *memory)
    return table


def print_startup(page: Console, starts: Sequence[StartUp]) -> None:
    """Seconds of new processes."""
    table = Table(
        title=WORKLOADS["startup"], box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, title_justify="left"
    )
    table.add_column("cache")
    for name in ("whole process", "import", "first forward", "second forward"):
        table.add_column(f"{name}, s", justify="right")
    for start in starts:
        parts = ("whole", "import", "first", "second")
        table.add_row(start.name, *(f"{start.median(part):.2f}" for part in parts))
    page.print(table)


def best_dense_rate(results: Sequence[CaseResult]) -> float | None:
    """Best rate of the dense cases in GFLOP/s; None where none was run."""
    rates = [r.rate(name) for r in results if r.case.workload == "dense" for name in r.timings]
    return max(filter(None, rates), default=None)


def dense_shares(results: Sequence[CaseResult]) -> dict[str, float]:
    """Share of the best dense rate that a cached forward of 64 channels reaches, by case."""
    best = best_dense_rate(results)
    shares = {}
    for result in results:
        options = result.case.options
        is_meant = result.case.step == "subm" and options["channels"] == _SHARE_CHANNELS
        if best and is_meant and options["cached"] and not options["backward"]:
            rate = result.rate("ours")
            if rate:
                shares[result.case.name] = rate / best
    return shares


def wide_console() -> Console:
    """The terminal, or a page that holds a column for every program."""
    return out if out.is_terminal else Console(width=_PAGE_WIDTH)


def print_results(page: Console, results: Sequence[CaseResult], names: Sequence[str]) -> None:
    """A table for each workload, and what was withheld."""
    for workload in WORKLOADS:
        mine = [result for result in results if result.case.workload == workload]
        if mine:
            page.print(_growth_table(mine) if workload == "W6" else _table(workload, mine, names))
    if not results:
        return
    page.print(
        "milliseconds: median and how many times ours; below: minimum, lower-upper quartile. GFLOP/s: ours.\n"
        "map: built in every run, else ready; plain torch's always lie ready.\n"
        "A peer's output is compared with ours before its speed is printed.",
        highlight=False,
    )
    if any(name.startswith("spconv") for name in names):
        page.print(
            "spconv's CPU scatter races with two or more OpenMP threads: only its one-thread output is compared,\n"
            "and the other column rests on it.",
            highlight=False,
        )
    for name, share in dense_shares(results).items():
        verdict = "[green]met[/green]" if share >= DENSE_SHARE else "[red]missed[/red]"
        page.print(
            f"{name}: {100 * share:.0f} % of the best dense rate, {best_dense_rate(results):.0f} GFLOP/s; "
            f"target {100 * DENSE_SHARE:.0f} %: {verdict}",
            highlight=False,
        )
    growth = time_growth(results)
    if growth is not None:
        verdict = "[green]met[/green]" if growth <= AIM else "[red]missed[/red]"
        page.print(
            f"W6: a voxel at {SIZES[-1]:,} takes {growth:.2f} times as long as at {REFERENCE:,}; "
            f"target {AIM:g}: {verdict}",
            highlight=False,
        )
    for line in sorted({line for result in results for line in _problems(result)}):
        page.print(line, highlight=False, markup=False)


def _problems(result: CaseResult) -> list[str]:
    label = f"{result.case.workload}, {result.case.name}"
    return (
        [
            f"withheld: {name} on {label}: {timing.problem}"
            for name, timing in result.timings.items()
            if timing.problem is not None and timing.threads is not None
        ]
        + [
            f"not run: {name}: {timing.problem}"
            for name, timing in result.timings.items()
            if timing.problem is not None and timing.threads is None
        ]
        + [
            f"unverified: {name} on {label}: {timing.difference}"
            for name, timing in result.timings.items()
            if timing.problem is None and timing.difference is not None
        ]
    )


def result_record(result: CaseResult) -> dict[str, Any]:
    """A case's results as JSON."""
    case = result.case
    target = None if case.target is None else {"peer": case.target.peer, "ratio": case.target.ratio}
    return {
        "workload": case.workload,
        "name": case.name,
        "scene": case.scene,
        "options": case.options,
        "target": target,
        "reached": result.reached,
        "macs": result.macs,
        "rows": result.rows,
        "peak_bytes": result.peak_bytes,
        "programs": {name: _timing_record(result, name, timing) for name, timing in result.timings.items()},
    }


def _timing_record(result: CaseResult, name: str, timing: Timing) -> dict[str, Any]:
    record: dict[str, Any] = {
        "threads": timing.threads,
        "problem": timing.problem,
        "difference": timing.difference,
    }
    if timing.median is not None:
        low, first, median, third = timing.quartiles
        record |= {"min": low, "lower": first, "median": median, "upper": third}
        record |= {"ratio": result.ratio(name), "seconds": timing.seconds}
    return record
