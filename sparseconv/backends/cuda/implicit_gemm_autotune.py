"""Find the fastest tile of the implicit GEMM by timing. Not yet run on hardware.

    with autotuning():
        model(scan)                        # each new layer shape is timed once, then kept on disk

A shape takes a minute or so, nearly all of it compiling. What is kept is read by every later process, which then
uses the tiles without searching.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from sparseconv.backends.cuda import implicit_gemm
from sparseconv.backends.cuda.implicit_gemm_tiles import (
    HALF,
    MOST_TAPS,
    ConvolutionTile,
    GradientTile,
    Problem,
    convolution_tile,
    gradient_tile,
)
from sparseconv.backends.cuda.implicit_gemm_tuning import searching, tuned

# Shared memory of the smallest devices that are served; Hopper keeps one stage more than the older ones.
_SHARED_BYTES = 99 * 1024
# 32-bit sums that a thread can hold beside its addresses: half of its registers.
_SUMS_A_THREAD = 128
_WARM_UPS = 3
_REPEATS = 15

Rows = tuple[Tensor, Tensor, Tensor]
Timer = Callable[[Callable[[], Tensor]], float]


def seconds_on_device(run: Callable[[], Tensor]) -> float:
    """Median time of a call on the current stream, by CUDA events."""
    for _ in range(_WARM_UPS):
        run()
    times = []
    for _ in range(_REPEATS):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop) / 1000)
    return statistics.median(times)


def _fits(rows: int, columns: int, inner: int, warps: int, ahead: int, problem: Problem) -> bool:
    shared = (ahead + 1) * (rows + columns) * inner * problem.dtype.itemsize
    return shared <= _SHARED_BYTES and rows * columns <= _SUMS_A_THREAD * 32 * warps


def convolution_candidates(problem: Problem) -> list[ConvolutionTile]:
    """Tiles worth timing: the usual one first, and what fits a device around it."""
    usual = convolution_tile(problem)
    columns = sorted({max(16, usual.columns // 2), usual.columns})
    inner = (16, 32, 64) if problem.dtype in HALF else (16, 32)
    found = [
        ConvolutionTile(*shape)
        for shape in itertools.product((64, 128), columns, inner, (4, 8), (1, 2, 3), (9, 16, MOST_TAPS))
        if shape[2] <= max(16, 2 * problem.depth) and _fits(*shape[:5], problem)
    ]
    return [usual, *(tile for tile in found if tile != usual)]


def gradient_candidates(problem: Problem) -> list[GradientTile]:
    """Tiles worth timing: the usual one first."""
    usual = gradient_tile(problem)
    outputs = sorted({max(16, usual.outputs // 2), usual.outputs})
    inputs = sorted({max(16, usual.inputs // 2), usual.inputs})
    found = [
        GradientTile(*shape)
        for shape in itertools.product(outputs, inputs, (16, 32, 64), (4, 8), (1, 2, 3))
        if _fits(*shape, problem)
    ]
    return [usual, *(tile for tile in found if tile != usual)]


class TileSearch:
    """Times every candidate and records the fastest whose result agrees with the usual tile's.

    Args:
        timer: seconds that a call takes.
    """

    def __init__(self, timer: Timer = seconds_on_device) -> None:
        self._timer = timer

    def _fastest(self, runs: list[Callable[[], Tensor]]) -> int:
        expected = runs[0]()
        bound = 1e-3 * float(expected.abs().max()) if expected.numel() else 0.0
        times = [self._timer(runs[0])]
        for run in runs[1:]:
            try:
                agrees = bool(((run() - expected).abs() <= bound).all())
                times.append(self._timer(run) if agrees else float("inf"))
            except Exception:
                # A shape that the compiler or the device refuses is no candidate.
                times.append(float("inf"))
        return min(range(len(times)), key=times.__getitem__)

    def convolution(self, features: Tensor, weight: Tensor, rows: Rows, n_out: int, groups: int) -> None:
        """Find and record the tile of a convolution."""
        problem = implicit_gemm.problem_of(n_out, features, weight.shape[0], groups)
        candidates = convolution_candidates(problem)

        def run(tile: ConvolutionTile) -> Tensor:
            return implicit_gemm.convolve(features, weight, None, *rows, n_out, groups, tile=tile)

        best = self._fastest([lambda tile=tile: run(tile) for tile in candidates])  # type: ignore[misc]
        tuned.record(candidates[best], problem, features.device)

    def gradient(self, features: Tensor, grad: Tensor, rows: Rows, groups: int) -> None:
        """Find and record the tile of a weight gradient."""
        problem = implicit_gemm.problem_of(len(rows[0]), features, grad.shape[1], groups)
        candidates = gradient_candidates(problem)

        def run(tile: GradientTile) -> Tensor:
            return implicit_gemm.weight_gradient(features, grad, *rows, groups, tile=tile)

        best = self._fastest([lambda tile=tile: run(tile) for tile in candidates])  # type: ignore[misc]
        tuned.record(candidates[best], problem, features.device)


@contextlib.contextmanager
def autotuning(timer: Timer = seconds_on_device) -> Iterator[None]:
    """Within the block, every layer shape without a tile on record is timed and recorded at its first call.

    Args:
        timer: seconds that a call takes.
    """
    with searching(TileSearch(timer)):
        yield
