"""Convolution in groups of very few input channels (depthwise: one): no GEMM, a thread for each output value.

With a channel multiplier the input gradient has ``multiplier`` channels a group, so a few are taken, not just one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparseconv.backends.cuda.by_row import offsets_on_device, pairs_by_row
from sparseconv.backends.cuda.launch import cuda, kernel

# Input channels of a group, at most. A GEMM tile of 16 would be a quarter full with four.
_MOST_DEPTH = 4
# Pairs of one partial sum of the weight gradient: 27 taps of 100,000 pairs and 64 channels give a million threads.
_TASK_PAIRS = 256


@kernel
def _convolve(x, weight, bias, residual, relu, in_rows, tap_offsets, order, starts, out):
    """Output values; ``weight [K, C_out, depth]``, bias and residual empty where there are none."""
    channels = out.shape[1]
    depth = weight.shape[2]
    width = channels * depth // x.shape[1]
    for at in range(cuda.grid(1), out.shape[0] * channels, cuda.gridsize(1)):
        r = at // channels
        c = at - r * channels
        first = c // width * depth
        tap = 0
        total = out.dtype.type(0)
        for j in range(starts[r], starts[r + 1]):
            pair = order[j]
            while tap_offsets[tap + 1] <= pair:
                tap += 1
            i = in_rows[pair]
            for d in range(depth):
                total += x[i, first + d] * weight[tap, c, d]
        if bias.shape[0] > 0:
            total += bias[c]
        if residual.shape[0] > 0:
            total += residual[r, c]
        if relu and total < 0:
            total = out.dtype.type(0)
        out[r, c] = total


@kernel
def _products(x, grad, in_rows, out_rows, tap_offsets, first_tasks, depth, task_pairs, partial):
    """Sum of each task's products; ``partial [tasks, C_out * depth]``, ``first_tasks [K + 1]``.

    The tasks of a tap are its pairs in stretches of ``task_pairs``.
    """
    values = partial.shape[1]
    width = grad.shape[1] * depth // x.shape[1]
    for at in range(cuda.grid(1), partial.shape[0] * values, cuda.gridsize(1)):
        task = at // values
        value = at - task * values
        c = value // depth
        channel = c // width * depth + value - c * depth
        low = 0
        high = tap_offsets.shape[0] - 1
        while low + 1 < high:
            middle = (low + high) // 2
            if first_tasks[middle] <= task:
                low = middle
            else:
                high = middle
        first = tap_offsets[low] + (task - first_tasks[low]) * task_pairs
        total = partial.dtype.type(0)
        for p in range(first, min(first + task_pairs, tap_offsets[low + 1])):
            total += x[in_rows[p], channel] * grad[out_rows[p], c]
        partial[task, value] = total


@kernel
def _sum_tasks(partial, first_tasks, depth, out):
    """Add the tasks of each tap in order, into ``[C_out, K, depth]``."""
    taps = out.shape[1]
    values = partial.shape[1]
    for at in range(cuda.grid(1), taps * values, cuda.gridsize(1)):
        tap = at // values
        value = at - tap * values
        total = out.dtype.type(0)
        for task in range(first_tasks[tap], first_tasks[tap + 1]):
            total += partial[task, value]
        c = value // depth
        out[c, tap, value - c * depth] = total


def usable(features: Tensor, weight: Tensor, groups: int) -> bool:
    """Whether the groups are small enough; arguments as :func:`sparseconv.backends.cuda.conv.executor_for`."""
    return groups > 1 and 1 <= features.shape[1] // groups <= _MOST_DEPTH


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
    dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
    x = features.detach().to(dtype).contiguous()
    by_tap = weight.detach().to(dtype).transpose(0, 1).contiguous()
    out = torch.empty((n_out, weight.shape[0]), dtype=dtype, device=x.device)
    groups_by_row = pairs_by_row(in_rows, out_rows, tap_offsets, n_out)
    _convolve.launch(
        out.numel(),
        x,
        by_tap,
        x.new_empty(0) if bias is None else bias.detach().to(dtype).contiguous(),
        x.new_empty((0, 1)) if residual is None else residual.detach().to(dtype).contiguous(),
        int(relu),
        in_rows,
        offsets_on_device(in_rows, out_rows, tap_offsets),
        groups_by_row.order,
        groups_by_row.starts,
        out,
    )
    return out


def weight_gradient(
    features: Tensor,
    grad: Tensor,
    in_rows: Tensor,
    out_rows: Tensor,
    tap_offsets: Tensor,
    groups: int,
) -> Tensor:
    """See :meth:`sparseconv.backends.Backend.weight_gradient`."""
    dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
    x, g = (tensor.detach().to(dtype).contiguous() for tensor in (features, grad))
    taps, c_out, depth = len(tap_offsets) - 1, g.shape[1], x.shape[1] // groups
    out = torch.empty((c_out, taps, depth), dtype=dtype, device=x.device)
    offsets = offsets_on_device(in_rows, out_rows, tap_offsets)
    tasks = -(-offsets.diff() // _TASK_PAIRS)
    first_tasks = torch.cat([tasks.new_zeros(1), tasks.cumsum(0)])
    # The same count on the CPU, where the offsets live: nothing is waited for.
    count = int((-(-tap_offsets.diff() // _TASK_PAIRS)).sum())
    partial = torch.empty((count, c_out * depth), dtype=dtype, device=x.device)
    _products.launch(partial.numel(), x, g, in_rows, out_rows, offsets, first_tasks, depth, _TASK_PAIRS, partial)
    _sum_tasks.launch(taps * c_out * depth, partial, first_tasks, depth, out)
    return out
