"""CoordConv: a convolution that is told where it is."""

from __future__ import annotations

from typing import Any, NoReturn

from sparseconv import functional as F
from sparseconv.functional.variants.coord import check_coords
from sparseconv.functional.variants.placement import check_stride
from sparseconv.geometry import per_axis
from sparseconv.nn.conv import SparseConvolution
from sparseconv.nn.module import SparseModule
from sparseconv.nn.variants.base import DimensionedModule, Size
from sparseconv.tensor import SparseTensor


class SparseAddCoords(SparseModule):
    """Append coordinates to the features: :func:`sparseconv.functional.add_coords`.

    Args:
        with_r: append the distance from the centre too.
        order: ``"xy"`` (last axis first: the paper's code) or ``"yx"`` (order of the indices).
        extent: what spans -1 to 1: ``"grid"`` or the occupied box of each ``"sample"``.

    Raises:
        ValueError: an unknown order or extent.
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
    """Convolution that sees coordinates: :func:`sparseconv.functional.coord_conv`.

    Args:
        in_channels: ``C`` of the input; the weight has ``C + D`` or, with_r, ``C + D + 1``.
        out_channels: ``O``.
        kernel_size: as in :class:`SparseConvolution`, and so are the next five.
        stride: 1 in the submanifold classes.
        padding: without effect in the submanifold classes.
        dilation: see there.
        groups: see there.
        bias: see there.
        with_r: append the distance from the centre too.
        order: as in :class:`SparseAddCoords`.
        extent: as in :class:`SparseAddCoords`.
        indice_key: a name for the map.
        **factory: device and dtype.

    Raises:
        ValueError: an unknown order or extent.
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
    """In 1D, on the input's sites; see :class:`CoordConvolution`."""


class SubMCoordConv2d(CoordConvolution, ndim=2, subm=True):
    """In 2D, on the input's sites; see :class:`CoordConvolution`."""


class SubMCoordConv3d(CoordConvolution, ndim=3, subm=True):
    """In 3D, on the input's sites; see :class:`CoordConvolution`."""


class SubMCoordConv4d(CoordConvolution, ndim=4, subm=True):
    """In 4D, on the input's sites; see :class:`CoordConvolution`."""


class SparseCoordConv1d(CoordConvolution, ndim=1):
    """In 1D, on every site in reach; see :class:`CoordConvolution`."""


class SparseCoordConv2d(CoordConvolution, ndim=2):
    """In 2D, on every site in reach; see :class:`CoordConvolution`."""


class SparseCoordConv3d(CoordConvolution, ndim=3):
    """In 3D, on every site in reach; see :class:`CoordConvolution`."""


class SparseCoordConv4d(CoordConvolution, ndim=4):
    """In 4D, on every site in reach; see :class:`CoordConvolution`."""
