"""Bird's-eye picture of a run: points, occupied voxels, feature energy. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparseconv.tensor import SparseTensor
from sparseconv.voxel_grid import VoxelGrid

# Cells of one panel at most along a side: more than a printed panel can show.
_MAX_CELLS = 700
# A wall's column holds a hundred times what a road's does: the square root shows both.
_GAMMA = 0.5


def _histogram(
    x: NDArray[np.floating],
    y: NDArray[np.floating],
    values: NDArray[np.floating] | None,
    extent: tuple[float, float, float, float],
    cell: float,
) -> NDArray[np.float64]:
    """Sum of ``values`` (or count) by cell, NaN where nothing lies: ``[rows (x), columns (y)]``."""
    bins = (
        max(1, round((extent[1] - extent[0]) / cell)),
        max(1, round((extent[3] - extent[2]) / cell)),
    )
    limits = ((extent[0], extent[1]), (extent[2], extent[3]))
    count, _, _ = np.histogram2d(x, y, bins=bins, range=limits)
    if values is None:
        return np.where(count > 0, count, np.nan)
    total, _, _ = np.histogram2d(x, y, bins=bins, range=limits, weights=values)
    return np.where(count > 0, total, np.nan)


def _centres(sites: NDArray[np.int32], grid: VoxelGrid, stride: tuple[float, float]) -> tuple[NDArray, NDArray]:
    """Positions x and y of the centres of sites whose cells are ``stride`` = (x, y) voxels wide."""
    x = grid.origin[0] + (sites[:, -1] + 0.5) * stride[0] * grid.voxel_size[0]
    y = grid.origin[1] + (sites[:, -2] + 0.5) * stride[1] * grid.voxel_size[1]
    return x, y


def birds_eye(
    path: Path,
    points: NDArray[np.float32],
    voxels: SparseTensor,
    output: SparseTensor,
    output_stride: tuple[float, float],
    grid: VoxelGrid,
    title: str,
    axes: tuple[str, str] = ("x (m)", "y (m)"),
) -> None:
    """Draw three panels seen from above, x upwards and y to the left as a driver sees them.

    Args:
        path: PNG to write.
        points: ``[N, 3+F]``.
        voxels: the network's input.
        output: the network's output; its last two axes are y and x.
        output_stride: width of an output cell in voxels, along x and y.
        grid: voxel size and origin.
        title: heading.
        axes: names of x and y.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    sites = voxels.indices.cpu().numpy()
    x, y = _centres(sites, grid, (1.0, 1.0))
    margin = 0.5 * max(grid.voxel_size[:2])
    if len(sites):
        extent = (x.min() - margin, x.max() + margin, y.min() - margin, y.max() + margin)
    else:
        extent = (-1.0, 1.0, -1.0, 1.0)
    widest = max(extent[1] - extent[0], extent[3] - extent[2])
    cell = max(widest / _MAX_CELLS, *grid.voxel_size[:2])
    finite = points[np.isfinite(points[:, :3]).all(1)]
    seen = finite[
        (finite[:, 0] >= extent[0])
        & (finite[:, 0] <= extent[1])
        & (finite[:, 1] >= extent[2])
        & (finite[:, 1] <= extent[3])
    ]
    out_x, out_y = _centres(output.indices.cpu().numpy(), grid, output_stride)
    energy = output.features.float().norm(dim=1).cpu().numpy()
    out_cell = max(cell, output_stride[0] * grid.voxel_size[0], output_stride[1] * grid.voxel_size[1])

    figure = Figure(figsize=(16, 6.2), layout="constrained")
    FigureCanvasAgg(figure)
    panes = figure.subplots(1, 3)
    figure.suptitle(title)
    heights = seen[:, 2] if len(seen) else np.zeros(0)
    low, high = np.percentile(heights, [2, 98]) if len(heights) else (0.0, 1.0)
    dots = panes[0].scatter(seen[:, 1], seen[:, 0], c=heights, s=0.3, lw=0, cmap="viridis", vmin=low, vmax=high)
    figure.colorbar(dots, ax=panes[0], label="height", shrink=0.8)
    panes[0].set_title(f"{len(seen):,} points")
    panels = (
        (panes[1], _histogram(x, y, None, extent, cell), "occupied voxels in a column", f"{len(sites):,} voxels"),
        (
            panes[2],
            _histogram(out_x, out_y, energy, extent, out_cell),
            "feature energy in a column",
            f"{len(output):,} output voxels, {output.features.shape[1]} channels",
        ),
    )
    for axis, image, label, heading in panels:
        filled = image[np.isfinite(image)]
        brightest = float(np.percentile(filled, 99.5)) if len(filled) else 1.0
        shown = axis.imshow(
            image,
            norm=PowerNorm(_GAMMA, 0.0, brightest or 1.0),
            origin="lower",
            extent=(extent[2], extent[3], extent[0], extent[1]),
            cmap="magma",
            interpolation="nearest",
            aspect="equal",
        )
        axis.set_facecolor("#e8e8e8")
        figure.colorbar(shown, ax=axis, label=label, shrink=0.8)
        axis.set_title(heading)
    for axis in panes:
        axis.set_xlim(extent[3], extent[2])
        axis.set_ylim(extent[0], extent[1])
        axis.set_aspect("equal")
        axis.set_xlabel(axes[1])
    panes[0].set_ylabel(axes[0])
    figure.savefig(path, dpi=110, format="png")
