"""Sums over weighted pairs of rows, and the dot products that are their gradient.

A thread owns one channel of an output row, or one product, and adds in order of the pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparseconv.backends.cuda.implicit_gemm_table import map_tables
from sparseconv.backends.cuda.launch import cuda, kernel


@kernel
def _weighted_sum(x, coefficients, in_rows, starts, out):
    channels = out.shape[1]
    width = channels // coefficients.shape[1]
    for at in range(cuda.grid(1), out.shape[0] * channels, cuda.gridsize(1)):
        r = at // channels
        c = at - r * channels
        group = c // width
        total = out.dtype.type(0)
        for p in range(starts[r], starts[r + 1]):
            i = in_rows[p]
            if i >= 0:
                total += coefficients[p, group] * x[i, c]
        out[r, c] = total


@kernel
def _pair_dots(left, right, left_rows, right_rows, out):
    groups = out.shape[1]
    width = left.shape[1] // groups
    for at in range(cuda.grid(1), out.shape[0] * groups, cuda.gridsize(1)):
        p = at // groups
        group = at - p * groups
        i = left_rows[p]
        o = right_rows[p]
        total = out.dtype.type(0)
        if i >= 0 and o >= 0:
            for c in range(group * width, (group + 1) * width):
                total += left[i, c] * right[o, c]
        out[p, group] = total


def _check(first: Tensor, second: Tensor, sizes: tuple[int, int], *, ascending: bool) -> None:
    """Refuse rows out of range. Waits once for each new pair of row tensors, and never again for the same two."""

    def is_valid() -> bool:
        valid = ((first >= -1) & (first < sizes[0]) & (second >= -1) & (second < sizes[1])).all()
        if ascending:
            valid &= (second[1:] >= second[:-1]).all()
        return bool(valid)

    no_taps = torch.empty(0, dtype=torch.int64, device="cpu")
    if not map_tables.get(first, second, no_taps, ("weighted pairs", sizes, ascending), is_valid):
        raise ValueError(
            f"rows must lie in -1 .. {sizes[0] - 1} and -1 .. {sizes[1] - 1}"
            f"{', the second ascending' if ascending else ''}; one of {len(first)} pairs does not"
        )


def weighted_sum(features: Tensor, coefficients: Tensor, in_rows: Tensor, out_rows: Tensor, n_out: int) -> Tensor:
    """See :meth:`sparseconv.backends.Backend.weighted_sum`."""
    _check(in_rows, out_rows, (len(features), n_out), ascending=True)
    x = features.detach().contiguous()
    out = torch.empty((n_out, x.shape[1]), dtype=x.dtype, device=x.device)
    # Pairs without an output row stand first, before the start of row 0.
    bounds = torch.arange(n_out + 1, dtype=torch.int32, device=x.device)
    starts = torch.searchsorted(out_rows.contiguous(), bounds)
    _weighted_sum.launch(out.numel(), x, coefficients.detach().contiguous(), in_rows.contiguous(), starts, out)
    return out


def pair_dots(left: Tensor, right: Tensor, left_rows: Tensor, right_rows: Tensor, groups: int) -> Tensor:
    """See :meth:`sparseconv.backends.Backend.pair_dots`."""
    _check(left_rows, right_rows, (len(left), len(right)), ascending=False)
    out = torch.empty((len(left_rows), groups), dtype=left.dtype, device=left.device)
    _pair_dots.launch(
        out.numel(),
        left.detach().contiguous(),
        right.detach().contiguous(),
        left_rows.contiguous(),
        right_rows.contiguous(),
        out,
    )
    return out
