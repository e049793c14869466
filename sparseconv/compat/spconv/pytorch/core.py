"""``spconv.pytorch.core``: the tensor that detectors hold, and its way into the engine and back."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import Tensor

from sparseconv.compat.spconv.core import ConvAlgo
from sparseconv.compat.spconv.pytorch.pair_table import pair_table
from sparseconv.compat.spconv.pytorch.sites import Resolved, Sites
from sparseconv.compilation import eager
from sparseconv.tensor import NamedMap, SparseTensor

Self = TypeVar("Self", bound="SparseConvTensor")


def expand_nd(ndim: int, val: Any) -> list[int]:
    """One integer for each axis."""
    items = list(val) if hasattr(val, "__iter__") else [val] * ndim
    if len(items) != ndim:
        raise ValueError(f"expected one integer or {ndim} of them, got {val!r}")
    return [int(item) for item in items]


class IndiceData:
    """An entry of ``indice_dict``: what a layer with an ``indice_key`` leaves behind.

    Args:
        record: the engine's map.
        inputs: indices that the layer read.
        source: the distinct sites among them.
        outputs: indices that it wrote.
        target: the distinct sites among them.
    """

    def __init__(
        self, record: NamedMap, inputs: Sites, source: Resolved, outputs: Sites, target: Resolved
    ) -> None:
        self.record = record
        self.inputs, self.source = inputs, source
        self.outputs, self.target = outputs, target
        self.tokens = (inputs.token, outputs.token)
        self.algo = ConvAlgo.Native
        self.voxel_num = None

    @property
    def is_current(self) -> bool:
        """Whether neither side's indices were changed since."""
        self.inputs.refresh()
        self.outputs.refresh()
        return self.tokens[0] is self.inputs.token and self.tokens[1] is self.outputs.token

    @property
    def indices(self) -> Tensor:
        """Indices that the layer read."""
        return self.inputs.indices

    @property
    def out_indices(self) -> Tensor:
        """Indices that it wrote."""
        return self.outputs.indices

    @property
    def spatial_shape(self) -> list[int]:
        """Grid of the input."""
        return list(self.record.inputs.spatial_shape or ())

    @property
    def out_spatial_shape(self) -> list[int]:
        """Grid of the output."""
        return list(self.record.outputs.spatial_shape or ())

    @property
    def is_subm(self) -> bool:
        """Whether the layer kept its sites."""
        return self.record.kind == "submanifold"

    @property
    def ksize(self) -> list[int]:
        """Kernel size."""
        return list(self.record.geometry.kernel_size)

    @property
    def stride(self) -> list[int]:
        """Stride."""
        return list(self.record.geometry.stride)

    @property
    def padding(self) -> list[int]:
        """Padding."""
        return list(self.record.geometry.padding)

    @property
    def dilation(self) -> list[int]:
        """Dilation."""
        return list(self.record.geometry.dilation)

    @property
    def indice_pairs(self) -> Tensor:
        """Input and output rows of each tap, -1 behind the last: int32 ``[2, K, N]``."""
        pairs, _ = pair_table(self.record.kernel_map, len(self.inputs), self.source.first_rows)
        return pairs

    @property
    def indice_pair_num(self) -> Tensor:
        """Pairs of each tap: int32 ``[K]``."""
        return self.record.kernel_map.counts.int().to(self.inputs.device)


# spconv's entry for its fused algorithm; one class serves isinstance checks for both.
ImplicitGemmIndiceData = IndiceData


def scatter_nd(indices: Tensor, updates: Tensor, shape: Sequence[int]) -> Tensor:
    """A zero tensor of ``shape`` with ``updates`` at ``indices``; an index must not repeat."""
    out = torch.zeros(*shape, dtype=updates.dtype, device=updates.device)
    axes = indices.shape[-1]
    return out.index_put(tuple(indices.reshape(-1, axes).long().T), updates.reshape(-1, *shape[axes:]))


