"""Omni-dimensional dynamic convolution: attention over kernels, taps, input and output channels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sparseconv.compilation import eager
from sparseconv.dense_ops.conv import Conv2d
from sparseconv.dense_ops.executor import convolve_per_sample, image_shape
from sparseconv.dense_ops.flops import Flops, count_parameters, split_shape
from sparseconv.dense_ops.mixture import global_average
from sparseconv.dense_ops.window import Padding, Pair, Size, Window


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
    batch_size = input.shape[0]
    window = Window.create(image_shape(input), weight.shape[3:], stride, padding, dilation)
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


class OmniDimensionalAttention(nn.Module):
    """The four attentions of a :class:`ODConv2d`, from the mean of each image.

    ``h = relu(norm(fc(mean(x))))`` with ``A = max(int(C reduction), 16)`` units; sigmoids of
    ``W h / temperature`` for channels, filters and taps, a softmax over kernels. What cannot matter is left
    out: filters of a depthwise layer, taps of a 1x1 kernel, kernels where there is one.
    """

    temperature: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        groups: int,
        reduction: float,
        kernel_num: int,
        norm: str,
    ) -> None:
        super().__init__()
        if norm not in ("batch", "layer"):
            raise ValueError(f"norm must be 'batch' or 'layer', got {norm!r}")
        units = max(int(in_channels * reduction), 16)
        self.kernel_size = kernel_size
        self.register_buffer("temperature", torch.tensor(1.0))
        self.fc = nn.Linear(in_channels, units, bias=False)
        self.norm: nn.Module = nn.BatchNorm1d(units) if norm == "batch" else nn.LayerNorm(units)
        depthwise = groups == in_channels == out_channels
        taps = kernel_size[0] * kernel_size[1]
        self.channel_fc = nn.Linear(units, in_channels)
        self.filter_fc = None if depthwise else nn.Linear(units, out_channels)
        self.spatial_fc = None if taps == 1 else nn.Linear(units, taps)
        self.kernel_fc = None if kernel_num == 1 else nn.Linear(units, kernel_num)
        for layer in self.linear_layers():
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def linear_layers(self) -> list[nn.Linear]:
        """Those that are there."""
        layers = (self.fc, self.channel_fc, self.filter_fc, self.spatial_fc, self.kernel_fc)
        return [layer for layer in layers if layer is not None]

    def forward(self, input: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None, Tensor | None]:
        """Attentions over kernels, channels, filters and taps; None where it is 1."""
        hidden = torch.relu(self.norm(self.fc(global_average(input))))

        def scores(layer: nn.Linear) -> Tensor:
            return layer(hidden) / self.temperature.to(hidden.dtype)

        kernels = None if self.kernel_fc is None else torch.softmax(scores(self.kernel_fc), dim=1)
        filters = None if self.filter_fc is None else torch.sigmoid(scores(self.filter_fc))
        spatial = None
        if self.spatial_fc is not None:
            spatial = torch.sigmoid(scores(self.spatial_fc)).unflatten(1, self.kernel_size)
        return kernels, torch.sigmoid(scores(self.channel_fc)), filters, spatial


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
    ) -> None:
        super().__init__()
        like = Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, False)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size: Pair = (like.kernel_size[0], like.kernel_size[1])
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.attention = OmniDimensionalAttention(
            in_channels, out_channels, self.kernel_size, groups, reduction, kernel_num, norm
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
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        self.attention.temperature.fill_(temperature)

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
