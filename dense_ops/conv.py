"""Standard, dilated, grouped and depthwise convolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparseconv.compilation import eager
from sparseconv.dense_ops.executor import as_taps, convolve_window, image_shape
from sparseconv.dense_ops.flops import Flops, count_parameters, split_shape
from sparseconv.dense_ops.padding import check_padding_mode
from sparseconv.dense_ops.window import Padding, Pair, Size, Window, check_padding


@eager
def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
) -> Tensor:
    """Convolution; as ``torch.nn.functional.conv2d``, with more paddings.

    ``y[o, oy, ox] = b[o] + sum over c, u, v of w[o, c, u, v] x[c, s oy - p + d u, s ox - p + d v]``. Dumoulin
    and Visin, "A guide to convolution arithmetic for deep learning", arXiv 1603.07285; dilated: Chen et al.,
    arXiv 1412.7062; grouped: Krizhevsky et al., 2012.

    Args:
        input: ``[N, C, H, W]``.
        weight: ``[O, C / groups, kh, kw]``.
        bias: ``[O]`` or None.
        stride: step of the window.
        padding: pixels on both sides of an axis, or ``"valid"``, ``"same"`` (``ceil(H / stride)`` outputs, the
            smaller half before) or ``"full"`` (``dilation * (k - 1)`` on both sides).
        dilation: spacing of the taps.
        groups: channel groups.
        padding_mode: ``"zeros"``, ``"reflect"``, ``"replicate"`` or ``"circular"``.

    Returns:
        ``[N, O, Ho, Wo]`` with ``Ho = floor((H + 2p - d(k-1) - 1) / s) + 1``.

    Raises:
        TypeError: input and weight differ in type.
        ValueError: the kernel is larger than the padded image, more padding than the mode can fill, or shapes do
            not fit.
    """
    check_padding_mode(padding_mode)
    window = Window.create(image_shape(input), weight.shape[2:], stride, padding, dilation)
    return convolve_window(input, as_taps(weight), bias, window, groups, padding_mode)


class Conv2d(nn.Conv2d):
    """Convolution on the engine's executor: :func:`conv2d`.

    Constructor, parameters and initial values are those of :class:`torch.nn.Conv2d`; ``padding`` may be ``"full"``
    as well, and ``"same"`` with a stride.

    Raises:
        ValueError: an unknown padding name or mode.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Padding = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        check_padding(padding)
        check_padding_mode(padding_mode)
        # torch refuses names that it does not know, and "same" with a stride.
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,  # type: ignore[arg-type]
            stride,  # type: ignore[arg-type]
            0 if isinstance(padding, str) else padding,  # type: ignore[arg-type]
            dilation,  # type: ignore[arg-type]
            groups,
            bias,
            padding_mode,  # type: ignore[arg-type]
            device,
            dtype,
        )
        if isinstance(padding, str):
            self.padding = padding

    def forward(self, input: Tensor) -> Tensor:
        """See :func:`conv2d`."""
        return conv2d(
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.padding_mode,
        )

    def window(self, in_shape: Pair) -> Window:
        """The layer's window over an image of this size."""
        return Window.create(in_shape, self.kernel_size, self.stride, self.padding, self.dilation)

    def flops(self, input_shape: Sequence[int]) -> Flops:
        """``Ho Wo O C/g kh kw`` multiply-adds; ``O C/g kh kw (+ O)`` parameters."""
        batch_size, shape = split_shape(input_shape, self.in_channels)
        macs = self.window(shape).macs(self.in_channels, self.out_channels, self.groups)
        return Flops(batch_size * macs, count_parameters(self))

    def to_conv2d(self) -> Conv2d:
        """A plain convolution with the same parameters, copied."""
        return plain_conv2d(self.weight, self.bias, self)


def plain_conv2d(weight: Tensor, bias: Tensor | None, like: Conv2d, **changes: Any) -> Conv2d:
    """A :class:`Conv2d` with copies of the given parameters and the geometry of ``like``.

    Args:
        weight: ``[O, C / groups, kh, kw]``.
        bias: ``[O]`` or None.
        like: where stride, padding, dilation, groups, padding mode and training mode come from.
        **changes: constructor arguments that differ.
    """
    groups = changes.pop("groups", like.groups)
    arguments: dict[str, Any] = {
        "stride": like.stride,
        "padding": like.padding,
        "dilation": like.dilation,
        "padding_mode": like.padding_mode,
        **changes,
    }
    with torch.no_grad():
        made = Conv2d(
            weight.shape[1] * groups,
            weight.shape[0],
            (weight.shape[2], weight.shape[3]),
            groups=groups,
            bias=bias is not None,
            device=weight.device,
            dtype=weight.dtype,
            **arguments,
        )
        made.weight.copy_(weight)
        if bias is not None and made.bias is not None:
            made.bias.copy_(bias)
    return made.train(like.training)
