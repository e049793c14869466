"""Voxels seen from above, x upwards and y to the left as a driver sees them."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill
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
# A box farther out than this many times the longer side of the voxels would leave them too small to see.
_FARTHEST_BOX = 1.0
# Characters of a title on an inch, at its size.
_CHARACTERS_PER_INCH = 12


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
    low, high, drawn = _with_boxes(scene, low, high)
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
    words = ("x (forward)", "y (left)") if scene.driving else scene.axes
    if lying:
        axes.imshow(image.transpose(1, 0, 2), extent=bounds, **how)
        axes.set_xlabel(words[0])
        axes.set_ylabel(words[1])
    else:
        turned = (bounds[2], bounds[3], bounds[0], bounds[1])
        axes.imshow(image, extent=turned, **how)
        axes.set_xlabel(words[1])
        axes.set_ylabel(words[0])
    _draw_boxes(axes, scene, drawn, lying)
    if lying:
        axes.set_xlim(bounds[0], bounds[1])
        axes.set_ylim(bounds[2], bounds[3])
    else:
        axes.set_xlim(bounds[3], bounds[2])
        axes.set_ylim(bounds[0], bounds[1])
    axes.set_facecolor("#FAFAFA")
    beyond = int(((scene.centres[:, :2] < low) | (scene.centres[:, :2] > high)).any(1).sum())
    title = fill(titled(scene, beyond, int((~drawn).sum())), int(_CHARACTERS_PER_INCH * width))
    axes.set_title(title, fontsize=10)
    explain(figure, scene, {"ax": axes, "shrink": 0.75, "pad": 0.01}, "outside lower center", drawn)
    # The layout can leave a title half outside the figure: the file takes in all that is drawn.
    figure.savefig(path, dpi=_DOTS_PER_INCH, format="png", bbox_inches="tight", pad_inches=0.12)


def _with_boxes(
    scene: Scene, low: NDArray[Any], high: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.bool_]]:
    """The corners of the picture, and which boxes are drawn whole in it."""
    reach = _FARTHEST_BOX * float((high - low).max())
    if scene.bounds is not None:
        low, high, reach = np.array(scene.bounds[:2]), np.array(scene.bounds[3:5]), 0.0
    boxes = scene.boxes
    drawn = ((boxes[:, :2] >= low - reach) & (boxes[:, :2] <= high + reach)).all(1) & np.isfinite(
        boxes[:, :7]
    ).all(1)
    if drawn.any():
        corners = box_corners_bev(boxes[drawn]).reshape(-1, 2)
        margin = 2 * np.array(scene.voxel_size[:2])
        low, high = np.minimum(low, corners.min(0) - margin), np.maximum(high, corners.max(0) + margin)
    return low, high, drawn


def titled(scene: Scene, voxels: int, boxes: int) -> str:
    """The title, with how many voxels and boxes the picture leaves out."""
    left = [f"{voxels:,} farther out"] * (voxels > 0)
    left += [f"{boxes:,} of {len(scene.boxes):,} boxes not in the picture"] * (boxes > 0)
    return scene.title + (f" ({', '.join(left)})" if left else "")


def _draw_boxes(axes: Any, scene: Scene, drawn: NDArray[np.bool_], lying: bool) -> None:
    """Outlines of the boxes in the picture, each with a stroke from its centre through its front."""
    colours = np.array(scene.box_colours())[drawn]
    boxes = scene.boxes[drawn]
    for box, corners, colour in zip(boxes, box_corners_bev(boxes), colours, strict=True):
        ahead = box[:2] + 0.5 * (box[3] + min(1.0, box[3])) * np.array([np.cos(box[6]), np.sin(box[6])])
        outline = np.vstack([corners, corners[:1]])
        for line in (outline, np.stack([box[:2], ahead])):
            x, y = line.T if lying else line[:, ::-1].T
            axes.plot(x, y, color=str(colour), linewidth=1.1, solid_capstyle="butt")


def explain(figure: Any, scene: Scene, bar: dict[str, Any], legend: str, drawn: NDArray[np.bool_]) -> None:
    """A colour bar for numbers, a legend for classes and boxes.

    Args:
        figure: of matplotlib.
        scene: what is drawn.
        bar: where the colour bar goes: ``ax`` and matplotlib's options for it, or ``cax`` as a rectangle.
        legend: place of the legend.
        drawn: ``[B]``, which boxes are in the picture.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    marks: list[Any] = []
    named = {
        name: colour
        for name, colour, seen in zip(scene.box_names, scene.box_colours(), drawn, strict=False)
        if seen
    }
    if scene.labels is not None:
        colours = scene.label_colours()
        marks = [
            Patch(color=colour, label=scene.labels.get(value, str(value))) for value, colour in colours.items()
        ]
    elif scene.values.ndim == 1:
        scale = ScalarMappable(Normalize(*scene.limits), colormaps["viridis"])
        where = {"cax": figure.add_axes(bar["cax"])} if "cax" in bar else bar
        figure.colorbar(scale, label=scene.label, **where)
    marks += [Line2D([], [], color=colour, linewidth=1.4, label=f"box: {name}") for name, colour in named.items()]
    if marks:
        figure.legend(handles=marks, loc=legend, ncols=min(len(marks), 9), fontsize=9, frameon=False)
