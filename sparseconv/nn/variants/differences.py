"""Central difference convolution, whole and on a cross."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sparseconv import functional as F
from sparseconv.difference_taps import DifferenceTaps, central_taps, cross_taps
from sparseconv.functional.variants.differences import check_missing, difference_map
from sparseconv.functional.variants.folded import fold_taps
from sparseconv.functional.variants.placement import placed
from sparseconv.kernel_map import KernelMap
from sparseconv.nn.conv import SparseConvolution
from sparseconv.nn.variants.base import (
    Size,
    VariantConvolution,
    new_parameter,
    plain_convolution,
    uniform_by_fan_,
)
from sparseconv.tensor import NamedMap, SparseTensor


class DifferenceConvolution(VariantConvolution):
    """Base of the difference convolutions: weights, and the taps that they subtract.

    Attributes:
        weight: ``[O, .., C / groups]``; see the class.
        bias: ``[O]`` or None.
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size,
        padding: Size,
        dilation: Size,
        groups: int,
        bias: bool,
        theta: float,
        missing: str,
        indice_key: str | None,
        **factory: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, indice_key)
        check_missing(missing)
        self.theta, self.missing = theta, missing
        self.weight = new_parameter(out_channels, *self.weight_taps(), in_channels // groups, **factory)
        self.register_parameter("bias", new_parameter(out_channels, **factory) if bias else None)
        self.reset_parameters()

    def taps(self) -> DifferenceTaps:
        """The taps that each weight multiplies and subtracts."""
        raise NotImplementedError

    def weight_taps(self) -> tuple[int, ...]:
        """Kernel axes of the weight."""
        return tuple(self.kernel_size)

    def plain_padding(self) -> Size:
        """Padding of the plain kernel."""
        return self.padding

    def reset_parameters(self) -> None:
        """Uniform in +-1/sqrt(fan_in), as :class:`SparseConvolution`."""
        uniform_by_fan_(self.weight, self.bias)

    def record(self, input: SparseTensor) -> NamedMap:
        """Sites and map of the plain convolution of this geometry."""
        return placed(
            input,
            self.taps().kernel_size,
            self.stride,
            self.plain_padding(),
            self.dilation,
            subm=self.subm,
        )

    def kernel_map(self, input: SparseTensor) -> KernelMap:
        """The pairs that :meth:`forward` multiplies."""
        return difference_map(self.record(input), self.taps(), self.theta, self.missing)

    def to_conv(self) -> SparseConvolution:
        """The plain convolution that gives the same output.

        Raises:
            ValueError: ``missing="ignore"``: what is subtracted then depends on the voxels that exist.
        """
        if self.missing != "zero":
            raise ValueError(
                "only missing='zero' is a plain convolution; with 'ignore' the kernel depends on the voxels there"
            )
        taps = self.taps()
        with torch.no_grad():
            weight = fold_taps(self.weight, taps.folding(self.theta)).unflatten(1, taps.kernel_size)
        return plain_convolution(weight, self.bias, self, padding=self.plain_padding())

    def extra_repr(self) -> str:
        """Its arguments."""
        return f"{super().extra_repr()}, theta={self.theta}, missing={self.missing!r}"


class CentralDifferenceConvolution(DifferenceConvolution):
    """Central difference convolution: :func:`sparseconv.functional.central_difference_conv`.

    Args:
        in_channels: ``C``.
        out_channels: ``O``.
        kernel_size: odd sides.
        stride: as in :class:`SparseConvolution`; 1 in the submanifold classes.
        padding: as in :class:`SparseConvolution`; without effect in the submanifold classes.
        dilation: spacing of the taps.
        groups: channel groups.
        bias: whether there is a bias; added once (the official code scales it by ``1 - theta``).
        theta: share of the difference.
        missing: ``"zero"`` (an absent voxel is 0: one folded kernel) or ``"ignore"`` (no difference with it).
        indice_key: a name for the map.
        **factory: device and dtype.

    Attributes:
        weight: ``[O, *kernel, C / groups]``.

    Raises:
        ValueError: an even kernel side, or an unknown ``missing``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 3,
        stride: Size = 1,
        padding: Size = 1,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = False,
        theta: float = 0.7,
        missing: str = "zero",
        indice_key: str | None = None,
        **factory: Any,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            theta,
            missing,
            indice_key,
            **factory,
        )
        self.taps()

    def taps(self) -> DifferenceTaps:
        """Every tap against the centre."""
        return central_taps(tuple(self.kernel_size))

    def forward(self, input: SparseTensor) -> SparseTensor:
        """See :func:`sparseconv.functional.central_difference_conv`."""
        return F.central_difference_conv(
            input,
            self.weight,
            self.bias,
            *self._window(),
            theta=self.theta,
            missing=self.missing,
            subm=self.subm,
            indice_key=self.indice_key,
        )


def check_three(kernel_size: Size, what: str) -> None:
    """Refuse a kernel_size that is not 3.

    Raises:
        ValueError: it is another one.
    """
    sides = (kernel_size,) if isinstance(kernel_size, int) else tuple(kernel_size)
    if set(sides) != {3}:
        raise ValueError(f"{what}: kernel_size must be 3, got {kernel_size}")


class CrossCentralDifferenceConvolution(DifferenceConvolution):
    """Central difference convolution on a cross: :func:`sparseconv.functional.cross_central_difference_conv`.

    Args:
        in_channels: ``C``.
        out_channels: ``O``.
        kernel_size: 3.
        stride: as in :class:`CentralDifferenceConvolution`, and so are the others.
        padding: see there.
        dilation: see there.
        groups: see there.
        bias: see there.
        theta: see there.
        direction: ``"hv"`` (the centre and its neighbours along the axes) or ``"dg"`` (the centre and the
            corners).
        missing: see there.
        indice_key: see there.
        **factory: see there.

    Attributes:
        weight: ``[O, 1, .., T, C / groups]``, T = 5 in 2D; 7 (hv) or 9 (dg) in 3D.

    Raises:
        ValueError: an unknown direction, or another kernel_size.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 3,
        stride: Size = 1,
        padding: Size = 1,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = False,
        theta: float = 0.7,
        direction: str = "hv",
        missing: str = "zero",
        indice_key: str | None = None,
        **factory: Any,
    ) -> None:
        check_three(kernel_size, "the cross lies in a kernel of side 3")
        cross_taps(self._ndim, direction)
        self.direction = direction
        super().__init__(
            in_channels,
            out_channels,
            3,
            stride,
            padding,
            dilation,
            groups,
            bias,
            theta,
            missing,
            indice_key,
            **factory,
        )

    def taps(self) -> DifferenceTaps:
        """The cross against its centre."""
        return cross_taps(self._ndim, self.direction)

    def weight_taps(self) -> tuple[int, ...]:
        """The taps of the cross in the last axis."""
        return (1,) * (self._ndim - 1) + (len(self.taps().plus),)

    def forward(self, input: SparseTensor) -> SparseTensor:
        """See :func:`sparseconv.functional.cross_central_difference_conv`."""
        return F.cross_central_difference_conv(
            input,
            self.weight,
            self.bias,
            *self._window(),
            theta=self.theta,
            direction=self.direction,
            missing=self.missing,
            subm=self.subm,
            indice_key=self.indice_key,
        )

    def extra_repr(self) -> str:
        """Its arguments."""
        return f"{super().extra_repr()}, direction={self.direction!r}"


