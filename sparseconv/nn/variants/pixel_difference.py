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
    """Pixel difference convolution (PDC) of voxels: ``[N, C]`` to ``[n_out, O]``, from differences of neighbours.

    CPDC takes differences to the centre, APDC to the next neighbour round the ring, RPDC between two rings. Su et
    al., "Pixel Difference Networks for Efficient Edge Detection", arXiv 2108.07009, in 2D; more axes are this
    library's definition. The function, with the formulas, is :func:`sparseconv.functional.pixel_difference_conv`.

    The submanifold classes keep the input's sites, row for row: ``[N, O]``. The Sparse classes make every site in
    reach, sorted: ``[n_out, O]``. Features and parameters have one type (float32, float64, float16 or bfloat16),
    or are brought to that of autocast.

    Args:
        in_channels: ``C``.
        out_channels: ``O``.
        kernel_size: 3.
        stride: step of the window, in sites; 1 in the submanifold classes.
        padding: of the kernel of side 3; RPDC pads ``dilation`` more. ``dilation`` (the same grid) by default;
            without effect in the submanifold classes.
        dilation: spacing of the taps, in sites.
        groups: channel groups; must divide both channel numbers.
        bias: whether to add a learned ``[O]``.
        kind: ``"CPDC"``, ``"APDC"`` (2 axes or more) or ``"RPDC"``; the official ``"cd"``, ``"ad"``, ``"rd"`` too.
        theta: share of the difference.
        missing: ``"zero"`` (an absent voxel is 0: one folded kernel) or ``"ignore"`` (no difference with it).
        indice_key: a name for the map, by which an inverse convolution finds it.
        **factory: device and dtype of the parameters.

    Attributes:
        weight: ``[O, 3, .., 3, C / groups]``.
        bias: ``[O]`` or None.

    Raises:
        TypeError: a size that is no integer; in the call, no sparse tensor, or features of another type.
        ValueError: another kernel_size, an unknown kind or ``missing``, APDC in 1D, or a size that cannot work; in
            the call, features of other channels or axes.
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
    """Pixel difference convolution in 1D on the input's sites: ``[N, C]`` to ``[N, O]``.

    See :class:`PixelDifferenceConvolution`.
    """


class SubMPixelDifferenceConv2d(PixelDifferenceConvolution, ndim=2, subm=True):
    """Pixel difference convolution in 2D on the input's sites: ``[N, C]`` to ``[N, O]``.

    See :class:`PixelDifferenceConvolution`.
    """


class SubMPixelDifferenceConv3d(PixelDifferenceConvolution, ndim=3, subm=True):
    """Pixel difference convolution in 3D on the input's sites: ``[N, C]`` to ``[N, O]``.

    See :class:`PixelDifferenceConvolution`.
    """


class SubMPixelDifferenceConv4d(PixelDifferenceConvolution, ndim=4, subm=True):
    """Pixel difference convolution in 4D on the input's sites: ``[N, C]`` to ``[N, O]``.

    See :class:`PixelDifferenceConvolution`.
    """


class SparsePixelDifferenceConv1d(PixelDifferenceConvolution, ndim=1):
    """Pixel difference convolution in 1D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`PixelDifferenceConvolution`.
    """


class SparsePixelDifferenceConv2d(PixelDifferenceConvolution, ndim=2):
    """Pixel difference convolution in 2D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`PixelDifferenceConvolution`.
    """


class SparsePixelDifferenceConv3d(PixelDifferenceConvolution, ndim=3):
    """Pixel difference convolution in 3D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`PixelDifferenceConvolution`.
    """


class SparsePixelDifferenceConv4d(PixelDifferenceConvolution, ndim=4):
    """Pixel difference convolution in 4D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`PixelDifferenceConvolution`.
    """
