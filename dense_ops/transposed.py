"""Transposed convolution, and how evenly it covers its output."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparseconv.compilation import eager
from sparseconv.dense_ops.executor import as_image, as_rows
from sparseconv.dense_ops.flops import Flops, count_parameters, split_shape
from sparseconv.dense_ops.index_map import geometry_window, window_map
from sparseconv.dense_ops.window import Pair, Size, Window
from sparseconv.geometry import ConvGeometry, per_axis
from sparseconv.ops.mapped import convolve_features


def _paired_window(
    in_shape: Sequence[int], kernel_size: Size, stride: Size, padding: Size, output_padding: Size, dilation: Size
) -> Window:
    """The window of the convolution that is transposed: from the output's pixels onto the input's."""
    geometry = ConvGeometry.create(2, kernel_size, stride, padding, dilation)
    extra = per_axis(output_padding, 2, "output_padding", minimum=0, maximum=1 << 16)
    if any(e >= max(s, d) for e, s, d in zip(extra, geometry.stride, geometry.dilation, strict=True)):
        raise ValueError(
            f"output_padding must be smaller than the larger of stride {geometry.stride} and dilation "
            f"{geometry.dilation}, got {extra}"
        )
    height, width = geometry.transposed_output_shape(in_shape, extra)
    return geometry_window(geometry, (height, width), (in_shape[0], in_shape[1]))


@eager
def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Tensor:
    """Transposed convolution; as ``torch.nn.functional.conv_transpose2d``. Not an inverse, only the adjoint.

    ``y[o, jy, jx] = b[o] + sum of w[c, o, u, v] x[c, iy, ix]`` wherever ``jy = s iy - p + d u`` and likewise
    ``jx``. It runs the map of the convolution that it transposes, with its columns swapped. Dumoulin and Visin,
    arXiv 1603.07285.

    Args:
        input: ``[N, C, H, W]``.
        weight: ``[C, O / groups, kh, kw]``.
        bias: ``[O]`` or None.
        stride: spacing of the input pixels in the output.
        padding: pixels that are cut off the output on both sides.
        output_padding: rows below and columns on the right that the output has more.
        groups: channel groups.
        dilation: spacing of the taps.

    Returns:
        ``[N, O, Ho, Wo]`` with ``Ho = (H-1)s - 2p + d(k-1) + output_padding + 1``.

    Raises:
        ValueError: output_padding is not below the larger of stride and dilation, or shapes do not fit.
    """
    rows = as_rows(input)
    batch_size, channels, height, width = input.shape
    if weight.dim() != 4 or weight.shape[0] != channels or channels % groups:
        raise ValueError(
            f"the weight must have shape [C, O / groups, kh, kw] with C = {channels} channels of the input, a "
            f"multiple of groups {groups}, got {list(weight.shape)}"
        )
    window = _paired_window((height, width), tuple(weight.shape[2:]), stride, padding, output_padding, dilation)
    # [C, O/g, kh, kw] with input groups first, to [O, K, C/g].
    grouped = weight.flatten(2).reshape(groups, channels // groups, weight.shape[1], -1)
    taps = grouped.permute(0, 2, 3, 1).reshape(groups * weight.shape[1], -1, channels // groups)
    kernel_map = window_map(window, batch_size, rows.device).transposed()
    return as_image(convolve_features(rows, taps, bias, kernel_map, groups), batch_size, window.in_shape)


class ConvTranspose2d(nn.ConvTranspose2d):
    """Transposed convolution on the engine's executor: :func:`conv_transpose2d`.

    Constructor, parameters and initial values are those of :class:`torch.nn.ConvTranspose2d`.
    """

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """See :func:`conv_transpose2d`."""
        output_padding = self._output_padding(
            input,
            output_size,
            list(self.stride),
            list(self.padding),  # type: ignore[arg-type]
            list(self.kernel_size),
            2,
            list(self.dilation),
        )
        return conv_transpose2d(
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,  # type: ignore[arg-type]
            output_padding,
            self.groups,
            self.dilation,
        )

    def flops(self, input_shape: Sequence[int]) -> Flops:
        """``H W C O/g kh kw`` multiply-adds, on the input's grid; ``C O/g kh kw (+ O)`` parameters."""
        batch_size, (height, width) = split_shape(input_shape, self.in_channels)
        per_pixel = self.in_channels * self.out_channels // self.groups * math.prod(self.kernel_size)
        return Flops(batch_size * height * width * per_pixel, count_parameters(self))

    def overlap_count(self, in_shape: Pair) -> Tensor:
        """See :func:`overlap_count`."""
        return overlap_count(
            in_shape,
            self.kernel_size,
            self.stride,
            self.padding,  # type: ignore[arg-type]
            self.output_padding,
            self.dilation,
        )

    def checkerboard(self) -> Checkerboard:
        """See :func:`checkerboard`."""
        return checkerboard(self.kernel_size, self.stride, self.dilation, self.weight)


