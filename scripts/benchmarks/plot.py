"""Ratios by workload as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sparseconv.scripts.benchmarks.samples import CaseResult

_ROW_INCHES = 0.2
_DOTS_PER_INCH = 120


def save_ratios(path: Path, results: Sequence[CaseResult], names: Sequence[str], title: str) -> None:
    """How many times as long as this library each program takes, a row for each case, on a log axis."""
    from matplotlib.figure import Figure

    rows = [result for result in results if any(result.ratio(name) for name in result.timings if name != "ours")]
    figure = Figure(figsize=(9, 1.6 + _ROW_INCHES * max(len(rows), 5)), layout="constrained")
    axes = figure.add_subplot()
    axes.axvline(1, color="black", linewidth=1)
    for number, name in enumerate(name for name in names if name != "ours"):
        found = [(row, result.ratio(name)) for row, result in enumerate(rows) if name in result.timings]
        points = [(row, ratio) for row, ratio in found if ratio]
        if points:
            ys, xs = zip(*points, strict=True)
            axes.plot(xs, ys, "os^Dvph"[number % 7], markersize=5, label=name)
    aims = [(row, result.case.target.ratio) for row, result in enumerate(rows) if result.case.target]
    if aims:
        ys, xs = zip(*aims, strict=True)
        axes.plot(xs, ys, "|", color="black", markersize=10, label="target")
    axes.set_xscale("log")
    axes.minorticks_off()
    low, high = axes.get_xlim()
    ticks = [2.0**power for power in range(-8, 16) if low <= 2.0**power <= high]
    axes.set_xticks(ticks, [f"{tick:g}x" for tick in ticks])
    axes.set_yticks(range(len(rows)), [f"{r.case.workload}  {r.case.name}" for r in rows], fontsize=8)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("time of a program / time of sparseconv: right of the line sparseconv is faster")
    axes.set_title(title, fontsize=9)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=_DOTS_PER_INCH)
