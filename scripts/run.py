"""``sparseconv run``: a scan through a backbone, layer by layer."""

from __future__ import annotations

import json
import platform
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from sparseconv.datasets.open3d_import import open3d_problem
from sparseconv.flops import ForwardCount, count_forward
from sparseconv.models import MODELS, build_model
from sparseconv.nn.conv import SparseConvolution
from sparseconv.scripts.console import complain, one_line_errors, out, parse_numbers, progress
from sparseconv.scripts.output import complete_folder
from sparseconv.scripts.scan import Scan, grid_for, load_scan
from sparseconv.tensor import SparseTensor
from sparseconv.voxel_grid import VoxelGrid
from sparseconv.voxelization import Voxels, voxelize

# Models that see the whole cloud at one voxel size on an unbounded grid; the others are detectors' backbones.
_SEGMENTATION = ("MinkUNet14", "MinkUNet18", "MinkUNet34")
# Terminal columns from which the layer's class fits beside the numbers.
_WIDE = 110


def _network_input(voxels: Voxels) -> SparseTensor:
    """The voxels as detectors hand them over: with one more layer of cells on top (z), as SECOND has it."""
    shape = voxels.spatial_shape
    if shape is None:
        return voxels.to_sparse()
    return SparseTensor(voxels.features, voxels.indices, [shape[0] + 1, *shape[1:]], voxels.batch_size)


def _run_model(model: torch.nn.Module, voxels: Voxels) -> tuple[ForwardCount, float]:
    """Counts of a pass on a fresh tensor, and the milliseconds of the pass before it (with compilation)."""
    layers = sum(isinstance(module, SparseConvolution) for module in model.modules())
    with progress() as bar:
        task = bar.add_task("first pass (compiles kernels once)", total=layers)
        first = count_forward(model, _network_input(voxels), lambda: bar.advance(task))
        task = bar.add_task("measured pass", total=layers)
        return count_forward(model, _network_input(voxels), lambda: bar.advance(task)), first.milliseconds


def _giga(macs: int, digits: int = 3) -> str:
    return f"{2 * macs / 1e9:,.{digits}f}"


