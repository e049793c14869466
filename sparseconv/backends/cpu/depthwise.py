"""Convolution of many narrow groups, as depthwise: products of rows across the groups, no GEMM.

What belongs to the same place within all groups stands side by side, ``[.., place, group]``, so that one vector
holds as many groups as it has lanes. With one channel a group that is the usual order; else rows of the input are
put in this order first, and sums are put back.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparseconv.backends.cpu.bisect import tap_starts
from sparseconv.backends.cpu.jit import kernel
from sparseconv.backends.cpu.threads import run_ranges

# Output rows that all taps are added to at once: with 64 channels 16 KB, which stay in the first-level cache. On
# 128 x 128 pixels and 3x3 taps 1.2 to 1.9 times as fast as tap after tap over a whole range.
_BLOCK = 64
# Output rows of one range at least: a row of 27 taps and 32 channels costs about 0.3 us.
_SMALLEST_RANGE = 512
# Rows of one range at least that are put in another order: one of 64 channels takes 50 ns.
_SMALLEST_SPREAD = 4096


@kernel
def _spread(rows, groups, start, stop, spread):
    """Rows ``start .. stop`` from ``[group, place]`` to ``[place, group]``."""
    places = rows.shape[1] // groups
    for r in range(np.uint64(start), np.uint64(stop)):
        for place in range(np.uint64(places)):
            for g in range(np.uint64(groups)):
                spread[r, place * np.uint64(groups) + g] = rows[r, g * np.uint64(places) + place]


@kernel
def _convolve(x, tap_weights, bias, in_rows, out_rows, tap_offsets, start, stop, out):
    """Output rows ``start .. stop``; ``tap_weights`` is ``[K, depth, width, groups]``, and ``x`` is spread."""
    taps, depth, width, groups = tap_weights.shape
    c_out = width * groups
    position = tap_starts(out_rows, tap_offsets, start)
    scratch = np.empty((_BLOCK if width > 1 else 0, c_out), out.dtype)
    for row0 in range(start, stop, _BLOCK):
        row1 = min(stop, row0 + _BLOCK)
        sums = scratch[: row1 - row0] if width > 1 else out[row0:row1]
        for r in range(row1 - row0):
            for place in range(width):
                for g in range(groups):
                    sums[r, place * groups + g] = bias[g * width + place]
        for tap in range(taps):
            p = position[tap]
            last = tap_offsets[tap + 1]
            while p < last and out_rows[p] < row1:
                i = in_rows[p]
                r = out_rows[p] - row0
                if depth == 1 and width == 1:
                    # A seventh less time than the loops over one place.
                    for g in range(groups):
                        sums[r, g] += x[i, g] * tap_weights[tap, 0, 0, g]
                else:
                    for d in range(depth):
                        for place in range(width):
                            for g in range(groups):
                                sums[r, place * groups + g] += x[i, d * groups + g] * tap_weights[tap, d, place, g]
                p += 1
            position[tap] = p
        if width > 1:
            for r in range(row1 - row0):
                for g in range(groups):
                    for place in range(width):
                        out[row0 + r, g * width + place] = sums[r, place * groups + g]


@kernel
def _products(x, grad, in_rows, out_rows, tasks, start, stop, partial):
    """Partial sums ``[tasks, depth, width, groups]`` of the tasks ``start .. stop``; both sides are spread."""
    _, depth, width, groups = partial.shape
    for task in range(start, stop):
        partial[task] = 0
        for p in range(tasks[task, 1], tasks[task, 2]):
            i = in_rows[p]
            r = out_rows[p]
            for d in range(depth):
                for place in range(width):
                    for g in range(groups):
                        partial[task, d, place, g] += x[i, d * groups + g] * grad[r, place * groups + g]


def _spread_rows(rows: NDArray[np.floating], groups: int) -> NDArray[np.floating]:
    """Rows ``[N, C]`` with the groups side by side."""
    if rows.shape[1] == groups:
        return rows
    spread = np.empty_like(rows)
    run_ranges(lambda start, stop: _spread(rows, groups, start, stop, spread), len(rows), _SMALLEST_SPREAD)
    return spread


def convolve(
    x: NDArray[np.floating],
    weight: NDArray[np.floating],
    bias: NDArray[np.floating],
    in_rows: NDArray[np.int32],
    out_rows: NDArray[np.int32],
    tap_offsets: NDArray[np.int64],
    groups: int,
    out: NDArray[np.floating],
) -> None:
    """Fill ``out [n_out, C_out]`` from ``x [n_in, C_in]`` and ``weight [C_out, K, C_in / groups]``."""
    c_out, taps, depth = weight.shape
    by_place = weight.reshape(groups, c_out // groups, taps, depth).transpose(2, 3, 1, 0)
    tap_weights = np.ascontiguousarray(by_place)
    spread = _spread_rows(x, groups)
    run_ranges(
        lambda start, stop: _convolve(spread, tap_weights, bias, in_rows, out_rows, tap_offsets, start, stop, out),
        len(out),
        _SMALLEST_RANGE,
    )


def weight_gradient(
    x: NDArray[np.floating],
    grad: NDArray[np.floating],
    in_rows: NDArray[np.int32],
    out_rows: NDArray[np.int32],
    tasks: NDArray[np.int64],
    first_tasks: NDArray[np.int64],
    groups: int,
    out: NDArray[np.floating],
) -> None:
    """Fill ``out [C_out, K, C_in / groups]``: sums within each task, then over a tap's tasks in order."""
    c_out, taps, depth = out.shape
    width = c_out // groups
    spread, spread_grad = _spread_rows(x, groups), _spread_rows(grad, groups)
    partial = np.empty((len(tasks), depth, width, groups), x.dtype)
    run_ranges(
        lambda start, stop: _products(spread, spread_grad, in_rows, out_rows, tasks, start, stop, partial),
        len(tasks),
        1,
    )
    by_group = out.reshape(groups, width, taps, depth)
    for tap in range(taps):
        total = np.zeros((depth, width, groups), x.dtype)
        for task in range(first_tasks[tap], first_tasks[tap + 1]):
            total += partial[task]
        by_group[:, :, tap] = total.transpose(2, 1, 0)
