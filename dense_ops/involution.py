"""Involution: a kernel for each pixel, shared by the channels of a group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparseconv.compilation import eager
from sparseconv.dense_ops.conv import Conv2d
from sparseconv.dense_ops.executor import as_image, as_rows, image_shape
from sparseconv.dense_ops.flops import Flops, count_parameters, split_shape
from sparseconv.dense_ops.index_map import neighbor_pairs
from sparseconv.dense_ops.octave import average_cells
from sparseconv.dense_ops.window import Window
from sparseconv.ops import weighted_sum


def _window(in_shape: Sequence[int], kernel_size: int, stride: int) -> Window:
    if kernel_size % 2 == 0:
        raise ValueError(f"an involution kernel is centred: kernel_size must be odd, got {kernel_size}")
    return Window.create(in_shape, kernel_size, stride, (kernel_size - 1) // 2)


@eager
def involution2d(input: Tensor, kernel: Tensor, stride: int = 1) -> Tensor:
    """Sum the neighbours of each output pixel with that pixel's own kernel.

    ``y[n, c, q] = sum over t of k[n, c // (C/G), t, q] x[n, c, s q - (K-1)/2 + t]``, zeros outside. Li et al.,
    "Involution: Inverting the Inherence of Convolution for Visual Recognition", arXiv 2103.06255.

    Args:
        input: ``[N, C, H, W]``.
        kernel: ``[N, G, K^2, Ho, Wo]``, K odd, taps in raster order; G divides C.
        stride: step of the window.

    Returns:
        ``[N, C, Ho, Wo]`` with ``Ho = floor((H-1) / s) + 1``.

    Raises:
        ValueError: an even K, or shapes that do not fit.
    """
    batch_size, channels = input.shape[:2]
    image_shape(input)
    taps = kernel.shape[2] if kernel.dim() == 5 else 0
    side = round(taps**0.5)
    if taps == 0 or side * side != taps or channels % kernel.shape[1]:
        raise ValueError(
            f"the kernel must have shape [N, G, K^2, Ho, Wo] with G a divisor of the {channels} channels, got "
            f"{list(kernel.shape)}"
        )
    window = _window(image_shape(input), side, stride)
    groups = kernel.shape[1]
    wanted = (batch_size, groups, taps, *window.out_shape)
    if tuple(kernel.shape) != wanted:
        raise ValueError(f"the kernel must have shape {list(wanted)}, got {list(kernel.shape)}")
    rows = as_rows(input)
    kernels = kernel.permute(0, 3, 4, 2, 1).reshape(-1, groups)
    pairs = neighbor_pairs(window, batch_size, rows.device)
    n_out = batch_size * window.n_out
    output = weighted_sum(rows, kernels, pairs.in_rows, pairs.out_rows, n_out, pairs.by_in_rows)
    return as_image(output, batch_size, window.out_shape)


class Involution2d(nn.Module):
    """Involution with kernels generated from each pixel: :func:`involution2d`.

    The generator is a bottleneck of 1x1 convolutions, ``conv2(relu(norm(conv1(x'))))``, on the image or, with
    a stride, on the mean of its ``stride x stride`` cells.

    Args:
        channels: ``C``, in and out.
        kernel_size: odd ``K``; 7 in the paper's RedNet.
        stride: step of the window; it must divide height and width.
        reduction: of the bottleneck.
        group_channels: channels that share a kernel.
        **factory: device and dtype.

    Attributes:
        conv1: from C to C / reduction, without bias.
        norm: batch norm.
        conv2: from there to ``G K^2``, channels in the order ``(group, tap)``.

    Raises:
        ValueError: an even kernel_size, or channels that do not divide.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        reduction: int = 4,
        group_channels: int = 16,
        **factory: Any,
    ) -> None:
        super().__init__()
        if channels % group_channels or channels < reduction:
            raise ValueError(
                f"channels must be a multiple of group_channels = {group_channels} and at least reduction = "
                f"{reduction}, got {channels}: choose smaller ones"
            )
        _window((kernel_size, kernel_size), kernel_size, stride)
        self.channels, self.kernel_size, self.stride = channels, kernel_size, stride
        self.n_groups = channels // group_channels
        self.conv1 = Conv2d(channels, channels // reduction, 1, bias=False, **factory)
        self.norm = nn.BatchNorm2d(channels // reduction, **factory)
        self.conv2 = Conv2d(channels // reduction, kernel_size**2 * self.n_groups, 1, **factory)

    def generate(self, input: Tensor) -> Tensor:
        """Kernels ``[N, G, K^2, Ho, Wo]``.

        Raises:
            ValueError: the stride does not divide height and width.
        """
        height, width = image_shape(input)
        if height % self.stride or width % self.stride:
            raise ValueError(
                f"height and width must be multiples of the stride {self.stride}, got {[height, width]}: crop or "
                "pad the image"
            )
        pooled = input if self.stride == 1 else average_cells(input, self.stride)
        kernel = self.conv2(torch.relu(self.norm(self.conv1(pooled))))
        return kernel.unflatten(1, (self.n_groups, self.kernel_size**2))

    def forward(self, input: Tensor) -> Tensor:
        """See :func:`involution2d`."""
        return involution2d(input, self.generate(input), self.stride)

    def flops(self, input_shape: Sequence[int]) -> Flops:
        """For each output pixel ``C^2/r + C/r K^2 G`` to generate its kernel and ``K^2 C`` to apply it."""
        batch_size, shape = split_shape(input_shape, self.channels)
        pixels = _window(shape, self.kernel_size, self.stride).n_out
        generator = self.conv1.weight.numel() + self.conv2.weight.numel()
        macs = pixels * (generator + self.kernel_size**2 * self.channels)
        return Flops(batch_size * macs, count_parameters(self))

    def extra_repr(self) -> str:
        """Its arguments."""
        return f"{self.channels}, kernel_size={self.kernel_size}, stride={self.stride}, groups={self.n_groups}"