def _layer_table(count: ForwardCount, title: str) -> Table:
    table = Table(title=title, show_footer=True, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("layer", footer="all", overflow="fold", min_width=12)
    is_wide = out.width >= _WIDE
    if is_wide:
        table.add_column("kind", no_wrap=True)
    total = sum(layer.milliseconds for layer in count.layers)
    ratio = count.dense_macs / count.macs if count.macs else 0
    for name, footer in (
        ("channels", ""),
        ("in", ""),
        ("out", ""),
        ("pairs", f"{sum(layer.pairs for layer in count.layers):,}"),
        ("ms", f"{total:,.1f}"),
        ("GFLOPs", _giga(count.macs)),
        ("dense", _giga(count.dense_macs, 0)),
        ("ratio", f"{ratio:,.0f}"),
    ):
        table.add_column(name, footer=footer, justify="right", no_wrap=True)
    for layer in count.layers:
        table.add_row(
            layer.name,
            *([layer.kind] if is_wide else []),
            f"{layer.c_in}>{layer.c_out}",
            f"{layer.n_in:,}",
            f"{layer.n_out:,}",
            f"{layer.pairs:,}",
            f"{layer.milliseconds:.1f}",
            _giga(layer.macs),
            _giga(layer.dense_macs, 0),
            f"{layer.dense_macs / layer.macs:,.0f}" if layer.macs else "-",
        )
    return table


def _summary(
    scan: Scan,
    model: str,
    voxels: Voxels,
    count: ForwardCount,
    output: SparseTensor,
    times: dict[str, float],
) -> dict[str, Any]:
    return {
        "scan": {
            "name": scan.name,
            "points": len(scan.points),
            "fields": list(scan.fields),
            "outside": voxels.num_outside,
            "not_finite": voxels.num_nonfinite,
        },
        "grid": {
            "voxel_size": list(voxels.grid.voxel_size),
            "origin": list(voxels.grid.origin),
            "spatial_shape": voxels.spatial_shape,
        },
        "voxels": len(voxels.indices),
        "model": {"name": model, "weights": "random, seed 0"},
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
            "feature_norm": float(output.features.norm()),
        },
        "machine": {
            "processor": platform.machine(),
            "system": platform.system(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
    }


def _output_stride(voxels: Voxels, output: SparseTensor) -> tuple[float, float]:
    """Width of an output cell in voxels along x and y, as a power of two: levels of a backbone halve the grid."""
    shape, reduced = voxels.spatial_shape, output.spatial_shape
    if shape is None or reduced is None:
        return 1.0, 1.0
    x, y = (2.0 ** round(np.log2(shape[axis] / reduced[axis])) for axis in (-1, -2))
    return x, y


def _save(
    folder: Path,
    scan: Scan,
    voxels: Voxels,
    output: SparseTensor,
    summary: dict[str, Any],
) -> None:
    from sparseconv.visualize import birds_eye

    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    shape = output.spatial_shape
    np.savez_compressed(
        folder / "features.npz",
        features=output.features.numpy(),
        indices=output.indices.numpy(),
        spatial_shape=np.array([] if shape is None else shape, np.int64),
        input_indices=voxels.indices.numpy(),
        voxel_size=np.array(voxels.grid.voxel_size),
        origin=np.array(voxels.grid.origin),
    )
    birds_eye(
        folder / "birds_eye.png",
        scan.points,
        voxels.to_sparse(),
        output,
        _output_stride(voxels, output),
        voxels.grid,
        f"{Path(scan.name).name if scan.name.count('/') else scan.name} through {summary['model']['name']}",
    )


def _describe(scan: Scan, voxels: Voxels, grid: VoxelGrid) -> None:
    dropped = [
        f"{number:,} {what}"
        for number, what in ((voxels.num_outside, "outside the range"), (voxels.num_nonfinite, "not finite"))
        if number
    ]
    note = f" ({', '.join(dropped)} dropped)" if dropped else ""
    out.print(f"[bold]scan[/bold]    {scan.name}: {len(scan.points):,} points{note}", highlight=False)
    size = " x ".join(f"{s:g}" for s in grid.voxel_size)
    shape = voxels.spatial_shape
    cells = "an unbounded grid" if shape is None else " x ".join(map(str, shape)) + " cells (z y x)"
    share = "" if shape is None else f", {100 * len(voxels.indices) / float(np.prod(shape)):.4f} % of the grid"
    out.print(
        f"[bold]voxels[/bold]  {len(voxels.indices):,} of {size} in {cells}{share}",
        highlight=False,
    )


@one_line_errors
def run(
    file: Annotated[Path | None, typer.Argument(help="A point file; default: a simulated street.")] = None,
    model: Annotated[str, typer.Option(help="Backbone by class name.")] = "VoxelBackBone8x",
    out_dir: Annotated[Path, typer.Option("--out", help="Folder for the results.")] = Path("run_output"),
    voxel_size: Annotated[str | None, typer.Option(help="Edge length: one number, or x,y,z.")] = None,
    point_range: Annotated[str | None, typer.Option("--range", help="x0,y0,z0,x1,y1,z1.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the simulated street.")] = 0,
) -> None:
    """Voxelize a scan and push it through a sparse backbone, layer by layer.

    Writes summary.json, features.npz and birds_eye.png into the folder. The backbone's weights are random: what
    is shown is the work, not detections.
    """
    if model not in MODELS:
        raise ValueError(f"no model {model!r}; the models are {', '.join(MODELS)}")
    sizes = None if voxel_size is None else parse_numbers(voxel_size, (1, 3), "--voxel-size")
    size = None if sizes is None else tuple(sizes * 3 if len(sizes) == 1 else sizes)
    bounds = None if point_range is None else tuple(parse_numbers(point_range, (6,), "--range"))
    if file is None and (problem := open3d_problem()) is not None:
        complain(f"note: {problem}. The street is scanned by the built-in ray caster instead.")
    with progress() as bar:
        bar.add_task("reading the scan" if file else "scanning the street", total=None)
        scan = load_scan(file, seed)
    grid, bounds = grid_for(scan, model not in _SEGMENTATION, size, bounds)
    start = time.perf_counter()
    voxels = voxelize(scan.points, grid.voxel_size, bounds, nonfinite="drop")
    first_voxelization = time.perf_counter() - start
    if len(voxels.indices) == 0:
        raise ValueError(
            f"{scan.name}: none of its {len(scan.points)} points lies in the range {bounds}; give another --range"
        )
    start = time.perf_counter()
    voxels = voxelize(scan.points, grid.voxel_size, bounds, nonfinite="drop")
    times = {"voxelize_milliseconds": 1000 * (time.perf_counter() - start)}
    _describe(scan, voxels, grid)
    torch.manual_seed(0)
    network = build_model(model, voxels.features.shape[1]).eval()
    with complete_folder(out_dir) as staging:
        count, first_pass = _run_model(network, voxels)
        times["forward_milliseconds"] = count.milliseconds
        times["first_forward_milliseconds"] = first_pass
        times["first_voxelize_milliseconds"] = 1000 * first_voxelization
        output = count.output.encoded
        out.print(_layer_table(count, f"{model}, random weights, {torch.get_num_threads()} threads"))
        out.print("in, out: voxels; dense: GFLOPs of the dense layer on the whole grid; ratio: dense / sparse\n")
        out.print(
            f"[bold]time[/bold]    voxelize {times['voxelize_milliseconds']:.1f} ms, whole forward pass "
            f"{count.milliseconds:.1f} ms (maps included; the first pass took {first_pass:.0f} ms)",
            highlight=False,
        )
        out.print(
            f"[bold]output[/bold]  {len(output):,} voxels x {output.features.shape[1]} channels", highlight=False
        )
        _save(staging, scan, voxels, output, _summary(scan, model, voxels, count, output, times))
    out.print(f"[bold]wrote[/bold]   {out_dir}/summary.json, features.npz, birds_eye.png", highlight=False)


if __name__ == "__main__":
    typer.run(run)
