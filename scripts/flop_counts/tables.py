"""Counts at the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from sparseconv.flops import LayerCount
from sparseconv.scripts.console import out
from sparseconv.scripts.flop_counts.scans import Counts, ScanCount, Spread, layers, spell_sizes, totals

# Columns that a narrow terminal does without, in this order.
_OPTIONAL = ("params", "kind", "channels", "pairs", "dense MB", "MB", "dense")

Column = tuple[str, Callable[[LayerCount, dict[str, Spread]], str]]


def giga(macs: float) -> str:
    """Multiply-adds as GFLOPs, three digits that matter at least."""
    value = 2 * macs / 1e9
    return f"{value:,.0f}" if value >= 1000 else f"{value:,.1f}" if value >= 100 else f"{value:,.3f}"


def ratio(dense_macs: float, macs: float) -> str:
    """How many times as many multiply-adds the dense layer takes; a dash where the sparse one takes none."""
    return f"{dense_macs / macs:,.0f}" if macs else "-"


def mega(size: float) -> str:
    """Bytes as MB."""
    value = size / 1e6
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}" if value >= 10 else f"{value:,.2f}"


def print_layers(scans: Sequence[ScanCount], title: str, backward: bool) -> None:
    """A row for each layer, means over the scans, in the widest selection of columns that fits."""
    for left_out in range(len(_OPTIONAL) + 1):
        table = _layer_table(scans, title, backward, set(_OPTIONAL[:left_out]))
        if Measurement.get(out, out.options.update(max_width=1000), table).maximum <= out.width:
            break
    out.print(table)


def _layer_table(scans: Sequence[ScanCount], title: str, backward: bool, left_out: set[str]) -> Table:
    total = {name: spread.mean for name, spread in totals(scans).items()}
    rows = layers(scans)
    pairs = sum(spread["pairs"].mean for _, spread in rows)
    columns: dict[str, Column] = {
        "layer": ("all", lambda layer, _: escape(layer.name or layer.kind)),
        "kind": ("", lambda layer, _: layer.family),
        "channels": ("", lambda layer, _: f"{layer.c_in}>{layer.c_out}"),
        "out": ("", lambda _, spread: f"{spread['n_out'].mean:,.0f}"),
        "pairs": (f"{pairs:,.0f}", lambda _, spread: f"{spread['pairs'].mean:,.0f}"),
        "GFLOPs": (giga(total["macs"]), lambda _, spread: giga(spread["macs"].mean)),
        "backward": (giga(total["backward_macs"]), lambda _, spread: giga(spread["backward_macs"].mean)),
        "dilating": (giga(total["dilated_macs"]), _dilating),
        "dense": (giga(total["dense_macs"]), lambda _, spread: giga(spread["dense_macs"].mean)),
        "MB": (
            mega(total["sparse_bytes"]),
            lambda _, spread: mega(spread["feature_bytes"].mean + spread["map_bytes"].mean),
        ),
        "dense MB": (mega(total["dense_bytes"]), lambda _, spread: mega(spread["dense_bytes"].mean)),
        "params": (f"{scans[0].count.parameters:,}", lambda layer, _: f"{layer.parameters:,}"),
    }
    if not backward:
        del columns["backward"]
    shown = {name: column for name, column in columns.items() if name not in left_out}
    table = Table(title=escape(title), show_footer=True, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name, (footer, _) in shown.items():
        table.add_column(name, footer, justify="left" if name in ("layer", "kind") else "right", no_wrap=True)
    for layer, spread in rows:
        table.add_row(*(cell(layer, spread) for _, cell in shown.values()))
    return table


def _dilating(layer: LayerCount, spread: dict[str, Spread]) -> str:
    return giga(spread["dilated_macs"].mean) if layer.family == "submanifold" else "-"


def print_summary(scans: Sequence[ScanCount], backward: bool) -> None:
    """Totals in words, with their spread over several scans."""
    spreads = totals(scans)
    lines = [("forward", _in_words(spreads["macs"], giga, "GFLOPs") + f" ({_shares(scans)})")]
    if backward:
        lines.append(("backward", _in_words(spreads["backward_macs"], giga, "GFLOPs")))
    mean = spreads["macs"].mean
    for name, key, what in (
        ("dilating", "dilated_macs", "if every submanifold layer dilated its input's sites"),
        ("dense", "dense_macs", "on the whole grid (unbounded: the occupied box)"),
    ):
        times = spreads[key].mean / mean if mean else 0.0
        ratio = f"{times:,.0f} times as many, " if times >= 100 else f"{times:.3g} times as many, " if mean else ""
        lines.append((name, f"{_in_words(spreads[key], giga, 'GFLOPs')}: {ratio}{what}"))
    memory = _in_words(spreads["sparse_bytes"], mega, "MB")
    dense = _in_words(spreads["dense_bytes"], mega, "MB")
    lines.append(("memory", f"{memory} of features, sites and maps; {dense} of dense activations"))
    reasons = {scan.size_reason for scan in scans}
    if reasons != {None}:
        why = reasons.pop() if len(reasons) == 1 else "chosen for each scan"
        lines.append(("size", f"{spell_sizes(scans)}: {why} (--voxel-size names another)"))
    if len(scans) > 1:
        lines.append(("voxels", _in_words(spreads["voxels"], lambda number: f"{number:,.0f}", "")))
    for name, text in lines:
        out.print(f"[bold]{name:<9}[/bold] {text}", highlight=False, soft_wrap=True)


def _in_words(spread: Spread, spell: Callable[[float], str], unit: str) -> str:
    text = f"{spell(spread.mean)} {unit}".rstrip()
    if spread.low == spread.high:
        return text
    return f"{text} +- {spell(spread.std)} [{spell(spread.low)} .. {spell(spread.high)}]"


def _shares(scans: Sequence[ScanCount]) -> str:
    shares = family_shares(scans)
    return ", ".join(f"{family} {100 * share:.1f} %" for family, share in shares.items() if share) or "no layer"


def family_shares(scans: Sequence[ScanCount]) -> dict[str, float]:
    """Share of each family in the multiply-adds of all scans."""
    sums: dict[str, int] = {}
    for scan in scans:
        for family, macs in scan.count.family_macs().items():
            sums[family] = sums.get(family, 0) + macs
    whole = sum(sums.values())
    return {family: macs / whole if whole else 0.0 for family, macs in sums.items()}


def print_voxel_sizes(tables: Sequence[Counts]) -> None:
    """A row for each voxel size, means over the scans."""
    table = Table(title="by voxel size", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in ("voxel size", "scans", "voxels", "GFLOPs", "dilating", "dense", "MB", "dense MB"):
        table.add_column(name, justify="left" if name == "voxel size" else "right", no_wrap=True)
    for counts in tables:
        if not counts.scans:
            continue
        mean = {name: spread.mean for name, spread in totals(counts.scans).items()}
        table.add_row(
            spell_sizes(counts.scans),
            str(len(counts.scans)),
            f"{mean['voxels']:,.0f}",
            giga(mean["macs"]),
            giga(mean["dilated_macs"]),
            giga(mean["dense_macs"]),
            mega(mean["sparse_bytes"]),
            mega(mean["dense_bytes"]),
        )
    out.print(table)
