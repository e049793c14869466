"""Central difference convolution on a cross."""

from __future__ import annotations

from typing import Any

from sparseconv import functional as F
from sparseconv.difference_taps import DifferenceTaps, cross_taps
from sparseconv.nn.variants.base import (
    Size,
)
from sparseconv.nn.variants.differences import DifferenceConvolution, check_three
from sparseconv.tensor import SparseTensor


class CrossCentralDifferenceConvolution(DifferenceConvolution):
    """Central difference convolution on a cross (C-CDC): ``[N, C]`` to ``[n_out, O]``, from T taps of ``3^D``.

    Only the pairs of the cross are multiplied. Yu et al., "Dual-Cross Central Difference Network for Face
    Anti-Spoofing", arXiv 2105.01290, in 2D; more axes are this library's definition. The function is
    :func:`sparseconv.functional.cross_central_difference_conv`.

    The submanifold classes keep the input's sites, row for row: ``[N, O]``. The Sparse classes make every site in
    reach, sorted: ``[n_out, O]``. Features and parameters have one type (float32, float64, float16 or bfloat16),
    or are brought to that of autocast.

    Args:
        in_channels: ``C``.
        out_channels: ``O``.
        kernel_size: 3.
        stride: step of the window, in sites; 1 in the submanifold classes.
        padding: empty sites on both sides of each axis; without effect in the submanifold classes.
        dilation: spacing of the taps, in sites.
        groups: channel groups; must divide both channel numbers.
        bias: whether to add a learned ``[O]``; added once (the official code scales it by ``1 - theta``).
        theta: share of the difference; 0 is a plain convolution with T taps.
        direction: ``"hv"`` (the centre and its neighbours along the axes) or ``"dg"`` (the centre and the
            corners).
        missing: ``"zero"`` (an absent voxel is 0: one folded kernel) or ``"ignore"`` (no difference with it).
        indice_key: a name for the map, by which an inverse convolution finds it.
        **factory: device and dtype of the parameters.

    Attributes:
        weight: ``[O, 1, .., T, C / groups]``, T = 5 in 2D; 7 (hv) or 9 (dg) in 3D; taps row-major.
        bias: ``[O]`` or None.

    Raises:
        TypeError: a size that is no integer; in the call, no sparse tensor, or features of another type.
        ValueError: another kernel_size, an unknown direction or ``missing``, or a size that cannot work; in the
            call, features of other channels or axes.
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


class SubMCrossCentralDifferenceConv1d(CrossCentralDifferenceConvolution, ndim=1, subm=True):
    """Central difference convolution on a cross in 1D on the input's sites: ``[N, C]`` to ``[N, O]``.

    See :class:`CrossCentralDifferenceConvolution`.
    """


class SubMCrossCentralDifferenceConv2d(CrossCentralDifferenceConvolution, ndim=2, subm=True):
    """Central difference convolution on a cross in 2D on the input's sites: ``[N, C]`` to ``[N, O]``.

    See :class:`CrossCentralDifferenceConvolution`.
    """


class SubMCrossCentralDifferenceConv3d(CrossCentralDifferenceConvolution, ndim=3, subm=True):
    """Central difference convolution on a cross in 3D on the input's sites: ``[N, C]`` to ``[N, O]``.

    See :class:`CrossCentralDifferenceConvolution`.
    """


class SubMCrossCentralDifferenceConv4d(CrossCentralDifferenceConvolution, ndim=4, subm=True):
    """Central difference convolution on a cross in 4D on the input's sites: ``[N, C]`` to ``[N, O]``.

    See :class:`CrossCentralDifferenceConvolution`.
    """


class SparseCrossCentralDifferenceConv1d(CrossCentralDifferenceConvolution, ndim=1):
    """Central difference convolution on a cross in 1D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`CrossCentralDifferenceConvolution`.
    """


class SparseCrossCentralDifferenceConv2d(CrossCentralDifferenceConvolution, ndim=2):
    """Central difference convolution on a cross in 2D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`CrossCentralDifferenceConvolution`.
    """


class SparseCrossCentralDifferenceConv3d(CrossCentralDifferenceConvolution, ndim=3):
    """Central difference convolution on a cross in 3D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`CrossCentralDifferenceConvolution`.
    """


class SparseCrossCentralDifferenceConv4d(CrossCentralDifferenceConvolution, ndim=4):
    """Central difference convolution on a cross in 4D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`CrossCentralDifferenceConvolution`.
    """
