"""Octave convolution: some channels at half the resolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from sparseconv.compilation import eager
from sparseconv.dense_ops.conv import Conv2d, conv2d
from sparseconv.dense_ops.executor import as_image, as_rows
from sparseconv.dense_ops.flops import Flops, count_parameters, split_shape
from sparseconv.dense_ops.index_map import window_map
from sparseconv.dense_ops.window import Padding, Pair, Size, Window
from sparseconv.octave_channels import low_channels, path_groups
from sparseconv.ops.mapped import sum_features

# High and low frequency; the low one has half the height and width.
Octaves = tuple[Tensor | None, Tensor | None]


def _cells(shape: Sequence[int], factor: int) -> Window:
    """The window of cells of ``factor x factor`` pixels that do not overlap."""
    height, width = shape
    if height % factor or width % factor:
        raise ValueError(
            f"height and width must be multiples of {factor} here, got {[height, width]}: crop or pad the image, "
            "to a multiple of 2 for stride 1 and of 4 for stride 2"
        )
    return Window.create((height, width), factor, factor)


def average_cells(input: Tensor, factor: int = 2) -> Tensor:
    """Mean of each cell of ``factor x factor`` pixels.

    Raises:
        ValueError: height or width is not a multiple of the factor.
    """
    rows, batch_size = as_rows(input), input.shape[0]
    window = _cells(input.shape[2:], factor)
    pooled = sum_features(rows, window_map(window, batch_size, rows.device))
    return as_image(pooled, batch_size, window.out_shape) / factor**2


def repeat_cells(input: Tensor, factor: int = 2) -> Tensor:
    """Each pixel as a cell of ``factor x factor``: nearest-neighbour upsampling."""
    rows, (batch_size, _, height, width) = as_rows(input), input.shape
    window = _cells((factor * height, factor * width), factor)
    grown = sum_features(rows, window_map(window, batch_size, rows.device).transposed())
    return as_image(grown, batch_size, window.in_shape)


def _sum(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return first + second


@eager
def octave_conv2d(
    high: Tensor | None,
    low: Tensor | None,
    high_to_high: Tensor | None,
    low_to_high: Tensor | None,
    high_to_low: Tensor | None,
    low_to_low: Tensor | None,
    high_bias: Tensor | None = None,
    low_bias: Tensor | None = None,
    stride: int = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: Sequence[int] = (1, 1, 1, 1),
) -> Octaves:
    """Four convolutions between two frequencies; a path without input or weight is left out.

    Stride 1: ``y_h = hh(x_h) + up(lh(x_l))`` and ``y_l = hl(pool(x_h)) + ll(x_l)``, with ``pool`` the mean of
    2x2 pixels and ``up`` its nearest-neighbour inverse. Stride 2 pools first:
    ``y_h = hh(pool(x_h)) + lh(x_l)`` and ``y_l = hl(pool(pool(x_h))) + ll(pool(x_l))``. Chen et al., "Drop an
    Octave", arXiv 1904.05049.

    Args:
        high: ``[N, C_h, H, W]`` or None.
        low: ``[N, C_l, H/2, W/2]`` or None.
        high_to_high: ``[O_h, C_h, kh, kw]`` or None, and so on.
        low_to_high: see there.
        high_to_low: see there.
        low_to_low: see there.
        high_bias: ``[O_h]`` or None.
        low_bias: ``[O_l]`` or None.
        stride: 1 or 2.
        padding: of the convolutions, as in :func:`conv2d`.
        dilation: likewise.
        groups: channel groups of hh, lh, hl and ll.

    Returns:
        ``[N, O_h, ..]`` or None, and ``[N, O_l, ..]`` at half its size or None.

    Raises:
        ValueError: another stride, a size that does not halve, or shapes that do not fit.
    """
    if stride not in (1, 2):
        raise ValueError(f"stride must be 1 or 2, got {stride}")

    def run(input: Tensor | None, weight: Tensor | None, n_groups: int) -> Tensor | None:
        if input is None or weight is None:
            return None
        return conv2d(input, weight, None, 1, padding, dilation, n_groups)

    if high is not None and stride == 2:
        high = average_cells(high)
    slow = low if low is None or low_to_low is None or stride == 1 else average_cells(low)
    low_up = run(low, low_to_high, groups[1])
    if low_up is not None and stride == 1:
        low_up = repeat_cells(low_up)
    pooled = None if high is None or high_to_low is None else average_cells(high)
    y_high = _sum(run(high, high_to_high, groups[0]), low_up)
    y_low = _sum(run(pooled, high_to_low, groups[2]), run(slow, low_to_low, groups[3]))
    if y_high is not None and high_bias is not None:
        y_high = y_high + high_bias[:, None, None].to(y_high.dtype)
    if y_low is not None and low_bias is not None:
        y_low = y_low + low_bias[:, None, None].to(y_low.dtype)
    return y_high, y_low


class OctaveConv2d(nn.Module):
    """Octave convolution: :func:`octave_conv2d`.

    ``alpha_in=0`` makes a first layer, which takes one image; ``alpha_out=0`` a last one, which returns one.
    In between, input and output are pairs (high, low). Depthwise layers have no paths between the frequencies.

    Args:
        in_channels: ``C``; ``floor(alpha_in C)`` of them are low.
        out_channels: ``O``; ``floor(alpha_out O)`` of them are low.
        kernel_size: side of the kernels.
        alpha_in: low share of the input channels.
        alpha_out: low share of the output channels.
        stride: 1 or 2; 2 pools before it convolves.
        padding: of the convolutions, as in :class:`Conv2d`.
        dilation: likewise.
        groups: likewise; ``ceil(alpha_in groups)`` in the low path and ``ceil((1 - alpha_in) groups)`` in the
            high one.
        bias: whether each output frequency has a bias.
        **factory: device and dtype.

    Attributes:
        conv_hh: high to high, or None.
        conv_lh: low to high, or None.
        conv_hl: high to low, or None.
        conv_ll: low to low, or None.

    Raises:
        ValueError: a share outside [0, 1], or another stride.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 3,
        alpha_in: float = 0.5,
        alpha_out: float = 0.5,
        stride: int = 1,
        padding: Padding = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = False,
        **factory: Any,
    ) -> None:
        super().__init__()
        if not (0 <= alpha_in <= 1 and 0 <= alpha_out <= 1):
            raise ValueError(f"alpha_in and alpha_out must lie in 0 .. 1, got {alpha_in} and {alpha_out}")
        if stride not in (1, 2):
            raise ValueError(f"stride must be 1 or 2, got {stride}")
        self.in_channels, self.stride = in_channels, stride
        in_low, out_low = low_channels(in_channels, alpha_in), low_channels(out_channels, alpha_out)
        in_high, out_high = in_channels - in_low, out_channels - out_low
        crossing = groups == 1 or groups != in_channels
        self.in_high, self.in_low = in_high, in_low
        high_groups, low_groups = path_groups(groups, in_channels, alpha_in)

        def path(c_in: int, c_out: int, n_groups: int, with_bias: bool, wanted: bool = True) -> Conv2d | None:
            if not (wanted and c_in and c_out):
                return None
            return Conv2d(c_in, c_out, kernel_size, 1, padding, dilation, n_groups, with_bias, **factory)

        self.conv_hh = path(in_high, out_high, high_groups, bias)
        self.conv_hl = path(in_high, out_low, groups, bias, crossing)
        self.conv_lh = path(in_low, out_high, groups, bias and self.conv_hh is None, crossing)
        self.conv_ll = path(in_low, out_low, low_groups, bias and self.conv_hl is None)

    def forward(self, input: Tensor | Octaves) -> Tensor | Octaves:
        """See :func:`octave_conv2d`.

        Args:
            input: the pair (high, low), or one image where only one of them is there.

        Raises:
            ValueError: a frequency is missing or too much.
        """
        if isinstance(input, Tensor):
            input = (input, None) if self.in_high else (None, input)
        high, low = input
        for name, tensor, channels in (("high", high, self.in_high), ("low", low, self.in_low)):
            came = 0 if tensor is None else tensor.shape[1]
            if came != channels:
                raise ValueError(
                    f"the {name} frequency must have {channels} channels, got {came}: the previous layer's "
                    "alpha_out must be this one's alpha_in"
                )
        hh, lh, hl, ll = self.conv_hh, self.conv_lh, self.conv_hl, self.conv_ll
        like = self._some()
        high, low = octave_conv2d(
            high,
            low,
            None if hh is None else hh.weight,
            None if lh is None else lh.weight,
            None if hl is None else hl.weight,
            None if ll is None else ll.weight,
            next((conv.bias for conv in (hh, lh) if conv is not None and conv.bias is not None), None),
            next((conv.bias for conv in (hl, ll) if conv is not None and conv.bias is not None), None),
            self.stride,
            like.padding,
            like.dilation,
            [1 if conv is None else conv.groups for conv in (hh, lh, hl, ll)],
        )
        return high if low is None and high is not None else (high, low)

    def _some(self) -> Conv2d:
        return next(conv for conv in (self.conv_hh, self.conv_lh, self.conv_hl, self.conv_ll) if conv is not None)

    def flops(self, input_shape: Sequence[int]) -> Flops:
        """The four convolutions, each on its grid; at stride 1 ``1 - 3/4 alpha (2 - alpha)`` of the plain one's.

        Args:
            input_shape: ``[N, C, H, W]`` of the image at high resolution, all channels counted.
        """
        batch_size, (height, width) = split_shape(input_shape, self.in_channels)
        if self.stride == 2:
            height, width = height // 2, width // 2
        half: Pair = (height // 2, width // 2)
        macs = 0
        # At stride 2 the low input already has the size of the high output.
        to_high: Pair = half if self.stride == 1 else (height, width)
        for conv, shape in (
            (self.conv_hh, (height, width)),
            (self.conv_lh, to_high),
            (self.conv_hl, half),
            (self.conv_ll, half),
        ):
            if conv is not None:
                macs += conv.flops((batch_size, conv.in_channels, *shape)).macs
        return Flops(macs, count_parameters(self))
