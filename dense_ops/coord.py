"""CoordConv: a convolution that is told where it is."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparseconv.compilation import eager
from sparseconv.dense_ops.conv import Conv2d, conv2d
from sparseconv.dense_ops.flops import Flops, count_parameters, split_shape
from sparseconv.dense_ops.window import Padding, Size

ORDERS = ("xy", "yx")


def _check_order(order: str) -> None:
    if order not in ORDERS:
        raise ValueError(f"order must be 'xy' (column, then row) or 'yx', got {order!r}")


def _axis(size: int, device: torch.device) -> Tensor:
    if size == 1:
        return torch.zeros(1, dtype=torch.float64, device=device)
    return 2 * torch.arange(size, dtype=torch.float64, device=device) / (size - 1) - 1


@functools.lru_cache(maxsize=32)
def coordinate_channels(
    height: int, width: int, with_r: bool, order: str, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Coordinates in [-1, 1] of each pixel: ``[1, 2 or 3, H, W]``; see :func:`add_coords2d`."""
    # Kept, so it must serve training after an evaluation in inference mode.
    with torch.inference_mode(False), torch.no_grad():
        column = _axis(width, device).expand(height, width)
        row = _axis(height, device)[:, None].expand(height, width)
        channels = [column, row] if order == "xy" else [row, column]
        if with_r:
            channels.append(torch.hypot(column, row))
        return torch.stack(channels)[None].to(dtype)


def add_coords2d(input: Tensor, with_r: bool = False, order: str = "xy") -> Tensor:
    """Append coordinate channels: ``[x, column, row, (r)]``.

    ``column = 2 ix / (W-1) - 1``, ``row = 2 iy / (H-1) - 1``, ``r = sqrt(column^2 + row^2)``; an axis of one pixel
    has 0. Liu et al., "An intriguing failing of convolutional neural networks and the CoordConv solution", arXiv
    1807.03247.

    Args:
        input: ``[N, C, H, W]``.
        with_r: append the distance from the centre too.
        order: ``"xy"`` as the paper's code, ``"yx"`` for the row first.

    Returns:
        ``[N, C + 2 or 3, H, W]``.

    Raises:
        ValueError: the input is not a batch of images, or an unknown order.
    """
    _check_order(order)
    if input.dim() != 4:
        raise ValueError(f"the input must have shape [N, C, H, W], got {list(input.shape)}")
    batch_size, _, height, width = input.shape
    coordinates = coordinate_channels(height, width, with_r, order, input.dtype, input.device)
    return torch.cat([input, coordinates.expand(batch_size, -1, -1, -1)], dim=1)


class AddCoords2d(nn.Module):
    """Append coordinate channels: :func:`add_coords2d`.

    Args:
        with_r: append the distance from the centre too.
        order: ``"xy"`` or ``"yx"``.

    Raises:
        ValueError: an unknown order.
    """

    def __init__(self, with_r: bool = False, order: str = "xy") -> None:
        super().__init__()
        _check_order(order)
        self.with_r, self.order = with_r, order

    def forward(self, input: Tensor) -> Tensor:
        """See :func:`add_coords2d`."""
        return add_coords2d(input, self.with_r, self.order)

    def extra_repr(self) -> str:
        """Its arguments."""
        return f"with_r={self.with_r}, order={self.order!r}"


@eager
def coord_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    with_r: bool = False,
    order: str = "xy",
) -> Tensor:
    """Convolution of the image with its coordinates appended; see :func:`add_coords2d` and :func:`conv2d`.

    Zero padding pads the coordinates with zeros too.

    Args:
        input: ``[N, C, H, W]``.
        weight: ``[O, (C + 2 or 3) / groups, kh, kw]``.
        bias: ``[O]`` or None.
        stride: as in :func:`conv2d`.
        padding: as in :func:`conv2d`.
        dilation: as in :func:`conv2d`.
        groups: as in :func:`conv2d`.
        padding_mode: as in :func:`conv2d`.
        with_r: append the distance from the centre too.
        order: ``"xy"`` or ``"yx"``.

    Returns:
        ``[N, O, Ho, Wo]``.
    """
    whole = add_coords2d(input, with_r, order)
    return conv2d(whole, weight, bias, stride, padding, dilation, groups, padding_mode)


class CoordConv2d(Conv2d):
    """Convolution that sees coordinates: :func:`coord_conv2d`.

    Args:
        in_channels: ``C`` of the image; the weight has ``C + 2`` or, with_r, ``C + 3``.
        out_channels: ``O``.
        kernel_size: side of the kernel.
        stride: as in :class:`Conv2d`, and so are the others.
        padding: as in :class:`Conv2d`.
        dilation: as in :class:`Conv2d`.
        groups: as in :class:`Conv2d`.
        bias: as in :class:`Conv2d`.
        padding_mode: as in :class:`Conv2d`.
        with_r: append the distance from the centre too.
        order: ``"xy"`` (column, row: the paper's code) or ``"yx"``.

    Raises:
        ValueError: an unknown order.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 3,
        stride: Size = 1,
        padding: Padding = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        with_r: bool = False,
        order: str = "xy",
        **factory: Any,
    ) -> None:
        _check_order(order)
        self.image_channels = in_channels
        super().__init__(
            in_channels + 2 + with_r,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            **factory,
        )
        self.with_r, self.order = with_r, order

    def forward(self, input: Tensor) -> Tensor:
        """See :func:`coord_conv2d`."""
        return coord_conv2d(
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.padding_mode,
            self.with_r,
            self.order,
        )

    def flops(self, input_shape: Sequence[int]) -> Flops:
        """Those of a convolution of ``C + 2`` or ``C + 3`` channels."""
        batch_size, shape = split_shape(input_shape, self.image_channels)
        macs = self.window(shape).macs(self.in_channels, self.out_channels, self.groups)
        return Flops(batch_size * macs, count_parameters(self))

    def to_conv2d(self) -> Conv2d:
        """Not possible: what it adds depends on the place, not on the input.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            "a CoordConv2d is no plain convolution of its input: apply AddCoords2d, then a Conv2d with its weight"
        )

    def extra_repr(self) -> str:
        """Its arguments."""
        return f"{super().extra_repr()}, with_r={self.with_r}, order={self.order!r}"
