"""CoordConv: a convolution that is told where it is."""

from __future__ import annotations

from typing import Any, NoReturn

from sparseconv import functional as F
from sparseconv.functional.variants.coord import check_coords
from sparseconv.functional.variants.placement import check_stride
from sparseconv.geometry import per_axis
from sparseconv.nn.conv import SparseConvolution
from sparseconv.nn.module import DimensionedModule, SparseModule
from sparseconv.nn.variants.base import Size
from sparseconv.tensor import SparseTensor


class SparseAddCoords(SparseModule):
    """Append each site's coordinates to its features: ``[N, C]`` to ``[N, C + D]``, or ``[N, C + D + 1]`` with_r.

    Coordinates run from -1 to 1 over the grid or the sample, in the type of the features, and have no gradient.
    Liu et al., "An intriguing failing of convolutional neural networks and the CoordConv solution", arXiv
    1807.03247. The function is :func:`sparseconv.functional.add_coords`.

    Args:
        with_r: append the distance from the centre too.
        order: ``"xy"`` (last axis first: the paper's code) or ``"yx"`` (order of the indices).
        extent: what spans -1 to 1: ``"grid"`` or the occupied box of each ``"sample"``.

    Raises:
        TypeError: in the call, no sparse tensor.
        ValueError: an unknown order or extent; in the call, an unbounded grid with ``extent="grid"``.
    """

    def __init__(self, with_r: bool = False, order: str = "xy", extent: str = "grid") -> None:
        super().__init__()
        check_coords(order, extent)
        self.with_r, self.order, self.extent = with_r, order, extent

    def forward(self, input: SparseTensor) -> SparseTensor:
        """See :func:`sparseconv.functional.add_coords`."""
        return F.add_coords(input, self.with_r, self.order, extent=self.extent)

    def extra_repr(self) -> str:
        """Its arguments."""
        return f"with_r={self.with_r}, order={self.order!r}, extent={self.extent!r}"


class CoordConvolution(SparseConvolution, DimensionedModule):
    """Convolution that sees where it is: ``[N, C]``, with D coordinates appended, to ``[n_out, O]``.

    Liu et al., "An intriguing failing of convolutional neural networks and the CoordConv solution", arXiv
    1807.03247. An absent voxel counts as zeros, its coordinates included. The function is
    :func:`sparseconv.functional.coord_conv`; see :class:`SparseAddCoords` for the coordinates.

    The submanifold classes keep the input's sites, row for row: ``[N, O]``. The Sparse classes make every site in
    reach, sorted: ``[n_out, O]``. Features and parameters have one type (float32, float64, float16 or bfloat16),
    or are brought to that of autocast.

    Args:
        in_channels: ``C`` of the input; the weight reads ``C + D`` or, with_r, ``C + D + 1``.
        out_channels: ``O``.
        kernel_size: one side, or one for each axis; odd in the submanifold classes.
        stride: step of the window, in sites; 1 in the submanifold classes.
        padding: empty sites on both sides of each axis; without effect in the submanifold classes.
        dilation: spacing of the taps, in sites.
        groups: channel groups; must divide O and the channels that the weight reads.
        bias: whether to add a learned ``[O]``.
        with_r: append the distance from the centre too.
        order: as in :class:`SparseAddCoords`.
        extent: as in :class:`SparseAddCoords`.
        indice_key: a name for the map, by which an inverse convolution finds it.
        **factory: device and dtype of the parameters.

    Attributes:
        weight: ``[O, *kernel, (C + D) / groups]``, or ``(C + D + 1) / groups``.
        bias: ``[O]`` or None.

    Raises:
        TypeError: a size that is no integer; in the call, no sparse tensor, or features of another type.
        ValueError: an unknown order or extent, or a size that cannot work; in the call, an unbounded grid with
            ``extent="grid"``, or features of other channels or axes.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 3,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        with_r: bool = False,
        order: str = "xy",
        extent: str = "grid",
        indice_key: str | None = None,
        **factory: Any,
    ) -> None:
        check_coords(order, extent)
        per_axis(in_channels, 1, "in_channels", minimum=1, maximum=1 << 24)
        if self._subm:
            check_stride(stride, self._ndim)
        super().__init__(
            self._ndim,
            in_channels + self._ndim + int(with_r),
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            subm=self._subm,
            indice_key=indice_key,
            **factory,
        )
        self.image_channels = in_channels
        self.with_r, self.order, self.extent = with_r, order, extent

    def forward(self, input: SparseTensor, add_input: SparseTensor | None = None) -> SparseTensor:
        """See :func:`sparseconv.functional.coord_conv`; ``add_input`` as in :class:`SparseConvolution`."""
        whole = F.add_coords(input, self.with_r, self.order, extent=self.extent)
        return super().forward(whole, add_input)

    def onto(self, input: SparseTensor, target: Any) -> SparseTensor:
        """This layer's values at given output sites; see :func:`sparseconv.functional.conv_onto`."""
        return super().onto(F.add_coords(input, self.with_r, self.order, extent=self.extent), target)

    def to_conv(self) -> NoReturn:
        """Not possible: what it adds depends on the place, not on the features.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            "a CoordConv layer is no plain convolution of its input: apply SparseAddCoords, then a convolution "
            "with its weight"
        )

    def extra_repr(self) -> str:
        """Its arguments."""
        return f"{super().extra_repr()}, with_r={self.with_r}, order={self.order!r}, extent={self.extent!r}"


class SubMCoordConv1d(CoordConvolution, ndim=1, subm=True):
    """Convolution with coordinates in 1D on the input's sites: ``[N, C]`` to ``[N, O]``.

    See :class:`CoordConvolution`.
    """


class SubMCoordConv2d(CoordConvolution, ndim=2, subm=True):
    """Convolution with coordinates in 2D on the input's sites: ``[N, C]`` to ``[N, O]``.

    See :class:`CoordConvolution`.
    """


class SubMCoordConv3d(CoordConvolution, ndim=3, subm=True):
    """Convolution with coordinates in 3D on the input's sites: ``[N, C]`` to ``[N, O]``.

    See :class:`CoordConvolution`.
    """


class SubMCoordConv4d(CoordConvolution, ndim=4, subm=True):
    """Convolution with coordinates in 4D on the input's sites: ``[N, C]`` to ``[N, O]``.

    See :class:`CoordConvolution`.
    """


class SparseCoordConv1d(CoordConvolution, ndim=1):
    """Convolution with coordinates in 1D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`CoordConvolution`.
    """


class SparseCoordConv2d(CoordConvolution, ndim=2):
    """Convolution with coordinates in 2D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`CoordConvolution`.
    """


class SparseCoordConv3d(CoordConvolution, ndim=3):
    """Convolution with coordinates in 3D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`CoordConvolution`.
    """


class SparseCoordConv4d(CoordConvolution, ndim=4):
    """Convolution with coordinates in 4D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`CoordConvolution`.
    """
