"""Voxels as cubes in space: drawn by Open3D without a display, or by matplotlib where that cannot be."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparseconv.visualize.camera import Camera
from sparseconv.visualize.cubes import box_lines, visible_faces
from sparseconv.visualize.from_above import explain, titled
from sparseconv.visualize.scene import Scene
from sparseconv.visualize.window import render

_DOTS_PER_INCH = 100
# Pixels around the picture: for its title, its colour bar and its legend.
_ABOVE, _RIGHT, _BELOW = 44, 110, 66
RENDERERS = ("auto", "open3d", "matplotlib")


def draw_in_space(
    path: Path | str, scene: Scene, *, width: int = 1600, height: int = 900, renderer: str = "auto"
) -> str:
    """Write a picture of the voxels as cubes, and the boxes around objects.

    Args:
        path: PNG to write.
        scene: the voxels and boxes.
        width: pixels.
        height: pixels of the picture without its title and legend.
        renderer: ``"auto"`` (Open3D where it can draw, else matplotlib), ``"open3d"`` or ``"matplotlib"``.

    Returns:
        What drew it: ``"open3d"`` or ``"matplotlib"``.

    Raises:
        ValueError: an unknown renderer.
        RuntimeError: ``"open3d"`` was asked for and cannot draw here.
    """
    if renderer not in RENDERERS:
        raise ValueError(f"renderer must be one of {', '.join(RENDERERS)}, got {renderer!r}")
    image = render(scene, width, height) if renderer != "matplotlib" else None
    if image is None and renderer == "open3d":
        raise RuntimeError("Open3D cannot draw here: it is missing, or finds no EGL; let matplotlib draw")
    from matplotlib.figure import Figure

    pixels = np.array([width + _RIGHT, height + _ABOVE + _BELOW])
    figure = Figure(figsize=tuple(pixels / _DOTS_PER_INCH))
    camera = Camera.looking_at(scene)
    outside = ~_seen(camera, scene.centres, width, height)
    drawn = np.asarray(_seen(camera, box_lines(scene), width, height).any((1, 2)))
    title = fill(titled(scene, int(outside.sum()), int((~drawn).sum())), max(20, width // 9))
    figure.text(0.5, 1 - 0.5 * _ABOVE / pixels[1], title, ha="center", va="center", fontsize=11)
    axes = figure.add_axes((0.0, _BELOW / pixels[1], width / pixels[0], height / pixels[1]))
    axes.set_axis_off()
    if image is not None:
        axes.imshow(image, interpolation="nearest", aspect="equal")
    else:
        _paint(axes, scene, width, height)
    bar = (
        (width + 0.15 * _RIGHT) / pixels[0],
        (_BELOW + 0.15 * height) / pixels[1],
        0.16 * _RIGHT / pixels[0],
        0.7 * height / pixels[1],
    )
    explain(figure, scene, {"cax": bar}, "lower center", drawn)
    figure.savefig(path, dpi=_DOTS_PER_INCH, format="png")
    return "matplotlib" if image is None else "open3d"


def _paint(axes: Any, scene: Scene, width: int, height: int) -> None:
    """Faces from far to near, as a painter does: what is near covers what is far."""
    from matplotlib.collections import LineCollection, PolyCollection

    camera = Camera.looking_at(scene)
    faces = visible_faces(scene)
    corners = camera.project(faces.corners, width, height)
    kept = _in_picture(corners, camera.near, width, height) & _towards(faces.corners, camera)
    order = np.argsort(-corners[kept, :, 2].mean(1), kind="stable")
    axes.add_collection(
        PolyCollection(
            list(corners[kept][order][..., :2]),
            facecolors=faces.colours[kept][order],
            edgecolors=faces.colours[kept][order],
            linewidths=0.2,
        )
    )
    lines = camera.project(box_lines(scene), width, height)
    for edges, colour in zip(lines, scene.box_colours(), strict=True):
        seen = edges[(edges[..., 2] > camera.near).all(1)]
        axes.add_collection(LineCollection(seen[..., :2], colors=colour, linewidths=1.2))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_aspect("equal")


def _seen(camera: Camera, points: NDArray[np.float64], width: int, height: int) -> NDArray[np.bool_]:
    """Which points ``[.., 3]`` are in front of the viewer and within the picture."""
    column, row, depth = np.moveaxis(camera.project(points, width, height), -1, 0)
    inside = (column >= 0) & (column <= width) & (row >= 0) & (row <= height)
    return np.asarray(inside & (depth > camera.near))


def _in_picture(corners: NDArray[np.float64], near: float, width: int, height: int) -> NDArray[np.bool_]:
    """Which faces have a corner in the picture, and all corners in front of the viewer."""
    inside = (corners[..., :2] >= 0).all(2) & (corners[..., 0] <= width) & (corners[..., 1] <= height)
    return np.asarray(inside.any(1) & (corners[..., 2] > near).all(1))


def _towards(corners: NDArray[np.float64], camera: Camera) -> NDArray[np.bool_]:
    """Which faces turn their outer side to the camera."""
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 1])
    facing: NDArray[np.float64] = np.einsum("fc,fc->f", normals, camera.eye - corners[:, 0])
    return np.asarray(facing > 0)
