"""``sparseconv variants``: every dense convolution variant on one input, side by side."""

from __future__ import annotations

import csv
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.markup import escape
from rich.table import Table
from torch import Tensor, nn

from sparseconv.dense_ops.catalogue import CHANNEL_STEP, VARIANTS
from sparseconv.scripts.benchmarks.machine import describe_machine
from sparseconv.scripts.benchmarks.report import wide_console
from sparseconv.scripts.console import one_line_errors, out, progress
from sparseconv.scripts.output import check_output_file, complete_folder
from sparseconv.scripts.variant_pictures import save_pictures
from sparseconv.scripts.variant_programs import PROGRAMS

_PLAIN = "standard"


@dataclass(frozen=True)
class Row:
    """One variant's line. Times are medians in milliseconds of programs that took turns; None is not measured.

    Attributes:
        name: in the catalogue.
        title: what a reader calls it.
        output: ``[N, C, Ho, Wo]``.
        parameters: numbers that are trained.
        macs: multiply-adds of one forward pass, taps in the padding counted.
        forward_ms: one forward pass without gradients.
        to_plain: how many times as long as the plain 3x3 convolution of this library.
        training_ms: forward and backward, to the input and every parameter.
        torch_forward_ms: the same variant in plain torch.
        torch_training_ms: likewise.
        to_torch: ``forward_ms / torch_forward_ms``.
        training_to_torch: ``training_ms / torch_training_ms``.
    """

    name: str
    title: str
    output: list[int]
    parameters: int
    macs: int
    forward_ms: float
    to_plain: float
    training_ms: float | None = None
    torch_forward_ms: float | None = None
    torch_training_ms: float | None = None
    to_torch: float | None = None
    training_to_torch: float | None = None


