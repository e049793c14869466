"""``cumm.tensorview`` on numpy: enough to hand points to a voxelizer and to read its results."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

float16, float32, float64 = np.float16, np.float32, np.float64
int8, int16, int32, int64 = np.int8, np.int16, np.int32, np.int64
uint8, uint16, uint32, uint64 = np.uint8, np.uint16, np.uint32, np.uint64
bool_ = np.bool_


class Tensor:
    """An array in cumm's spelling.

    Args:
        array: what it holds, shared; None for an empty one.
    """

    def __init__(self, array: Any = None) -> None:
        self._array: np.ndarray = np.zeros(0, np.float32) if array is None else np.asarray(array)

    def numpy(self) -> np.ndarray:
        """The array."""
        return self._array

    def numpy_view(self) -> np.ndarray:
        """The array."""
        return self._array

    def cpu(self) -> Tensor:
        """The tensor itself."""
        return self

    def clone(self) -> Tensor:
        """A copy."""
        return Tensor(self._array.copy())

    @property
    def shape(self) -> list[int]:
        """Sizes."""
        return list(self._array.shape)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self._array.ndim

    @property
    def size(self) -> int:
        """Number of elements."""
        return self._array.size

    @property
    def dtype(self) -> Any:
        """Type of the elements."""
        return self._array.dtype.type

    def dim(self, axis: int) -> int:
        """Size of an axis."""
        return self._array.shape[axis]

    def empty(self) -> bool:
        """Whether there is no element."""
        return self._array.size == 0

    def __getitem__(self, key: Any) -> Tensor:
        """A view."""
        return Tensor(self._array[key])

    def __len__(self) -> int:
        """Size of the first axis."""
        return len(self._array)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The array, for numpy."""
        return np.array(self._array, dtype=dtype) if copy or dtype is not None else self._array

    def __repr__(self) -> str:
        """Sizes and type."""
        return f"Tensor[shape={self.shape}, dtype={self._array.dtype}]"


def from_numpy(array: np.ndarray) -> Tensor:
    """A tensor that shares an array."""
    return Tensor(array)


def zeros(shape: Sequence[int], dtype: Any = float32, device: int = -1, *ignored: Any) -> Tensor:
    """A tensor of zeros."""
    del device, ignored
    return Tensor(np.zeros(tuple(shape), dtype))


def full(shape: Sequence[int], value: float, dtype: Any = float32, device: int = -1) -> Tensor:
    """A tensor of one value."""
    del device
    return Tensor(np.full(tuple(shape), value, dtype))


# Uninitialised memory has no use in a stand-in.
empty = zeros


class gemm:
    """``cumm.tensorview.gemm``: the activations that a layer can carry."""

    class Activation(enum.Enum):
        """Applied behind the bias."""

        None_ = 0
        """Nothing."""
        ReLU = 1
        """Rectifier."""
        Sigmoid = 2
        """Logistic function."""
        LeakyReLU = 3
        """Rectifier with a slope."""

    @staticmethod
    def activate(features: torch.Tensor, activation: Activation, slope: float) -> torch.Tensor:
        """Apply an activation."""
        if activation is gemm.Activation.ReLU:
            return features.relu()
        if activation is gemm.Activation.Sigmoid:
            return features.sigmoid()
        if activation is gemm.Activation.LeakyReLU:
            return torch.nn.functional.leaky_relu(features, slope)
        return features
