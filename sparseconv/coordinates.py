"""A set of sites, its index, and the kernel maps that were built on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from sparseconv.backends import backend_for, backend_name
from sparseconv.geometry import MAX_CELLS, MAX_DIMENSIONS, ConvGeometry, per_axis
from sparseconv.kernel_map import KernelMap


def as_spatial_shape(value: Any, ndim: int) -> tuple[int, ...] | None:
    """Grid size from a list, tuple, ndarray or tensor, or None for an unbounded grid.

    Raises:
        TypeError: an entry is not an integer.
        ValueError: the length is not ``ndim`` or an entry is not in 1 .. 2**31-1.
    """
    if value is None:
        return None
    if hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, list | tuple):
        raise TypeError(f"spatial_shape must be {ndim} integers, or None for an unbounded grid, got {value!r}")
    return per_axis(value, ndim, "spatial_shape", minimum=1, maximum=MAX_CELLS)


def _check_form(indices: Tensor) -> int:
    """Check type and shape of indices; returns the number of spatial axes."""
    if not isinstance(indices, Tensor):
        raise TypeError(
            f"indices must be a torch.Tensor, got {type(indices).__name__}: use torch.from_numpy or torch.tensor"
        )
    if indices.dim() != 2 or not 2 <= indices.shape[1] <= 1 + MAX_DIMENSIONS:
        raise ValueError(
            f"indices must have shape [N, 1+D] with D = 1 .. {MAX_DIMENSIONS}, batch index first, got "
            f"{list(indices.shape)}"
        )
    return indices.shape[1] - 1


def as_int32(indices: Tensor) -> Tensor:
    """The indices as contiguous int32, from int32 or from int64 whose values fit.

    Raises:
        TypeError: another type.
        ValueError: an int64 value does not fit int32.
    """
    if indices.dtype == torch.int64:
        low, high = (int(value) for value in torch.aminmax(indices)) if indices.numel() else (0, 0)
        if low < -MAX_CELLS - 1 or high > MAX_CELLS:
            raise ValueError(
                f"indices span {low} .. {high}, beyond the int32 range of a coordinate: shift the sites towards 0 "
                "or use larger voxels"
            )
        return indices.int().contiguous()
    if indices.dtype != torch.int32:
        raise TypeError(
            f"indices must be int32 (or int64), got {indices.dtype}: floor them to voxel coordinates first, "
            "for example with sparseconv.voxelize"
        )
    return indices.contiguous()


def _version(tensor: Tensor) -> int | None:
    """Counter of in-place changes; tensors made in inference mode keep none."""
    return None if tensor.is_inference() else tensor._version


def _keepable() -> torch.inference_mode:
    """What is kept must serve training too: inside ``torch.inference_mode`` it must not be an inference tensor."""
    return torch.inference_mode(False)


class Coordinates:
    """Distinct sites ``[N, 1+D]``, batch first, with the grid and the batch size that they live in.

    Owns its index and the memo of what was built on it, keyed by the whole geometry:
    two layers of equal geometry share a map without being told to, and the memo dies with its owner. Changing
    ``indices`` in place drops both.

    Args:
        indices: int32 (or int64) ``[N, 1+D]``, D = 1..4: batch index, then the axes in the order of
            ``spatial_shape``. Rows may come in any order and keep it.
        spatial_shape: grid size of each axis, or None for an unbounded grid, negative coordinates included.
        batch_size: number of samples; None takes the largest batch index plus one.

    Raises:
        TypeError, ValueError: what came, what was expected, what to do.
        DuplicateSiteError: a site occurs twice.
    """

    def __init__(
        self,
        indices: Tensor,
        spatial_shape: Sequence[int] | Tensor | None = None,
        batch_size: int | None = None,
    ) -> None:
        ndim = _check_form(indices)
        self._indices = as_int32(indices)
        self._shape = as_spatial_shape(spatial_shape, ndim)
        if batch_size is None:
            batch_size = max(0, int(self._indices[:, 0].max())) + 1 if len(self._indices) else 1
        (self._batch_size,) = per_axis(batch_size, 1, "batch_size", minimum=1, maximum=MAX_CELLS)
        self._forget()
        self._check_range()
        self.index()

    @classmethod
    def _trusted(cls, indices: Tensor, shape: tuple[int, ...] | None, batch_size: int) -> Coordinates:
        """Wrap sites that the engine itself made: distinct, sorted and in range."""
        self = object.__new__(cls)
        self._indices, self._shape, self._batch_size = indices, shape, batch_size
        self._forget()
        return self

    def _forget(self) -> None:
        self._seen_version = _version(self._indices)
        self._state = object()
        self._batch_map: KernelMap | None = None
        self._indexes: dict[str, Any] = {}
        self._memo: dict[tuple[Any, ...], tuple[Coordinates, object, KernelMap]] = {}
        # Weak keys: a map onto given sites (these ones included) must not keep them alive.
        self._maps_onto: WeakKeyDictionary[Coordinates, tuple[object, dict[ConvGeometry, KernelMap]]] = (
            WeakKeyDictionary()
        )

    def _check_range(self) -> None:
        if len(self._indices) == 0:
            return
        low, high = backend_for(self.device).bounds(self._indices)
        limits = [self._batch_size, *(self._shape or ())]
        for column, limit in enumerate(limits):
            if low[column] < 0 or high[column] >= limit:
                is_bad = (self._indices[:, column] < 0) | (self._indices[:, column] >= limit)
                row = int(torch.nonzero(is_bad)[0, 0])
                name = "the batch index" if column == 0 else f"axis {column - 1}"
                bound = "batch_size" if column == 0 else "spatial_shape"
                raise ValueError(
                    f"indices leave the grid: row {row} is {self._indices[row].tolist()} (batch first), but "
                    f"{name} must lie in 0 .. {limit - 1} ({bound}), and it spans {low[column]} .. "
                    f"{high[column]}. Drop such rows, enlarge {bound}"
                    + ("." if column == 0 else ", or pass spatial_shape=None for an unbounded grid.")
                )

    def _refresh(self) -> None:
        """Check again and drop everything that was built, where the indices were changed in place."""
        if self._seen_version is not None and _version(self._indices) != self._seen_version:
            # Checked first: a change that leaves the grid is refused at every use until it is undone.
            self._check_range()
            self._forget()

    @property
    def indices(self) -> Tensor:
        """Sites, int32 ``[N, 1+D]``, batch first; checked again where they were changed in place."""
        self._refresh()
        return self._indices

    @property
    def spatial_shape(self) -> tuple[int, ...] | None:
        """Grid size of each axis; None where the grid is unbounded."""
        return self._shape

    @property
    def batch_size(self) -> int:
        """Number of samples."""
        return self._batch_size

    @property
    def state(self) -> object:
        """A token that is another one after every change of the indices: what was built under it is valid."""
        self._refresh()
        return self._state

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return self._indices.shape[1] - 1

    @property
    def device(self) -> torch.device:
        """Where the sites live."""
        return self._indices.device

    def __len__(self) -> int:
        """Number of sites."""
        return self._indices.shape[0]

    def index(self) -> Any:
        """The backend's index of these sites."""
        self._refresh()
        name = backend_name(self.device)
        index = self._indexes.get(name)
        if index is None:
            with _keepable():
                index = self._indexes[name] = backend_for(self.device).build_index(self._indices)
        return index

    def is_sorted(self) -> bool:
        """Whether the rows are in lexicographic order."""
        return backend_for(self.device).is_sorted(self.index())

    def lookup(self, indices: Tensor) -> Tensor:
        """Row of each site ``[M, 1+D]``, -1 where absent: int64 ``[M]``."""
        if _check_form(indices) != self.ndim:
            raise ValueError(f"indices must have {1 + self.ndim} columns like the set, got {indices.shape[1]}")
        return backend_for(self.device).query(self.index(), as_int32(indices))

    def same_sites(self, other: Coordinates) -> bool:
        """Whether both hold the same rows in the same order, in the same grid."""
        if self is other:
            return True
        return (
            self.spatial_shape == other.spatial_shape
            and self.batch_size == other.batch_size
            and self.device == other.device
            and torch.equal(self.indices, other.indices)
        )

    def submanifold_map(self, geometry: ConvGeometry) -> KernelMap:
        """The map from these sites onto themselves."""
        return self.map_onto(self, geometry)

    def map_onto(self, coarse: Coordinates, geometry: ConvGeometry) -> KernelMap:
        """The map from these sites (fine) onto given output sites (coarse)."""
        self._check_axes(geometry)
        if coarse.device != self.device:
            raise ValueError(
                f"the input sites are on {self.device} and the output sites on {coarse.device}: move one of them"
            )
        if coarse.ndim != self.ndim:
            raise ValueError(f"the input sites have {self.ndim} spatial axes and the output sites {coarse.ndim}")
        self._refresh()
        target = self if coarse.same_sites(self) else coarse
        state, maps = self._maps_onto.get(target, (None, {}))
        if state is not target.state:
            maps = {}
            self._maps_onto[target] = (target.state, maps)
        kernel_map = maps.get(geometry)
        if kernel_map is None:
            kernel_map = maps[geometry] = self._build(self, target, geometry)
        return kernel_map

    def downsample(self, geometry: ConvGeometry) -> tuple[Coordinates, KernelMap]:
        """Every coarse site that one of these reaches, and the map onto them."""
        kept = self._kept(("down", geometry))
        if kept is None:
            self._check_axes(geometry)
            shape = None if self._shape is None else tuple(geometry.output_shape(self._shape))
            with _keepable():
                found = backend_for(self.device).coarse_map(self.index(), geometry, shape)
            coarse = Coordinates._trusted(found.sites, shape, self._batch_size)
            coarse._indexes[backend_name(self.device)] = found.index
            pairs = (found.fine_rows, found.coarse_rows, found.tap_offsets)
            kept = self._keep(("down", geometry), coarse, self._map_of(pairs, self, coarse))
        return kept

    def upsample(self, geometry: ConvGeometry, output_padding: tuple[int, ...]) -> tuple[Coordinates, KernelMap]:
        """Every fine site that one of these (coarse) reaches, and the map onto them."""
        key = ("up", geometry, output_padding)
        kept = self._kept(key)
        if kept is None:
            self._check_axes(geometry)
            shape = None
            if self._shape is not None:
                shape = tuple(geometry.transposed_output_shape(self._shape, output_padding))
            with _keepable():
                sites = backend_for(self.device).fine_sites(self.index(), geometry, shape)
            fine = Coordinates._trusted(sites, shape, self._batch_size)
            kept = self._keep(key, fine, self._build(fine, self, geometry).transposed())
        return kept

    def _kept(self, key: tuple[Any, ...]) -> tuple[Coordinates, KernelMap] | None:
        """The kept output set and map, unless either side's indices were changed since."""
        self._refresh()
        # One look: another thread may clear the maps meanwhile.
        kept = self._memo.get(key)
        if kept is None:
            return None
        sites, state, kernel_map = kept
        return (sites, kernel_map) if sites.state is state else None

    def _keep(
        self, key: tuple[Any, ...], sites: Coordinates, kernel_map: KernelMap
    ) -> tuple[Coordinates, KernelMap]:
        self._memo[key] = (sites, sites.state, kernel_map)
        return sites, kernel_map

    def batch_map(self) -> KernelMap:
        """The map from every site to its sample: the k-th site of each sample shares tap k.

        So the invariants of a map hold, and pooling over it is global pooling.
        """
        self._refresh()
        kept = self._batch_map
        if kept is None:
            with _keepable():
                kept = self._batch_map = self._build_batch_map()
        return kept

    def _build_batch_map(self) -> KernelMap:
        batch = self._indices[:, 0].long()
        counts = torch.bincount(batch, minlength=self._batch_size)
        starts = counts.cumsum(0) - counts
        ascend = bool((batch[1:] >= batch[:-1]).all())
        order = torch.arange(len(batch), device=batch.device) if ascend else torch.argsort(batch, stable=True)
        rank = torch.arange(len(batch), device=batch.device) - starts[batch[order]]
        by_tap = torch.argsort(rank, stable=True)
        taps = torch.bincount(rank, minlength=1)
        tap_offsets = torch.cat([taps.new_zeros(1), taps.cumsum(0)]).cpu()
        in_rows = order[by_tap]
        return KernelMap(
            in_rows.int(),
            batch[in_rows].int(),
            tap_offsets,
            len(batch),
            self._batch_size,
            ascend,
            trusted=True,
        )

    def clear_maps(self) -> None:
        """Drop every map and output set that was built on these sites."""
        self._memo.clear()
        self._maps_onto.clear()
        self._batch_map = None

    def to(self, device: torch.device | str) -> Coordinates:
        """The same sites on another device; the memo stays behind."""
        moved = self._indices.to(device)
        if moved is self._indices:
            return self
        return Coordinates._trusted(moved, self._shape, self._batch_size)

    def _check_axes(self, geometry: ConvGeometry) -> None:
        if geometry.ndim != self.ndim:
            raise ValueError(
                f"a {geometry.ndim}-dimensional layer was given sites with {self.ndim} spatial axes: use the "
                f"{self.ndim}d layer"
            )

    @staticmethod
    def _build(fine: Coordinates, coarse: Coordinates, geometry: ConvGeometry) -> KernelMap:
        backend = backend_for(fine.device)
        with _keepable():
            pairs = backend.kernel_pairs(fine.index(), coarse.index(), geometry)
        return Coordinates._map_of(pairs, fine, coarse)

    @staticmethod
    def _map_of(pairs: tuple[Tensor, Tensor, Tensor], fine: Coordinates, coarse: Coordinates) -> KernelMap:
        """The map of pairs that a backend found."""
        ascend = fine.is_sorted() and coarse.is_sorted()
        return KernelMap(*pairs, len(fine), len(coarse), ascend, trusted=True)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or a pickle carries: the sites, not what was built on them."""
        return {
            "indices": self._indices,
            "shape": self._shape,
            "batch_size": self._batch_size,
            "state": self.state,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Rebuild from the sites alone."""
        self._indices, self._shape = state["indices"], state["shape"]
        self._batch_size = state["batch_size"]
        self._forget()
        # Named maps that travel along were built under this token.
        self._state = state["state"]

    def __repr__(self) -> str:
        """Sizes only."""
        return f"Coordinates(n={len(self)}, spatial_shape={self.spatial_shape}, batch_size={self.batch_size})"