def _medians(programs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Milliseconds of each program, which take turns, so that what disturbs one disturbs all."""
    for run in programs.values():
        run()
    samples: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, run in programs.items():
            start = time.perf_counter()
            run()
            samples[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(times) for name, times in samples.items()}


def _training(run: Callable[[Tensor], Tensor], layer: nn.Module, x: Tensor, cotangent: Tensor) -> object:
    leaf = x.detach().requires_grad_()
    return torch.autograd.grad(run(leaf), [leaf, *layer.parameters()], cotangent)


def _measure(name: str, x: Tensor, plain: nn.Module, rounds: int, against_torch: bool) -> Row:
    variant = VARIANTS[name]
    # Evaluation: one image has no statistics for a batch norm inside a layer.
    layer = variant.make(x.shape[1]).eval()
    program = PROGRAMS[name]
    programs: dict[str, Callable[[], object]] = {"ours": lambda: layer(x), "plain": lambda: plain(x)}
    if against_torch:
        programs["torch"] = lambda: program(layer, x)
    with torch.no_grad():
        output = layer(x)
        forward = _medians(programs, rounds)
    cost = variant.flops(layer, x.shape)
    row: dict[str, Any] = {
        "name": name,
        "title": variant.title,
        "output": list(output.shape),
        "parameters": cost.parameters,
        "macs": cost.macs,
        "forward_ms": forward["ours"],
        "to_plain": forward["ours"] / forward["plain"],
    }
    if against_torch:
        cotangent = torch.randn_like(output)
        training = _medians(
            {
                "ours": lambda: _training(layer, layer, x, cotangent),
                "torch": lambda: _training(lambda leaf: program(layer, leaf), layer, x, cotangent),
            },
            rounds,
        )
        row |= {
            "training_ms": training["ours"],
            "torch_forward_ms": forward["torch"],
            "torch_training_ms": training["torch"],
            "to_torch": forward["ours"] / forward["torch"],
            "training_to_torch": training["ours"] / training["torch"],
        }
    return Row(**row)


def _rows(names: list[str], shape: list[int], rounds: int, seed: int, against_torch: bool) -> Iterator[Row]:
    torch.manual_seed(seed)
    x = torch.randn(*shape)
    plain = VARIANTS[_PLAIN].make(shape[1]).eval()
    for name in names:
        yield _measure(name, x, plain, rounds, against_torch)


def _print(rows: list[Row], against_torch: bool) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 1))
    table.add_column("variant", no_wrap=True)
    for heading in ("output", "parameters", "MMACs", "forward ms", "to plain"):
        table.add_column(heading, justify="right", no_wrap=True)
    if against_torch:
        for heading in ("in torch", "ratio", "training ms", "in torch", "ratio"):
            table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        cells = [
            row.title,
            " x ".join(map(str, row.output[1:])),
            f"{row.parameters:,}",
            f"{row.macs / 1e6:,.1f}",
            f"{row.forward_ms:.1f}",
            f"{row.to_plain:.2f}",
        ]
        if against_torch:
            measured = (row.torch_forward_ms, row.to_torch, row.training_ms, row.torch_training_ms)
            for value, digits in zip((*measured, row.training_to_torch), (1, 2, 1, 1, 2), strict=True):
                cells.append(f"{value:.{digits}f}")
        table.add_row(*cells)
    (wide_console() if against_torch else out).print(table)


def _choose(only: str) -> list[str]:
    """Names separated by commas, in the catalogue's order."""
    if only == "all":
        return list(VARIANTS)
    wanted = only.split(",")
    for name in wanted:
        if name not in VARIANTS:
            raise ValueError(f"--only: no variant {name!r}; there are {', '.join(VARIANTS)}, and all")
    return [name for name in VARIANTS if name in wanted]


def _write_csv(path: Path, rows: list[Row]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(rows[0])), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow(asdict(row) | {"output": "x".join(map(str, row.output))})


@one_line_errors
def variants(
    size: Annotated[int, typer.Option(min=4, help="Height and width of the input.")] = 128,
    channels: Annotated[int, typer.Option(min=4, help=f"Channels in and out, a multiple of {CHANNEL_STEP}.")] = 64,
    batch: Annotated[int, typer.Option(min=1, help="Images.")] = 1,
    only: Annotated[str, typer.Option(help="Names as in --json, separated by commas.")] = "all",
    bench: Annotated[bool, typer.Option("--bench", help="Beside plain torch, with training.")] = False,
    out_dir: Annotated[Path | None, typer.Option("--out", help="Folder for pictures of what each reads.")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write every number here.")] = None,
    csv_path: Annotated[Path | None, typer.Option("--csv", help="Write a line for each variant here.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each program; the median counts.")] = 5,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads; default: torch's.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the input and of all parameters.")] = 0,
) -> None:
    """Compare all dense convolution variants on one input: output, parameters, multiply-adds, time.

    --bench adds forward and backward, and the same variants written in plain torch. --out draws where one output
    pixel looks in the input, found from its gradient: a picture for each variant and one of all.
    """
    names = _choose(only)
    if channels % CHANNEL_STEP:
        raise ValueError(f"--channels must be a multiple of {CHANNEL_STEP}, got {channels}")
    check_output_file(json_path, "--json")
    check_output_file(csv_path, "--csv")
    if threads is not None:
        torch.set_num_threads(threads)
    shape = [batch, channels, size, size]
    machine = describe_machine()
    with progress() as bar:
        task = bar.add_task("measuring", total=len(names))
        rows = []
        for row in _rows(names, shape, rounds, seed, bench):
            rows.append(row)
            bar.advance(task)
    out.print(
        f"[bold]machine[/bold]  {machine['processor']}, {torch.get_num_threads()} threads\n"
        f"[bold]input[/bold]    {batch} x {channels} x {size} x {size}, float32, seed {seed}; medians of {rounds} "
        "runs\n",
        highlight=False,
    )
    _print(rows, bench)
    written = []
    if out_dir is not None:
        with complete_folder(out_dir) as staging, progress() as bar:
            task = bar.add_task("drawing", total=len(names))
            for _ in save_pictures(staging, names, seed):
                bar.advance(task)
        written.append(f"{out_dir}/all_variants.png and {len(names)} pictures")
    if json_path is not None:
        record = {
            "machine": machine,
            "threads": torch.get_num_threads(),
            "input": shape,
            "rounds": rounds,
            "seed": seed,
            "variants": [asdict(row) for row in rows],
        }
        json_path.write_text(json.dumps(record, indent=1) + "\n")
        written.append(str(json_path))
    if csv_path is not None:
        _write_csv(csv_path, rows)
        written.append(str(csv_path))
    if written:
        out.print(f"\n[bold]wrote[/bold]    {escape(', '.join(written))}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    typer.run(variants)
