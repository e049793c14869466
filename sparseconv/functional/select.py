"""Keeping some of the sites."""

from __future__ import annotations

import torch
from torch import Tensor

from sparseconv.coordinates import Coordinates
from sparseconv.tensor import SparseTensor, check_sparse


def prune(input: SparseTensor, keep: Tensor) -> SparseTensor:
    """Keep some of the sites with their features, in their order.

    Args:
        input: sparse tensor ``[N, C]``.
        keep: bool ``[N]``, true where a row is kept.

    Returns:
        ``[M, C]`` on the M sites kept, of the same grid and batch; named maps stay behind.

    Raises:
        TypeError: the input is no sparse tensor, or ``keep`` no bool tensor.
        ValueError: another number of rows, or ``keep`` on another device.
    """
    check_sparse(input, "prune")
    if not isinstance(keep, Tensor) or keep.dtype != torch.bool:
        came = keep.dtype if isinstance(keep, Tensor) else type(keep).__name__
        raise TypeError(
            f"keep must be a bool mask with one entry for each row, got {came}: compare (scores > 0.5), or set "
            "rows of torch.zeros(len(input), dtype=torch.bool)"
        )
    if keep.shape != (len(input),):
        raise ValueError(f"keep must have shape [{len(input)}], got {list(keep.shape)}")
    if keep.device != input.device:
        raise ValueError(f"keep is on {keep.device} and the sites on {input.device}: move one of them with .to()")
    rows = torch.nonzero(keep)[:, 0]
    kept = Coordinates._trusted(
        input.indices.index_select(0, rows), input.coordinates.spatial_shape, input.batch_size
    )
    return SparseTensor.from_coordinates(input.features.index_select(0, rows), kept)
