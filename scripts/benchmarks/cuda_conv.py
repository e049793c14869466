"""The CUDA backend's executors of convolution, layer by layer, on the levels of one scan. Not yet run on hardware.

    python -m sparseconv.scripts.benchmarks.cuda_conv --out cuda_conv.json

Every executor's result is compared with torch's GEMM first, and one that differs is named and not timed. Times are
medians by CUDA events, in one process, with the maps and their tables ready.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.table import Table
from torch import Tensor

from sparseconv.backends import cuda_problem
from sparseconv.coordinates import Coordinates
from sparseconv.geometry import ConvGeometry
from sparseconv.kernel_map import KernelMap
from sparseconv.scripts.benchmarks.machine import describe_machine
from sparseconv.scripts.benchmarks.scenes import build_scene, read_scans
from sparseconv.scripts.benchmarks.verify import tolerance
from sparseconv.scripts.console import fail, one_line_errors, out

# Channels of each level of SECOND's backbone (Yan et al., Sensors 2018), and of a wider network.
_CHANNELS = ((16, 64), (32, 96), (64, 128), (64, 256))
_SUBMANIFOLD = ConvGeometry((3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1))
_HALVING = ConvGeometry((3, 3, 3), (2, 2, 2), (1, 1, 1), (1, 1, 1))
DIRECTIONS = ("forward", "input gradient", "weight gradient")
_TRUSTED = "mm"

Timer = Callable[[Callable[[], Tensor]], float]


@dataclass(frozen=True)
class Layer:
    """One convolution: its map, its channels and its type."""

    name: str
    map: KernelMap
    c_in: int
    c_out: int
    dtype: torch.dtype


@dataclass(frozen=True)
class Timing:
    """One direction of one layer on one executor.

    Attributes:
        layer: the layer's name.
        direction: of :data:`DIRECTIONS`.
        executor: name in the backend's registry.
        seconds: median time; None where the result was wrong.
        tflops: multiply-adds of the pairs, twice, by the time; None as ``seconds``.
        error: largest difference to torch's GEMM, relative to its largest value.
    """

    layer: str
    direction: str
    executor: str
    seconds: float | None
    tflops: float | None
    error: float


def layers_of(sites: Coordinates, dtypes: tuple[torch.dtype, ...]) -> Iterator[Layer]:
    """Submanifold and strided layers of a scan's levels."""
    for level, widths in enumerate(_CHANNELS):
        coarse, halving = sites.downsample(_HALVING)
        kernel_map = sites.submanifold_map(_SUBMANIFOLD)
        for dtype in dtypes:
            kind = str(dtype).removeprefix("torch.")
            for width in widths:
                yield Layer(f"level {level}, 3x3x3, {width} ch, {kind}", kernel_map, width, width, dtype)
            following = _CHANNELS[min(level + 1, len(_CHANNELS) - 1)][0]
            yield Layer(f"level {level}, stride 2, {widths[0]} ch, {kind}", halving, widths[0], following, dtype)
        sites = coarse


def _run(executor: Any, direction: str, layer: Layer, x: Tensor, weight: Tensor, grad: Tensor) -> Tensor:
    forward, back = layer.map, layer.map.transposed()
    rows = forward.in_rows, forward.out_rows, forward.tap_offsets
    result: Tensor
    if direction == "forward":
        result = executor.convolve(x, weight, None, *rows, forward.n_out, 1)
    elif direction == "input gradient":
        rows = back.in_rows, back.out_rows, back.tap_offsets
        result = executor.convolve(grad, weight.permute(2, 1, 0), None, *rows, back.n_out, 1)
    else:
        result = executor.weight_gradient(x, grad, *rows, 1)
    return result


