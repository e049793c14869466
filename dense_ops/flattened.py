"""Flattened convolution: one-dimensional kernels across channels, down and across."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparseconv.compilation import eager
from sparseconv.dense_ops.conv import Conv2d, conv2d, plain_conv2d
from sparseconv.dense_ops.flops import Flops
from sparseconv.dense_ops.separable import along_axis, count_stages, same_padding
from sparseconv.dense_ops.window import Padding, Size
from sparseconv.geometry import MAX_KERNEL_SIZE, per_axis


@eager
def flattened_conv2d(
    input: Tensor,
    lateral_weight: Tensor,
    vertical_weight: Tensor,
    horizontal_weight: Tensor,
    lateral_bias: Tensor | None = None,
    vertical_bias: Tensor | None = None,
    horizontal_bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
) -> Tensor:
    """One set of lateral, vertical and horizontal convolutions, with nothing between them.

    ``a = alpha x`` across channels, then each channel on its own down (``beta``) and across (``gamma``):
    without biases the convolution with ``W[f, c, u, v] = alpha[f, c] beta[f, u] gamma[f, v]``. Jin et al.,
    "Flattened Convolutional Neural Networks for Feedforward Acceleration", arXiv 1412.5474.

    Args:
        input: ``[N, C, H, W]``.
        lateral_weight: ``[F, C, 1, 1]``.
        vertical_weight: ``[F, 1, k, 1]``.
        horizontal_weight: ``[F, 1, 1, k]``.
        lateral_bias: ``[F]`` or None.
        vertical_bias: ``[F]`` or None.
        horizontal_bias: ``[F]`` or None.
        stride: as in :func:`conv2d`; each kernel strides along its own axis.
        padding: likewise; what is padded with zeros is the input of each kernel.
        dilation: likewise.

    Returns:
        ``[N, F, Ho, Wo]``.

    Raises:
        ValueError: shapes do not fit.
    """
    image = conv2d(input, lateral_weight, lateral_bias)
    filters = lateral_weight.shape[0]
    for weight, bias, axis in ((vertical_weight, vertical_bias, 0), (horizontal_weight, horizontal_bias, 1)):
        if weight.dim() != 4 or weight.shape[3 - axis] != 1:
            wanted = f"[{filters}, 1, k, 1]" if axis == 0 else f"[{filters}, 1, 1, k]"
            name = ("vertical", "horizontal")[axis]
            raise ValueError(f"the {name} weight must be {wanted}, got {list(weight.shape)}")
        image = conv2d(image, weight, bias, *along_axis(axis, stride, padding, dilation), filters)
    return image


def _pads(conv: Conv2d) -> bool:
    """Whether a kernel of one axis pads its input, for images of any size."""
    if not isinstance(conv.padding, str):
        return any(conv.padding)
    strided = conv.padding == "same" and max(conv.stride) > 1
    return conv.padding != "valid" and (max(conv.kernel_size) > 1 or strided)


class FlattenedSet(nn.Module):
    """One set of a :class:`FlattenedConv2d`: :func:`flattened_conv2d`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size,
        padding: Padding,
        dilation: Size,
        bias: bool,
        **factory: Any,
    ) -> None:
        super().__init__()
        height, width = per_axis(kernel_size, 2, "kernel_size", minimum=1, maximum=MAX_KERNEL_SIZE)
        self.stride, self.padding, self.dilation = stride, padding, dilation

        def along(axis: int, size: tuple[int, int]) -> Conv2d:
            values = along_axis(axis, stride, padding, dilation)
            return Conv2d(out_channels, out_channels, size, *values, groups=out_channels, bias=bias, **factory)

        self.lateral = Conv2d(in_channels, out_channels, 1, bias=bias, **factory)
        self.vertical = along(0, (height, 1))
        self.horizontal = along(1, (1, width))

    def forward(self, input: Tensor) -> Tensor:
        """See :func:`flattened_conv2d`."""
        return flattened_conv2d(
            input,
            self.lateral.weight,
            self.vertical.weight,
            self.horizontal.weight,
            self.lateral.bias,
            self.vertical.bias,
            self.horizontal.bias,
            self.stride,
            self.padding,
            self.dilation,
        )

    def to_conv2d(self, interior_only: bool = False) -> Conv2d:
        """The one convolution of rank 1 that gives the same output.

        A kernel that pads its input with zeros leaves out there what the biases of the kernels before it add
        everywhere else, and one bias cannot. So a set folds where no kernel pads, or where those biases add
        nothing.

        Args:
            interior_only: also convert other sets, whose result differs where a kernel reaches into the padding.

        Raises:
            ValueError: biases that are missing at the borders, and not ``interior_only``.
        """
        lateral, vertical, horizontal = self.lateral, self.vertical, self.horizontal
        with torch.no_grad():
            beta, gamma = vertical.weight[:, 0, :, 0], horizontal.weight[:, 0, 0]
            lost = False
            if lateral.bias is not None and vertical.bias is not None:
                middle = lateral.bias * beta.sum(1) + vertical.bias
                lost = (_pads(vertical) and bool(lateral.bias.any())) or (_pads(horizontal) and bool(middle.any()))
        if lost and not interior_only:
            raise ValueError(
                f"biases with padding {self.padding!r} do not fold to one kernel at the borders: use bias=False "
                "or padding=0, or interior_only=True to get the convolution that agrees in the interior"
            )
        with torch.no_grad():
            weight = torch.einsum("fc,fu,fv->fcuv", lateral.weight[:, :, 0, 0], beta, gamma)
            bias = None
            if lateral.bias is not None and vertical.bias is not None and horizontal.bias is not None:
                bias = (lateral.bias * beta.sum(1) + vertical.bias) * gamma.sum(1) + horizontal.bias
        return plain_conv2d(
            weight, bias, lateral, stride=self.stride, padding=self.padding, dilation=self.dilation
        )


