"""Open3D: cubes and boxes as its geometries, drawn unseen or in a window."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparseconv.datasets.open3d_import import open3d_problem
from sparseconv.visualize import open3d_child
from sparseconv.visualize.camera import Camera, focal
from sparseconv.visualize.cubes import box_lines, visible_faces
from sparseconv.visualize.scene import Scene

# A line of one pixel is lost among voxels, and the window draws no other: boxes are bars, so thick at the distance
# of the target.
_BAR = 0.002
# Half a million cubes take seconds; what takes longer hangs.
_LONGEST_SECONDS = 300
# Farther than so many times the target is not drawn.
_FAR = 100.0


def has_display() -> bool:
    """Whether a window could be opened."""
    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


Mesh = tuple[NDArray[np.float64], NDArray[np.int32], NDArray[np.float64]]


def _mesh(corners: NDArray[np.float64], colours: NDArray[np.float64]) -> Mesh:
    """Squares ``[F, 4, 3]`` with one colour each as vertices, triangles, and a colour a vertex."""
    first = 4 * np.arange(len(corners), dtype=np.int32)[:, None]
    triangles = np.concatenate([first + np.array([0, 1, 2]), first + np.array([0, 2, 3])]).astype(np.int32)
    return corners.reshape(-1, 3), triangles, np.repeat(colours, 4, axis=0)


def _bars(scene: Scene) -> Mesh:
    """Edges of the boxes as thin square bars."""
    from matplotlib.colors import to_rgb

    lines = box_lines(scene)
    colours = np.array([to_rgb(colour) for colour in scene.box_colours()]).reshape(-1, 3)
    start, end = lines[..., 0, :].reshape(-1, 3), lines[..., 1, :].reshape(-1, 3)
    along = end - start
    along = along / np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    helper = np.where(np.abs(along[:, 2:]) > 0.9, [[1.0, 0.0, 0.0]], [[0.0, 0.0, 1.0]])
    side = np.cross(along, helper)
    side = side / np.linalg.norm(side, axis=1, keepdims=True) * Camera.looking_at(scene).reach * _BAR / 2
    up = np.cross(along, side)
    ring = [side + up, side - up, -side - up, -side + up]
    sides = zip(ring, ring[1:] + ring[:1], strict=True)
    faces = [np.stack([start + a, start + b, end + b, end + a], 1) for a, b in sides]
    return _mesh(np.concatenate(faces), np.tile(np.repeat(colours, lines.shape[1], axis=0), (4, 1)))


def _geometry(scene: Scene) -> Mesh:
    """Cubes and boxes as one mesh."""
    faces = visible_faces(scene)
    cubes = _mesh(faces.corners, faces.colours)
    if len(scene.boxes) == 0:
        return cubes
    bars = _bars(scene)
    return (
        np.concatenate([cubes[0], bars[0]]),
        np.concatenate([cubes[1], bars[1] + np.int32(len(cubes[0]))]),
        np.concatenate([cubes[2], bars[2]]),
    )


def _view(scene: Scene, width: int, height: int) -> dict[str, Any]:
    """The camera as :mod:`.open3d_child` takes it."""
    camera = Camera.looking_at(scene)
    extrinsic = np.eye(4)
    extrinsic[:3, :3] = camera.axes()
    extrinsic[:3, 3] = -camera.axes() @ camera.eye
    return {
        "width": width,
        "height": height,
        "focal": focal(height),
        "extrinsic": extrinsic,
        "near": camera.near,
        "far": _FAR * camera.reach,
    }


def render(scene: Scene, width: int, height: int) -> NDArray[np.float32] | None:
    """The scene as Open3D draws it without a display, in a process of its own: ``[height, width, 3]``, 0 to 1.

    Returns:
        None where Open3D is missing, finds nothing to draw with (no EGL), or fails.
    """
    if open3d_problem() is not None:
        return None
    vertices, triangles, colours = _geometry(scene)
    with tempfile.TemporaryDirectory() as folder:
        given, picture = Path(folder) / "input.npz", Path(folder) / "output.npy"
        np.savez(given, vertices=vertices, triangles=triangles, colours=colours, **_view(scene, width, height))
        command = [sys.executable, "-P", open3d_child.__file__, str(given), str(picture)]
        try:
            result = subprocess.run(command, capture_output=True, timeout=_LONGEST_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            return None
        if result.returncode != 0 or not picture.is_file():
            return None
        image: NDArray[np.float32] = np.load(picture)
    return image


def show(scene: Scene, width: int = 1400, height: int = 800) -> None:
    """Open a window that turns with the mouse, and return when it is closed.

    Raises:
        RuntimeError: Open3D cannot load, or there is no display.
    """
    if (problem := open3d_problem()) is not None:
        raise RuntimeError(problem)
    if not has_display():
        raise RuntimeError("there is no display to open a window on: write a picture with draw_in_space")
    import open3d

    visualizer = open3d.visualization.Visualizer()
    if not visualizer.create_window(window_name=scene.title or "sparseconv", width=width, height=height):
        raise RuntimeError("Open3D could not open a window: write a picture with draw_in_space")
    try:
        vertices, triangles, colours = _geometry(scene)
        mesh = open3d.geometry.TriangleMesh(
            open3d.utility.Vector3dVector(vertices), open3d.utility.Vector3iVector(triangles)
        )
        mesh.vertex_colors = open3d.utility.Vector3dVector(colours)
        open3d_child.set_up(visualizer, [mesh], _view(scene, width, height))
        visualizer.run()
    finally:
        visualizer.destroy_window()
