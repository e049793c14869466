"""Inception convolution: a dilation of its own for each output channel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import torch
from torch import nn

from sparseconv import functional as F
from sparseconv.dilation_patterns import check_odd, parse_patterns, taps_within
from sparseconv.functional.variants.inception import pattern_maps
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


class ICConvolution(VariantConvolution):
    """Inception convolution: ``[N, C]`` to ``[n_out, O]``, a dilation of its own for each output channel.

    Every pattern is padded so that all have the same grid. Liu et al., "Inception Convolution with Efficient
    Dilation Search", arXiv 2012.13587. The function is :func:`sparseconv.functional.ic_conv`;
    :func:`sparseconv.functional.search_dilation` finds patterns.

    The submanifold classes keep the input's sites, row for row: ``[N, O]``. The Sparse classes make every site
    that some pattern reaches, sorted: ``[n_out, O]``. Features and parameters have one type (float32, float64,
    float16 or bfloat16), or are brought to that of autocast.

    Args:
        pattern_dist: ``{"(d_0 - 1, d_1 - 1, ..)": channels}``, one number for each axis, or tuples for the keys;
            output channels stand in its order. The channels sum to O.
        inplanes: ``C``.
        planes: ``O``.
        kernel_size: one odd side, or one for each axis.
        stride: step of the window, in sites; 1 in the submanifold classes.
        groups: channel groups within each pattern; must divide C and the channels of each pattern.
        bias: whether to add a learned ``[O]``.
        **factory: device and dtype of the parameters.

    Attributes:
        weight: ``[O, *kernel, C / groups]``.
        bias: ``[O]`` or None.
        patterns: dilations and channels, in order.

    Raises:
        TypeError: a size that is no integer, or no mapping; in the call, no sparse tensor, or features of another
            type.
        ValueError: channels that do not sum to O or do not divide by ``groups``, keys that are no dilations, or an
            even side; in the call, features of other channels or axes.
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        pattern_dist: Mapping[Any, int],
        inplanes: int,
        planes: int,
        kernel_size: Size = 3,
        stride: Size = 1,
        groups: int = 1,
        bias: bool = False,
        **factory: Any,
    ) -> None:
        super().__init__(inplanes, planes, kernel_size, stride, 0, 1, groups)
        check_odd(self.kernel_size)
        self.patterns = parse_patterns(pattern_dist, planes, groups, self._ndim)
        self.weight = new_parameter(planes, *self.kernel_size, inplanes // groups, **factory)
        self.register_parameter("bias", new_parameter(planes, **factory) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform in +-1/sqrt(fan_in), as :class:`SparseConvolution`."""
        uniform_by_fan_(self.weight, self.bias)

    def forward(self, input: SparseTensor) -> SparseTensor:
        """See :func:`sparseconv.functional.ic_conv`."""
        return F.ic_conv(input, self.weight, self.patterns, self.bias, self.stride, self.groups, subm=self.subm)

    def kernel_maps(self, input: SparseTensor) -> list[KernelMap]:
        """The pairs of each pattern."""
        dilations = [dilation for dilation, _ in self.patterns]
        return pattern_maps(input, self.kernel_size, dilations, self.stride, self.subm)[1]

    def kernel_map(self, input: SparseTensor) -> NoReturn:
        """There is one for each pattern: see :meth:`kernel_maps`.

        Raises:
            TypeError: always.
        """
        raise TypeError("an ICConv layer has a map for each pattern: use kernel_maps(input)")

    def macs(self, input: SparseTensor) -> int:
        """Exact multiply-adds: each pattern's pairs times its channels."""
        return sum(
            kernel_map.macs(self.in_channels, count, self.groups)
            for kernel_map, (_, count) in zip(self.kernel_maps(input), self.patterns, strict=True)
        )

    def to_conv(self) -> SparseConvolution:
        """The plain convolution with the largest pattern's extent that gives the same output; without groups.

        A Sparse class's plain layer also has the sites that only taps of weight 0 reach; there it gives its bias.
        """
        reach = [
            max(dilation[axis] for dilation, _ in self.patterns) * (side // 2)
            for axis, side in enumerate(self.kernel_size)
        ]
        depth = self.in_channels // self.groups
        with torch.no_grad():
            weight = self.weight.new_zeros(self.out_channels, *(2 * r + 1 for r in reach), self.in_channels)
            start = 0
            for dilation, count in self.patterns:
                taps = taps_within(dilation, self.kernel_size, reach)
                width = count // self.groups
                for group in range(self.groups):
                    rows = slice(start + group * width, start + (group + 1) * width)
                    weight[(rows, *taps, slice(group * depth, (group + 1) * depth))] = self.weight[rows]
                start += count
        return plain_convolution(weight, self.bias, self, padding=reach, groups=1)

    def extra_repr(self) -> str:
        """Its arguments."""
        return f"{super().extra_repr()}, patterns={self.patterns}"


class SubMICConv1d(ICConvolution, ndim=1, subm=True):
    """Inception convolution in 1D on the input's sites: ``[N, C]`` to ``[N, O]``. See :class:`ICConvolution`."""


class SubMICConv2d(ICConvolution, ndim=2, subm=True):
    """Inception convolution in 2D on the input's sites: ``[N, C]`` to ``[N, O]``. See :class:`ICConvolution`."""


class SubMICConv3d(ICConvolution, ndim=3, subm=True):
    """Inception convolution in 3D on the input's sites: ``[N, C]`` to ``[N, O]``. See :class:`ICConvolution`."""


class SubMICConv4d(ICConvolution, ndim=4, subm=True):
    """Inception convolution in 4D on the input's sites: ``[N, C]`` to ``[N, O]``. See :class:`ICConvolution`."""


class SparseICConv1d(ICConvolution, ndim=1):
    """Inception convolution in 1D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`ICConvolution`.
    """


class SparseICConv2d(ICConvolution, ndim=2):
    """Inception convolution in 2D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`ICConvolution`.
    """


class SparseICConv3d(ICConvolution, ndim=3):
    """Inception convolution in 3D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`ICConvolution`.
    """


class SparseICConv4d(ICConvolution, ndim=4):
    """Inception convolution in 4D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`ICConvolution`.
    """
