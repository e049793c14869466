"""Central difference convolution and its cross-shaped halves."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from sparseconv.compilation import eager
from sparseconv.dense_ops.executor import image_shape
from sparseconv.dense_ops.padding import check_padding_mode
from sparseconv.dense_ops.reparameterised import ReparameterisedConv2d, convolve_folded
from sparseconv.dense_ops.window import Padding, Size, Window
from sparseconv.difference_taps import central_taps, cross_taps


@eager
def central_difference_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    theta: float = 0.7,
    padding_mode: str = "zeros",
) -> Tensor:
    """Convolution of values mixed with differences to the centre, run as one folded kernel.

    ``y = sum over t of W_t x(p0 + t) - theta x(p0) sum over t of W_t``, the centre tap included in both sums.
    Yu et al., "Searching Central Difference Convolutional Networks for Face Anti-Spoofing", arXiv 2003.04092.
    Zeros in the padding are values: a constant image gives 0 with theta 1 in the interior only, and everywhere
    with ``padding_mode="replicate"`` or ``"reflect"``.

    Args:
        input: ``[N, C, H, W]``.
        weight: ``[O, C / groups, kh, kw]``, odd sides.
        bias: ``[O]`` or None; added once.
        stride: as in :func:`conv2d`.
        padding: as in :func:`conv2d`.
        dilation: as in :func:`conv2d`.
        groups: as in :func:`conv2d`.
        theta: share of the difference; 0 is a plain convolution.
        padding_mode: as in :func:`conv2d`.

    Returns:
        ``[N, O, Ho, Wo]``.

    Raises:
        ValueError: an even kernel side, or shapes that do not fit.
    """
    check_padding_mode(padding_mode)
    window = Window.create(image_shape(input), weight.shape[2:], stride, padding, dilation)
    matrix = central_taps((weight.shape[2], weight.shape[3])).folding(theta)
    return convolve_folded(input, weight, matrix, bias, window, groups, padding_mode)


@eager
def cross_central_difference_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    theta: float = 0.7,
    direction: str = "hv",
    padding_mode: str = "zeros",
) -> Tensor:
    """Central difference convolution on five of the nine taps of a 3x3 kernel.

    ``y = sum over S of w x(p0 + t) - theta x(p0) sum over S of w``, S the cross with its centre. Yu et al.,
    "Dual-Cross Central Difference Network for Face Anti-Spoofing", arXiv 2105.01290.

    Args:
        input: ``[N, C, H, W]``.
        weight: ``[O, C / groups, 1, 5]``: N, W, C, E, S for ``"hv"`` and NW, NE, C, SW, SE for ``"dg"``.
        bias: ``[O]`` or None; added once.
        stride: as in :func:`conv2d`.
        padding: as in :func:`conv2d`, of the 3x3 kernel.
        dilation: as in :func:`conv2d`.
        groups: as in :func:`conv2d`.
        theta: share of the difference.
        direction: ``"hv"`` or ``"dg"``.
        padding_mode: as in :func:`conv2d`.

    Returns:
        ``[N, O, Ho, Wo]``.

    Raises:
        ValueError: an unknown direction, or shapes that do not fit.
    """
    check_padding_mode(padding_mode)
    if weight.dim() != 4 or weight.shape[2] * weight.shape[3] != 5:
        raise ValueError(f"the weight must have shape [O, C / groups, 1, 5], got {list(weight.shape)}")
    window = Window.create(image_shape(input), 3, stride, padding, dilation)
    matrix = cross_taps(2, direction).folding(theta)
    return convolve_folded(input, weight, matrix, bias, window, groups, padding_mode)


class CentralDifferenceConv2d(ReparameterisedConv2d):
    """Central difference convolution: :func:`central_difference_conv2d`.

    Args:
        in_channels: ``C``.
        out_channels: ``O``.
        kernel_size: odd sides.
        stride: as in :class:`Conv2d`.
        padding: as in :class:`Conv2d`.
        dilation: as in :class:`Conv2d`.
        groups: as in :class:`Conv2d`.
        bias: as in :class:`Conv2d`; added once (the official code scales it by ``1 - theta``).
        theta: share of the difference.
        padding_mode: as in :class:`Conv2d`.
        **factory: device and dtype.

    Raises:
        ValueError: an even kernel side.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 3,
        stride: Size = 1,
        padding: Padding = 1,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = False,
        theta: float = 0.7,
        padding_mode: str = "zeros",
        **factory: Any,
    ) -> None:
        super().__init__(
            in_channels,
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
        self.theta = theta
        self.folding()

    def folding(self) -> Tensor:
        """``W'_centre = W_centre - theta sum W``."""
        return central_taps((self.kernel_size[0], self.kernel_size[1])).folding(self.theta)

    def forward(self, input: Tensor) -> Tensor:
        """See :func:`central_difference_conv2d`."""
        return central_difference_conv2d(
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.theta,
            self.padding_mode,
        )

    def extra_repr(self) -> str:
        """Its arguments."""
        return f"{super().extra_repr()}, theta={self.theta}"


class CrossCentralDifferenceConv2d(ReparameterisedConv2d):
    """Central difference convolution on a cross of five taps: :func:`cross_central_difference_conv2d`.

    Args:
        in_channels: ``C``.
        out_channels: ``O``.
        kernel_size: 3.
        stride: as in :class:`Conv2d`.
        padding: as in :class:`Conv2d`.
        dilation: as in :class:`Conv2d`.
        groups: as in :class:`Conv2d`.
        bias: as in :class:`Conv2d`; added once.
        theta: share of the difference.
        direction: ``"hv"`` (horizontal and vertical) or ``"dg"`` (diagonal).
        padding_mode: as in :class:`Conv2d`.
        **factory: device and dtype.

    Attributes:
        weight: ``[O, C / groups, 1, 5]``.

    Raises:
        ValueError: an unknown direction, or another kernel_size.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 3,
        stride: Size = 1,
        padding: Padding = 1,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = False,
        theta: float = 0.7,
        direction: str = "hv",
        padding_mode: str = "zeros",
        **factory: Any,
    ) -> None:
        if kernel_size not in (3, (3, 3), [3, 3]):
            raise ValueError(f"the cross lies in a 3x3 kernel: kernel_size must be 3, got {kernel_size}")
        super().__init__(
            in_channels, out_channels, 3, stride, padding, dilation, groups, bias, padding_mode, **factory
        )
        self.theta, self.direction = theta, direction
        self.folding()
        self.weight = nn.Parameter(self.weight.new_empty(out_channels, in_channels // groups, 1, 5))
        self.reset_parameters()

    def folding(self) -> Tensor:
        """From the five stored taps to the 3x3 kernel."""
        return cross_taps(2, self.direction).folding(self.theta)

    def forward(self, input: Tensor) -> Tensor:
        """See :func:`cross_central_difference_conv2d`."""
        return cross_central_difference_conv2d(
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.theta,
            self.direction,
            self.padding_mode,
        )

    def extra_repr(self) -> str:
        """Its arguments."""
        return f"{super().extra_repr()}, theta={self.theta}, direction={self.direction!r}"