class FlattenedConv2d(nn.Module):
    """Sets of lateral, vertical and horizontal convolutions: :func:`flattened_conv2d`.

    Args:
        in_channels: ``C`` of the first set; the others have ``out_channels``.
        out_channels: ``F``.
        kernel_size: one side, or height and width.
        stride: step of the window of the first set; the others have 1.
        padding: of every set, as in :class:`Conv2d`; ``dilation * (kernel_size // 2)`` by default. The paper uses
            ``"full"`` once to undo a ``"valid"`` one.
        num_sets: sets one after the other; the paper stacks 2.
        bias: whether each of the three has a bias.
        dilation: spacing of the taps.
        **factory: device and dtype.

    Attributes:
        sets: each with ``lateral``, ``vertical`` and ``horizontal``.

    Raises:
        ValueError: ``num_sets`` is not positive.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 3,
        stride: Size = 1,
        padding: Padding | None = None,
        num_sets: int = 1,
        bias: bool = True,
        dilation: Size = 1,
        **factory: Any,
    ) -> None:
        if num_sets < 1:
            raise ValueError(f"num_sets must be at least 1, got {num_sets}")
        pads = same_padding(kernel_size, dilation) if padding is None else padding
        super().__init__()
        self.sets = nn.ModuleList(
            FlattenedSet(
                out_channels if n else in_channels,
                out_channels,
                kernel_size,
                1 if n else stride,
                pads,
                dilation,
                bias,
                **factory,
            )
            for n in range(num_sets)
        )
        self.in_channels = in_channels

    def forward(self, input: Tensor) -> Tensor:
        """See :func:`flattened_conv2d`."""
        for one in self.sets:
            input = one(input)
        return input

    def _sets(self) -> list[FlattenedSet]:
        return [one for one in self.sets if isinstance(one, FlattenedSet)]

    def flops(self, input_shape: Sequence[int]) -> Flops:
        """For each set ``F (C + 2k)`` parameters (and 3F), and that many multiply-adds a pixel at stride 1."""
        return count_stages(
            [stage for one in self._sets() for stage in (one.lateral, one.vertical, one.horizontal)],
            input_shape,
            self.in_channels,
        )

    def to_conv2d(self, interior_only: bool = False) -> Conv2d:
        """The one convolution that gives the same output; see :meth:`FlattenedSet.to_conv2d`.

        Raises:
            ValueError: several sets, or biases with padding and not ``interior_only``.
        """
        if len(self.sets) > 1:
            raise ValueError(
                f"only one set folds to one kernel, got {len(self.sets)} sets: convert each one by itself"
            )
        return self._sets()[0].to_conv2d(interior_only)
