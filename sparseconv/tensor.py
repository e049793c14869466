"""Features on a set of sites."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from sparseconv.coordinates import Coordinates
from sparseconv.geometry import ConvGeometry
from sparseconv.kernel_map import KernelMap

# A dense grid past this many bytes is a mistake rather than a wish: 1 TB.
_MAX_DENSE_BYTES = 1 << 40
_FEATURE_TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@dataclass(frozen=True, eq=False)
class NamedMap:
    """What a layer with an ``indice_key`` leaves behind for an inverse convolution or a pooling.

    Attributes:
        kind: ``"submanifold"``, ``"convolution"``, ``"transposed"`` or ``"pooling"``.
        geometry: kernel, stride, padding, dilation.
        inputs: the sites that the layer read.
        outputs: the sites that it wrote.
        kernel_map: pairs (input row, output row).
        states: state tokens of both sets of sites when the map was recorded.
    """

    kind: str
    geometry: ConvGeometry
    inputs: Coordinates
    outputs: Coordinates
    kernel_map: KernelMap
    states: tuple[object, object]

    @classmethod
    def record(
        cls,
        kind: str,
        geometry: ConvGeometry,
        inputs: Coordinates,
        outputs: Coordinates,
        kernel_map: KernelMap,
    ) -> NamedMap:
        """Record a map that was just used."""
        return cls(kind, geometry, inputs, outputs, kernel_map, (inputs.state, outputs.state))

    @property
    def is_current(self) -> bool:
        """Whether neither set of sites was changed in place since."""
        return self.states[0] is self.inputs.state and self.states[1] is self.outputs.state


_NO_MAPS: Mapping[str, NamedMap] = MappingProxyType({})


class SparseTensor:
    """Features ``[N, C]`` on N distinct sites of a batch of grids. Immutable: operations return new tensors.

    Args:
        features: floating point ``[N, C]``; any strides.
        indices: int32 (or int64) ``[N, 1+D]``, D = 1..4: batch index first, then the axes in the order of
            ``spatial_shape`` (detectors use z, y, x). Rows may come in any order; layers that keep the sites
            keep the order, new sites come out in lexicographic order.
        spatial_shape: grid size of each axis (list, tuple, ndarray or tensor), or None for an unbounded
            grid, negative coordinates included.
        batch_size: number of samples, empty ones included; None takes the largest batch index plus one.

    Raises:
        TypeError: features or indices of a wrong type or dtype.
        ValueError: wrong shapes, another number of rows, sites outside the grid, or on another device.
        DuplicateSiteError: a site occurs twice.
    """

    def __init__(
        self,
        features: Tensor,
        indices: Tensor,
        spatial_shape: Sequence[int] | Tensor | None = None,
        batch_size: int | None = None,
    ) -> None:
        _check_features(features)
        coordinates = Coordinates(indices, spatial_shape, batch_size)
        _check_rows(features, coordinates)
        self._features = features
        self._coordinates = coordinates
        self._named_maps = _NO_MAPS

    @classmethod
    def from_coordinates(
        cls,
        features: Tensor,
        coordinates: Coordinates,
        named_maps: Mapping[str, NamedMap] = _NO_MAPS,
    ) -> SparseTensor:
        """Put features ``[N, C]`` on existing coordinates, sharing their index and maps.

        Raises:
            TypeError, ValueError: as the constructor.
        """
        _check_features(features)
        _check_rows(features, coordinates)
        self = object.__new__(cls)
        self._features, self._coordinates, self._named_maps = features, coordinates, named_maps
        return self

    @property
    def features(self) -> Tensor:
        """Features ``[N, C]``."""
        return self._features

    @property
    def indices(self) -> Tensor:
        """Sites, int32 ``[N, 1+D]``, batch index first."""
        return self._coordinates.indices

    @property
    def coordinates(self) -> Coordinates:
        """The sites with their index and maps."""
        return self._coordinates

    @property
    def spatial_shape(self) -> list[int] | None:
        """Grid size of each axis; None where the grid is unbounded."""
        shape = self._coordinates.spatial_shape
        return None if shape is None else list(shape)

    @property
    def batch_size(self) -> int:
        """Number of samples."""
        return self._coordinates.batch_size

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return self._coordinates.ndim

    @property
    def named_maps(self) -> Mapping[str, NamedMap]:
        """Maps of earlier layers by ``indice_key``."""
        return self._named_maps

    @property
    def device(self) -> torch.device:
        """Where features and sites live."""
        return self._features.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the features."""
        return self._features.dtype

    @property
    def spatial_size(self) -> int:
        """Number of cells of one sample's grid.

        Raises:
            ValueError: the grid is unbounded.
        """
        return math.prod(self._bounded_shape("spatial_size"))

    @property
    def occupancy(self) -> float:
        """Share of the grid's cells that are occupied."""
        return len(self) / (self.spatial_size * self.batch_size)

    def __len__(self) -> int:
        """Number of sites."""
        return len(self._coordinates)

    def replace_feature(self, features: Tensor) -> SparseTensor:
        """The same sites with other features ``[N, C']``."""
        return SparseTensor.from_coordinates(features, self._coordinates, self._named_maps)

    def with_named_map(self, name: str, record: NamedMap) -> SparseTensor:
        """This tensor, carrying one more named map."""
        return SparseTensor.from_coordinates(
            self._features,
            self._coordinates,
            MappingProxyType({**self._named_maps, name: record}),
        )

    def dense(self, channels_first: bool = True) -> Tensor:
        """Dense grid with zeros where nothing is: ``[B, C, *shape]``, or ``[B, *shape, C]``.

        Raises:
            ValueError: the grid is unbounded, or would need more than 1 TB.
        """
        shape = self._bounded_shape("dense")
        channels = self._features.shape[1]
        size = self.batch_size * channels * math.prod(shape) * self._features.element_size()
        if size > _MAX_DENSE_BYTES:
            raise ValueError(
                f"a dense grid of {self.batch_size} x {channels} x {shape} would need {size / 1e12:.1f} TB: keep "
                "it sparse, or use a smaller spatial_shape"
            )
        indices = self.indices.long()
        cells = indices[:, 1]
        for axis in range(1, self.ndim):
            cells = cells * shape[axis] + indices[:, 1 + axis]
        if channels_first:
            out = self._features.new_zeros((self.batch_size, channels, math.prod(shape)))
            filled = torch.index_put(out.transpose(1, 2), (indices[:, 0], cells), self._features)
            return filled.transpose(1, 2).reshape(self.batch_size, channels, *shape)
        out = self._features.new_zeros((self.batch_size, math.prod(shape), channels))
        filled = torch.index_put(out, (indices[:, 0], cells), self._features)
        return filled.reshape(self.batch_size, *shape, channels)

    @classmethod
    def from_dense(cls, dense: Tensor, channels_first: bool = False) -> SparseTensor:
        """Sparse tensor of the cells with a non-zero channel.

        Args:
            dense: ``[B, *shape, C]``, D = 1..4; channels last, as spconv has it.
            channels_first: read ``[B, C, *shape]`` instead, what :meth:`dense` gives.

        Raises:
            ValueError: another number of axes.
        """
        if not 3 <= dense.dim() <= 6:
            layout = "[B, C, *spatial_shape]" if channels_first else "[B, *spatial_shape, C]"
            raise ValueError(f"dense must have shape {layout} with 1 to 4 spatial axes, got {list(dense.shape)}")
        last = dense.movedim(1, -1) if channels_first else dense
        indices = torch.nonzero((last != 0).any(-1)).int()
        features = last[tuple(indices.long().T)]
        return cls(features, indices, list(last.shape[1:-1]), last.shape[0])

    def to(self, *args: Any, **kwargs: Any) -> SparseTensor:
        """As :meth:`torch.Tensor.to`, for features and sites; maps stay behind on a change of device."""
        features = self._features.to(*args, **kwargs)
        if features.device == self.device:
            return self.replace_feature(features)
        return SparseTensor.from_coordinates(features, self._coordinates.to(features.device))

    def cpu(self) -> SparseTensor:
        """This tensor on the CPU."""
        return self.to("cpu")

    def cuda(self, device: int | str | torch.device = "cuda") -> SparseTensor:
        """This tensor on a CUDA device."""
        return self.to(torch.device("cuda", device) if isinstance(device, int) else device)

    def half(self) -> SparseTensor:
        """Features in float16."""
        return self.replace_feature(self._features.half())

    def bfloat16(self) -> SparseTensor:
        """Features in bfloat16."""
        return self.replace_feature(self._features.bfloat16())

    def float(self) -> SparseTensor:
        """Features in float32."""
        return self.replace_feature(self._features.float())

    def double(self) -> SparseTensor:
        """Features in float64."""
        return self.replace_feature(self._features.double())

    def detach(self) -> SparseTensor:
        """Features cut from the graph."""
        return self.replace_feature(self._features.detach())

    def clear_maps(self) -> SparseTensor:
        """Drop every map that this tensor's sites keep or that it carries by name; returns the rest."""
        self._coordinates.clear_maps()
        return SparseTensor.from_coordinates(self._features, self._coordinates)

    def __getstate__(self) -> tuple[Tensor, Coordinates, dict[str, NamedMap]]:
        """What a copy or a pickle carries."""
        return self._features, self._coordinates, dict(self._named_maps)

    def __setstate__(self, state: tuple[Tensor, Coordinates, dict[str, NamedMap]]) -> None:
        """Rebuild; the mapping of names is read-only again."""
        self._features, self._coordinates, names = state
        self._named_maps = MappingProxyType(names)

    def _bounded_shape(self, what: str) -> list[int]:
        shape = self.spatial_shape
        if shape is None:
            raise ValueError(
                f"{what} needs a bounded grid, and this tensor has spatial_shape=None: give spatial_shape when "
                "it is built"
            )
        return shape

    def __repr__(self) -> str:
        """Sizes only."""
        return (
            f"SparseTensor(features={list(self._features.shape)} {self.dtype}, "
            f"spatial_shape={self.spatial_shape}, batch_size={self.batch_size}, device='{self.device}')"
        )


def check_sparse(value: object, user: str) -> None:
    """Refuse what is no sparse tensor.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(value, SparseTensor):
        raise TypeError(
            f"{user} takes a SparseTensor, got {type(value).__name__}: build one with "
            "SparseTensor(features, indices, ..) or voxelize(..).to_sparse()"
        )


def _check_features(features: Tensor) -> None:
    if not isinstance(features, Tensor):
        raise TypeError(
            f"features must be a torch.Tensor, got {type(features).__name__}: use torch.from_numpy or torch.tensor"
        )
    if features.dim() != 2:
        raise ValueError(f"features must have shape [N, C], got {list(features.shape)}")
    if features.dtype not in _FEATURE_TYPES:
        raise TypeError(
            f"features must be floating point (float32, float64, float16 or bfloat16), got {features.dtype}: "
            "convert them, for example with .float()"
        )


def _check_rows(features: Tensor, coordinates: Coordinates) -> None:
    if len(features) != len(coordinates):
        raise ValueError(
            f"features must have one row for each of the {len(coordinates)} rows of indices, got "
            f"{list(features.shape)}"
        )
    if features.device != coordinates.device:
        raise ValueError(
            f"features are on {features.device} and indices on {coordinates.device}: move one of them with .to()"
        )
