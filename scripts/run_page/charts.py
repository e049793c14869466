"""Charts of a run for plotly: bars by layer, and clouds that turn with the mouse."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparseconv.flops import ForwardCount

# Points of one cloud at most: a page of some megabytes that a laptop still turns smoothly.
MAX_POINTS = 40_000
_FONT = {"family": "system-ui, sans-serif", "size": 13, "color": "#222222"}
_BLUE, _PALE, _GREY = "#0072B2", "#9CC9E3", "#555555"


def subsample(count: int, most: int = MAX_POINTS) -> NDArray[np.int64]:
    """Rows to show, in order: all of them, or ``most`` drawn at random with a fixed seed."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, most, replace=False))


def layer_bars(count: ForwardCount) -> Any:
    """GFLOPs of each layer as it is, dilating, and dense, on a log axis."""
    from plotly import graph_objects

    layers = [layer for layer in count.layers if layer.macs]
    # Plotly reads a little HTML in its labels.
    names = [_plain(layer.name or layer.kind) for layer in layers]
    places = list(range(len(layers)))
    figure = graph_objects.Figure()
    series = (
        ("dense, whole grid", _GREY, [layer.dense_macs for layer in layers]),
        ("the same layer, dilating", _PALE, [layer.dilated_macs for layer in layers]),
        ("sparse, as it is", _BLUE, [layer.macs for layer in layers]),
    )
    for label, colour, macs in series:
        figure.add_bar(
            y=places,
            x=[2e-9 * number for number in macs],
            name=label,
            orientation="h",
            marker_color=colour,
            customdata=names,
            hovertemplate="%{customdata}: %{x:,.4g} GFLOPs<extra>" + label + "</extra>",
        )
    figure.update_layout(
        barmode="group",
        bargap=0.25,
        height=140 + 44 * len(layers),
        margin={"l": 10, "r": 20, "t": 20, "b": 50},
        font=_FONT,
        template="plotly_white",
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "traceorder": "reversed"},
    )
    figure.update_xaxes(type="log", title="GFLOPs of one forward pass", exponentformat="none", dtick=1)
    figure.update_yaxes(tickvals=places, ticktext=names, autorange="reversed", automargin=True)
    return figure


def _plain(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _aspect(points: NDArray[np.float32]) -> list[float]:
    """Sides of the drawn box, true to scale, the longest one 2."""
    extent = np.ptp(points, axis=0).astype(np.float64) if len(points) else np.ones(3)
    longest = float(extent.max()) or 1.0
    return np.maximum(2 * extent / longest, 0.02).tolist()


def cloud(centres: NDArray[Any], values: NDArray[Any], label: str) -> Any:
    """A cloud of at most ``MAX_POINTS`` points that can be turned.

    Args:
        centres: ``[N, 3]``.
        values: ``[N]`` to colour by.
        label: what they are.
    """
    from plotly import graph_objects

    rows = subsample(len(centres))
    shown = np.ascontiguousarray(centres[rows], np.float32)
    colours = np.ascontiguousarray(values[rows], np.float32)
    low, high = (float(bound) for bound in np.percentile(colours, [1, 99])) if len(colours) else (0.0, 1.0)
    x, y, z = (np.round(column, 3) for column in shown.T)
    figure = graph_objects.Figure(
        graph_objects.Scatter3d(
            x=x,
            y=y,
            z=z,
            mode="markers",
            marker={
                "size": 1.8,
                "color": colours,
                "colorscale": "Viridis",
                "cmin": low,
                "cmax": high,
                "colorbar": {
                    "title": {"text": label, "side": "right"},
                    "thickness": 14,
                    "len": 0.8,
                    "tickformat": "~g",
                },
            },
            hovertemplate="x %{x:.2f}, y %{y:.2f}, z %{z:.2f}<br>" + label + " %{marker.color:.3g}<extra></extra>",
        )
    )
    axes = {"showbackground": False, "gridcolor": "#DDDDDD", "zerolinecolor": "#BBBBBB"}
    figure.update_layout(
        height=620,
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        font=_FONT,
        template="plotly_white",
        scene={
            "aspectmode": "manual",
            "aspectratio": dict(zip("xyz", _aspect(shown), strict=True)),
            "xaxis": axes,
            "yaxis": axes,
            "zaxis": axes,
            "camera": {"eye": {"x": -1.4, "y": -0.8, "z": 0.95}, "center": {"x": 0, "y": 0, "z": -0.15}},
        },
    )
    return figure