def overlap_count(
    in_shape: Pair,
    kernel_size: Size,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    dilation: Size = 1,
) -> Tensor:
    """How many input pixels reach each output pixel of a transposed convolution: int64 ``[Ho, Wo]``.

    It is the transposed convolution of ones with ones. Where it is uneven, so is the output: a checkerboard.
    """
    window = _paired_window(in_shape, kernel_size, stride, padding, output_padding, dilation)
    return window_map(window, 1).transposed().in_counts().reshape(window.in_shape)


@dataclass(frozen=True)
class Checkerboard:
    """How evenly a transposed convolution covers the interior of its output.

    Output pixel ``j`` belongs to the class ``(j + padding) mod stride`` of its axis; all pixels of a class are
    reached by the same taps.

    Attributes:
        counts: int64 ``[s_y, s_x]``, input pixels that reach a pixel of each class.
        weight_sums: ``[C, O / groups, s_y, s_x]``, sum of each kernel's taps in each class: what a constant
            input turns into. None without a weight.
    """

    counts: Tensor
    weight_sums: Tensor | None = None

    @property
    def uniform(self) -> bool:
        """Whether every pixel is reached equally often: with dilation 1, whether stride divides kernel_size."""
        return bool((self.counts == self.counts[0, 0]).all())

    @property
    def ratio(self) -> float:
        """Largest over smallest count; infinite where some pixels are not reached at all."""
        least = int(self.counts.min())
        return int(self.counts.max()) / least if least else math.inf

    @property
    def weight_spread(self) -> float:
        """Largest difference between the weight sums of two classes, over all kernels; 0 without a weight."""
        if self.weight_sums is None or self.weight_sums.numel() == 0:
            return 0.0
        flat = self.weight_sums.flatten(2)
        return float((flat.amax(2) - flat.amin(2)).max())


def checkerboard(
    kernel_size: Size, stride: Size, dilation: Size = 1, weight: Tensor | None = None
) -> Checkerboard:
    """Diagnose the checkerboard of a transposed convolution.

    Along an axis, class ``rho`` is reached by the taps ``u`` with ``d u = rho (mod s)``. Even counts are not
    enough: with unequal weight sums a constant input still comes out uneven. Nearest-neighbour resizing and then a
    convolution covers its output evenly. Odena et al., "Deconvolution and Checkerboard Artifacts", Distill 2016.

    Args:
        kernel_size: side of the kernel.
        stride: stride of the transposed convolution.
        dilation: spacing of the taps.
        weight: ``[C, O / groups, kh, kw]``, for the weight sums.

    Raises:
        ValueError: the weight has another kernel size.
    """
    geometry = ConvGeometry.create(2, kernel_size, stride, 0, dilation)
    if weight is not None and tuple(weight.shape[2:]) != geometry.kernel_size:
        raise ValueError(
            f"the weight must have shape [C, O / groups, kh, kw] with kernel_size {geometry.kernel_size}, got "
            f"{list(weight.shape)}"
        )
    # [classes, taps] of each axis: whether the tap falls into the class.
    falls_y, falls_x = (
        (torch.arange(k, device="cpu") * d % s == torch.arange(s, device="cpu")[:, None]).long()
        for k, d, s in zip(geometry.kernel_size, geometry.dilation, geometry.stride, strict=True)
    )
    sums = None
    if weight is not None:
        values = weight.detach()
        sums = torch.einsum("ru,couv,sv->cors", falls_y.to(values), values, falls_x.to(values))
    return Checkerboard(torch.outer(falls_y.sum(1), falls_x.sum(1)), sums)
