"""Inception convolution: a dilation of its own for each output channel, and the search that finds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sparseconv.compilation import eager
from sparseconv.dense_ops.conv import Conv2d, conv2d, plain_conv2d
from sparseconv.dense_ops.executor import image_shape
from sparseconv.dense_ops.flops import Flops, count_parameters, split_shape
from sparseconv.dense_ops.window import Pair, Size, Window
from sparseconv.dilation_patterns import (
    Dilation,
    DilationSearch,
    Patterns,
    Place,
    candidate_dilations,
    check_odd,
    check_search_channels,
    parse_patterns,
    supernet_side,
    taps_within,
)


def _pads(kernel_size: Sequence[int], dilation: Dilation) -> Pair:
    return dilation[0] * (kernel_size[0] // 2), dilation[1] * (kernel_size[1] // 2)


@eager
def ic_conv2d(
    input: Tensor,
    weight: Tensor,
    patterns: Patterns,
    bias: Tensor | None = None,
    stride: Size = 1,
    groups: int = 1,
) -> Tensor:
    """Convolution whose output channels differ in dilation, padded so that every one has the same size.

    ``y[i, oy, ox] = sum over c and a, b in -r..r of W[i, c, a, b] x[c, s oy + a dy_i, s ox + b dx_i]``. One
    index map a pattern, on that pattern's rows of the weight. Liu et al., "Inception Convolution with
    Efficient Dilation Search", arXiv 2012.13587.

    Args:
        input: ``[N, C, H, W]``.
        weight: ``[O, C / groups, kh, kw]``, odd sides, output channels in the order of the patterns.
        patterns: ``((dy, dx), channels)`` in order; the channels sum to O.
        bias: ``[O]`` or None.
        stride: as in :func:`conv2d`.
        groups: channel groups within each pattern.

    Returns:
        ``[N, O, Ho, Wo]`` with ``Ho = floor((H-1) / s) + 1``.

    Raises:
        ValueError: channels that do not sum to O, an even kernel side, or shapes that do not fit.
    """
    kernel_size = weight.shape[2:]
    check_odd(kernel_size)
    counts = [count for _, count in patterns]
    if sum(counts) != weight.shape[0]:
        raise ValueError(f"the channels of the patterns must sum to {weight.shape[0]}, got {counts}")
    parts = zip(
        patterns, weight.split(counts), (None,) * len(counts) if bias is None else bias.split(counts), strict=True
    )
    return torch.cat(
        [
            conv2d(input, part, offset, stride, _pads(kernel_size, dilation), dilation, groups)
            for (dilation, _), part, offset in parts
        ],
        dim=1,
    )


class ICConv2d(Conv2d):
    """Inception convolution: :func:`ic_conv2d`.

    Args:
        pattern_dist: ``{"(dy-1, dx-1)": channels}``; the output channels stand in its order.
        inplanes: ``C``.
        planes: ``O``.
        kernel_size: odd sides.
        stride: step of the window.
        groups: channel groups within each pattern.
        bias: whether there is a bias.
        **factory: device and dtype.

    Raises:
        ValueError: channels that do not sum to ``planes`` or do not divide by ``groups``, or an even kernel side.
    """

    def __init__(
        self,
        pattern_dist: Mapping[Any, int],
        inplanes: int,
        planes: int,
        kernel_size: Size = 3,
        stride: Size = 1,
        groups: int = 1,
        bias: bool = False,
        **factory: Any,
    ) -> None:
        super().__init__(inplanes, planes, kernel_size, stride, 0, 1, groups, bias, **factory)
        check_odd(self.kernel_size)
        self.patterns = parse_patterns(pattern_dist, planes, groups, ndim=2)

    def forward(self, input: Tensor) -> Tensor:
        """See :func:`ic_conv2d`."""
        return ic_conv2d(input, self.weight, self.patterns, self.bias, self.stride, self.groups)

    def flops(self, input_shape: Sequence[int]) -> Flops:
        """Those of the plain convolution."""
        batch_size, shape = split_shape(input_shape, self.in_channels)
        macs = 0
        for dilation, count in self.patterns:
            window = Window.create(
                shape, self.kernel_size, self.stride, _pads(self.kernel_size, dilation), dilation
            )
            macs += window.macs(self.in_channels, count, self.groups)
        return Flops(batch_size * macs, count_parameters(self))

    def to_conv2d(self) -> Conv2d:
        """The plain convolution with the largest pattern's extent that gives the same output; without groups."""
        reach = [max(d[axis] for d, _ in self.patterns) * (self.kernel_size[axis] // 2) for axis in (0, 1)]
        with torch.no_grad():
            depth = self.in_channels // self.groups
            weight = self.weight.new_zeros(self.out_channels, self.in_channels, *(2 * r + 1 for r in reach))
            start = 0
            for dilation, count in self.patterns:
                taps = taps_within(dilation, self.kernel_size, reach)
                share = count // self.groups
                for group in range(self.groups):
                    part = slice(start + group * share, start + (group + 1) * share)
                    channels = slice(group * depth, (group + 1) * depth)
                    weight[(part, channels, *taps)] = self.weight[part]
                start += count
        return plain_conv2d(weight, self.bias, self, padding=tuple(reach), groups=1)

    def extra_repr(self) -> str:
        """Its arguments."""
        return f"{super().extra_repr()}, patterns={self.patterns}"


@torch.no_grad()
def search_dilation(
    weight: Tensor,
    inputs: Tensor,
    max_dilation: int,
    kernel_size: int = 3,
    criterion: str = "expectation",
    groups: int = 1,
) -> DilationSearch:
    """Efficient dilation optimisation: for each output channel the dilation that loses least.

    The supernet is a convolution with one dense kernel of side ``K = 2 (k // 2) d_max + 1``; a dilation keeps
    its taps ``(a dy, b dx)``. ``"expectation"`` scores ``|E[y_i] - E[y_i(d)]|`` under channel means that do
    not depend on the place: ``|sum over dropped taps and c of W[i, c, tap] mean_c|``. ``"mean_abs"`` scores
    ``E|y_i - y_i(d)|`` on the inputs, zero padding included. Of equal scores the smallest ``dy dx`` wins, then
    the smaller ``dy``. Written from the paper (arXiv 2012.13587); its authors published the patterns that they
    found, but not the search.

    Args:
        weight: ``[O, C / groups, K, K]`` of the trained supernet.
        inputs: ``[N, C, H, W]`` that the layer sees, for calibration.
        max_dilation: largest dilation of an axis.
        kernel_size: odd side of the dilated kernels.
        criterion: ``"expectation"`` or ``"mean_abs"``.
        groups: channel groups.

    Raises:
        TypeError: a size is no integer.
        ValueError: an unknown criterion, a size out of bounds, or a weight that does not fit them and the inputs.
    """
    side = supernet_side(kernel_size, max_dilation, criterion)
    if weight.dim() != 4 or tuple(weight.shape[2:]) != (side, side):
        raise ValueError(
            f"with kernel_size {kernel_size} and max_dilation {max_dilation} the supernet's weight must have "
            f"shape [O, C / groups, {side}, {side}], got {list(weight.shape)}"
        )
    c_out, depth = weight.shape[:2]
    image_shape(inputs)
    check_search_channels(inputs.shape[1], c_out, depth, groups)
    means = inputs.mean((0, 2, 3)).reshape(groups, depth).repeat_interleave(c_out // groups, 0)
    per_tap = torch.einsum("ocuv,oc->ouv", weight, means)
    errors = weight.new_empty(c_out, max_dilation, max_dilation)
    for dilation in candidate_dilations(max_dilation, 2):
        taps = taps_within(dilation, (kernel_size, kernel_size), (side // 2, side // 2))
        place: Place = (slice(None), *(d - 1 for d in dilation))
        if criterion == "expectation":
            dropped = per_tap.clone()
            dropped[:, taps[0], taps[1]] = 0
            errors[place] = dropped.sum((1, 2)).abs()
        else:
            rest = weight.clone()
            rest[:, :, taps[0], taps[1]] = 0
            lost = conv2d(inputs, rest, None, 1, side // 2, 1, groups)
            errors[place] = lost.abs().mean((0, 2, 3))
    return DilationSearch.of_least_errors(errors, weight, kernel_size, kernel_axis=2)
