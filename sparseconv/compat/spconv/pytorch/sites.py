"""Indices as spconv's users hold them: shared between tensors, assignable, changed in place, with repeated rows.

The engine works on a private copy of them. So a change in place can never reach a map that was built before it:
the copy shows that the indices differ, and everything that was built on them is dropped.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from sparseconv.backends import DuplicateSiteError, backend_for
from sparseconv.compilation import eager
from sparseconv.coordinates import Coordinates, as_int32


@dataclass(frozen=True, eq=False)
class Resolved:
    """Distinct sites of some indices, in one grid.

    Attributes:
        coordinates: the sites: the rows themselves, or the distinct ones among them, sorted.
        first_rows: int64 ``[M]``: the first row on each site, which stands for it; None where all are distinct.
        site_rows: int64 ``[N]``: the site of each row; None where all are distinct.
    """

    coordinates: Coordinates
    first_rows: Tensor | None = None
    site_rows: Tensor | None = None

    def of_sites(self, features: Tensor) -> Tensor:
        """Features of the sites ``[M, C]`` from those of the rows."""
        return features if self.first_rows is None else features.index_select(0, self.first_rows)

    def of_rows(self, features: Tensor) -> Tensor:
        """Features of the rows ``[N, C]`` from those of the sites."""
        return features if self.site_rows is None else features.index_select(0, self.site_rows)

    def repeated_rows(self) -> tuple[Tensor, Tensor]:
        """Rows that do not stand for their site, and the row that does: two int64 vectors."""
        assert self.first_rows is not None and self.site_rows is not None
        first = self.first_rows[self.site_rows]
        repeated = torch.nonzero(first != torch.arange(len(first), device=first.device))[:, 0]
        return repeated, first[repeated]


class Sites:
    """The indices of one or several tensors, and what was built on them.

    Args:
        indices: int32 or int64 ``[N, 1+D]``, batch index first.
    """

    _by_tensor: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    def __init__(self, indices: Tensor) -> None:
        self._visible: Tensor | None = indices
        self._copy: Tensor | None = None
        self._version: int | None = None
        self._token = object()
        self._resolved: dict[tuple[tuple[int, ...], int], Resolved] = {}

    @classmethod
    def of_tensor(cls, indices: Tensor) -> Sites:
        """The sites of an indices tensor: the same for the same tensor, so that tensors on it share maps."""
        known = cls._by_tensor.get(indices)
        sites = None if known is None else known()
        if sites is None:
            sites = cls(indices)
            cls._by_tensor[indices] = weakref.ref(sites)
        return sites

    @classmethod
    def of_coordinates(cls, coordinates: Coordinates, spatial_shape: Sequence[int]) -> Sites:
        """Sites that the engine made; users get a copy of them when they first ask."""
        sites = object.__new__(cls)
        sites._visible, sites._copy, sites._version = None, coordinates.indices, None
        sites._token = object()
        sites._resolved = {(tuple(spatial_shape), coordinates.batch_size): Resolved(coordinates)}
        return sites

    @property
    def indices(self) -> Tensor:
        """What users see, and may change."""
        if self._visible is None:
            assert self._copy is not None
            self._visible = self._copy.clone()
            self._version = _version(self._visible)
            self._by_tensor[self._visible] = weakref.ref(self)
        return self._visible

    @property
    def columns(self) -> int:
        """Number of columns: spatial axes and one."""
        return (self._copy if self._visible is None else self._visible).shape[1]  # type: ignore[union-attr]

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._copy if self._visible is None else self._visible)  # type: ignore[arg-type]

    @property
    def device(self) -> torch.device:
        """Where the indices live."""
        return (self._copy if self._visible is None else self._visible).device  # type: ignore[union-attr]

    @property
    def token(self) -> object:
        """Another object after every change of the indices that :meth:`refresh` has seen."""
        return self._token

    def resolve(self, spatial_shape: Sequence[int], batch_size: int) -> Resolved:
        """The distinct sites in a grid, kept until the indices change.

        Raises:
            TypeError, ValueError: no indices, or outside the grid.
        """
        self.refresh()
        key = (tuple(spatial_shape), batch_size)
        if key not in self._resolved:
            if self._copy is None:
                assert self._visible is not None
                self._copy = _private_copy(self._visible)
                self._version = _version(self._visible)
            self._resolved[key] = _resolve(self._copy, spatial_shape, batch_size)
        return self._resolved[key]

    def refresh(self) -> None:
        """Drop what was built on the indices, where they were changed."""
        if self._visible is None or self._copy is None or not self._is_changed(self._visible, self._copy):
            return
        self._copy = None
        self._resolved = {}
        self._token = object()

    def _is_changed(self, visible: Tensor, copy: Tensor) -> bool:
        if visible.shape != copy.shape or visible.device != copy.device:
            return True
        if visible.is_cpu:
            # By value, as numpy writes into a shared tensor unseen; on one thread: 40,000 sites take 0.05 ms, and
            # torch.equal on two busy cores takes 2 ms.
            return not np.array_equal(visible.detach().numpy(), copy.numpy())
        if self._version is not None:
            return _version(visible) != self._version
        return not torch.equal(visible.int(), copy)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or a pickle carries."""
        self.refresh()
        return self.__dict__.copy()


def _version(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version


def _private_copy(indices: Tensor) -> Tensor:
    with torch.inference_mode(False):
        copy = as_int32(indices.detach())
        return copy.clone() if copy.data_ptr() == indices.data_ptr() or copy.is_inference() else copy


@eager
def _resolve(indices: Tensor, spatial_shape: Sequence[int], batch_size: int) -> Resolved:
    try:
        return Resolved(Coordinates(indices, spatial_shape, batch_size))
    except DuplicateSiteError:
        distinct, rows = backend_for(indices.device).unique_sites(indices)
    order = torch.arange(len(indices), device=indices.device)
    first = torch.full((len(distinct),), len(indices), device=indices.device)
    first = first.scatter_reduce(0, rows, order, "amin")
    return Resolved(Coordinates(distinct, spatial_shape, batch_size), first, rows)