class SubMCentralDifferenceConv1d(CentralDifferenceConvolution, ndim=1, subm=True):
    """In 1D, on the input's sites; see :class:`CentralDifferenceConvolution`."""


class SubMCentralDifferenceConv2d(CentralDifferenceConvolution, ndim=2, subm=True):
    """In 2D, on the input's sites; see :class:`CentralDifferenceConvolution`."""


class SubMCentralDifferenceConv3d(CentralDifferenceConvolution, ndim=3, subm=True):
    """In 3D, on the input's sites; see :class:`CentralDifferenceConvolution`."""


class SubMCentralDifferenceConv4d(CentralDifferenceConvolution, ndim=4, subm=True):
    """In 4D, on the input's sites; see :class:`CentralDifferenceConvolution`."""


class SparseCentralDifferenceConv1d(CentralDifferenceConvolution, ndim=1):
    """In 1D, on every site in reach; see :class:`CentralDifferenceConvolution`."""


class SparseCentralDifferenceConv2d(CentralDifferenceConvolution, ndim=2):
    """In 2D, on every site in reach; see :class:`CentralDifferenceConvolution`."""


class SparseCentralDifferenceConv3d(CentralDifferenceConvolution, ndim=3):
    """In 3D, on every site in reach; see :class:`CentralDifferenceConvolution`."""


class SparseCentralDifferenceConv4d(CentralDifferenceConvolution, ndim=4):
    """In 4D, on every site in reach; see :class:`CentralDifferenceConvolution`."""


class SubMCrossCentralDifferenceConv1d(CrossCentralDifferenceConvolution, ndim=1, subm=True):
    """In 1D, on the input's sites; see :class:`CrossCentralDifferenceConvolution`."""


class SubMCrossCentralDifferenceConv2d(CrossCentralDifferenceConvolution, ndim=2, subm=True):
    """In 2D, on the input's sites; see :class:`CrossCentralDifferenceConvolution`."""


class SubMCrossCentralDifferenceConv3d(CrossCentralDifferenceConvolution, ndim=3, subm=True):
    """In 3D, on the input's sites; see :class:`CrossCentralDifferenceConvolution`."""


class SubMCrossCentralDifferenceConv4d(CrossCentralDifferenceConvolution, ndim=4, subm=True):
    """In 4D, on the input's sites; see :class:`CrossCentralDifferenceConvolution`."""


class SparseCrossCentralDifferenceConv1d(CrossCentralDifferenceConvolution, ndim=1):
    """In 1D, on every site in reach; see :class:`CrossCentralDifferenceConvolution`."""


class SparseCrossCentralDifferenceConv2d(CrossCentralDifferenceConvolution, ndim=2):
    """In 2D, on every site in reach; see :class:`CrossCentralDifferenceConvolution`."""


class SparseCrossCentralDifferenceConv3d(CrossCentralDifferenceConvolution, ndim=3):
    """In 3D, on every site in reach; see :class:`CrossCentralDifferenceConvolution`."""


class SparseCrossCentralDifferenceConv4d(CrossCentralDifferenceConvolution, ndim=4):
    """In 4D, on every site in reach; see :class:`CrossCentralDifferenceConvolution`."""
