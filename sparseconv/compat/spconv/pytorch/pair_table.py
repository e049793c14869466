"""spconv's table of pairs: int32 ``[2, K, N]``, for each tap the input and output rows, -1 behind the last."""

from __future__ import annotations

import torch
from torch import Tensor

from sparseconv.kernel_map import KernelMap


def pair_table(kernel_map: KernelMap, width: int, input_rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The table of a map, and the number of pairs of each tap.

    Args:
        kernel_map: pairs by tap.
        width: columns of the table.
        input_rows: the row behind each input of the map, where it is another one.

    Returns:
        int32 ``[2, K, width]`` and int32 ``[K]``.
    """
    device = kernel_map.in_rows.device
    counts = kernel_map.counts
    table = torch.full((2, kernel_map.volume, width), -1, dtype=torch.int32, device=device)
    taps = torch.arange(kernel_map.volume, device="cpu").repeat_interleave(counts)
    places = torch.arange(kernel_map.n_pairs, device="cpu")
    places -= kernel_map.tap_offsets[:-1].repeat_interleave(counts)
    in_rows = kernel_map.in_rows if input_rows is None else input_rows[kernel_map.in_rows.long()].int()
    taps, places = taps.to(device), places.to(device)
    table[0, taps, places] = in_rows
    table[1, taps, places] = kernel_map.out_rows
    return table, counts.int().to(device)


def kernel_map_of(pairs: Tensor, counts: Tensor, n_in: int, n_out: int) -> KernelMap:
    """The map of a table.

    Args:
        pairs: int32 ``[2, K, N]``.
        counts: ``[K]`` pairs of each tap; the columns behind them are not read.
        n_in: number of input rows.
        n_out: number of output rows.

    Raises:
        ValueError: another form, a row out of range, or a row that occurs twice in a tap.
    """
    if pairs.dim() != 3 or pairs.shape[0] != 2 or counts.shape != pairs.shape[1:2]:
        raise ValueError(
            f"indice_pairs must have shape [2, K, N] with K numbers of pairs, got {list(pairs.shape)} and "
            f"{list(counts.shape)}"
        )
    columns = torch.arange(pairs.shape[2], device=pairs.device)
    is_pair = columns < counts[:, None].to(pairs.device)
    taps, places = torch.nonzero(is_pair, as_tuple=True)
    in_rows, out_rows = pairs[0, taps, places].long(), pairs[1, taps, places].long()
    for name, rows, limit in (("input", in_rows, n_in), ("output", out_rows, n_out)):
        if len(rows) and not (int(rows.min()) >= 0 and int(rows.max()) < limit):
            raise ValueError(
                f"indice_pairs name the {name} rows {int(rows.min())} .. {int(rows.max())} of {limit}"
            )
        keys = taps * limit + rows
        if len(torch.unique(keys)) != len(keys):
            raise ValueError(f"an {name} row occurs twice in one tap of indice_pairs: merge repeated sites first")
    order = torch.argsort(taps * max(n_out, 1) + out_rows)
    in_rows, out_rows, taps = in_rows[order], out_rows[order], taps[order]
    ascends = bool(((in_rows.diff() > 0) | (taps.diff() > 0)).all())
    offsets = torch.zeros(pairs.shape[1] + 1, dtype=torch.int64, device="cpu")
    offsets[1:] = counts.cpu().long().cumsum(0)
    return KernelMap(in_rows.int(), out_rows.int(), offsets, n_in, n_out, ascends)
