"""``sparseconv run``: a scan through a backbone, layer by layer."""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from sparseconv.datasets.open3d_import import open3d_problem
from sparseconv.flops import ForwardCount, LayerCount, count_forward
from sparseconv.nn.conv import SparseConvolution
from sparseconv.scripts.console import complain, one_line_errors, out, parse_numbers, progress
from sparseconv.scripts.flop_counts.tables import giga, ratio
from sparseconv.scripts.jobs.request import is_job, run_job
from sparseconv.scripts.jobs.search import SETTINGS_FILE
from sparseconv.scripts.network import (
    build_network,
    check_model,
    describe_weights,
    network_input,
    not_finite,
    output_stride,
    wants_bounded_grid,
)
from sparseconv.scripts.output import complete_folder
from sparseconv.scripts.picture_axes import axis_words
from sparseconv.scripts.run_page.page import check_page, write_page
from sparseconv.scripts.scan import Scan, check_mesh_points, file_origin, load_scan, mesh_note
from sparseconv.scripts.scan_grid import ScanGrid, grid_for
from sparseconv.scripts.voxel_size import CROWDED, roomier_size, spell_size
from sparseconv.tensor import SparseTensor
from sparseconv.voxelization import Voxels, voxelize

# Columns that a narrow terminal does without, in this order.
_OPTIONAL = ("kind", "dense", "ratio", "in", "channels")


def _run_model(model: torch.nn.Module, voxels: Voxels) -> tuple[ForwardCount, float]:
    """Counts of a pass on a fresh tensor, and the milliseconds of the pass before it (with compilation)."""
    layers = sum(isinstance(module, SparseConvolution) for module in model.modules())
    with progress() as bar:
        task = bar.add_task("first pass (compiles kernels once)", total=layers)
        first = count_forward(model, network_input(voxels), lambda: bar.advance(task))
        task = bar.add_task("measured pass", total=layers)
        return count_forward(model, network_input(voxels), lambda: bar.advance(task)), first.milliseconds


def _layer_table(count: ForwardCount, title: str, width: int) -> Table:
    """The widest selection of columns that fits: a number that is cut off would be a wrong number."""
    for left_out in range(len(_OPTIONAL) + 1):
        table = _table_without(count, title, set(_OPTIONAL[:left_out]))
        if Measurement.get(out, out.options.update(max_width=1000), table).maximum <= width:
            break
    return table


