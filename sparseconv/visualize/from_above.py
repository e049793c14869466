"""Voxels seen from above, x upwards and y to the left as a driver sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparseconv.datasets.boxes import box_corners_bev
from sparseconv.visualize.scene import Scene

# Cells of the picture along its longer side at most: two pixels each, so that a lone voxel can be seen.
_MAX_CELLS = 900
# Few voxels lie far out; with them in the picture, the others are too small to see.
_PERCENTILES = (0.4, 99.6)
_LONGER_INCHES, _LEAST_INCHES = 12.0, 3.6
_DOTS_PER_INCH = 150
# Colours that neither viridis nor the classes of a street have.
BOX_COLOURS = {
    "Car": "#D62728",
    "Pedestrian": "#FF00C8",
    "Cyclist": "#FF7F0E",
    "Truck": "#111111",
    "Van": "#7F0000",
}
_BOX_COLOUR = "#D62728"


def box_colour(name: str) -> str:
    """Colour of a box by its class, whatever its spelling."""
    return BOX_COLOURS.get(name.capitalize(), _BOX_COLOUR)


def _image(scene: Scene, low: NDArray[Any], cell: float, shape: tuple[int, int]) -> NDArray[np.float32]:
    """The colour of the highest voxel of each column: ``[x, y, 4]``, transparent where there is none."""
    image = np.zeros((*shape, 4), np.float32)
    order = np.argsort(scene.centres[:, 2], kind="stable")
    places = np.floor((scene.centres[order, :2] - low) / cell).astype(np.int64)
    inside = ((places >= 0) & (places < shape)).all(1)
    rows, columns = places[inside].T
    colours = scene.colours()[order][inside]
    # Where voxels are narrower than a cell of the picture they fill one; wider ones fill several.
    steps = [max(1, round(edge / cell)) for edge in scene.voxel_size[:2]]
    offsets = [np.arange(step) - step // 2 for step in steps]
    for dx in offsets[0]:
        for dy in offsets[1]:
            x, y = np.clip(rows + dx, 0, shape[0] - 1), np.clip(columns + dy, 0, shape[1] - 1)
            image[x, y, :3] = colours
            image[x, y, 3] = 1.0
    return image


def draw_from_above(path: Path | str, scene: Scene) -> None:
    """Write a picture of the highest voxel of each column, and the boxes with their headings.

    Args:
        path: PNG to write.
        scene: the voxels and boxes.
    """
    from matplotlib.figure import Figure

    if len(scene.centres):
        margin = 2 * np.array(scene.voxel_size[:2])
        low, high = np.percentile(scene.centres[:, :2], _PERCENTILES, axis=0) + np.array([-margin, margin])
        # From an edge between voxels on: no centre lies on the border of two cells.
        edge = scene.centres[0, :2] - np.array(scene.voxel_size[:2]) / 2
        low = edge + np.floor((low - edge) / scene.voxel_size[:2]) * scene.voxel_size[:2]
    else:
        low, high = np.array([-1.0, -1.0]), np.array([1.0, 1.0])
    extent = high - low
    finest = min(scene.voxel_size[:2])
    cell = finest * max(1.0, float(np.ceil(extent.max() / finest / _MAX_CELLS)))
    shape = tuple(max(1, int(np.ceil(side / cell))) for side in extent)
    # Driving scans are longer than wide: x then runs to the right, and y upwards.
    lying = extent[0] > 1.2 * extent[1]
    image = _image(scene, low, cell, (shape[0], shape[1]))
    inches = np.maximum(_LONGER_INCHES * extent / extent.max(), _LEAST_INCHES)
    width, height = (inches[0], inches[1]) if lying else (inches[1], inches[0])
    figure = Figure(figsize=(width + 2.0, height + 1.2), layout="constrained")
    axes = figure.add_subplot()
    bounds = (low[0], low[0] + shape[0] * cell, low[1], low[1] + shape[1] * cell)
    how: dict[str, Any] = {"origin": "lower", "interpolation": "nearest", "aspect": "equal"}
    if lying:
        axes.imshow(image.transpose(1, 0, 2), extent=bounds, **how)
        axes.set_xlabel("x (forward)")
        axes.set_ylabel("y (left)")
    else:
        turned = (bounds[2], bounds[3], bounds[0], bounds[1])
        axes.imshow(image, extent=turned, **how)
        axes.set_xlabel("y (left)")
        axes.set_ylabel("x (forward)")
    _draw_boxes(axes, scene, bounds, lying)
    if lying:
        axes.set_xlim(bounds[0], bounds[1])
        axes.set_ylim(bounds[2], bounds[3])
    else:
        axes.set_xlim(bounds[3], bounds[2])
        axes.set_ylim(bounds[0], bounds[1])
    axes.set_facecolor("#FAFAFA")
    beyond = int(((scene.centres[:, :2] < low) | (scene.centres[:, :2] > high)).any(1).sum())
    axes.set_title(scene.title + (f" ({beyond:,} farther out)" if beyond else ""), fontsize=10)
    explain(figure, scene, {"ax": axes, "shrink": 0.75, "pad": 0.01}, "outside lower center")
    figure.savefig(path, dpi=_DOTS_PER_INCH, format="png")


def _draw_boxes(axes: Any, scene: Scene, bounds: tuple[float, ...], lying: bool) -> None:
    """Outlines of the boxes in the picture, each with a stroke from its centre through its front."""
    names = scene.box_names or ("",) * len(scene.boxes)
    for box, corners, name in zip(scene.boxes, box_corners_bev(scene.boxes), names, strict=True):
        if not (bounds[0] <= box[0] <= bounds[1] and bounds[2] <= box[1] <= bounds[3]):
            continue
        ahead = box[:2] + 0.5 * (box[3] + min(1.0, box[3])) * np.array([np.cos(box[6]), np.sin(box[6])])
        outline = np.vstack([corners, corners[:1]])
        for line in (outline, np.stack([box[:2], ahead])):
            x, y = line.T if lying else line[:, ::-1].T
            axes.plot(x, y, color=box_colour(name), linewidth=1.1, solid_capstyle="butt")


def explain(figure: Any, scene: Scene, bar: dict[str, Any], legend: str) -> None:
    """A colour bar for numbers, a legend for classes and boxes.

    Args:
        figure: of matplotlib.
        scene: what is drawn.
        bar: where the colour bar goes: ``ax`` and matplotlib's options for it, or ``cax`` as a rectangle.
        legend: place of the legend.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    marks: list[Any] = []
    if scene.labels is not None:
        colours = scene.label_colours()
        marks = [
            Patch(color=colour, label=scene.labels.get(value, str(value))) for value, colour in colours.items()
        ]
    elif scene.values.ndim == 1:
        scale = ScalarMappable(Normalize(*scene.limits), colormaps["viridis"])
        where = {"cax": figure.add_axes(bar["cax"])} if "cax" in bar else bar
        figure.colorbar(scale, label=scene.label, **where)
    marks += [
        Line2D([], [], color=box_colour(name), linewidth=1.4, label=f"box: {name}")
        for name in dict.fromkeys(scene.box_names)
    ]
    if marks:
        figure.legend(handles=marks, loc=legend, ncols=min(len(marks), 9), fontsize=9, frameon=False)
