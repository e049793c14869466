"""Convolution and its weight gradient by fused gather-GEMM-scatter, in blocks of output rows.

A thread owns whole blocks and a block takes the taps in order: no atomics, and the same order of summation on any
number of threads. A block's sums begin with bias and residual and grow in the output itself, or in a scratch where
its rows are narrower than the vectors that cover them.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparseconv.backends.cpu import amx, conv_bfloat16, depthwise
from sparseconv.backends.cpu.bisect import block_stops, copy_into, tap_starts
from sparseconv.backends.cpu.epilogue import BLOCK, finish_rows, start_rows
from sparseconv.backends.cpu.jit import kernel
from sparseconv.backends.cpu.packed_weights import packed_weight
from sparseconv.backends.cpu.threads import run_ranges
from sparseconv.backends.cpu.tile import KINDS, gather_tiles, outer_tiles
from sparseconv.backends.cpu.vector_unit import PREFERS_BFLOAT16_DOT

# Multiply-adds that are worth a thread of their own: about 50 us of arithmetic.
_WORTH_A_THREAD = 4_000_000

# Pairs per weight-gradient task at least, and tasks at most: the partial sums (one tap's weights each) are
# bounded, and the cut depends on nothing but the map.
_PAIRS_PER_TASK = 8192
_MAX_TASKS = 256
# Pairs taken at once through all channel tiles: their rows stay in the second-level cache meanwhile.
_PAIRS_AT_ONCE = 256


# Channels from which bfloat16 goes to the processor's matrix tiles, which take 32 at once.
_TILE_CHANNELS = 8

_TORCH = {np.dtype(np.float32): torch.float32, np.dtype(np.float64): torch.float64}


@functools.cache
def column_plan(columns: int, itemsize: int) -> NDArray[np.int64]:
    """Cut output channels into column kinds: rows of ``(first column, kind)``, then ``(end, -1)``.

    ``end`` is the number of columns rounded up to what the kinds cover.
    """
    lanes = [max(1, width // itemsize) * vectors for vectors, width in KINDS]
    plan: list[tuple[int, int]] = []
    start = 0
    while start < columns:
        rest = columns - start
        # The widest kind that is filled; where none is, the narrowest that covers the rest.
        kind = max((k for k, width in enumerate(lanes) if width <= rest), default=0)
        covering = min((k for k, width in enumerate(lanes) if width >= rest), default=kind)
        if lanes[covering] - rest < lanes[kind] // 2:
            kind = covering
        plan.append((start, kind))
        start += lanes[kind]
    plan.append((start, -1))
    return np.array(plan, np.int64)


@kernel
def _pack_weight(weight, groups, start, stop, packed):
    """``[C_out, K, C_in / groups]`` to ``[K, groups, C_in / groups, columns]`` for taps ``start .. stop``.

    Four output channels at a time: as many lines of the cache are read as fit there, whatever the channels.
    """
    depth, columns = np.uint64(weight.shape[2]), np.uint64(packed.shape[3])
    width = np.uint64(weight.shape[0] // groups)
    one, two, three, four = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(4)
    for tap in range(np.uint64(start), np.uint64(stop)):
        for g in range(np.uint64(groups)):
            o = np.uint64(0)
            while o + four <= width:
                row = g * width + o
                for c in range(depth):
                    packed[tap, g, c, o] = weight[row, tap, c]
                    packed[tap, g, c, o + one] = weight[row + one, tap, c]
                    packed[tap, g, c, o + two] = weight[row + two, tap, c]
                    packed[tap, g, c, o + three] = weight[row + three, tap, c]
                o += four
            for rest in range(o, width):
                for c in range(depth):
                    packed[tap, g, c, rest] = weight[g * width + rest, tap, c]
            for c in range(depth):
                for empty in range(width, columns):
                    packed[tap, g, c, empty] = 0


@kernel
def _convolve(x, packed, plan, bias, residual, relu, in_rows, out_rows, tap_offsets, start, stop, out):
    """Blocks ``start .. stop`` of output rows."""
    taps, groups, depth, columns = packed.shape
    n_out, c_out = out.shape
    width = c_out // groups
    item = packed.itemsize
    group_bytes = x.shape[1] // groups * x.itemsize
    is_direct = columns == width
    flat, added = out.reshape(-1), residual.reshape(-1)
    scratch = np.empty(np.int64(0) if is_direct else BLOCK * columns, out.dtype)
    position = tap_starts(out_rows, tap_offsets, start * BLOCK)
    stops = np.empty(taps, np.int64)
    x_at = x.ctypes.data
    in_at = in_rows.ctypes.data
    out_at = out_rows.ctypes.data
    weight_at = packed.ctypes.data
    step = c_out if is_direct else columns
    for block in range(start, stop):
        row0 = block * BLOCK
        row1 = min(n_out, row0 + BLOCK)
        block_stops(out_rows, tap_offsets, position, row0, row1, stops)
        rows, at = row1 - row0, row0 * c_out
        if is_direct:
            start_rows(flat, at, c_out, rows, c_out, bias, added, at, c_out)
        for g in range(groups):
            own = g * width
            sums_at = flat.ctypes.data + (at + own) * item
            if not is_direct:
                start_rows(scratch, 0, columns, rows, width, bias[own : own + width], added, at + own, c_out)
                sums_at = scratch.ctypes.data
            for tap in range(taps):
                p = position[tap]
                n = stops[tap] - p
                if n == 0:
                    continue
                for part in range(plan.shape[0] - 1):
                    first = plan[part, 0]
                    gather_tiles(
                        x,
                        plan[part, 1],
                        x_at + g * group_bytes,
                        x.strides[0],
                        in_at + 4 * p,
                        weight_at + ((tap * groups + g) * depth * columns + first) * item,
                        columns * item,
                        depth,
                        sums_at + first * item,
                        step * item,
                        out_at + 4 * p,
                        row0,
                        n,
                    )
            if not is_direct:
                finish_rows(scratch, 0, columns, rows, width, relu, flat, at + own, c_out)
        if is_direct and relu:
            finish_rows(flat, at, c_out, rows, c_out, relu, flat, at, c_out)
        copy_into(position, stops)


@kernel
def _outer(x, grad, plan, groups, in_rows, out_rows, tasks, start, stop, partial):
    """Partial weight gradients of the tasks ``start .. stop``; a task is ``(tap, first pair, last pair)``."""
    _, _, depth, columns = partial.shape
    width = grad.shape[1] // groups
    item = x.itemsize
    for task in range(start, stop):
        partial[task] = 0
        for at in range(tasks[task, 1], tasks[task, 2], _PAIRS_AT_ONCE):
            n = min(tasks[task, 2] - at, _PAIRS_AT_ONCE)
            for g in range(groups):
                for part in range(plan.shape[0] - 1):
                    first = plan[part, 0]
                    outer_tiles(
                        x,
                        plan[part, 1],
                        x.ctypes.data + g * depth * item,
                        x.strides[0],
                        in_rows.ctypes.data + 4 * at,
                        grad.ctypes.data + (g * width + first) * item,
                        grad.strides[0],
                        out_rows.ctypes.data + 4 * at,
                        n,
                        partial.ctypes.data + (((task * groups + g) * depth) * columns + first) * item,
                        columns * item,
                        depth,
                    )


@kernel
def _sum_tasks(partial, tasks, first_tasks, start, stop, out):
    """Add the partial sums of taps ``start .. stop`` in order, into ``[C_out, K, C_in / groups]``."""
    _, groups, depth, _ = partial.shape
    width = out.shape[0] // groups
    for tap in range(start, stop):
        for g in range(groups):
            for o in range(width):
                for c in range(depth):
                    total = partial.dtype.type(0)
                    for task in range(first_tasks[tap], first_tasks[tap + 1]):
                        total += partial[task, g, c, o]
                    out[g * width + o, tap, c] = total


# Groups of several channels on one side that fill a vector. 12 with two outputs for each input take as long as in
# tiles, 4 with four outputs three times as long, and 32 with eight outputs half (float32, one thread).
_MANY_GROUPS = 16


def _is_narrow(depth: int, width: int, groups: int) -> bool:
    """Whether vectors are better filled with groups than with the channels of one."""
    places = max(depth, width)
    if places == 1:
        return groups > 1
    return min(depth, width) == 1 and places <= groups and groups >= _MANY_GROUPS


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
) -> Tensor:
    """See :meth:`sparseconv.backends.Backend.convolve`."""
    c_out, taps, depth = weight.shape
    is_narrow = _is_narrow(depth, c_out // groups, groups)
    may_be_half = features.dtype == torch.bfloat16 and not is_narrow
    takes_tiles = may_be_half and depth >= _TILE_CHANNELS and amx.is_usable()
    takes_pairs = may_be_half and PREFERS_BFLOAT16_DOT and depth >= 2 and not (depth % 2 and groups > 1)
    is_half = takes_tiles or takes_pairs
    if features.dtype == torch.bfloat16 and not is_half:
        features, weight = features.float(), weight.float()
    if is_half and depth % 2 and not takes_tiles:
        # Pairs need an even row length: a channel of zeros that the weight's padding never multiplies.
        features = torch.nn.functional.pad(features, (0, 1))
    x, w = (_bits(tensor.detach()) for tensor in (features.contiguous(), weight))
    dtype = np.dtype(np.float64 if features.dtype == torch.float64 else np.float32)
    b, added = np.empty(0, dtype), np.empty((0, c_out), dtype)
    if bias is not None:
        b = bias.detach().to(_TORCH[dtype]).contiguous().numpy()
    if residual is not None:
        added = residual.detach().to(_TORCH[dtype]).contiguous().numpy()
    pairs, sources, offsets = out_rows.numpy(), in_rows.numpy(), tap_offsets.numpy()
    out = np.empty((n_out, c_out), dtype)
    if depth == 0 or c_out == 0:
        out[:] = b if len(b) else 0
        return _finish(out, added, relu)
    if is_narrow:
        b = b if len(b) else np.zeros(c_out, dtype)
        depthwise.convolve(x, w, b, sources, pairs, offsets, groups, out)
        return _finish(out, added, relu)
    blocks = -(-n_out // BLOCK)
    smallest = 1 + _WORTH_A_THREAD * blocks // max(1, len(pairs) * depth * c_out)
    if takes_tiles:
        conv_bfloat16.convolve(x, w, b, added, relu, sources, pairs, offsets, groups, out, smallest)
        return torch.from_numpy(out)
    plan = column_plan(c_out // groups, dtype.itemsize)
    steps = -(-depth // 2) if is_half else depth

    def pack() -> NDArray[Any]:
        made = np.empty((taps, groups, steps, int(plan[-1, 0])), np.int32 if is_half else dtype)
        pack_taps = conv_bfloat16.pack_pairs if is_half else _pack_weight
        run_ranges(
            lambda start, stop: pack_taps(w, groups, start, stop, made),
            taps,
            1 + _WORTH_A_THREAD * taps // (16 * max(1, made.size)),
        )
        return made

    packed = packed_weight(w, ("columns", groups, dtype.str, is_half), pack)
    run_ranges(
        lambda start, stop: _convolve(x, packed, plan, b, added, relu, sources, pairs, offsets, start, stop, out),
        blocks,
        smallest,
    )
    return torch.from_numpy(out)


def _bits(tensor: Tensor) -> NDArray[Any]:
    """The tensor's memory as an array; numpy has no bfloat16, so its bits as int16."""
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _finish(out: NDArray[np.floating], residual: NDArray[np.floating], relu: bool) -> Tensor:
    """The epilogue where the fused kernel did not run."""
    total = torch.from_numpy(out + residual if len(residual) else out)
    return total.relu() if relu else total


