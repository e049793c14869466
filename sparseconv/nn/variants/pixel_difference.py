"""Pixel difference convolution: central, angular and radial."""

from __future__ import annotations

from typing import Any

from sparseconv import functional as F
from sparseconv.difference_taps import DifferenceTaps, pixel_kind, pixel_taps
from sparseconv.functional.variants.differences import pixel_padding
from sparseconv.nn.variants.base import Size
from sparseconv.nn.variants.differences import DifferenceConvolution, check_three
from sparseconv.tensor import SparseTensor


class PixelDifferenceConvolution(DifferenceConvolution):
    """Pixel difference convolution: :func:`sparseconv.functional.pixel_difference_conv`.

    Args:
        in_channels: ``C``.
        out_channels: ``O``.
        kernel_size: 3.
        stride: as in :class:`CentralDifferenceConvolution`, and so are the others.
        padding: of the kernel of side 3; RPDC pads ``dilation`` more. ``dilation`` (the same grid) by default.
        dilation: see there.
        groups: see there.
        bias: see there.
        kind: ``"CPDC"``, ``"APDC"`` (2 axes or more) or ``"RPDC"``; the official ``"cd"``, ``"ad"``, ``"rd"`` too.
        theta: share of the difference.
        missing: see there.
        indice_key: see there.
        **factory: see there.

    Attributes:
        weight: ``[O, 3, .., 3, C / groups]``.

    Raises:
        ValueError: an unknown kind, APDC in 1D, or another kernel_size.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 3,
        stride: Size = 1,
        padding: Size | None = None,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = False,
        kind: str = "CPDC",
        theta: float = 1.0,
        missing: str = "zero",
        indice_key: str | None = None,
        **factory: Any,
    ) -> None:
        check_three(kernel_size, "pixel differences are defined on weights of side 3")
        self.kind = pixel_kind(kind)
        pixel_taps(self._ndim, self.kind)
        super().__init__(
            in_channels,
            out_channels,
            3,
            stride,
            dilation if padding is None else padding,
            dilation,
            groups,
            bias,
            theta,
            missing,
            indice_key,
            **factory,
        )

    def taps(self) -> DifferenceTaps:
        """The differences of this kind."""
        return pixel_taps(self._ndim, self.kind)

    def plain_padding(self) -> Size:
        """Padding of the plain kernel: one ring more for RPDC."""
        return pixel_padding(self.padding, self.dilation, self._ndim, self.kind)

    def forward(self, input: SparseTensor) -> SparseTensor:
        """See :func:`sparseconv.functional.pixel_difference_conv`."""
        return F.pixel_difference_conv(
            input,
            self.weight,
            self.bias,
            *self._window(),
            kind=self.kind,
            theta=self.theta,
            missing=self.missing,
            subm=self.subm,
            indice_key=self.indice_key,
        )

    def extra_repr(self) -> str:
        """Its arguments."""
        return f"{super().extra_repr()}, kind={self.kind!r}"


class SubMPixelDifferenceConv1d(PixelDifferenceConvolution, ndim=1, subm=True):
    """In 1D, on the input's sites; see :class:`PixelDifferenceConvolution`."""


class SubMPixelDifferenceConv2d(PixelDifferenceConvolution, ndim=2, subm=True):
    """In 2D, on the input's sites; see :class:`PixelDifferenceConvolution`."""


class SubMPixelDifferenceConv3d(PixelDifferenceConvolution, ndim=3, subm=True):
    """In 3D, on the input's sites; see :class:`PixelDifferenceConvolution`."""


class SubMPixelDifferenceConv4d(PixelDifferenceConvolution, ndim=4, subm=True):
    """In 4D, on the input's sites; see :class:`PixelDifferenceConvolution`."""


class SparsePixelDifferenceConv1d(PixelDifferenceConvolution, ndim=1):
    """In 1D, on every site in reach; see :class:`PixelDifferenceConvolution`."""


class SparsePixelDifferenceConv2d(PixelDifferenceConvolution, ndim=2):
    """In 2D, on every site in reach; see :class:`PixelDifferenceConvolution`."""


class SparsePixelDifferenceConv3d(PixelDifferenceConvolution, ndim=3):
    """In 3D, on every site in reach; see :class:`PixelDifferenceConvolution`."""


class SparsePixelDifferenceConv4d(PixelDifferenceConvolution, ndim=4):
    """In 4D, on every site in reach; see :class:`PixelDifferenceConvolution`."""
