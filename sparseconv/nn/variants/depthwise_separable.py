"""Depthwise separable convolution: each channel on its own, then across channels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparseconv.functional.variants.placement import check_stride
from sparseconv.geometry import per_axis
from sparseconv.nn.conv import SparseConvolution
from sparseconv.nn.module import DimensionedModule
from sparseconv.nn.variants.base import Size, plain_convolution
from sparseconv.tensor import SparseTensor


class DepthwiseSeparableConvolution(DimensionedModule):
    """A depthwise convolution, then a pointwise one across channels: ``[N, C]`` to ``[n_out, O]``.

    It folds to one convolution (:meth:`to_conv`). Howard et al., "MobileNets: Efficient Convolutional Neural
    Networks for Mobile Vision Applications", arXiv 1704.04861 (which has a norm and a ReLU after each of the two).
    The function is :func:`sparseconv.functional.depthwise_separable_conv`.

    The submanifold classes keep the input's sites, row for row: ``[N, O]``. The Sparse classes make every site in
    reach, sorted: ``[n_out, O]``. Features and parameters have one type (float32, float64, float16 or bfloat16),
    or are brought to that of autocast.

    Args:
        in_channels: ``C``.
        out_channels: ``O``.
        kernel_size: of the depthwise convolution: one side, or one for each axis; odd in the submanifold classes.
        stride: step of the window, in sites; 1 in the submanifold classes.
        padding: empty sites on both sides of each axis; without effect in the submanifold classes.
        dilation: spacing of the taps, in sites.
        multiplier: ``m``, depthwise outputs for each input channel.
        bias: whether both convolutions have a bias.
        indice_key: a name for the depthwise convolution's map, by which an inverse convolution finds it.
        **factory: device and dtype of the parameters.

    Attributes:
        depthwise: the convolution of each channel, weight ``[C m, *kernel, 1]``; outputs ``c m .. c m + m - 1``
            read channel ``c``.
        pointwise: the convolution across channels at each site, weight ``[O, 1, .., 1, C m]``.

    Raises:
        TypeError: a size that is no integer; in the call, no sparse tensor, or features of another type.
        ValueError: a size that cannot work; in the call, features of other channels or axes.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 3,
        stride: Size = 1,
        padding: Size = 1,
        dilation: Size = 1,
        multiplier: int = 1,
        bias: bool = True,
        indice_key: str | None = None,
        **factory: Any,
    ) -> None:
        super().__init__()
        per_axis(multiplier, 1, "multiplier", minimum=1, maximum=1 << 16)
        if self._subm:
            check_stride(stride, self._ndim)
        middle = in_channels * multiplier
        self.depthwise = SparseConvolution(
            self._ndim,
            in_channels,
            middle,
            kernel_size,
            stride,
            padding,
            dilation,
            in_channels,
            bias,
            self._subm,
            indice_key=indice_key,
            **factory,
        )
        self.pointwise = SparseConvolution(self._ndim, middle, out_channels, 1, bias=bias, subm=True, **factory)

    def reset_parameters(self) -> None:
        """Both as layers of their own."""
        self.depthwise.reset_parameters()
        self.pointwise.reset_parameters()

    def forward(self, input: SparseTensor) -> SparseTensor:
        """See :func:`sparseconv.functional.depthwise_separable_conv`."""
        output: SparseTensor = self.pointwise(self.depthwise(input))
        return output

    def to_conv(self) -> SparseConvolution:
        """The one convolution that gives the same output."""
        with torch.no_grad():
            channels = self.depthwise.in_channels
            depthwise = self.depthwise.weight.flatten(1).unflatten(0, (channels, -1))  # [C, m, K]
            pointwise = self.pointwise.weight.flatten(1)  # [O, C m]
            folded = torch.einsum("ocj,cjk->okc", pointwise.unflatten(1, (channels, -1)), depthwise)
            bias: Tensor | None = self.pointwise.bias
            if bias is not None and self.depthwise.bias is not None:
                bias = pointwise @ self.depthwise.bias + bias
        return plain_convolution(folded.unflatten(1, self.depthwise.kernel_size), bias, self.depthwise, groups=1)


class SubMDepthwiseSeparableConv1d(DepthwiseSeparableConvolution, ndim=1, subm=True):
    """Depthwise separable convolution in 1D on the input's sites: ``[N, C]`` to ``[N, O]``.

    See :class:`DepthwiseSeparableConvolution`.
    """


class SubMDepthwiseSeparableConv2d(DepthwiseSeparableConvolution, ndim=2, subm=True):
    """Depthwise separable convolution in 2D on the input's sites: ``[N, C]`` to ``[N, O]``.

    See :class:`DepthwiseSeparableConvolution`.
    """


class SubMDepthwiseSeparableConv3d(DepthwiseSeparableConvolution, ndim=3, subm=True):
    """Depthwise separable convolution in 3D on the input's sites: ``[N, C]`` to ``[N, O]``.

    See :class:`DepthwiseSeparableConvolution`.
    """


class SubMDepthwiseSeparableConv4d(DepthwiseSeparableConvolution, ndim=4, subm=True):
    """Depthwise separable convolution in 4D on the input's sites: ``[N, C]`` to ``[N, O]``.

    See :class:`DepthwiseSeparableConvolution`.
    """


class SparseDepthwiseSeparableConv1d(DepthwiseSeparableConvolution, ndim=1):
    """Depthwise separable convolution in 1D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`DepthwiseSeparableConvolution`.
    """


class SparseDepthwiseSeparableConv2d(DepthwiseSeparableConvolution, ndim=2):
    """Depthwise separable convolution in 2D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`DepthwiseSeparableConvolution`.
    """


class SparseDepthwiseSeparableConv3d(DepthwiseSeparableConvolution, ndim=3):
    """Depthwise separable convolution in 3D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`DepthwiseSeparableConvolution`.
    """


class SparseDepthwiseSeparableConv4d(DepthwiseSeparableConvolution, ndim=4):
    """Depthwise separable convolution in 4D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`DepthwiseSeparableConvolution`.
    """