def _cut_tasks(offsets: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tasks ``(tap, first pair, last pair)`` and the first task of each tap."""
    length = max(_PAIRS_PER_TASK, -(-int(offsets[-1]) // _MAX_TASKS))
    tasks = []
    first_tasks = [0]
    for tap in range(len(offsets) - 1):
        start, stop = int(offsets[tap]), int(offsets[tap + 1])
        tasks += [(tap, at, min(stop, at + length)) for at in range(start, stop, length)]
        first_tasks.append(len(tasks))
    return np.array(tasks, np.int64).reshape(-1, 3), np.array(first_tasks, np.int64)


def weight_gradient(
    features: Tensor,
    grad: Tensor,
    in_rows: Tensor,
    out_rows: Tensor,
    tap_offsets: Tensor,
    groups: int,
) -> Tensor:
    """See :meth:`sparseconv.backends.Backend.weight_gradient`."""
    x = features.detach().contiguous().numpy()
    g = grad.detach().contiguous().numpy()
    offsets = tap_offsets.numpy()
    taps, c_out, depth = len(offsets) - 1, g.shape[1], x.shape[1] // groups
    out = np.empty((c_out, taps, depth), x.dtype)
    if out.size == 0:
        return torch.from_numpy(out)
    sources, targets = in_rows.numpy(), out_rows.numpy()
    tasks, first_tasks = _cut_tasks(offsets)
    if _is_narrow(depth, c_out // groups, groups):
        depthwise.weight_gradient(x, g, sources, targets, tasks, first_tasks, groups, out)
        return torch.from_numpy(out)
    plan = column_plan(c_out // groups, x.itemsize)
    columns = int(plan[-1, 0])
    overhang = columns - c_out // groups
    if overhang:
        # Whole vectors are read, so the last row's tail needs memory behind it.
        padded = np.zeros(g.size + overhang, g.dtype)
        padded[: g.size] = g.ravel()
        g = np.lib.stride_tricks.as_strided(padded, g.shape, (c_out * g.itemsize, g.itemsize))
    partial = np.empty((len(tasks), groups, depth, columns), x.dtype)
    work = max(1, len(sources) * depth * c_out)
    run_ranges(
        lambda start, stop: _outer(x, g, plan, groups, sources, targets, tasks, start, stop, partial),
        len(tasks),
        1 + _WORTH_A_THREAD * len(tasks) // work,
    )
    run_ranges(
        lambda start, stop: _sum_tasks(partial, tasks, first_tasks, start, stop, out),
        taps,
        1 + _WORTH_A_THREAD * taps // (4 * max(1, partial.size)),
    )
    return torch.from_numpy(out)