class SparseConvTensor:
    """spconv's tensor: features, indices and the grid, mutable as there; checked when a layer uses it.

    Args:
        features: floating point ``[N, C]``.
        indices: int32 (or int64) ``[N, 1+D]``, batch index first. Rows may repeat a site: the first one then
            stands for it wherever it is looked up.
        spatial_shape: grid size of each axis: list, tuple, ndarray or tensor.
        batch_size: number of samples.
        grid: kept, not used.
        voxel_num: kept, not used.
        indice_dict: what earlier layers left; shared with every tensor that layers make of this one.
        benchmark: kept, not used.
        permanent_thrust_allocator: ignored.
        enable_timer: ignored.
        force_algo: kept, not used.

    Raises:
        ValueError: features or indices of another form.
    """

    def __init__(
        self,
        features: Tensor,
        indices: Tensor,
        spatial_shape: Any,
        batch_size: int,
        grid: Tensor | None = None,
        voxel_num: Tensor | None = None,
        indice_dict: dict[str, IndiceData] | None = None,
        benchmark: bool = False,
        permanent_thrust_allocator: bool = False,
        enable_timer: bool = False,
        force_algo: ConvAlgo | None = None,
    ) -> None:
        del permanent_thrust_allocator, enable_timer
        shape = [int(size) for size in spatial_shape]
        if features.dim() != 2:
            raise ValueError(f"features must have shape [N, C], got {list(features.shape)}")
        if indices.dim() != 2 or indices.shape[1] != len(shape) + 1:
            raise ValueError(
                f"indices must have shape [N, {len(shape) + 1}] for the spatial_shape {shape}, batch index first, "
                f"got {list(indices.shape)}"
            )
        if indices.dtype not in (torch.int32, torch.int64):
            raise TypeError(f"indices must be int32, got {indices.dtype}: convert them with .int()")
        self._features = features
        self._sites = Sites.of_tensor(indices)
        self.spatial_shape = shape
        self.batch_size = int(batch_size)
        self.indice_dict: dict[str, IndiceData] = {} if indice_dict is None else indice_dict
        self.grid = torch.Tensor() if grid is None else grid
        self.voxel_num = voxel_num
        self.benchmark = benchmark
        self.benchmark_record: dict[str, Any] = {}
        self.thrust_allocator = None
        self._timer = None
        self.force_algo = force_algo
        self.int8_scale = None

    @property
    def features(self) -> Tensor:
        """Features ``[N, C]``."""
        return self._features

    @features.setter
    def features(self, features: Tensor) -> None:
        raise ValueError("features cannot be assigned: use x = x.replace_feature(features)")

    @property
    def indices(self) -> Tensor:
        """Indices ``[N, 1+D]``. Assign others, or change them in place: maps built on the old ones are dropped."""
        return self._sites.indices

    @indices.setter
    def indices(self, indices: Tensor) -> None:
        self._sites = Sites.of_tensor(indices)

    @classmethod
    def from_dense(cls: type[Self], x: Tensor) -> Self:
        """Tensor of the cells of ``[B, *shape, C]`` that have a non-zero channel."""
        sparse = SparseTensor.from_dense(x)
        return cls(sparse.features, sparse.indices, list(x.shape[1:-1]), x.shape[0])

    def shadow_copy(self: Self) -> Self:
        """Another tensor with the same members, ``indice_dict`` included."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.spatial_shape = [int(size) for size in self.spatial_shape]
        return other

    def replace_feature(self: Self, feature: Tensor) -> Self:
        """The same sites with other features. Their number is checked when a layer uses them."""
        other = self.shadow_copy()
        other._features = feature
        return other

    def select_by_index(self: Self, valid_indices: Tensor) -> Self:
        """Some of the rows, by a mask or by numbers; with an ``indice_dict`` of its own, empty."""
        other = self.replace_feature(self._features[valid_indices])
        other.indices = self.indices[valid_indices]
        other.indice_dict = {}
        return other

    def minus(self: Self) -> Self:
        """Negated features."""
        return self.replace_feature(-self._features)

    @property
    def spatial_size(self) -> int:
        """Number of cells of one sample's grid."""
        return math.prod(int(size) for size in self.spatial_shape)

    @property
    def sparity(self) -> float:
        """Share of occupied cells, in spconv's spelling."""
        return len(self._sites) / self.spatial_size / self.batch_size

    @property
    def is_quantized(self) -> bool:
        """False: features are floating point."""
        return False

    def dequantize(self: Self) -> Self:
        """The tensor itself."""
        return self

    def find_indice_pair(self, key: str | None) -> IndiceData | None:
        """What the layer with that ``indice_key`` left; None where there is nothing, or indices changed since."""
        entry = None if key is None else self.indice_dict.get(key)
        if entry is not None and not entry.is_current:
            del self.indice_dict[key]  # type: ignore[arg-type]
            return None
        return entry

    def dense(self, channels_first: bool = True) -> Tensor:
        """Dense grid ``[B, C, *shape]``, or ``[B, *shape, C]``, zero where nothing is."""
        return self.to_sparse_tensor().dense(channels_first)

    def to_sparse_tensor(self, key: str | None = None) -> SparseTensor:
        """The engine's tensor of the distinct sites, with the map that ``key`` names.

        Raises:
            TypeError, ValueError: features and indices do not fit each other or the grid.
        """
        return self._engine_tensor(self.resolve(), key, self.find_indice_pair(key))

    def _engine_tensor(self, resolved: Resolved, key: str | None, entry: IndiceData | None) -> SparseTensor:
        names = {} if entry is None else {str(key): entry.record}
        return SparseTensor.from_coordinates(
            resolved.of_sites(self._features), resolved.coordinates, MappingProxyType(names)
        )

    @classmethod
    def from_sparse_tensor(cls: type[Self], tensor: SparseTensor) -> Self:
        """A tensor of this class from the engine's.

        Raises:
            ValueError: its grid is unbounded.
        """
        if tensor.spatial_shape is None:
            raise ValueError("spconv's tensors have a bounded grid, and this one has spatial_shape=None")
        return cls(tensor.features, tensor.indices, tensor.spatial_shape, tensor.batch_size)

    def resolve(self) -> Resolved:
        """The distinct sites, checked.

        Raises:
            TypeError, ValueError: features and indices do not fit each other or the grid.
        """
        if len(self._features) != len(self._sites):
            raise ValueError(
                f"features have {len(self._features)} rows and indices {len(self._sites)}: after replace_feature "
                "with another number of rows, assign indices too"
            )
        return self._sites.resolve([int(size) for size in self.spatial_shape], int(self.batch_size))

    def __add__(self: Self, other: SparseConvTensor | Tensor) -> Self:
        """Sum of features; the other tensor must lie on the same sites in the same order."""
        if isinstance(other, SparseConvTensor):
            if self._sites is not other._sites and not torch.equal(self.indices, other.indices):
                raise ValueError(
                    "the tensors lie on different sites: add them with spconv.functional.sparse_add, which takes "
                    "their union"
                )
            other = other._features
        return self.replace_feature(self._features + other)

    __radd__ = __add__

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._sites)

    def __bool__(self) -> bool:
        """True, as any object: an empty tensor is a tensor."""
        return True

    def __repr__(self) -> str:
        """As spconv's."""
        return f"SparseConvTensor[shape={self._features.shape}]"


