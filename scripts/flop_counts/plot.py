"""Counts as a picture: bars by layer, and a curve over voxel sizes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparseconv.scripts.flop_counts.scans import Counts, Spread, layers, totals

SUFFIXES = (".png", ".pdf", ".svg")
# Okabe and Ito's colours, which colour-blind readers tell apart.
_COLOURS = {
    "submanifold": "#0072B2",
    "strided": "#E69F00",
    "dilating": "#D55E00",
    "inverse": "#009E73",
    "transposed": "#56B4E9",
    "pointwise": "#CC79A7",
    "weighted": "#F0E442",
}
_OTHER = "#666666"
_ROW_INCHES = 0.24
_DOTS_PER_INCH = 130


def save_plot(path: Path, tables: Sequence[Counts], title: str, backward: bool) -> None:
    """Write the picture; its suffix chooses PNG, PDF or SVG."""
    from matplotlib.figure import Figure

    found = [counts for counts in tables if counts.scans]
    rows = [(layer, spread) for layer, spread in layers(found[0].scans) if spread["macs"].mean > 0]
    height = max(4.2, 1.7 + _ROW_INCHES * len(rows))
    figure = Figure(figsize=(13 if len(found) > 1 else 8.5, min(height, 40)), layout="constrained")
    figure.suptitle(title, fontsize=11)
    if len(found) > 1:
        left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
        _curve(right, found)
    else:
        left = figure.subplots()
    _bars(left, rows, backward)
    figure.savefig(path, dpi=_DOTS_PER_INCH)


def _plain(value: float, _: Any) -> str:
    return f"{value:,g}"


def _gflops(spread: Spread) -> float:
    return 2 * spread.mean / 1e9


def _bars(axes: Any, rows: Sequence[Any], backward: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    places = list(range(len(rows)))
    families: dict[str, str] = {}
    several = any(spread["macs"].low != spread["macs"].high for _, spread in rows)
    for place, (layer, spread) in enumerate(rows):
        colour = families.setdefault(layer.family, _COLOURS.get(layer.family, _OTHER))
        value = _gflops(spread["macs"])
        if layer.family == "submanifold":
            dilated = _gflops(spread["dilated_macs"])
            axes.barh(place, dilated, height=0.8, facecolor=colour, alpha=0.22, edgecolor=colour, linewidth=0.8)
        axes.barh(place, value, height=0.5, color=colour)
        if several:
            low, high = (2 * bound / 1e9 for bound in (spread["macs"].low, spread["macs"].high))
            axes.plot([low, high], [place, place], color="black", linewidth=1)
        if backward and spread["backward_macs"].mean:
            axes.plot(_gflops(spread["backward_macs"]), place, "x", color="black", markersize=5)
        axes.plot(_gflops(spread["dense_macs"]), place, "|", color="#444444", markersize=9, markeredgewidth=1.8)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(_plain)
    axes.set_yticks(places, [layer.name or layer.kind for layer, _ in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_axisbelow(True)
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("GFLOPs of one forward pass")
    axes.set_title("by layer", fontsize=10)
    marks: list[Any] = [Patch(color=colour, label=family) for family, colour in families.items()]
    if "submanifold" in families:
        colour = families["submanifold"]
        marks.append(Patch(facecolor=colour, alpha=0.22, edgecolor=colour, label="the same layer, dilating"))
    marks.append(_mark(Line2D, "|", "#444444", "dense, whole grid"))
    if backward:
        marks.append(_mark(Line2D, "x", "black", "backward"))
    if several:
        marks.append(Line2D([], [], color="black", linewidth=1, label="least to greatest scan"))
    axes.figure.legend(handles=marks, fontsize=8, loc="outside lower center", ncols=len(marks), frameon=False)


def _mark(line: Any, marker: str, colour: str, label: str) -> Any:
    return line([], [], linestyle="", marker=marker, color=colour, markersize=7, markeredgewidth=1.6, label=label)


def _curve(axes: Any, tables: Sequence[Counts]) -> None:
    ordered = sorted(tables, key=lambda counts: counts.scans[0].voxel_size)
    edges = [counts.scans[0].voxel_size[0] for counts in ordered]
    spreads = [totals(counts.scans) for counts in ordered]
    for name, label, style, colour in (
        ("dense_macs", "dense, whole grid", ":", "#444444"),
        ("dilated_macs", "submanifold layers dilating", "--", "#0072B2"),
        ("macs", "sparse, as it is", "-", "#0072B2"),
    ):
        values = [_gflops(spread[name]) for spread in spreads]
        axes.plot(edges, values, style, color=colour, marker="o", markersize=4, label=label)
        low, high = ([2 * getattr(spread[name], end) / 1e9 for spread in spreads] for end in ("low", "high"))
        if low != high:
            axes.fill_between(edges, low, high, color=colour, alpha=0.15, linewidth=0)
    for edge, spread in zip(edges, spreads, strict=True):
        axes.annotate(
            f"{spread['voxels'].mean:,.0f} voxels",
            (edge, _gflops(spread["macs"])),
            textcoords="offset points",
            xytext=(0, -13),
            ha="center",
            fontsize=7.5,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(_plain)
    axes.minorticks_off()
    axes.set_xticks(edges, [f"{edge:g}" for edge in edges])
    axes.margins(x=0.12, y=0.08)
    axes.grid(alpha=0.3)
    same = all(len(set(counts.scans[0].voxel_size)) == 1 for counts in ordered)
    axes.set_xlabel("voxel edge" if same else "voxel edge along x")
    axes.set_ylabel("GFLOPs of one forward pass")
    axes.set_title("by voxel size", fontsize=10)
    axes.legend(fontsize=8, loc="center right", frameon=False)
