"""``sparseconv flops``: exact multiply-adds and memory of a model on scans."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from sparseconv.scripts.console import complain, one_line_errors, out, parse_numbers, progress
from sparseconv.scripts.flop_counts.files import write_csv, write_json
from sparseconv.scripts.flop_counts.model_source import find_model
from sparseconv.scripts.flop_counts.plot import SUFFIXES, save_plot
from sparseconv.scripts.flop_counts.scans import Counter, CountSettings, count_scans, point_files, spell_sizes
from sparseconv.scripts.flop_counts.tables import print_layers, print_summary, print_voxel_sizes
from sparseconv.scripts.output import check_output_file
from sparseconv.scripts.scan import check_mesh_points, vertices_note

# A scan that cannot be counted; the others are.
_EXIT_SCAN_FAILED = 1
# The curve of a picture for which no voxel sizes are named: multiples of the one in use.
_SCALES = (1.5, 2.0, 3.0, 4.0)


def _sizes(text: str | None) -> list[tuple[float, ...]]:
    """Edge lengths separated by commas; ``XxYxZ`` gives one for each axis."""
    sizes = []
    for part in [] if text is None else text.split(","):
        edges = parse_numbers(part.lower().replace("x", ","), (1, 3), "--voxel-sizes")
        sizes.append(tuple(edges * 3 if len(edges) == 1 else edges))
    return sizes


def _writable(path: Path | None, option: str, suffixes: tuple[str, ...] = ()) -> None:
    check_output_file(path, option)
    if path is not None and suffixes and path.suffix.lower() not in suffixes:
        raise ValueError(f"{option} must end in {', '.join(suffixes)}, got {path.name}")


@one_line_errors
def flops(
    model: Annotated[
        str,
        typer.Argument(help="Class name, package.module:Class, or file.py:make_model.", metavar="MODEL"),
    ],
    files: Annotated[
        list[Path] | None, typer.Argument(help="Point files or folders of them; default: a simulated street.")
    ] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write every number here.")] = None,
    csv_path: Annotated[Path | None, typer.Option("--csv", help="Write a line for each layer here.")] = None,
    plot_path: Annotated[Path | None, typer.Option("--plot", help="Write a picture here: .png .pdf .svg")] = None,
    voxel_size: Annotated[str | None, typer.Option(help="Edge length: one number, or x,y,z.")] = None,
    voxel_sizes: Annotated[
        str | None, typer.Option(help="Several, separated by commas, for the curve: 0.05,0.1 or 0.05x0.05x0.1,..")
    ] = None,
    point_range: Annotated[str | None, typer.Option("--range", help="x0,y0,z0,x1,y1,z1.")] = None,
    backward: Annotated[bool, typer.Option("--backward", help="Count the gradients too.")] = False,
    unbounded: Annotated[bool, typer.Option("--unbounded", help="Give the model a grid without ends.")] = False,
    mesh_points: Annotated[
        int | None,
        typer.Option(min=1, help="Draw so many points from a mesh's surface. [.ply: its vertices; else 100,000]"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the simulated street, and of the points of meshes.")] = 0,
) -> None:
    """Count a model's multiply-adds, memory and parameters, layer by layer, from its kernel maps.

    Beside what the model does stand what its submanifold layers would cost if they dilated the sites, and what
    dense layers would cost. Several scans give means and their spread. A scan that cannot be used is reported, the
    others are counted, and the exit code is 1.
    """
    _writable(json_path, "--json")
    _writable(csv_path, "--csv")
    _writable(plot_path, "--plot", SUFFIXES)
    one = None if voxel_size is None else parse_numbers(voxel_size, (1, 3), "--voxel-size")
    size = None if one is None else tuple(one * 3 if len(one) == 1 else one)
    sizes = _sizes(voxel_sizes)
    for edges in (*sizes, *([size] if size else [])):
        if not all(0 < edge < float("inf") for edge in edges):
            raise ValueError(f"a voxel size must be positive and finite, got {edges}")
    first = size or (sizes[0] if sizes else None)
    tried: list[tuple[float, ...] | None] = [first, *(edges for edges in sizes if edges != first)]
    bounds = None if point_range is None else tuple(parse_numbers(point_range, (6,), "--range"))
    source = find_model(model)
    if not files:
        check_mesh_points(None, mesh_points)
    counter = Counter(CountSettings(source, bounds, source.bounded and not unbounded, backward, mesh_points))
    scans = list(point_files(files or []))
    problems: list[str] = []

    def report(message: str) -> None:
        problems.append(" ".join(message.split()))
        complain(message)

    with progress() as bar:
        task = bar.add_task("counting", total=len(scans) or 1)
        tables = count_scans(
            counter,
            scans,
            tried,
            scale=_SCALES if plot_path is not None and not sizes else (),
            seed=seed,
            on_error=report,
            on_scan=lambda: bar.advance(task),
        )
    counted = tables[0].scans
    if counted:
        title = f"{model}, {_over(len(counted), counted[0].scan)}, voxels of {spell_sizes(counted)}"
        if bare := [scan.scan for scan in counted if scan.from_mesh == "vertices"]:
            complain(vertices_note(bare))
        print_layers(counted, title, backward)
        print_summary(counted, backward)
    if len(tables) > 1 and any(table.scans for table in tables):
        out.print()
        print_voxel_sizes(tables)
    if json_path is not None:
        write_json(json_path, model, tables, problems)
    if csv_path is not None:
        write_csv(csv_path, tables)
    if plot_path is not None and counted:
        save_plot(plot_path, tables, title, backward)
    written = [str(path) for path in (json_path, csv_path, plot_path if counted else None) if path is not None]
    if written:
        paths = escape(", ".join(written))
        out.print(f"[bold]{'wrote':<9}[/bold] {paths}", highlight=False, soft_wrap=True)
    if problems:
        raise typer.Exit(_EXIT_SCAN_FAILED)


def _over(count: int, name: str) -> str:
    if count > 1:
        return f"mean of {count} scans"
    return Path(name).name if name.count("/") else name


if __name__ == "__main__":
    typer.run(flops)
