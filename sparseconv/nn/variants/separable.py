"""Convolutions in factors: spatially separable and depthwise separable."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparseconv.functional.variants.placement import check_stride
from sparseconv.functional.variants.separable import Order, along_axis, stage_axes
from sparseconv.geometry import MAX_KERNEL_SIZE, MAX_STEP, per_axis
from sparseconv.nn.conv import SparseConvolution
from sparseconv.nn.variants.base import DimensionedModule, Size, plain_convolution
from sparseconv.tensor import SparseTensor

_STAGES = ("first", "second", "third", "fourth")


def same_padding(kernel_size: Size, dilation: Size, ndim: int) -> tuple[int, ...]:
    """``d (k // 2)`` on each axis: an odd kernel then keeps the grid at stride 1."""
    kernel = per_axis(kernel_size, ndim, "kernel_size", minimum=1, maximum=MAX_KERNEL_SIZE)
    spread = per_axis(dilation, ndim, "dilation", minimum=1, maximum=MAX_STEP)
    return tuple(d * (k // 2) for k, d in zip(kernel, spread, strict=True))


def stage_along(
    axis: int,
    ndim: int,
    channels: tuple[int, int],
    window: tuple[Size, Size, Size, Size],
    groups: int,
    bias: bool,
    subm: bool,
    **factory: Any,
) -> SparseConvolution:
    """A one-dimensional convolution layer along one axis.

    Args:
        axis: of the kernel.
        ndim: number of axes.
        channels: in and out.
        window: kernel_size, stride, padding and dilation of all axes, each read at ``axis`` alone.
        groups: channel groups.
        bias: whether there is a bias.
        subm: keep the input's sites.
        **factory: device and dtype.
    """
    kernel = per_axis(window[0], ndim, "kernel_size", minimum=1, maximum=MAX_KERNEL_SIZE)
    sides = [side if place == axis else 1 for place, side in enumerate(kernel)]
    stride, padding, dilation = along_axis(axis, ndim, *window[1:])
    return SparseConvolution(ndim, *channels, sides, stride, padding, dilation, groups, bias, subm=subm, **factory)


def product_kernel(stages: list[Tensor]) -> Tensor:
    """Outer product of one-dimensional kernels ``[.., k_a]`` over their last axes: ``[.., k_0, k_1, ..]``."""
    product = stages[0]
    for stage in stages[1:]:
        product = product[..., None] * stage.reshape(
            *stage.shape[:-1], *(1,) * (product.dim() - stage.dim() + 1), -1
        )
    return product


def refuse_submanifold(subm: bool) -> None:
    """Submanifold stages do not fold.

    Raises:
        TypeError: with ``subm``.
    """
    if subm:
        raise TypeError(
            "submanifold stages are no plain convolution: a path over an absent voxel is lost between them. The "
            "Sparse class of this layer, which makes the sites of each stage, is one"
        )


class SpatiallySeparableConvolution(DimensionedModule):
    """One-dimensional convolutions along each axis: :func:`sparseconv.functional.spatially_separable_conv`.

    The Sparse classes make the sites of each stage and so are one convolution with the product kernel
    (:meth:`to_conv`). **The submanifold classes are another operator** than a submanifold convolution: a path over
    an absent voxel is lost. The bias stands at the end only.

    Args:
        in_channels: ``C``.
        out_channels: ``O``.
        kernel_size: one side, or one for each axis.
        mid_channels: ``M`` between the stages; ``out_channels`` by default. It bounds the rank of the product.
        stride: as in :class:`SparseConvolution`; 1 in the submanifold classes.
        padding: ``dilation * (kernel_size // 2)`` by default; without effect in the submanifold classes.
        dilation: spacing of the taps.
        depthwise: each channel on its own; needs ``in_channels == mid_channels == out_channels``.
        bias: whether there is a bias.
        order: axis of each stage; the first axis first by default.
        **factory: device and dtype.

    Attributes:
        first: the first stage, without bias; then ``second``, ``third`` and ``fourth``, one for each axis.

    Raises:
        ValueError: an unknown order, or depthwise with unequal channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 3,
        mid_channels: int | None = None,
        stride: Size = 1,
        padding: Size | None = None,
        dilation: Size = 1,
        depthwise: bool = False,
        bias: bool = True,
        order: Order = None,
        **factory: Any,
    ) -> None:
        super().__init__()
        ndim = self._ndim
        if self._subm:
            check_stride(stride, ndim)
        mid_channels = out_channels if mid_channels is None else mid_channels
        if depthwise and not in_channels == mid_channels == out_channels:
            raise ValueError(
                f"depthwise needs as many input as middle and output channels, got {in_channels}, "
                f"{mid_channels} and {out_channels}"
            )
        self.ndim, self.subm = ndim, self._subm
        self.axes = stage_axes(ndim, order)
        self.groups = in_channels if depthwise else 1
        pads = same_padding(kernel_size, dilation, ndim) if padding is None else padding
        widths = [in_channels, *[mid_channels] * (ndim - 1), out_channels]
        for number, axis in enumerate(self.axes):
            stage = stage_along(
                axis,
                ndim,
                (widths[number], widths[number + 1]),
                (kernel_size, stride, pads, dilation),
                self.groups,
                bias and number == ndim - 1,
                self.subm,
                **factory,
            )
            self.add_module(_STAGES[number], stage)
        self.window = (stride, pads, dilation)

    def stages(self) -> list[SparseConvolution]:
        """The one-dimensional convolutions in order."""
        return [stage for stage in self.children() if isinstance(stage, SparseConvolution)]

    def reset_parameters(self) -> None:
        """Each stage as a layer of its own."""
        for stage in self.stages():
            stage.reset_parameters()

    def forward(self, input: SparseTensor) -> SparseTensor:
        """See :func:`sparseconv.functional.spatially_separable_conv`."""
        for stage in self.stages():
            input = stage(input)
        return input

    def to_conv(self) -> SparseConvolution:
        """The one convolution that gives the same output on the same sites.

        Raises:
            TypeError: of a submanifold class.
        """
        refuse_submanifold(self.subm)
        stages = self.stages()
        with torch.no_grad():
            # Taps as axes in the order of the stages, behind the channels.
            total = stages[0].weight.flatten(1, -2).transpose(1, 2)  # [M, C / g, k]
            for stage in stages[1:]:
                taps = stage.weight.flatten(1, -2)  # [M', k, M / g]
                if self.groups > 1:
                    total = torch.einsum("mc...,mk->mc...k", total, taps[..., 0])
                else:
                    total = torch.einsum("mc...,okm->oc...k", total, taps)
            places = [2 + self.axes.index(axis) for axis in range(self.ndim)]
            weight = total.permute(0, *places, 1)
        stride, padding, dilation = self.window
        return plain_convolution(
            weight, stages[-1].bias, stages[-1], stride=stride, padding=padding, dilation=dilation
        )

    def extra_repr(self) -> str:
        """The order of the stages."""
        return f"order={list(self.axes)}"


class DepthwiseSeparableConvolution(DimensionedModule):
    """A depthwise and a pointwise convolution: :func:`sparseconv.functional.depthwise_separable_conv`.

    Args:
        in_channels: ``C``.
        out_channels: ``O``.
        kernel_size: of the depthwise convolution.
        stride: as in :class:`SparseConvolution`; 1 in the submanifold classes.
        padding: as in :class:`SparseConvolution`; without effect in the submanifold classes.
        dilation: spacing of the taps.
        multiplier: ``m``, depthwise outputs for each input channel.
        bias: whether both convolutions have a bias.
        indice_key: a name for the depthwise convolution's map.
        **factory: device and dtype.

    Attributes:
        depthwise: the convolution of each channel.
        pointwise: the convolution across channels at each site.
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


class SubMSpatiallySeparableConv1d(SpatiallySeparableConvolution, ndim=1, subm=True):
    """In 1D, on the input's sites; see :class:`SpatiallySeparableConvolution`."""


class SubMSpatiallySeparableConv2d(SpatiallySeparableConvolution, ndim=2, subm=True):
    """In 2D, on the input's sites; see :class:`SpatiallySeparableConvolution`."""


class SubMSpatiallySeparableConv3d(SpatiallySeparableConvolution, ndim=3, subm=True):
    """In 3D, on the input's sites; see :class:`SpatiallySeparableConvolution`."""


class SubMSpatiallySeparableConv4d(SpatiallySeparableConvolution, ndim=4, subm=True):
    """In 4D, on the input's sites; see :class:`SpatiallySeparableConvolution`."""


class SparseSpatiallySeparableConv1d(SpatiallySeparableConvolution, ndim=1):
    """In 1D, on every site in reach; see :class:`SpatiallySeparableConvolution`."""


class SparseSpatiallySeparableConv2d(SpatiallySeparableConvolution, ndim=2):
    """In 2D, on every site in reach; see :class:`SpatiallySeparableConvolution`."""


class SparseSpatiallySeparableConv3d(SpatiallySeparableConvolution, ndim=3):
    """In 3D, on every site in reach; see :class:`SpatiallySeparableConvolution`."""


class SparseSpatiallySeparableConv4d(SpatiallySeparableConvolution, ndim=4):
    """In 4D, on every site in reach; see :class:`SpatiallySeparableConvolution`."""


class SubMDepthwiseSeparableConv1d(DepthwiseSeparableConvolution, ndim=1, subm=True):
    """In 1D, on the input's sites; see :class:`DepthwiseSeparableConvolution`."""


class SubMDepthwiseSeparableConv2d(DepthwiseSeparableConvolution, ndim=2, subm=True):
    """In 2D, on the input's sites; see :class:`DepthwiseSeparableConvolution`."""


class SubMDepthwiseSeparableConv3d(DepthwiseSeparableConvolution, ndim=3, subm=True):
    """In 3D, on the input's sites; see :class:`DepthwiseSeparableConvolution`."""


class SubMDepthwiseSeparableConv4d(DepthwiseSeparableConvolution, ndim=4, subm=True):
    """In 4D, on the input's sites; see :class:`DepthwiseSeparableConvolution`."""


class SparseDepthwiseSeparableConv1d(DepthwiseSeparableConvolution, ndim=1):
    """In 1D, on every site in reach; see :class:`DepthwiseSeparableConvolution`."""


class SparseDepthwiseSeparableConv2d(DepthwiseSeparableConvolution, ndim=2):
    """In 2D, on every site in reach; see :class:`DepthwiseSeparableConvolution`."""


class SparseDepthwiseSeparableConv3d(DepthwiseSeparableConvolution, ndim=3):
    """In 3D, on every site in reach; see :class:`DepthwiseSeparableConvolution`."""


class SparseDepthwiseSeparableConv4d(DepthwiseSeparableConvolution, ndim=4):
    """In 4D, on every site in reach; see :class:`DepthwiseSeparableConvolution`."""
