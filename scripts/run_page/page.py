"""The page: summary, table by layer, bars, and the clouds of input and output."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparseconv.flops import ForwardCount, LayerCount
from sparseconv.scripts.flop_counts.tables import giga, mega, ratio
from sparseconv.scripts.network import output_stride
from sparseconv.scripts.output import check_output_file
from sparseconv.scripts.run_page.charts import MAX_POINTS, cloud, layer_bars
from sparseconv.tensor import SparseTensor
from sparseconv.voxel_grid import VoxelGrid
from sparseconv.voxelization import Voxels

# The browser itself then refuses whatever is not in the page.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; "
    "img-src data: blob:; worker-src blob:; font-src data:; connect-src 'none'"
)
# No button that would send the data to plotly's server.
_CONFIG = {
    "displaylogo": False,
    "responsive": True,
    "scrollZoom": True,
    "showSendToCloud": False,
    "plotlyServerURL": "",
    "modeBarButtonsToRemove": ["sendChartToCloud", "lasso2d", "select2d"],
}
_LEGEND = (
    "in, out: voxels. GFLOPs: exact, from the kernel maps. dilating: if the layer were a sparse convolution that "
    "dilates its sites. dense: the dense layer on the whole grid (unbounded: the occupied box). MB: output "
    "features, and the map and sites that the layer was the first to need."
)
_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 1180px; margin: 2rem auto;
       padding: 0 1.2rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
p.note { color: #555; margin: .3rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .7rem; text-align: right; border-bottom: 1px solid #e4e4e4; white-space: nowrap; }
th { font-weight: 600; border-bottom: 1px solid #999; }
td.text, th.text { text-align: left; }
tfoot td { font-weight: 600; border-top: 1px solid #999; border-bottom: none; }
table.summary th { border-bottom: 1px solid #e4e4e4; text-align: left; }
table.summary td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.wide { overflow-x: auto; font-size: 13px; }
.wide th, .wide td { padding: .25rem .45rem; }
"""


def check_page(path: Path | None) -> None:
    """Refuse a page that could not be written, before the work is done.

    Raises:
        ValueError: there is no such folder, or plotly is missing.
    """
    if path is None:
        return
    check_output_file(path, "--html")
    if importlib.util.find_spec("plotly") is None:
        raise ValueError('--html needs plotly, which is not installed: pip install "sparseconv[viz]"')


def write_page(
    path: Path,
    *,
    summary: dict[str, Any],
    count: ForwardCount,
    voxels: Voxels,
    output: SparseTensor,
) -> None:
    """Write the page of one run.

    Args:
        path: HTML file.
        summary: as ``summary.json`` has it.
        count: what the run did.
        voxels: the input.
        output: what came out, on axes (z, y, x) or (y, x).

    Raises:
        ImportError: plotly is missing.
    """
    from plotly.offline import get_plotlyjs

    inputs = _centres(voxels.indices.numpy(), (1, 1, 1), voxels.grid)
    outputs = _centres(output.indices.numpy(), output_stride(summary["model"]["name"]), voxels.grid)
    energy = output.features.detach().float().norm(dim=1).numpy()
    name = escape(str(summary["scan"]["name"]))
    model = escape(str(summary["model"]["name"]))
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{model} on {name}</title><style>{_STYLE}</style>",
        f"<script>{get_plotlyjs()}</script></head><body>",
        f"<h1>{model}</h1><p class='note'>{name}</p>",
        _summary_table(summary, count),
        "<h2>Layers</h2>",
        _layer_table(count),
        f"<p class='note'>{_LEGEND}</p>",
        "<h2>GFLOPs by layer</h2>",
        _chart(layer_bars(count), "layers"),
        "<h2>Voxels in</h2>",
        _cloud_note(len(inputs)),
        _chart(cloud(inputs, inputs[:, 2], "height"), "input"),
        "<h2>Voxels out</h2>",
        _cloud_note(len(outputs)),
        _chart(cloud(outputs, energy, "feature norm"), "output"),
        "</body></html>\n",
    ]
    path.write_text("\n".join(parts), encoding="utf-8")


def _centres(sites: NDArray[Any], stride: Sequence[int], grid: VoxelGrid) -> NDArray[np.float64]:
    """Positions x, y, z of cells ``stride`` voxels wide; on the grid's floor where they have no z."""
    cells = np.zeros((len(sites), 3))
    cells[:, : len(stride)] = (sites[:, :0:-1] + 0.5) * np.array(stride)
    return np.array(grid.origin) + cells * np.array(grid.voxel_size)


def _chart(figure: Any, name: str) -> str:
    height = int(figure.layout.height)
    content: str = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        include_mathjax=False,
        div_id=name,
        default_height=f"{height}px",
        config=_CONFIG,
    )
    return content


