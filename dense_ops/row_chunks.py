"""Work on output rows in chunks, so that what a variant gathers for each row never fills the memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Bytes that one chunk may gather; a chunk's intermediate results are a few times that.
CHUNK_BYTES = 64 << 20


def by_row_chunks(
    function: Callable[..., Tensor], n_rows: int, bytes_per_row: int, tensors: tuple[Tensor, ...]
) -> Tensor:
    """Concatenate ``function(start, stop, *tensors)`` over chunks of the rows ``0 .. n_rows``.

    Where a gradient is wanted and there are several chunks, each is computed again on the way back: memory
    stays that of one chunk.

    Args:
        function: computes the output rows ``start .. stop``.
        n_rows: number of output rows.
        bytes_per_row: what one row gathers.
        tensors: differentiable arguments.
    """
    step = max(1, CHUNK_BYTES // max(1, bytes_per_row))
    if n_rows <= step:
        return function(0, n_rows, *tensors)
    again = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    parts = []
    for start in range(0, n_rows, step):
        stop = min(n_rows, start + step)
        if again:
            parts.append(
                checkpoint(function, start, stop, *tensors, use_reentrant=False, preserve_rng_state=False)
            )
        else:
            parts.append(function(start, stop, *tensors))
    return torch.cat(parts)
