"""Keeping some of the sites."""

from __future__ import annotations

import torch
from torch import Tensor

from sparseconv.coordinates import Coordinates
from sparseconv.tensor import SparseTensor, check_sparse


def prune(input: SparseTensor, keep: Tensor) -> SparseTensor:
    """Keep the rows where ``keep`` (bool ``[N]``) is true, in their order. Named maps stay behind.

    Raises:
        TypeError: ``keep`` is not bool.
        ValueError: another number of rows.
    """
    check_sparse(input, "prune")
    if not isinstance(keep, Tensor) or keep.dtype != torch.bool:
        came = keep.dtype if isinstance(keep, Tensor) else type(keep).__name__
        raise TypeError(f"keep must be a bool mask with one entry for each row, got {came}")
    if keep.shape != (len(input),):
        raise ValueError(f"keep must have shape [{len(input)}], got {list(keep.shape)}")
    rows = torch.nonzero(keep)[:, 0]
    kept = Coordinates._trusted(
        input.indices.index_select(0, rows), input.coordinates.spatial_shape, input.batch_size
    )
    return SparseTensor.from_coordinates(input.features.index_select(0, rows), kept)