def time_layer(layer: Layer, executors: Mapping[str, Any], timer: Timer) -> list[Timing]:
    """Every direction on every executor that takes the layer, checked against torch's GEMM."""
    device = layer.map.in_rows.device
    generator = torch.Generator(device).manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, device=device, generator=generator).to(layer.dtype)

    x, grad = random(layer.map.n_in, layer.c_in), random(layer.map.n_out, layer.c_out)
    weight = random(layer.c_out, layer.map.volume, layer.c_in)
    timings = []
    for direction in DIRECTIONS:
        expected = _run(executors[_TRUSTED], direction, layer, x, weight, grad)
        scale = max(float(expected.abs().max()), 1e-30) if expected.numel() else 1.0
        sums_pairs = direction == "weight gradient"
        terms = int(layer.map.counts.max()) if sums_pairs else layer.map.volume * max(layer.c_in, layer.c_out)
        for name, executor in executors.items():
            if not executor.usable(x, grad if sums_pairs else weight, 1):
                continue

            def run(executor: Any = executor, direction: str = direction) -> Tensor:
                return _run(executor, direction, layer, x, weight, grad)

            difference = (run() - expected).abs()
            # Not a number is larger than every bound.
            error = float(difference.max()) / scale if difference.numel() else 0.0
            seconds = timer(run) if error <= tolerance(terms) else None
            macs = layer.map.macs(layer.c_in, layer.c_out)
            rate = 2e-12 * macs / seconds if seconds else None
            timings.append(Timing(layer.name, direction, name, seconds, rate, error))
    return timings


def timing_table(timings: list[Timing]) -> Table:
    """A row for each layer and direction, a column for each executor."""
    names = list(dict.fromkeys(timing.executor for timing in timings))
    table = Table("layer", "direction", *(f"{name}, us (TFLOP/s)" for name in names))
    by_row: dict[tuple[str, str], dict[str, str]] = {}
    for timing in timings:
        text = f"[red]wrong by {timing.error:.1e}[/red]"
        if timing.seconds is not None and timing.tflops is not None:
            text = f"{1e6 * timing.seconds:.0f} ({timing.tflops:.1f})"
        by_row.setdefault((timing.layer, timing.direction), {})[timing.executor] = text
    for (layer, direction), cells in by_row.items():
        table.add_row(layer, direction, *(cells.get(name, "") for name in names))
    return table


@one_line_errors
def main(
    result: Annotated[Path, typer.Option("--out", help="File for every figure.")] = Path("cuda_conv.json"),
    scene: Annotated[str, typer.Option(help="fine or coarse: voxels of 0.05 or 0.1 m.")] = "fine",
) -> None:
    """Time the executors of the CUDA backend on the layers of one scan."""
    if not torch.cuda.is_available():
        fail("torch sees no CUDA device; this benchmark runs on one")
    problem = cuda_problem()
    if problem is not None:
        fail(f"the cuda backend cannot run here: {problem}")
    if scene not in ("fine", "coarse"):
        fail(f"--scene must be fine or coarse, got {scene!r}")
    # Both import Numba's CUDA side, which other commands must not need.
    from sparseconv.backends.cuda.conv import EXECUTORS
    from sparseconv.backends.cuda.implicit_gemm_autotune import seconds_on_device
    from sparseconv.scripts.benchmarks.cases import COARSE, FINE

    scans = read_scans()
    built = build_scene(FINE if scene == "fine" else COARSE, scans)
    sites = Coordinates(built.indices.cuda(), built.shape, 1)
    timings: list[Timing] = []
    for layer in layers_of(sites, (torch.float32, torch.bfloat16)):
        timings += time_layer(layer, EXECUTORS, seconds_on_device)
    record = {
        "machine": describe_machine() | {"card": torch.cuda.get_device_name()},
        "source": scans.source,
        "tf32": torch.backends.cuda.matmul.allow_tf32,
        "timings": [asdict(timing) for timing in timings],
    }
    result.write_text(json.dumps(record, indent=1))
    out.print(timing_table(timings))
    out.print(f"{scans.source}, {record['machine']['card']}; every figure is in {result}", highlight=False)


if __name__ == "__main__":
    typer.run(main)
