"""Positions grouped by the row that they belong to: what kernels without atomics sum over.

The pairs of a map are grouped by tap. A thread that owns an output row needs that row's pairs instead, in order of
taps. That grouping is kept with the map, as the tables of the implicit GEMM are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparseconv.backends.cuda.implicit_gemm_table import Ready, map_tables


@dataclass(frozen=True, eq=False)
class Groups:
    """Positions ``0 .. N`` by row.

    Attributes:
        order: int32 ``[N]`` (int64 from 2**31 on): positions in order of rows, those of one row ascending.
        starts: int64 ``[n_rows + 1]``: row r has the positions ``order[starts[r] : starts[r + 1]]``.
    """

    order: Tensor
    starts: Tensor


def group_by_row(rows: Tensor, n_rows: int) -> Groups:
    """Group the positions of ``rows [N]`` (negative: belongs to none) by their values; nothing waits."""
    ordered, order = torch.sort(rows.detach(), stable=True)
    bounds = torch.arange(n_rows + 1, dtype=rows.dtype, device=rows.device)
    starts = torch.searchsorted(ordered, bounds)
    return Groups(order.int() if len(rows) < 1 << 31 else order, starts)


def pairs_by_row(in_rows: Tensor, out_rows: Tensor, tap_offsets: Tensor, n_out: int) -> Groups:
    """The pairs of a map by output row, grouped at the map's first use."""
    groups, ready = map_tables.get(
        in_rows,
        out_rows,
        tap_offsets,
        ("pairs by row", n_out),
        lambda: (group_by_row(out_rows, n_out), Ready.now(out_rows.device)),
    )
    ready.wait((groups.order, groups.starts))
    return groups


def offsets_on_device(in_rows: Tensor, out_rows: Tensor, tap_offsets: Tensor) -> Tensor:
    """A copy of a map's ``tap_offsets``, which live on the CPU, beside its pairs; made at its first use."""
    offsets, ready = map_tables.get(
        in_rows,
        out_rows,
        tap_offsets,
        ("offsets",),
        lambda: (tap_offsets.to(out_rows.device), Ready.now(out_rows.device)),
    )
    ready.wait((offsets,))
    return offsets