@eager
def through_engine(
    input: SparseConvTensor,
    layer: Callable[[SparseTensor], SparseTensor],
    key: str | None = None,
    own_row: Callable[[Tensor], Tensor] | None = None,
    inverse: bool = False,
    subm: bool = False,
) -> SparseConvTensor:
    """Run an operation of the engine on spconv's tensor.

    Args:
        input: spconv's tensor.
        layer: from the engine's tensor to another.
        key: the layer's ``indice_key``.
        own_row: the share of a row's own features in the result of a layer that keeps its sites. Rows that repeat
            a site see their neighbours as the site's first row does, but their own features at the centre.
        inverse: the layer leads back to the sites before the layer named ``key``.
        subm: the layer keeps its sites. Nothing looks for its map by name, so a name that stands for another such
            map is simply given to this one.
    """
    source = input.resolve()
    entry = input.find_indice_pair(key)
    renames = subm and entry is not None and entry.is_subm
    engine_input = input._engine_tensor(source, key, None if renames else entry)
    engine_output = layer(engine_input)
    if inverse and entry is not None:
        sites, target = entry.inputs, entry.source
    elif engine_output.coordinates is engine_input.coordinates:
        sites, target = input._sites, source
    else:
        shape = engine_output.spatial_shape or []
        sites = Sites.of_coordinates(engine_output.coordinates, shape)
        target = sites.resolve(shape, engine_output.batch_size)
    features = target.of_rows(engine_output.features)
    if own_row is not None and target.site_rows is not None and sites is input._sites:
        repeated, first = target.repeated_rows()
        difference = own_row(input.features[repeated] - input.features[first])
        features = features.index_add(0, repeated, difference.to(features.dtype))
    output = input.replace_feature(features)
    output._sites = sites
    output.spatial_shape = list(engine_output.spatial_shape or ())
    record = engine_output.named_maps.get(key) if key is not None else None
    if (
        key is not None
        and record is not None
        and (entry is None or entry.record.kernel_map is not record.kernel_map)
    ):
        output.indice_dict[key] = IndiceData(record, input._sites, source, sites, target)
    return output
