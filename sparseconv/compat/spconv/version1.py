"""What spconv 1.x does otherwise: features are assignable, and max pooling steps by 1 unless told."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sparseconv.compat.spconv import pytorch

Size = int | Sequence[int]


class SparseConvTensor(pytorch.SparseConvTensor):
    """As :class:`..pytorch.SparseConvTensor`; ``features`` may be assigned, behind every layer too."""

    @property
    def features(self) -> Tensor:
        """Features ``[N, C]``; assign others as you like."""
        return self._features

    @features.setter
    def features(self, features: Tensor) -> None:
        self._features = features


class SparseMaxPool2d(pytorch.SparseMaxPool2d):
    """Maximum over the active inputs in a 2D window, in steps of 1 unless told."""

    def __init__(self, kernel_size: Size, stride: Size = 1, padding: Size = 0, dilation: Size = 1) -> None:
        super().__init__(kernel_size, stride, padding, dilation)


class SparseMaxPool3d(pytorch.SparseMaxPool3d):
    """Maximum over the active inputs in a 3D window, in steps of 1 unless told."""

    def __init__(self, kernel_size: Size, stride: Size = 1, padding: Size = 0, dilation: Size = 1) -> None:
        super().__init__(kernel_size, stride, padding, dilation)
