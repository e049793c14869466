"""Convolution and its weight gradient: one registry of executors, used by layers and by benchmarks alike.

``triton`` is the fused implicit GEMM, ``direct`` the kernels for groups of very few channels, and ``mm`` the
plain path, which needs nothing but torch's GEMM: rows are gathered into a bounded buffer, multiplied tap by tap,
and each output row then sums its own products in order of taps. No atomics: equal input gives equal bits.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sparseconv.backends import chosen
from sparseconv.backends.cuda import depthwise, implicit_gemm
from sparseconv.backends.cuda.by_row import pairs_by_row
from sparseconv.backends.cuda.launch import cuda, kernel

# Values of a gather buffer, and of a product buffer, at most: 256 MB each in float32. Larger ones gain nothing (a
# GEMM of 65,536 rows fills every device), and this much fits beside the activations of a training step.
_BUFFERED_VALUES = 1 << 26


@kernel
def _sum_products(products, first, order, starts, bias, residual, add, relu, out):
    """Add to each output row its products among the pairs ``first .. first + len(products)``, in order of taps.

    ``add`` continues earlier sums. ``bias`` and ``residual`` are empty where there are none, and a row is set to
    zero where it is negative if ``relu``; NaN stays.
    """
    channels = out.shape[1]
    stop = first + products.shape[0]
    for at in range(cuda.grid(1), out.shape[0] * channels, cuda.gridsize(1)):
        r = at // channels
        c = at - r * channels
        total = out.dtype.type(0)
        if add:
            total = out[r, c]
        for j in range(starts[r], starts[r + 1]):
            pair = order[j]
            if first <= pair < stop:
                total += products[pair - first, c]
        if bias.shape[0] > 0:
            total += bias[c]
        if residual.shape[0] > 0:
            total += residual[r, c]
        if relu and total < 0:
            total = out.dtype.type(0)
        out[r, c] = total


def _parts(tap_offsets: Tensor, length: int) -> Iterator[tuple[int, int, list[tuple[int, int, int]]]]:
    """Cut the pairs into stretches of ``length``: first, stop, and ``(tap, first, stop)`` of the taps in each."""
    bounds = tap_offsets.tolist()
    tap = 0
    for first in range(0, bounds[-1], length):
        stop = min(bounds[-1], first + length)
        pieces = []
        while tap < len(bounds) - 1 and bounds[tap] < stop:
            low, high = max(first, bounds[tap]), min(stop, bounds[tap + 1])
            if low < high:
                pieces.append((tap, low, high))
            if bounds[tap + 1] > stop:
                break
            tap += 1
        yield first, stop, pieces


def _pairs_at_once(c_in: int, c_out: int) -> int:
    return max(1, _BUFFERED_VALUES // max(1, c_in, c_out))


def _convolve_mm(
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
    c_out, taps, depth = weight.shape
    dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
    # Products of bfloat16 are exact in float32, and their sums are taken there.
    x, w = features.detach().to(dtype), weight.detach().to(dtype)
    out = torch.empty((n_out, c_out), dtype=dtype, device=x.device)
    if out.numel() == 0:
        return out
    of_row = pairs_by_row(in_rows, out_rows, tap_offsets, n_out)
    nothing = torch.empty(0, dtype=dtype, device=x.device)
    added = nothing if bias is None else bias.detach().to(dtype).contiguous()
    other = nothing.reshape(0, c_out)
    if residual is not None:
        other = residual.detach().to(dtype).contiguous()
    grouped = w.reshape(groups, c_out // groups, taps, depth)
    length = _pairs_at_once(x.shape[1], c_out)
    pairs = len(in_rows)
    for first, stop, pieces in _parts(tap_offsets, length):
        gathered = x.index_select(0, in_rows[first:stop])
        products = torch.empty((stop - first, c_out), dtype=dtype, device=x.device)
        for tap, low, high in pieces:
            rows, target = gathered[low - first : high - first], products[low - first : high - first]
            if groups == 1:
                torch.mm(rows, grouped[0, :, tap].t(), out=target)
            else:
                by_group = rows.reshape(high - low, groups, depth).transpose(0, 1)
                product = torch.bmm(by_group, grouped[:, :, tap].transpose(1, 2))
                target.view(high - low, groups, -1).copy_(product.transpose(0, 1))
        is_last = stop == pairs
        _sum_products.launch(
            out.numel(),
            products,
            first,
            of_row.order,
            of_row.starts,
            added if is_last else nothing,
            other if is_last else other[:0],
            int(first > 0),
            int(relu and is_last),
            out,
        )
    if pairs == 0:
        # No pair, but the epilogue: the sums are over nothing.
        nowhere = out.new_empty((0, c_out))
        _sum_products.launch(out.numel(), nowhere, 0, of_row.order, of_row.starts, added, other, 0, int(relu), out)
    return out


def _weight_gradient_mm(
    features: Tensor,
    grad: Tensor,
    in_rows: Tensor,
    out_rows: Tensor,
    tap_offsets: Tensor,
    groups: int,
) -> Tensor:
    dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
    x, g = features.detach().to(dtype), grad.detach().to(dtype)
    taps, c_out, depth = len(tap_offsets) - 1, g.shape[1], x.shape[1] // groups
    out = torch.zeros((taps, groups, c_out // groups, depth), dtype=dtype, device=x.device)
    for first, stop, pieces in _parts(tap_offsets, _pairs_at_once(x.shape[1], c_out)):
        inputs = x.index_select(0, in_rows[first:stop]).reshape(stop - first, groups, depth)
        outputs = g.index_select(0, out_rows[first:stop]).reshape(stop - first, groups, c_out // groups)
        for tap, low, high in pieces:
            part = slice(low - first, high - first)
            if groups == 1:
                out[tap, 0].addmm_(outputs[part, 0].t(), inputs[part, 0])
            else:
                out[tap].baddbmm_(outputs[part].permute(1, 2, 0), inputs[part].transpose(0, 1))
    return out.permute(1, 2, 0, 3).reshape(c_out, taps, depth)


@dataclass(frozen=True)
class Executor:
    """One way to run a convolution and its weight gradient.

    Attributes:
        usable: ``(features, weight or grad, groups)``: whether it computes this.
        convolve: as :meth:`sparseconv.backends.Backend.convolve`.
        weight_gradient: as :meth:`sparseconv.backends.Backend.weight_gradient`.
    """

    usable: Callable[[Tensor, Tensor, int], bool]
    convolve: Callable[..., Tensor]
    weight_gradient: Callable[..., Tensor]


# In the order in which they are asked; the last takes everything.
EXECUTORS = {
    "direct": Executor(depthwise.usable, depthwise.convolve, depthwise.weight_gradient),
    "triton": Executor(implicit_gemm.usable, implicit_gemm.convolve, implicit_gemm.weight_gradient),
    "mm": Executor(lambda features, weight, groups: True, _convolve_mm, _weight_gradient_mm),
}

_forced: contextvars.ContextVar[str | None] = contextvars.ContextVar("sparseconv_cuda_executor", default=None)


@contextlib.contextmanager
def use_executor(name: str) -> Iterator[None]:
    """Run the convolutions inside the ``with`` block by one executor: ``direct``, ``triton`` or ``mm``.

    Raises:
        ValueError: no such executor. A convolution that it cannot run raises too.
    """
    if name not in EXECUTORS:
        raise ValueError(f"no executor {name!r}; the executors are {', '.join(EXECUTORS)}")
    with chosen(_forced, name):
        yield


def executor_for(features: Tensor, weight: Tensor, groups: int) -> str:
    """Name of the executor of a convolution, by types, channels and device alone.

    Args:
        features: ``[N, C_in]``.
        weight: ``[C_out, K, C_in / groups]``, or the gradient ``[M, C_out]`` of a weight gradient.
        groups: number of groups.

    Raises:
        ValueError: :func:`use_executor` names one that cannot run this.
    """
    forced = _forced.get()
    if forced is None:
        return next(name for name, executor in EXECUTORS.items() if executor.usable(features, weight, groups))
    if not EXECUTORS[forced].usable(features, weight, groups):
        raise ValueError(
            f"the executor {forced!r} does not take {features.dtype} features of {features.shape[1]} channels in "
            f"{groups} groups on {features.device}; leave use_executor, or name another"
        )
    return forced


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
    executor = EXECUTORS[executor_for(features, weight, groups)]
    with torch.autocast(features.device.type, enabled=False):
        return executor.convolve(
            features, weight, bias, in_rows, out_rows, tap_offsets, n_out, groups, residual, relu
        )


def weight_gradient(
    features: Tensor,
    grad: Tensor,
    in_rows: Tensor,
    out_rows: Tensor,
    tap_offsets: Tensor,
    groups: int,
) -> Tensor:
    """See :meth:`sparseconv.backends.Backend.weight_gradient`."""
    executor = EXECUTORS[executor_for(features, grad, groups)]
    with torch.autocast(features.device.type, enabled=False):
        return executor.weight_gradient(features, grad, in_rows, out_rows, tap_offsets, groups)