def _table_without(count: ForwardCount, title: str, left_out: set[str]) -> Table:
    macs, dense = count.macs, count.dense_macs
    total = sum(layer.milliseconds for layer in count.layers)
    columns: dict[str, tuple[str, Callable[[LayerCount], str]]] = {
        "layer": ("all", lambda layer: layer.name),
        "kind": ("", lambda layer: layer.kind),
        "channels": ("", lambda layer: f"{layer.c_in}>{layer.c_out}"),
        "in": ("", lambda layer: f"{layer.n_in:,}"),
        "out": ("", lambda layer: f"{layer.n_out:,}"),
        "pairs": (f"{sum(layer.pairs for layer in count.layers):,}", lambda layer: f"{layer.pairs:,}"),
        "ms": (f"{total:,.1f}", lambda layer: f"{layer.milliseconds:.1f}"),
        "GFLOPs": (giga(macs), lambda layer: giga(layer.macs)),
        "dense": (giga(dense), lambda layer: giga(layer.dense_macs)),
        "ratio": (ratio(dense, macs), lambda layer: ratio(layer.dense_macs, layer.macs)),
    }
    shown = {name: column for name, column in columns.items() if name not in left_out}
    table = Table(title=title, show_footer=True, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name, (footer, _) in shown.items():
        table.add_column(name, footer, justify="left" if name in ("layer", "kind") else "right", no_wrap=True)
    for layer in count.layers:
        table.add_row(*(cell(layer) for _, cell in shown.values()))
    return table


def _summary(
    scan: Scan,
    model: tuple[str, str],
    voxels: Voxels,
    count: ForwardCount,
    output: SparseTensor,
    times: dict[str, float],
    size_reason: str | None,
) -> dict[str, Any]:
    return {
        "scan": {
            "name": scan.name,
            "points": len(scan.points),
            "fields": list(scan.fields),
            "from_mesh": scan.from_mesh,
            "origin": scan.origin.tolist(),
            "outside": voxels.num_outside,
            "not_finite": voxels.num_nonfinite,
        },
        "grid": {
            "voxel_size": list(voxels.grid.voxel_size),
            "voxel_size_reason": size_reason,
            "origin": file_origin(voxels.grid, scan.origin).tolist(),
            "spatial_shape": voxels.spatial_shape,
        },
        "voxels": len(voxels.indices),
        "voxels_not_finite": not_finite(voxels.features),
        "model": {"name": model[0], "weights": model[1]},
        "layers": [asdict(layer) for layer in count.layers],
        "total": {
            "gflops": 2 * count.macs / 1e9,
            "dense_gflops": 2 * count.dense_macs / 1e9,
            "convolution_milliseconds": sum(layer.milliseconds for layer in count.layers),
            **times,
        },
        "output": {
            "voxels": len(output),
            "channels": output.features.shape[1],
            "spatial_shape": output.spatial_shape,
            "not_finite": not_finite(output.features),
            "feature_norm": norm if math.isfinite(norm := float(output.features.norm())) else None,
        },
        "machine": {
            "processor": platform.machine(),
            "system": platform.system(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
    }


def _save(
    folder: Path,
    scan: Scan,
    voxels: Voxels,
    output: SparseTensor,
    summary: dict[str, Any],
) -> None:
    from sparseconv.visualize import birds_eye

    stride = output_stride(summary["model"]["name"])
    (folder / "summary.json").write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n")
    shape = output.spatial_shape
    np.savez_compressed(
        folder / "features.npz",
        features=output.features.numpy(),
        indices=output.indices.numpy(),
        spatial_shape=np.array([] if shape is None else shape, np.int64),
        input_indices=voxels.indices.numpy(),
        voxel_size=np.array(voxels.grid.voxel_size),
        origin=file_origin(voxels.grid, scan.origin),
    )
    birds_eye(
        folder / "birds_eye.png",
        scan.points[voxels.point_rows.numpy() >= 0],
        voxels.to_sparse(),
        output,
        (float(stride[0]), float(stride[1])),
        voxels.grid,
        f"{Path(scan.name).name if scan.name.count('/') else scan.name} through {summary['model']['name']}",
        axis_words(scan),
    )


def _describe(scan: Scan, voxels: Voxels, chosen: ScanGrid) -> None:
    dropped = [
        f"{number:,} {what}"
        for number, what in ((voxels.num_outside, "outside the range"), (voxels.num_nonfinite, "not finite"))
        if number
    ]
    note = f" ({', '.join(dropped)} dropped)" if dropped else ""
    points = f"{len(scan.points):,} points" + (" drawn from its surface" if scan.from_mesh == "surface" else "")
    out.print(f"[bold]scan[/bold]    {escape(scan.name)}: {points}{note}", highlight=False)
    size = " x ".join(f"{s:g}" for s in chosen.grid.voxel_size)
    shape = voxels.spatial_shape
    cells = "an unbounded grid" if shape is None else " x ".join(map(str, shape)) + " cells (z y x)"
    share = "" if shape is None else f", {100 * len(voxels.indices) / math.prod(shape):.2g} % of the grid"
    out.print(
        f"[bold]voxels[/bold]  {len(voxels.indices):,} of {size} in {cells}{share}",
        highlight=False,
    )
    if chosen.reason is not None:
        out.print(
            f"[bold]size[/bold]    {spell_size(chosen.grid.voxel_size)}: {chosen.reason} "
            "(--voxel-size names another)",
            highlight=False,
        )
    inside = voxels.point_rows.numpy() >= 0
    if inside.sum() < CROWDED * len(voxels.indices):
        found = roomier_size(scan.points[inside], min(chosen.grid.voxel_size))
        remedy = (
            "there are too few points for any voxel size to change that"
            if found is None
            else f"--voxel-size {found[0]:g} puts {found[1]:.1f} in each on average"
        )
        out.print(
            "[bold]note[/bold]    nearly every voxel holds one point, so that layers find few neighbours: "
            f"{remedy}",
            highlight=False,
            soft_wrap=True,
        )


@one_line_errors
def run(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            help="A point file; folders, quoted patterns or several files: a big job. Default: a simulated street."
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="Backbone by class name.")] = "VoxelBackBone8x",
    out_dir: Annotated[Path, typer.Option("--out", help="Folder for the results.")] = Path("run_output"),
    voxel_size: Annotated[str | None, typer.Option(help="Edge length: one number, or x,y,z.")] = None,
    point_range: Annotated[str | None, typer.Option("--range", help="x0,y0,z0,x1,y1,z1.")] = None,
    mesh_points: Annotated[
        int | None,
        typer.Option(min=1, help="Draw so many points from a mesh's surface. [.ply: its vertices; else 100,000]"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the simulated street, and of the points of a mesh.")] = 0,
    html: Annotated[Path | None, typer.Option(help="Write a page of the run here, to be opened offline.")] = None,
    weights: Annotated[
        Path | None, typer.Option(help="A checkpoint of the backbone; default: random weights.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=0, help="Big job: reading processes; 0: none but this. [1]")
    ] = None,
    pattern: Annotated[str | None, typer.Option(help="Big job: files of a folder, such as '**/*.bin'.")] = None,
    save: Annotated[str | None, typer.Option(help="Big job: 'features' keeps each scan's output.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Big job: do again what is done.")] = False,
    cluster: Annotated[bool, typer.Option("--cluster", help="Big job: with Ray, on this machine.")] = False,
    ray: Annotated[str | None, typer.Option(help="Big job: with Ray, on the cluster at this address.")] = None,
) -> None:
    """Voxelize a scan and push it through a sparse backbone, layer by layer.

    Writes summary.json, features.npz and birds_eye.png into the folder. Without --weights the weights are random:
    what is shown is the work, not detections. Folders, patterns and several files make a big job: results.jsonl
    has one line for each scan, and a second call goes on where the first one stopped.
    """
    check_model(model)
    check_page(html)
    sizes = None if voxel_size is None else parse_numbers(voxel_size, (1, 3), "--voxel-size")
    size = None if sizes is None else tuple(sizes * 3 if len(sizes) == 1 else sizes)
    bounds = None if point_range is None else tuple(parse_numbers(point_range, (6,), "--range"))
    if is_job(files, jobs, pattern, save, overwrite, cluster or ray is not None):
        if html is not None:
            raise ValueError("--html is for one scan: a big job writes results.jsonl")
        run_job(
            files,
            out_dir,
            model=model,
            voxel_size=size,
            point_range=bounds,
            weights=weights,
            workers=jobs,
            pattern=pattern,
            save=save,
            overwrite=overwrite,
            mesh_points=mesh_points,
            seed=seed,
            ray_address=ray or ("local" if cluster else None),
        )
        return
    if (out_dir / SETTINGS_FILE).exists():
        raise ValueError(f"{out_dir}: holds the results of a big job; name another --out for those of one scan")
    file = files[0] if files else None
    check_mesh_points(file, mesh_points)
    described = describe_weights(weights)
    if file is None and (problem := open3d_problem()) is not None:
        complain(f"note: {problem}. The street is scanned by the built-in ray caster instead.")
    with progress() as bar:
        bar.add_task("reading the scan" if file else "scanning the street", total=None)
        scan = load_scan(file, seed, mesh_points)
    if (note := mesh_note(scan, mesh_points)) is not None:
        complain(note)
    start = time.perf_counter()
    chosen = grid_for(scan, wants_bounded_grid(model), size, bounds)
    bounds = chosen.point_cloud_range
    voxels = voxelize(scan.points, chosen.grid.voxel_size, bounds, nonfinite="drop")
    first_voxelization = time.perf_counter() - start
    if len(voxels.indices) == 0:
        raise ValueError(f"{scan.name}: {scan.outside(bounds)}")
    start = time.perf_counter()
    voxels = voxelize(scan.points, chosen.grid.voxel_size, bounds, nonfinite="drop")
    times = {"voxelize_milliseconds": 1000 * (time.perf_counter() - start)}
    _describe(scan, voxels, chosen)
    network = build_network(model, voxels.features.shape[1], weights)
    with complete_folder(out_dir) as staging:
        count, first_pass = _run_model(network, voxels)
        times["forward_milliseconds"] = count.milliseconds
        times["first_forward_milliseconds"] = first_pass
        times["first_voxelize_milliseconds"] = 1000 * first_voxelization
        output = count.output.encoded
        title = (
            f"{model}, {escape(weights.name) if weights else 'random weights'}, {torch.get_num_threads()} threads"
        )
        out.print(_layer_table(count, title, out.width))
        out.print(
            "in, out: voxels; dense: GFLOPs of the dense layer on the whole grid (unbounded: the occupied box)\n"
        )
        out.print(
            f"[bold]time[/bold]    voxelize {times['voxelize_milliseconds']:.1f} ms, whole forward pass "
            f"{count.milliseconds:.1f} ms (maps included; the first pass took {first_pass:.0f} ms)",
            highlight=False,
        )
        out.print(
            f"[bold]output[/bold]  {len(output):,} voxels x {output.features.shape[1]} channels", highlight=False
        )
        summary = _summary(scan, (model, described), voxels, count, output, times, chosen.reason)
        if bad := summary["output"]["not_finite"]:
            complain(
                f"note: {bad:,} of {len(output):,} output voxels have features that are not finite "
                f"(of the input's, {summary['voxels_not_finite']:,}): look for nan in the columns "
                f"{', '.join(scan.fields[3:]) or 'of the file'}, or in the weights"
            )
        _save(staging, scan, voxels, output, summary)
    if html is not None:
        write_page(html, summary=summary, count=count, voxels=voxels, output=output)
        out.print(f"[bold]wrote[/bold]   {escape(str(html))}", highlight=False, soft_wrap=True)
    out.print(
        f"[bold]wrote[/bold]   {escape(str(out_dir))}/summary.json, features.npz, birds_eye.png", highlight=False
    )


if __name__ == "__main__":
    typer.run(run)
