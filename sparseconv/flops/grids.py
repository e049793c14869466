"""The sites that a layer works on, whichever tensor class carries them, and what dilation would make of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from sparseconv.backends import backend_for
from sparseconv.coordinates import Coordinates
from sparseconv.geometry import ConvGeometry
from sparseconv.tensor import SparseTensor

_ATTRIBUTES = ("features", "indices", "spatial_shape", "batch_size")


@dataclass(frozen=True, eq=False)
class Grid:
    """Sites of one sparse tensor.

    Attributes:
        features: ``[N, C]``.
        indices: int32 ``[N, 1+D]``.
        spatial_shape: grid size, or None.
        batch_size: number of samples.
        coordinates: the engine's own coordinates, where the tensor is the engine's own.
    """

    features: Tensor
    indices: Tensor
    spatial_shape: tuple[int, ...] | None
    batch_size: int
    coordinates: Coordinates | None

    @classmethod
    def of(cls, tensor: Any) -> Grid:
        """Read a sparse tensor of this library or of a program written for spconv."""
        shape = tensor.spatial_shape
        return cls(
            tensor.features,
            tensor.indices,
            None if shape is None else tuple(int(size) for size in shape),
            int(tensor.batch_size),
            tensor.coordinates if isinstance(tensor, SparseTensor) else None,
        )

    def __len__(self) -> int:
        """Number of sites."""
        return len(self.indices)

    @property
    def cells(self) -> int:
        """Cells of the grids, or of the box that the sites span where the grid is unbounded."""
        if self.spatial_shape is not None:
            return self.batch_size * math.prod(self.spatial_shape)
        if len(self) == 0:
            return 0
        low, high = torch.aminmax(self.indices[:, 1:], dim=0)
        return self.batch_size * math.prod((high.long() - low.long() + 1).tolist())

    def same_sites(self, other: Grid) -> bool:
        """Whether both hold the same rows in the same order."""
        if self.indices is other.indices:
            return True
        return self.indices.shape == other.indices.shape and torch.equal(self.indices, other.indices)


def is_sparse(value: Any) -> bool:
    """Whether ``value`` is a sparse tensor: this library's, or one with spconv's attributes."""
    if isinstance(value, SparseTensor):
        return True
    return not isinstance(value, Tensor | type) and all(hasattr(value, name) for name in _ATTRIBUTES)


def leaves(value: Any, depth: int = 4) -> Iterator[Any]:
    """Sparse and plain tensors inside the containers and dataclasses that a module takes or returns."""
    if isinstance(value, Tensor) or is_sparse(value):
        yield value
    elif depth and isinstance(value, Mapping):
        for item in value.values():
            yield from leaves(item, depth - 1)
    elif depth and isinstance(value, list | tuple):
        for item in value:
            yield from leaves(item, depth - 1)
    elif depth and is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from leaves(getattr(value, field.name), depth - 1)


def first_grid(*values: Any) -> Grid | None:
    """The first sparse tensor inside ``values``."""
    return next((Grid.of(leaf) for leaf in leaves(values) if is_sparse(leaf)), None)


def dilated_pairs(grid: Grid, geometry: ConvGeometry) -> tuple[int, int] | None:
    """Pairs and output sites of the sparse convolution with a submanifold layer's kernel on the same input.

    A site reaches one output for each tap, unless that output lies outside the grid; so no map is needed, and only
    the distinct outputs are looked for.

    Returns:
        (pairs, output sites), or None where rows repeat a site.
    """
    if len(grid) == 0:
        return 0, 0
    reached = torch.ones(len(grid), dtype=torch.int64, device=grid.indices.device)
    for axis in range(geometry.ndim):
        taps = torch.arange(geometry.kernel_size[axis], device=reached.device)
        shifts = geometry.padding[axis] - geometry.dilation[axis] * taps
        if grid.spatial_shape is None:
            reached *= len(taps)
            continue
        outputs = grid.indices[:, axis + 1, None] + shifts
        reached *= ((outputs >= 0) & (outputs < grid.spatial_shape[axis])).sum(1)
    coordinates = grid.coordinates
    if coordinates is None:
        try:
            coordinates = Coordinates(grid.indices, grid.spatial_shape, grid.batch_size)
        except ValueError:
            return None
    sites = backend_for(grid.indices.device).coarse_sites(coordinates.index(), geometry, grid.spatial_shape)
    return int(reached.sum()), len(sites)