def _cloud_note(count: int) -> str:
    shown = f"all {count:,}" if count <= MAX_POINTS else f"{MAX_POINTS:,} of {count:,}, drawn at random,"
    return f"<p class='note'>{shown} are shown. Drag to turn, scroll to zoom, right button to move.</p>"


def _summary_table(summary: dict[str, Any], count: ForwardCount) -> str:
    scan, grid, machine, total = (summary[key] for key in ("scan", "grid", "machine", "total"))
    dropped = [
        f"{scan[key]:,} {what}"
        for key, what in (("outside", "outside the range"), ("not_finite", "not finite"))
        if scan[key]
    ]
    size = " x ".join(f"{edge:g}" for edge in grid["voxel_size"])
    shape = grid["spatial_shape"]
    cells = "an unbounded grid" if shape is None else " x ".join(map(str, shape)) + " cells (z y x)"
    share = "" if shape is None else f", {100 * summary['voxels'] / math.prod(shape):.2g} % of the grid"
    shares = ", ".join(
        f"{family} {100 * macs / count.macs:.1f} %" for family, macs in count.family_macs().items() if macs
    )
    rows = [
        ("scan", f"{scan['points']:,} points" + (f" ({', '.join(dropped)} dropped)" if dropped else "")),
        ("voxels", f"{summary['voxels']:,} of {size} in {cells}{share}"),
        *([("drawn from", _position(scan["origin"]))] if any(scan["origin"]) else []),
        ("weights", str(summary["model"]["weights"])),
        ("parameters", f"{count.parameters:,}"),
        ("forward pass", f"{giga(count.macs)} GFLOPs ({shares})"),
        ("dilating", f"{giga(count.dilated_macs)} GFLOPs if every submanifold layer dilated its input's sites"),
        ("dense", f"{giga(count.dense_macs)} GFLOPs: {ratio(count.dense_macs, count.macs)} times as many"),
        ("memory", f"{mega(count.sparse_bytes)} MB sparse, {mega(count.dense_bytes)} MB dense"),
        (
            "time",
            f"voxelize {total['voxelize_milliseconds']:.1f} ms, whole forward pass "
            f"{total['forward_milliseconds']:.1f} ms (the first one {total['first_forward_milliseconds']:.0f} ms)",
        ),
        ("output", f"{summary['output']['voxels']:,} voxels x {summary['output']['channels']} channels"),
        ("machine", f"{machine['processor']}, {machine['threads']} threads, torch {machine['torch']}"),
    ]
    body = "".join(f"<tr><th>{escape(key)}</th><td>{escape(value)}</td></tr>" for key, value in rows)
    return f"<table class='summary'><tbody>{body}</tbody></table>"


def _position(origin: Sequence[float]) -> str:
    return " ".join(f"{value:.12g}" for value in origin) + ", which the clouds below leave out of the coordinates"


def _cells(layer: LayerCount) -> list[str]:
    return [
        layer.name or layer.kind,
        layer.family,
        f"{layer.c_in} > {layer.c_out}",
        f"{layer.n_in:,}",
        f"{layer.n_out:,}",
        f"{layer.pairs:,}",
        f"{layer.milliseconds:.1f}",
        giga(layer.macs),
        giga(layer.dilated_macs) if layer.family == "submanifold" else "-",
        giga(layer.dense_macs),
        ratio(layer.dense_macs, layer.macs),
        mega(layer.feature_bytes + layer.map_bytes),
        mega(layer.dense_bytes),
        f"{layer.parameters:,}",
    ]


def _layer_table(count: ForwardCount) -> str:
    heads = ["layer", "kind", "channels", "in", "out", "pairs", "ms", "GFLOPs", "dilating", "dense", "ratio"]
    heads += ["MB", "dense MB", "parameters"]
    layers = count.layers
    foot = [
        *("all", "", "", "", "", f"{sum(layer.pairs for layer in layers):,}"),
        f"{sum(layer.milliseconds for layer in layers):.1f}",
        *(
            giga(count.macs),
            giga(count.dilated_macs),
            giga(count.dense_macs),
            ratio(count.dense_macs, count.macs),
        ),
        *(mega(count.sparse_bytes), mega(count.dense_bytes), f"{count.parameters:,}"),
    ]
    body = "".join(f"<tr>{_row(_cells(layer), 'td')}</tr>" for layer in layers)
    return (
        f"<div class='wide'><table><thead><tr>{_row(heads, 'th')}</tr></thead><tbody>{body}</tbody>"
        f"<tfoot><tr>{_row(foot, 'td')}</tr></tfoot></table></div>"
    )


def _row(cells: Sequence[str], tag: str) -> str:
    return "".join(
        f"<{tag} class='text'>{escape(cell)}</{tag}>" if number < 2 else f"<{tag}>{escape(cell)}</{tag}>"
        for number, cell in enumerate(cells)
    )
