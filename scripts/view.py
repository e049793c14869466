"""``sparseconv view``: the voxels of a scan, in a window or as a picture."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from sparseconv.datasets import SimulatedStreet
from sparseconv.datasets.kitti_calibration import KittiCalibration
from sparseconv.datasets.kitti_labels import DONT_CARE, KittiLabels
from sparseconv.datasets.semantic_kitti import read_semantic_kitti_labels
from sparseconv.datasets.semantic_kitti_classes import ORIGINAL_NAMES
from sparseconv.scripts.console import complain, one_line_errors, out, parse_numbers, progress
from sparseconv.scripts.output import check_output_file
from sparseconv.scripts.picture_axes import axis_words
from sparseconv.scripts.scan import Scan, check_mesh_points, load_scan, local_range, mesh_note
from sparseconv.scripts.voxel_size import VoxelSize, picture_voxel_size, spell_size
from sparseconv.visualize import (
    UPS,
    Scene,
    draw_from_above,
    draw_in_space,
    has_display,
    show,
    voxel_labels,
    voxel_scene,
)
from sparseconv.visualize.in_space import RENDERERS
from sparseconv.visualize.turning import Turn
from sparseconv.voxel_grid import VoxelGrid
from sparseconv.voxelization import voxelize

_VIEWS = ("above", "space")


@dataclass(frozen=True, eq=False)
class _Content:
    """What is to be seen besides the points; boxes are in the points' coordinates."""

    scan: Scan
    label_names: dict[int, str] | None = None
    boxes: NDArray[Any] | None = None
    box_names: tuple[str, ...] = ()


def _street(seed: int) -> _Content:
    frame = SimulatedStreet(seed=seed).frame(0)
    boxes = np.zeros((0, 7)) if frame.boxes is None else frame.boxes
    seen = np.asarray(frame.box_data.get("num_points", np.ones(len(boxes)))) > 0
    return _Content(
        Scan(f"simulated street, seed {seed}", frame.points, frame.fields, "KITTI", labels=frame.labels),
        dict(enumerate(SimulatedStreet.CLASSES)),
        boxes[seen],
        tuple(name for name, kept in zip(frame.box_names, seen, strict=True) if kept),
    )


def _file(path: Path, labels_path: Path | None, seed: int, mesh_points: int | None) -> _Content:
    scan = load_scan(path, seed, mesh_points)
    if labels_path is None:
        return _Content(scan)
    labels, _ = read_semantic_kitti_labels(labels_path, len(scan.points))
    return _Content(replace(scan, labels=labels), dict(ORIGINAL_NAMES))


