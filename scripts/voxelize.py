"""``sparseconv voxelize``: point files to voxels."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.markup import escape
from rich.table import Table

from sparseconv.datasets import PointFileError
from sparseconv.scripts.console import EXIT_BAD_INPUT, complain, one_line_errors, out, parse_numbers, progress
from sparseconv.scripts.output import complete_folder
from sparseconv.scripts.scan import Scan, file_origin, load_scan, local_range, vertices_note
from sparseconv.voxelization import REDUCTIONS, Voxels
from sparseconv.voxelization import voxelize as voxelize_points


def _save(voxels: Voxels, cloud: Scan, path: Path) -> None:
    shape = voxels.spatial_shape
    np.savez_compressed(
        path,
        features=voxels.features.numpy(),
        indices=voxels.indices.numpy(),
        num_points=voxels.num_points.numpy(),
        point_rows=voxels.point_rows.numpy(),
        fields=np.array(cloud.fields),
        voxel_size=np.array(voxels.grid.voxel_size),
        origin=file_origin(voxels.grid, cloud.origin),
        spatial_shape=np.array([] if shape is None else shape, np.int64),
    )


def _output_names(files: list[Path]) -> list[str]:
    names = [f"{path.name}.npz" for path in files]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(
            f"several files would be written to {repeated[0]}: call once for each folder, with its own --out"
        )
    return names


@one_line_errors
def voxelize(
    files: Annotated[
        list[Path], typer.Argument(help="Point files: .bin .pcd .pcd.bin .ply .las .laz .xyz .npz ..")
    ],
    voxel_size: Annotated[str, typer.Option(help="Edge length: one number, or x,y,z.")] = "0.05",
    point_range: Annotated[
        str | None, typer.Option("--range", help="x0,y0,z0,x1,y1,z1; points outside are dropped. Default: all.")
    ] = None,
    reduce: Annotated[str, typer.Option(help="mean, sum, max or first.")] = "mean",
    mesh_points: Annotated[
        int | None,
        typer.Option(min=1, help="Draw so many points from a mesh's surface. [.ply: its vertices; else 100,000]"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the points of meshes.")] = 0,
    out_dir: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for one NAME.npz a file (features, indices, point rows, ..)."),
    ] = None,
) -> None:
    """Voxelize point files: a line for each, and an .npz with --out."""
    sizes = parse_numbers(voxel_size, (1, 3), "--voxel-size")
    size = sizes * 3 if len(sizes) == 1 else sizes
    bounds = None if point_range is None else parse_numbers(point_range, (6,), "--range")
    if reduce not in REDUCTIONS:
        raise ValueError(f"--reduce must be one of {', '.join(REDUCTIONS)}, got {reduce!r}")
    names = [path.name for path in files] if out_dir is None else _output_names(files)
    table = Table("file", *("points", "outside", "not finite", "voxels", "points/voxel", "ms"), title="Voxels")
    for column in table.columns[1:]:
        column.justify = "right"
    table.columns[0].overflow = "fold"
    # The first call loads or compiles the kernels; it must not count for the first file.
    voxelize_points(np.zeros((1, 3), np.float32), size)
    failed = 0
    bare: list[str] = []
    with progress() as bar:
        task = bar.add_task("voxelizing", total=len(files))
        for path, name in zip(files, names, strict=True):
            try:
                cloud = load_scan(path, seed, mesh_points)
            except PointFileError as error:
                complain(str(error))
                failed += 1
                bar.advance(task)
                continue
            if cloud.from_mesh == "vertices":
                bare.append(str(path))
            start = time.perf_counter()
            local = None if bounds is None else local_range(bounds, cloud.origin)
            voxels = voxelize_points(cloud.points, size, local, reduce, nonfinite="drop")  # type: ignore[arg-type]
            seconds = time.perf_counter() - start
            count = len(voxels.indices)
            if count == 0:
                complain(f"{path}: none of its {len(cloud.points)} points lies in the range; give another --range")
                failed += 1
                bar.advance(task)
                continue
            if out_dir is not None:
                with complete_folder(out_dir) as staging:
                    _save(voxels, cloud, staging / name)
            inside = len(cloud.points) - voxels.num_outside - voxels.num_nonfinite
            table.add_row(
                escape(str(path)),
                f"{len(cloud.points):,}",
                f"{voxels.num_outside:,}",
                f"{voxels.num_nonfinite:,}",
                f"{count:,}",
                f"{inside / count:.2f}" if count else "-",
                f"{1000 * seconds:.1f}",
            )
            bar.advance(task)
    if bare:
        complain(vertices_note(bare))
    if table.row_count:
        out.print(table)
        if out_dir is not None:
            files_written = "1 file" if table.row_count == 1 else f"{table.row_count:,} files"
            out.print(
                f"wrote {files_written} NAME.npz in {out_dir}", markup=False, highlight=False, soft_wrap=True
            )
    if failed:
        raise typer.Exit(EXIT_BAD_INPUT)


if __name__ == "__main__":
    typer.run(voxelize)
