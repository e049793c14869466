"""Central difference convolution."""

from __future__ import annotations

from typing import Any

from sparseconv import functional as F
from sparseconv.difference_taps import DifferenceTaps, central_taps
from sparseconv.nn.variants.base import (
    Size,
)
from sparseconv.nn.variants.differences import DifferenceConvolution
from sparseconv.tensor import SparseTensor


class CentralDifferenceConvolution(DifferenceConvolution):
    """Central difference convolution (CDC): ``[N, C]`` to ``[n_out, O]``, values mixed with differences.

    ``y = sum over t of W_t x_t - theta x_centre sum over t of W_t``. Yu et al., "Searching Central Difference
    Convolutional Networks for Face Anti-Spoofing", arXiv 2003.04092. The function is
    :func:`sparseconv.functional.central_difference_conv`.

    The submanifold classes keep the input's sites, row for row: ``[N, O]``. The Sparse classes make every site in
    reach, sorted: ``[n_out, O]``. Features and parameters have one type (float32, float64, float16 or bfloat16),
    or are brought to that of autocast.

    Args:
        in_channels: ``C``.
        out_channels: ``O``.
        kernel_size: one odd side, or one for each axis.
        stride: step of the window, in sites; 1 in the submanifold classes.
        padding: empty sites on both sides of each axis; without effect in the submanifold classes.
        dilation: spacing of the taps, in sites.
        groups: channel groups; must divide both channel numbers.
        bias: whether to add a learned ``[O]``; added once (the official code scales it by ``1 - theta``).
        theta: share of the difference; 0 is a plain convolution.
        missing: ``"zero"`` (an absent voxel is 0: one folded kernel) or ``"ignore"`` (no difference with it).
        indice_key: a name for the map, by which an inverse convolution finds it.
        **factory: device and dtype of the parameters.

    Attributes:
        weight: ``[O, *kernel, C / groups]``.
        bias: ``[O]`` or None.

    Raises:
        TypeError: a size that is no integer; in the call, no sparse tensor, or features of another type.
        ValueError: an even side, an unknown ``missing``, or a size that cannot work; in the call, features of
            other channels or axes.
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


class SubMCentralDifferenceConv1d(CentralDifferenceConvolution, ndim=1, subm=True):
    """Central difference convolution in 1D on the input's sites: ``[N, C]`` to ``[N, O]``.

    See :class:`CentralDifferenceConvolution`.
    """


class SubMCentralDifferenceConv2d(CentralDifferenceConvolution, ndim=2, subm=True):
    """Central difference convolution in 2D on the input's sites: ``[N, C]`` to ``[N, O]``.

    See :class:`CentralDifferenceConvolution`.
    """


class SubMCentralDifferenceConv3d(CentralDifferenceConvolution, ndim=3, subm=True):
    """Central difference convolution in 3D on the input's sites: ``[N, C]`` to ``[N, O]``.

    See :class:`CentralDifferenceConvolution`.
    """


class SubMCentralDifferenceConv4d(CentralDifferenceConvolution, ndim=4, subm=True):
    """Central difference convolution in 4D on the input's sites: ``[N, C]`` to ``[N, O]``.

    See :class:`CentralDifferenceConvolution`.
    """


class SparseCentralDifferenceConv1d(CentralDifferenceConvolution, ndim=1):
    """Central difference convolution in 1D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`CentralDifferenceConvolution`.
    """


class SparseCentralDifferenceConv2d(CentralDifferenceConvolution, ndim=2):
    """Central difference convolution in 2D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`CentralDifferenceConvolution`.
    """


class SparseCentralDifferenceConv3d(CentralDifferenceConvolution, ndim=3):
    """Central difference convolution in 3D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`CentralDifferenceConvolution`.
    """


class SparseCentralDifferenceConv4d(CentralDifferenceConvolution, ndim=4):
    """Central difference convolution in 4D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`CentralDifferenceConvolution`.
    """