def _read_boxes(path: Path, calib: Path | None) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Boxes of a KITTI label file in the LiDAR's frame, or of an array ``[B, 7 or more]``.

    Raises:
        ValueError: there is no calibration beside the labels, or the array has another shape.
    """
    if path.suffix.lower() == ".npy":
        boxes = np.load(path, allow_pickle=False)
        if not isinstance(boxes, np.ndarray):
            boxes.close()
            raise ValueError(f"{path}: is an NPZ archive of several arrays; save the boxes alone with numpy.save")
        if boxes.ndim != 2 or boxes.shape[1] < 7 or boxes.dtype.kind not in "fiu":
            raise ValueError(
                f"{path}: must hold numbers [B, 7 or more] (x y z dx dy dz heading), got {boxes.dtype} "
                f"{list(boxes.shape)}"
            )
        return boxes, ()
    if calib is None:
        calib = path.resolve().parent.parent / "calib" / path.name
        if not calib.is_file():
            raise ValueError(f"{path}: labels are in the camera's frame; name the calibration with --calib")
    labels = KittiLabels.read(path)
    kept = [row for row, kind in enumerate(labels.types) if kind != DONT_CARE]
    boxes = labels.lidar_boxes(KittiCalibration.read(calib))[kept]
    return boxes, tuple(labels.types[row] for row in kept)


def _scene(
    content: _Content, size: VoxelSize, local: tuple[float, ...] | None, color: str | None, up: str
) -> Scene:
    """The voxels of the points in a range, which like them is in the coordinates of the reader."""
    scan = content.scan
    voxels = voxelize(scan.points, size.edges, local, nonfinite="drop")
    if len(voxels.indices) == 0:
        raise ValueError(f"{Path(scan.name).name}: {scan.outside(local)}")
    if color is None:
        has_colours = {"r", "g", "b"} <= set(scan.fields)
        color = "label" if scan.labels is not None else "rgb" if has_colours else "height"
    labels = None
    if scan.labels is not None:
        labels = voxel_labels(scan.labels, voxels.point_rows.numpy(), len(voxels.indices))
    return voxel_scene(
        voxels.to_sparse(),
        voxels.grid,
        color,
        fields=scan.fields,
        labels=labels,
        label_names=content.label_names,
        boxes=content.boxes,
        box_names=content.box_names,
        title=f"{Path(scan.name).name}: {len(voxels.indices):,} voxels of {spell_size(size.edges)}",
        bounds=local,
        up=up,
        axes=axis_words(scan, Turn.with_up(up)),
    )


@one_line_errors
def view(
    file: Annotated[Path | None, typer.Argument(help="A point file; default: a simulated street.")] = None,
    out_path: Annotated[
        Path | None, typer.Option("--out", help="PNG to write. Default: a window where there is a display.")
    ] = None,
    look: Annotated[str, typer.Option("--view", help="Of a picture: above or space.")] = "above",
    color: Annotated[
        str | None,
        typer.Option(help="height, degree (neighbours in the kernel map), label, rgb, intensity or a field."),
    ] = None,
    voxel_size: Annotated[str | None, typer.Option(help="Edge length: one number, or x,y,z.")] = None,
    point_range: Annotated[str | None, typer.Option("--range", help="x0,y0,z0,x1,y1,z1.")] = None,
    boxes: Annotated[Path | None, typer.Option(help="KITTI label file, or .npy [B, 7].")] = None,
    calib: Annotated[Path | None, typer.Option(help="KITTI calibration of --boxes. [../calib beside it]")] = None,
    labels: Annotated[Path | None, typer.Option(help="SemanticKITTI .label file of the points.")] = None,
    renderer: Annotated[str, typer.Option(help="Of --view space: auto, open3d or matplotlib.")] = "auto",
    up: Annotated[str, typer.Option(help="Which axis of the file points up: x, y, z, -x, -y or -z.")] = "z",
    mesh_points: Annotated[
        int | None,
        typer.Option(min=1, help="Draw so many points from a mesh's surface. [.ply: its vertices; else 100,000]"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the simulated street, and of the points of a mesh.")] = 0,
) -> None:
    """Show a scan's voxels: a window where there is a display, else a picture.

    The picture is drawn from above, or in space with --view space. The simulated street brings labels and boxes of
    its own.
    """
    if look not in _VIEWS:
        raise ValueError(f"--view must be one of {', '.join(_VIEWS)}, got {look!r}")
    if renderer not in RENDERERS:
        raise ValueError(f"--renderer must be one of {', '.join(RENDERERS)}, got {renderer!r}")
    check_output_file(out_path, "--out")
    if out_path is not None and out_path.suffix.lower() != ".png":
        raise ValueError(f"--out must end in .png, got {out_path.name}")
    if labels is not None and file is None:
        raise ValueError("--labels belong to the points of a file: name it")
    check_mesh_points(file, mesh_points)
    if up.removeprefix("+") not in UPS:
        raise ValueError(f"--up must be one of {', '.join(UPS)}, got {up!r}")
    if up.removeprefix("+") != "z" and (file is None or boxes is not None):
        raise ValueError("boxes stand upright on z: --up goes with a file and without --boxes")
    sizes = None if voxel_size is None else parse_numbers(voxel_size, (1, 3), "--voxel-size")
    bounds = None if point_range is None else parse_numbers(point_range, (6,), "--range")
    with progress() as bar:
        bar.add_task("reading the scan" if file else "scanning the street", total=None)
        content = _street(seed) if file is None else _file(file, labels, seed, mesh_points)
    scan = content.scan
    if (note := mesh_note(scan, mesh_points)) is not None:
        complain(note)
    local = None if bounds is None else local_range(bounds, scan.origin)
    if sizes is not None:
        size = VoxelSize(tuple(sizes * 3 if len(sizes) == 1 else sizes), None)
    else:
        size = picture_voxel_size(scan, local)
    if bounds is not None:
        # Checked as the user gave it: the message then has the user's numbers.
        VoxelGrid.create(size.edges, bounds)
    if boxes is not None:
        found, names = _read_boxes(boxes, calib)
        found = np.array(found, np.float64)
        found[:, :3] -= scan.origin
        content = replace(content, boxes=found, box_names=names)
    scene = _scene(content, size, local, color, up)
    if size.reason is not None:
        chosen = f"voxels of {spell_size(size.edges)}: {size.reason} (--voxel-size names another)"
        out.print(chosen, highlight=False, soft_wrap=True)
    if out_path is None and has_display():
        try:
            show(scene)
        except RuntimeError as error:
            complain(f"note: {error}")
        else:
            return
    path = out_path or Path(f"{'street' if file is None else file.stem}_{look}.png")
    if look == "above":
        draw_from_above(path, scene)
        drawn = "matplotlib"
    else:
        try:
            drawn = draw_in_space(path, scene, renderer=renderer)
        except RuntimeError as error:
            raise ValueError(str(error)) from None
    out.print(f"{scene.title}, coloured by {scene.label}", highlight=False, markup=False, soft_wrap=True)
    out.print(f"wrote {path} ({drawn})", highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    typer.run(view)
