"""Fused implicit GEMM: gather, multiply, sum and epilogue in one Triton kernel. Not yet run on hardware.

Each program owns a tile of output rows and channels, visits the taps that its rows have, and writes once: no
atomics, and a fixed order of every sum. The input gradient is the same kernel over the swapped map. The weight
gradient sums fixed pieces of each tap's pairs and then adds the pieces, in a fixed order too.

What holds for the bits of a result: a row's products are summed tap by tap, and within a tap in blocks of
``channels`` input channels, inside a block as the device's dot product does it. So the same card with the same
tile gives the same bits, whatever the order of the rows and however many taps share a table. Another ``channels``,
another generation of cards or another Triton may round differently.

A weight that is not finite reaches every row of a tile that visits its tap, since an absent neighbour is
multiplied as zero.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from types import ModuleType

import torch
from torch import Tensor

from sparseconv.backends.cuda.implicit_gemm_table import (
    LAUNCH_OPTIONS,
    build_step_tables,
    build_tasks,
    map_tables,
    single_tap_tasks,
)
from sparseconv.backends.cuda.implicit_gemm_tiles import (
    HALF,
    ConvolutionTile,
    GradientTile,
    Precision,
    Problem,
    pairs_per_task,
)
from sparseconv.backends.cuda.implicit_gemm_tuning import tuned

# The oldest generation with the copies to shared memory and the bfloat16 products that the tiles are made for.
_OLDEST_CAPABILITY = (8, 0)
# Values of the weight that one program of the final sum adds up, and partial sums that it reads at once: 16 loads
# in flight for each thread of 4 warps, since a bias has thousands of partial sums and few values.
_SUM_BLOCK, _SUM_TASKS = 128, 16


@functools.cache
def _kernels() -> ModuleType | None:
    """The module with the Triton kernels; None where Triton is not installed."""
    if importlib.util.find_spec("triton") is None:
        return None
    return importlib.import_module("sparseconv.backends.cuda.implicit_gemm_kernels")


@functools.cache
def _runs_on(device: torch.device) -> bool:
    kernels = _kernels()
    if kernels is None:
        return False
    if kernels.INTERPRETED:
        return True
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= _OLDEST_CAPABILITY


def usable(features: Tensor, weight: Tensor, groups: int) -> bool:
    """Whether the fused kernels compute this convolution and its gradients.

    They do not where Triton is missing, on devices before the generation of the A100, in float64, and for channels
    in groups of one input and one output, of which a tile would fill one value in 256.

    Args:
        features: ``[N, C_in]``.
        weight: ``[C_out, K, C_in / groups]``, or the gradient ``[M, C_out]`` of a weight gradient.
        groups: number of groups.
    """
    if features.dtype not in (torch.float32, *HALF) or features.dtype != weight.dtype:
        return False
    c_out = weight.shape[0] if weight.dim() == 3 else weight.shape[1]
    if groups > 1 and features.shape[1] == groups == c_out:
        return False
    return _runs_on(features.device)


def _precision(dtype: torch.dtype) -> Precision:
    """How torch wants float32 to be multiplied; the half precisions have one way."""
    if dtype != torch.float32:
        return "ieee"
    matmul = torch.backends.cuda.matmul
    setting = getattr(matmul, "fp32_precision", None)
    if setting is None:
        return "tf32" if matmul.allow_tf32 else "ieee"
    return "tf32" if setting == "tf32" else "ieee"


def problem_of(rows: int, features: Tensor, c_out: int, groups: int) -> Problem:
    """What the tile of a convolution with ``rows`` outputs, or of a gradient of ``rows`` pairs, depends on."""
    return Problem(
        rows=rows,
        depth=features.shape[1] // groups,
        width=c_out // groups,
        groups=groups,
        dtype=features.dtype,
        precision=_precision(features.dtype),
    )


def _checked_kernels(features: Tensor, other: Tensor, groups: int) -> ModuleType:
    kernels = _kernels()
    if kernels is None or not usable(features, other, groups):
        raise ValueError(
            f"the fused implicit GEMM does not take {features.dtype} and {other.dtype} on {features.device} in "
            f"{groups} groups; ask usable() first"
        )
    return kernels


def convolve(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    in_rows: Tensor,
    out_rows: Tensor,
    tap_offsets: Tensor,
    n_out: int,
    groups: int,
    residual: Tensor | None = None,
    relu: bool = False,
    *,
    dtype: torch.dtype = torch.float32,
    tile: ConvolutionTile | None = None,
) -> Tensor:
    """See :meth:`sparseconv.backends.Backend.convolve`; takes float16 as well, and gives float32 unless asked.

    Waits for the device at the first use of a map with a tile shape, and never again.

    Args:
        features: ``[N, C_in]``, any strides.
        weight: ``[C_out, K, C_in / groups]``, any strides.
        bias: ``[C_out]`` or None.
        in_rows: int32 ``[P]``.
        out_rows: int32 ``[P]``.
        tap_offsets: int64 ``[K + 1]`` on the CPU.
        n_out: number of output rows.
        groups: number of groups.
        residual: ``[n_out, C_out]`` or None.
        relu: set negative values to zero.
        dtype: type of the result; sums are float32 in any case, and rounded once.
        tile: the shape to use in place of the tuned or the usual one.

    Raises:
        ValueError: :func:`usable` says no.
        RuntimeError: the map is new, and a CUDA graph is being captured.
    """
    kernels = _checked_kernels(features, weight, groups)
    x, w = features.detach(), weight.detach()
    c_out, _, depth = w.shape
    out = torch.empty((n_out, c_out), dtype=dtype, device=x.device)
    if out.numel() == 0:
        return out
    problem = problem_of(n_out, x, c_out, groups)
    shape = tile or tuned.convolution_tile(problem, x, w, (in_rows, out_rows, tap_offsets), n_out)
    tables = map_tables.get(
        in_rows,
        out_rows,
        tap_offsets,
        ("steps", n_out, shape.rows, shape.taps),
        lambda: build_step_tables(
            kernels, in_rows, out_rows, tap_offsets, n_out=n_out, block=shape.rows, most_taps=shape.taps
        ),
    )
    # Sums that one table leaves to the next.
    sums = out
    if len(tables) > 1 and dtype != torch.float32:
        sums = torch.empty((n_out, c_out), dtype=torch.float32, device=x.device)
    bias = None if bias is None else bias.detach().contiguous()
    residual = None if residual is None else residual.detach().contiguous()
    tiles_per_group = -(-problem.width // shape.columns)
    column_tiles = groups * tiles_per_group
    with torch.cuda.device_of(x):
        for number, table in enumerate(tables):
            is_last = number == len(tables) - 1
            table.wait()
            kernels.convolve_tile[(table.tiles * column_tiles,)](
                x,
                w,
                bias if is_last else None,
                residual if is_last else None,
                sums if number > 0 else None,
                out if is_last else sums,
                table.sources,
                table.taps,
                table.starts,
                table.rows,
                *x.stride(),
                *w.stride(),
                depth,
                problem.width,
                c_out,
                -(-depth // shape.channels),
                column_tiles,
                tiles_per_group,
                RELU=relu and is_last,
                EVEN_DEPTH=depth % shape.channels == 0,
                EVEN_WIDTH=problem.width % shape.columns == 0,
                WIDEN=kernels.INTERPRETED and x.dtype == torch.bfloat16,
                PRECISION=problem.precision,
                BLOCK_M=shape.rows,
                BLOCK_N=shape.columns,
                BLOCK_K=shape.channels,
                num_warps=shape.warps,
                num_stages=shape.stages,
                **LAUNCH_OPTIONS,
            )
    return out


def weight_gradient(
    features: Tensor,
    grad: Tensor,
    in_rows: Tensor,
    out_rows: Tensor,
    tap_offsets: Tensor,
    groups: int,
    *,
    tile: GradientTile | None = None,
) -> Tensor:
    """See :meth:`sparseconv.backends.Backend.weight_gradient`; takes the half precisions too, and gives float32.

    Partial sums take at most 64 MiB more than the result itself. A map of several taps waits for the device at its
    first use.

    Args:
        features: ``[N, C_in]``, any strides.
        grad: ``[M, C_out]``, any strides.
        in_rows: int32 ``[P]``.
        out_rows: int32 ``[P]``.
        tap_offsets: int64 ``[K + 1]`` on the CPU.
        groups: number of groups.
        tile: the shape to use in place of the tuned or the usual one.

    Raises:
        ValueError: :func:`usable` says no.
        RuntimeError: the map is new, and a CUDA graph is being captured.
    """
    kernels = _checked_kernels(features, grad, groups)
    x, g = features.detach(), grad.detach()
    taps, c_out, depth = len(tap_offsets) - 1, g.shape[1], x.shape[1] // groups
    out = torch.empty((c_out, taps, depth), dtype=torch.float32, device=x.device)
    if out.numel() == 0:
        return out
    problem = problem_of(len(in_rows), x, c_out, groups)
    shape = tile or tuned.gradient_tile(problem, x, g, (in_rows, out_rows, tap_offsets))
    length = pairs_per_task(problem)
    if taps == 1:
        tasks = single_tap_tasks(len(in_rows), x.device, length)
    else:
        tasks = map_tables.get(
            in_rows, out_rows, tap_offsets, ("tasks", length), lambda: build_tasks(tap_offsets, x.device, length)
        )
    tasks.wait()
    partial = torch.empty((len(tasks.bounds), c_out, depth), dtype=torch.float32, device=x.device)
    depth_tiles = -(-depth // shape.inputs)
    tiles_per_group = -(-problem.width // shape.outputs) * depth_tiles
    blocks = -(-c_out * depth // _SUM_BLOCK)
    with torch.cuda.device_of(x):
        if len(partial):
            kernels.outer_tile[(len(partial) * groups * tiles_per_group,)](
                x,
                g,
                in_rows,
                out_rows,
                tasks.bounds,
                partial,
                *x.stride(),
                *g.stride(),
                depth,
                problem.width,
                c_out,
                groups * tiles_per_group,
                tiles_per_group,
                depth_tiles,
                EVEN_DEPTH=depth % shape.inputs == 0,
                EVEN_WIDTH=problem.width % shape.outputs == 0,
                WIDEN=kernels.INTERPRETED and x.dtype == torch.bfloat16,
                PRECISION=problem.precision,
                BLOCK_O=shape.outputs,
                BLOCK_C=shape.inputs,
                BLOCK_P=shape.pairs,
                num_warps=shape.warps,
                num_stages=shape.stages,
                **LAUNCH_OPTIONS,
            )
        kernels.sum_tasks[(taps * blocks,)](
            partial,
            tasks.firsts,
            out,
            c_out * depth,
            taps,
            depth,
            blocks,
            TASKS=_SUM_TASKS,
            BLOCK=_SUM_BLOCK,
            num_warps=4,
            **LAUNCH_OPTIONS,
        )
    return out
