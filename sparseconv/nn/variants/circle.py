"""Circle and ball convolution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sparseconv import functional as F
from sparseconv.circle_taps import Radius
from sparseconv.functional.variants.folded import fold_taps, folded_map
from sparseconv.kernel_map import KernelMap
from sparseconv.nn.conv import SparseConvolution
from sparseconv.nn.variants.base import (
    Size,
    VariantConvolution,
    new_parameter,
    plain_convolution,
    uniform_by_fan_,
)
from sparseconv.tensor import SparseTensor


class CircleConvolution(VariantConvolution):
    """Circle (2D) or ball (3D) convolution: :func:`sparseconv.functional.circle_conv`.

    Args:
        in_channels: ``C``.
        out_channels: ``O``.
        kernel_size: an odd side; 3, 5 and 7 in the paper.
        stride: as in :class:`SparseConvolution`; 1 in the submanifold classes.
        padding: as in :class:`SparseConvolution`; without effect in the submanifold classes.
        dilation: spacing of the taps.
        groups: channel groups.
        bias: whether there is a bias.
        radius: as in :func:`sparseconv.functional.ball_matrix`.
        angles: as in :func:`sparseconv.functional.ball_matrix`.
        indice_key: a name for the map.
        **factory: device and dtype.

    Attributes:
        weight: ``[O, k, .., k, C / groups]``.
        bias: ``[O]`` or None.

    Raises:
        ValueError: an even side, or a radius that leaves the kernel.
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        radius: Radius = None,
        angles: str = "grid",
        indice_key: str | None = None,
        **factory: Any,
    ) -> None:
        F.ball_matrix(kernel_size, self._ndim, radius, angles)
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, indice_key)
        self.radius, self.angles = radius, angles
        self.weight = new_parameter(out_channels, *self.kernel_size, in_channels // groups, **factory)
        self.register_parameter("bias", new_parameter(out_channels, **factory) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform in +-1/sqrt(fan_in), as :class:`SparseConvolution`."""
        uniform_by_fan_(self.weight, self.bias)

    def folding(self) -> Tensor:
        """See :func:`sparseconv.functional.ball_matrix`."""
        return F.ball_matrix(self.kernel_size[0], self.ndim, self.radius, self.angles)

    def forward(self, input: SparseTensor) -> SparseTensor:
        """See :func:`sparseconv.functional.circle_conv`."""
        return F.circle_conv(
            input,
            self.weight,
            self.bias,
            *self._window(),
            radius=self.radius,
            angles=self.angles,
            subm=self.subm,
            indice_key=self.indice_key,
        )

    def kernel_map(self, input: SparseTensor) -> KernelMap:
        """The pairs that :meth:`forward` multiplies."""
        return folded_map(self.record(input), self.folding())

    def to_conv(self) -> SparseConvolution:
        """The plain convolution that gives the same output."""
        with torch.no_grad():
            weight = fold_taps(self.weight, self.folding()).unflatten(1, self.kernel_size)
        return plain_convolution(weight, self.bias, self)

    def extra_repr(self) -> str:
        """Its arguments."""
        parts = [super().extra_repr()]
        if self.radius is not None:
            parts.append(f"radius={self.radius}")
        if self.angles != "grid":
            parts.append(f"angles={self.angles!r}")
        return ", ".join(parts)


class SubMCircleConv1d(CircleConvolution, ndim=1, subm=True):
    """In 1D, on the input's sites; see :class:`CircleConvolution`."""


class SubMCircleConv2d(CircleConvolution, ndim=2, subm=True):
    """In 2D, on the input's sites; see :class:`CircleConvolution`."""


class SubMCircleConv3d(CircleConvolution, ndim=3, subm=True):
    """In 3D, on the input's sites; see :class:`CircleConvolution`."""


class SubMCircleConv4d(CircleConvolution, ndim=4, subm=True):
    """In 4D, on the input's sites; see :class:`CircleConvolution`."""


class SparseCircleConv1d(CircleConvolution, ndim=1):
    """In 1D, on every site in reach; see :class:`CircleConvolution`."""


class SparseCircleConv2d(CircleConvolution, ndim=2):
    """In 2D, on every site in reach; see :class:`CircleConvolution`."""


class SparseCircleConv3d(CircleConvolution, ndim=3):
    """In 3D, on every site in reach; see :class:`CircleConvolution`."""


class SparseCircleConv4d(CircleConvolution, ndim=4):
    """In 4D, on every site in reach; see :class:`CircleConvolution`."""