class CoordinateHash:
    """A set of sites to look rows up in: build once, query often.

    Keys are exact 64-bit numbers of the sites, so two sites never collide.

    Args:
        indices: int32 (or int64) ``[N, 1+D]``, batch index first, any sign, no duplicates.

    Raises:
        DuplicateSiteError: a site occurs twice.
        ValueError: the occupied box has 2**63 cells or more.
    """

    def __init__(self, indices: Tensor) -> None:
        self._columns = 1 + _check_form(indices)
        sites = as_int32(indices)
        self._device = sites.device
        self._index = backend_for(sites.device).build_index(sites)
        self._backend = backend_for(sites.device)
        self._length = len(sites)

    def __len__(self) -> int:
        """Number of sites."""
        return self._length

    def query(self, indices: Tensor) -> Tensor:
        """Row of each site ``[M, 1+D]`` in the set, -1 where absent: int64 ``[M]``.

        Raises:
            ValueError: another number of columns, or another device.
        """
        if 1 + _check_form(indices) != self._columns:
            raise ValueError(f"indices must have {self._columns} columns like the set, got {indices.shape[1]}")
        if indices.device != self._device:
            raise ValueError(f"indices are on {indices.device} and the set on {self._device}: move one of them")
        return self._backend.query(self._index, as_int32(indices))
