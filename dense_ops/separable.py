"""Convolutions in factors: spatially separable and depthwise separable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparseconv.compilation import eager
from sparseconv.dense_ops.conv import Conv2d, conv2d, plain_conv2d
from sparseconv.dense_ops.flops import Flops, split_shape
from sparseconv.dense_ops.window import Padding, Pair, Size
from sparseconv.geometry import MAX_KERNEL_SIZE, per_axis

ORDERS = ("hw", "wh")


def same_padding(kernel_size: Size, dilation: Size) -> Pair:
    """``d (k // 2)`` on each axis: an odd kernel then keeps the size at stride 1."""
    kernel = per_axis(kernel_size, 2, "kernel_size", minimum=1, maximum=MAX_KERNEL_SIZE)
    spread = per_axis(dilation, 2, "dilation", minimum=1, maximum=1 << 16)
    return spread[0] * (kernel[0] // 2), spread[1] * (kernel[1] // 2)


def along_axis(axis: int, stride: Size, padding: Padding, dilation: Size) -> tuple[Pair, str | Pair, Pair]:
    """Stride, padding and dilation of a one-dimensional kernel along ``axis``: 1, 0 and 1 on the other axis."""

    def only(value: Size, other: int) -> Pair:
        number = value if isinstance(value, int) else value[axis]
        return (number, other) if axis == 0 else (other, number)

    return only(stride, 1), padding if isinstance(padding, str) else only(padding, 0), only(dilation, 1)


def _stages(order: str) -> tuple[int, int]:
    if order not in ORDERS:
        raise ValueError(f"order must be 'hw' (vertical kernel first) or 'wh', got {order!r}")
    return (0, 1) if order == "hw" else (1, 0)


def count_stages(stages: Sequence[Conv2d], input_shape: Sequence[int], channels: int) -> Flops:
    """Sum of what convolutions cost that run one after the other."""
    batch_size, shape = split_shape(input_shape, channels)
    macs = parameters = 0
    for stage in stages:
        cost = stage.flops((batch_size, stage.in_channels, *shape))
        shape = stage.window(shape).out_shape
        macs += cost.macs
        parameters += cost.parameters
    return Flops(macs, parameters)


@eager
def spatially_separable_conv2d(
    input: Tensor,
    first_weight: Tensor,
    second_weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    order: str = "hw",
) -> Tensor:
    """Two one-dimensional convolutions, one along each axis, and one bias at the end.

    With the vertical kernel first, ``z = A * x`` and ``y = B * z + b``: the convolution with
    ``W[o, c, u, v] = sum over m of B[o, m, v] A[m, c, u]``, borders included. Szegedy et al., "Rethinking the
    Inception Architecture for Computer Vision", arXiv 1512.00567 (which has a norm and a ReLU between the two).

    Args:
        input: ``[N, C, H, W]``.
        first_weight: ``[M, C / groups, k, 1]``, or ``[M, C / groups, 1, k]`` in the order ``"wh"``.
        second_weight: ``[O, M / groups, 1, k]``, or ``[O, M / groups, k, 1]``.
        bias: ``[O]`` or None.
        stride: as in :func:`conv2d`; each kernel strides along its own axis.
        padding: as in :func:`conv2d`.
        dilation: as in :func:`conv2d`.
        groups: channel groups of both.
        order: ``"hw"`` runs the vertical kernel first, ``"wh"`` the horizontal one.

    Returns:
        ``[N, O, Ho, Wo]``.

    Raises:
        ValueError: a kernel that does not lie along its axis, or shapes that do not fit.
    """
    axes = _stages(order)
    for name, weight, axis in (("first", first_weight, axes[0]), ("second", second_weight, axes[1])):
        if weight.dim() != 4 or weight.shape[3 - axis] != 1:
            wanted = "[.., k, 1]" if axis == 0 else "[.., 1, k]"
            raise ValueError(f"the {name} weight of order {order!r} must be {wanted}, got {list(weight.shape)}")
    for weight, offset, axis in ((first_weight, None, axes[0]), (second_weight, bias, axes[1])):
        input = conv2d(input, weight, offset, *along_axis(axis, stride, padding, dilation), groups)
    return input


class SpatiallySeparableConv2d(nn.Module):
    """Two one-dimensional convolutions: :func:`spatially_separable_conv2d`.

    The bias stands at the end only, so that the layer is one convolution at the borders too (:meth:`to_conv2d`).

    Args:
        in_channels: ``C``.
        out_channels: ``O``.
        kernel_size: one side, or height and width.
        mid_channels: ``M`` between the two; ``out_channels`` by default. It bounds the rank of the folded kernel.
        stride: step of the window.
        padding: as in :class:`Conv2d`; ``dilation * (kernel_size // 2)`` by default.
        dilation: spacing of the taps.
        depthwise: each channel on its own; needs ``in_channels == mid_channels == out_channels``.
        bias: whether there is a bias.
        order: ``"hw"`` for the vertical kernel first, ``"wh"`` for the horizontal one.
        **factory: device and dtype.

    Attributes:
        first: the first convolution, without bias.
        second: the second.

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
        padding: Padding | None = None,
        dilation: Size = 1,
        depthwise: bool = False,
        bias: bool = True,
        order: str = "hw",
        **factory: Any,
    ) -> None:
        super().__init__()
        mid_channels = out_channels if mid_channels is None else mid_channels
        if depthwise and not in_channels == mid_channels == out_channels:
            raise ValueError(
                f"depthwise needs as many input as middle and output channels, got {in_channels}, "
                f"{mid_channels} and {out_channels}"
            )
        kernel = per_axis(kernel_size, 2, "kernel_size", minimum=1, maximum=MAX_KERNEL_SIZE)
        self.in_channels = in_channels
        self.stride, self.dilation, self.order = stride, dilation, order
        self.padding: Padding = same_padding(kernel, dilation) if padding is None else padding
        self.groups = in_channels if depthwise else 1

        def stage(axis: int, c_in: int, c_out: int, with_bias: bool) -> Conv2d:
            size = (kernel[0], 1) if axis == 0 else (1, kernel[1])
            along = along_axis(axis, self.stride, self.padding, self.dilation)
            return Conv2d(c_in, c_out, size, *along, self.groups, with_bias, **factory)

        axes = _stages(order)
        self.first = stage(axes[0], in_channels, mid_channels, False)
        self.second = stage(axes[1], mid_channels, out_channels, bias)

    def forward(self, input: Tensor) -> Tensor:
        """See :func:`spatially_separable_conv2d`."""
        return spatially_separable_conv2d(
            input,
            self.first.weight,
            self.second.weight,
            self.second.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.order,
        )

    def flops(self, input_shape: Sequence[int]) -> Flops:
        """``k (C M + M O)`` parameters (and O), and that many multiply-adds a pixel at stride 1."""
        return count_stages((self.first, self.second), input_shape, self.in_channels)

    def to_conv2d(self) -> Conv2d:
        """The one convolution that gives the same output, borders included."""
        with torch.no_grad():
            first, second = self.first.weight.flatten(2), self.second.weight.flatten(2)
            if self.groups > 1:
                weight = torch.einsum("cmv,cmu->cmuv", second, first)
            else:
                weight = torch.einsum("omv,mcu->ocuv", second, first)
            if self.order == "wh":
                weight = weight.transpose(2, 3)
        return plain_conv2d(
            weight, self.second.bias, self.second, stride=self.stride, padding=self.padding, dilation=self.dilation
        )


@eager
def depthwise_separable_conv2d(
    input: Tensor,
    depthwise_weight: Tensor,
    pointwise_weight: Tensor,
    depthwise_bias: Tensor | None = None,
    pointwise_bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
) -> Tensor:
    """A convolution of each channel on its own, then a 1x1 convolution across channels.

    ``z[c m + j] = D[c m + j] * x[c]`` and ``y = P z``: the convolution with
    ``W[o, c] = sum over j of P[o, c m + j] D[c m + j]`` and the bias ``P b_D + b_P``. Howard et al.,
    "MobileNets", arXiv 1704.04861 (which has a norm and a ReLU after each of the two).

    Args:
        input: ``[N, C, H, W]``.
        depthwise_weight: ``[C m, 1, kh, kw]``; outputs ``c m .. c m + m - 1`` read channel ``c``.
        pointwise_weight: ``[O, C m, 1, 1]``.
        depthwise_bias: ``[C m]`` or None.
        pointwise_bias: ``[O]`` or None.
        stride: as in :func:`conv2d`, of the depthwise convolution.
        padding: likewise.
        dilation: likewise.

    Returns:
        ``[N, O, Ho, Wo]``.

    Raises:
        ValueError: shapes do not fit.
    """
    middle = conv2d(input, depthwise_weight, depthwise_bias, stride, padding, dilation, input.shape[1])
    return conv2d(middle, pointwise_weight, pointwise_bias)


class DepthwiseSeparableConv2d(nn.Module):
    """A depthwise and a pointwise convolution: :func:`depthwise_separable_conv2d`.

    Args:
        in_channels: ``C``.
        out_channels: ``O``.
        kernel_size: of the depthwise convolution.
        stride: step of the window.
        padding: as in :class:`Conv2d`.
        dilation: spacing of the taps.
        multiplier: ``m``, depthwise outputs for each input channel.
        bias: whether both convolutions have a bias.
        **factory: device and dtype.

    Attributes:
        depthwise: the convolution of each channel.
        pointwise: the 1x1 convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 3,
        stride: Size = 1,
        padding: Padding = 1,
        dilation: Size = 1,
        multiplier: int = 1,
        bias: bool = True,
        **factory: Any,
    ) -> None:
        super().__init__()
        middle = in_channels * multiplier
        self.depthwise = Conv2d(
            in_channels, middle, kernel_size, stride, padding, dilation, in_channels, bias, **factory
        )
        self.pointwise = Conv2d(middle, out_channels, 1, bias=bias, **factory)

    def forward(self, input: Tensor) -> Tensor:
        """See :func:`depthwise_separable_conv2d`."""
        return depthwise_separable_conv2d(
            input,
            self.depthwise.weight,
            self.pointwise.weight,
            self.depthwise.bias,
            self.pointwise.bias,
            self.depthwise.stride,
            self.depthwise.padding,
            self.depthwise.dilation,
        )

    def flops(self, input_shape: Sequence[int]) -> Flops:
        """``Ho Wo (C m k^2 + C m O)`` multiply-adds; ``C m k^2 + C m O`` parameters (and C m + O)."""
        return count_stages((self.depthwise, self.pointwise), input_shape, self.depthwise.in_channels)

    def to_conv2d(self) -> Conv2d:
        """The one convolution that gives the same output, borders included."""
        with torch.no_grad():
            channels = self.depthwise.in_channels
            depthwise = self.depthwise.weight.unflatten(0, (channels, -1)).squeeze(2)  # [C, m, kh, kw]
            pointwise = self.pointwise.weight.flatten(1)  # [O, C m]
            weight = torch.einsum("ocj,cjuv->ocuv", pointwise.unflatten(1, (channels, -1)), depthwise)
            bias = self.pointwise.bias
            if bias is not None and self.depthwise.bias is not None:
                bias = pointwise @ self.depthwise.bias + bias
        return plain_conv2d(weight, bias, self.depthwise, groups=1)
