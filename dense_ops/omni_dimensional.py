"""Omni-dimensional dynamic convolution: attention over kernels, taps, input and output channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparseconv.compilation import eager
from sparseconv.dense_ops.conv import Conv2d
from sparseconv.dense_ops.executor import convolve_per_sample, image_shape
from sparseconv.dense_ops.flops import Flops, count_parameters, split_shape
from sparseconv.dense_ops.mixture import global_average
from sparseconv.dense_ops.window import Padding, Pair, Size, Window
from sparseconv.omni_attention import Attentions, OmniDimensionalAttention


@eager
def od_conv2d(
    input: Tensor,
    weight: Tensor,
    kernel_attention: Tensor | None = None,
    channel_attention: Tensor | None = None,
    filter_attention: Tensor | None = None,
    spatial_attention: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """Convolution of each sample with ``a_f[o] a_c[c] a_s[u, v] sum over k of a_w[k] W_k[o, c, u, v]``.

    The attention over kernels mixes them, that over taps scales the mixture, those over channels scale input and
    output. An attention that is None is 1; without one over kernels there must be one kernel. Li et al.,
    "Omni-Dimensional Dynamic Convolution", ICLR 2022 (in its code, as here, the kernels share the other three).

    Args:
        input: ``[N, C, H, W]``.
        weight: ``[K, O, C / groups, kh, kw]``.
        kernel_attention: ``[N, K]`` or None.
        channel_attention: ``[N, C]`` or None.
        filter_attention: ``[N, O]`` or None.
        spatial_attention: ``[N, kh, kw]`` or None.
        stride: as in :func:`conv2d`.
        padding: as in :func:`conv2d`.
        dilation: as in :func:`conv2d`.
        groups: as in :func:`conv2d`.

    Returns:
        ``[N, O, Ho, Wo]``.

    Raises:
        ValueError: several kernels without attention over them, or shapes that do not fit.
    """
    if weight.dim() != 5:
        raise ValueError(f"the weight must have shape [K, O, C / groups, kh, kw], got {list(weight.shape)}")
    window = Window.create(image_shape(input), weight.shape[3:], stride, padding, dilation)
    batch_size, channels = input.shape[:2]
    for name, attention, wanted in (
        ("kernel", kernel_attention, (batch_size, len(weight))),
        ("channel", channel_attention, (batch_size, channels)),
        ("filter", filter_attention, (batch_size, weight.shape[1])),
        ("spatial", spatial_attention, (batch_size, *weight.shape[3:])),
    ):
        if attention is not None and attention.shape != wanted:
            raise ValueError(f"the {name}_attention must have shape {list(wanted)}, got {list(attention.shape)}")
    if kernel_attention is not None:
        kernels = torch.einsum("nk,kocuv->nocuv", kernel_attention.to(weight), weight)
    elif len(weight) == 1:
        kernels = weight.expand(batch_size, -1, -1, -1, -1)
    else:
        raise ValueError(f"{len(weight)} kernels need a kernel_attention [N, {len(weight)}], got None")
    if spatial_attention is not None:
        kernels = kernels * spatial_attention.to(weight)[:, None, None]
    if channel_attention is not None:
        input = input * channel_attention.to(input)[:, :, None, None]
    output = convolve_per_sample(input, kernels, None, window, groups)
    return output if filter_attention is None else output * filter_attention.to(output)[:, :, None, None]


class ImageAttention(OmniDimensionalAttention):
    """The attentions of an :class:`ODConv2d`, from the mean of each image."""

    def forward(self, input: Tensor) -> Attentions:
        """Attentions over kernels ``[N, K]``, channels ``[N, C]``, filters ``[N, O]`` and taps ``[N, kh, kw]``.

        Raises:
            ValueError: a batch norm in training and one image.
        """
        return self.attend(global_average(input), input.new_ones(len(input), dtype=torch.bool))


class ODConv2d(nn.Module):
    """Omni-dimensional dynamic convolution: :func:`od_conv2d`.

    Args:
        in_channels: ``C``.
        out_channels: ``O``.
        kernel_size: side of the kernels.
        stride: as in :class:`Conv2d`, and so are the next three.
        padding: as in :class:`Conv2d`.
        dilation: as in :class:`Conv2d`.
        groups: as in :class:`Conv2d`.
        reduction: hidden units for each input channel; at least 16 units.
        kernel_num: ``K``.
        norm: ``"batch"`` as in the paper, which cannot train on one sample; ``"layer"`` can.
        **factory: device and dtype.

    Attributes:
        weight: ``[K, O, C / groups, kh, kw]``.
        attention: the four attentions.

    Raises:
        ValueError: an unknown norm.
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
        reduction: float = 0.0625,
        kernel_num: int = 4,
        norm: str = "batch",
        **factory: Any,
    ) -> None:
        super().__init__()
        like = Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, False, **factory)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size: Pair = (like.kernel_size[0], like.kernel_size[1])
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.attention = ImageAttention(
            in_channels, out_channels, self.kernel_size, groups, reduction, kernel_num, norm, **factory
        )
        self.weight = nn.Parameter(like.weight.detach().new_empty(kernel_num, *like.weight.shape))
        with torch.no_grad():
            for kernel in self.weight:
                nn.init.kaiming_normal_(kernel, mode="fan_out", nonlinearity="relu")

    def update_temperature(self, temperature: float) -> None:
        """Set the temperature of all attentions; training starts high and ends at 1. Saved with the state.

        Raises:
            ValueError: it is not positive.
        """
        self.attention.set_temperature(temperature)

    def forward(self, input: Tensor) -> Tensor:
        """See :func:`od_conv2d`."""
        kernels, channels, filters, spatial = self.attention(input)
        return od_conv2d(
            input,
            self.weight,
            kernels,
            channels,
            filters,
            spatial,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
        )

    def flops(self, input_shape: Sequence[int]) -> Flops:
        """The convolution once, ``K O C/g kh kw`` to mix, ``C H W + O Ho Wo`` to scale, and the attentions."""
        batch_size, shape = split_shape(input_shape, self.in_channels)
        window = Window.create(shape, self.kernel_size, self.stride, self.padding, self.dilation)
        macs = window.macs(self.in_channels, self.out_channels, self.groups) + self.weight.numel()
        macs += self.in_channels * window.n_in
        if self.attention.filter_fc is not None:
            macs += self.out_channels * window.n_out
        macs += sum(layer.weight.numel() for layer in self.attention.linear_layers())
        return Flops(batch_size * macs, count_parameters(self))
