"""Pixel difference convolutions: central, angular and radial."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sparseconv.compilation import eager
from sparseconv.dense_ops.executor import image_shape
from sparseconv.dense_ops.padding import check_padding_mode
from sparseconv.dense_ops.reparameterised import ReparameterisedConv2d, convolve_folded
from sparseconv.dense_ops.window import Padding, Size, Window, check_padding
from sparseconv.difference_taps import pixel_kind, pixel_taps
from sparseconv.geometry import MAX_PADDING, per_axis


def _folded_padding(padding: Padding, kind: str, dilation: Size) -> Padding:
    """RPDC's 5x5 kernel needs one more ring of padding than the 3x3 kernel for the same output size."""
    if isinstance(padding, str):
        check_padding(padding)
        if padding != "same" and kind == "rd":
            raise ValueError(f"padding of RPDC must be integers or 'same', got {padding!r}")
        return padding
    pads = per_axis(padding, 2, "padding", minimum=0, maximum=MAX_PADDING)
    if kind != "rd":
        return pads
    spread = per_axis(dilation, 2, "dilation", minimum=1, maximum=1 << 16)
    return pads[0] + spread[0], pads[1] + spread[1]


@eager
def pixel_difference_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    kind: str = "CPDC",
    theta: float = 1.0,
    padding_mode: str = "zeros",
) -> Tensor:
    """Convolution of pixel differences, run as one folded kernel.

    With weights ``w_0 .. w_8`` in raster order and theta 1: CPDC sums ``w_i (x_i - x_4)``; APDC sums ``w_a (x_a -
    x_next(a))`` clockwise round the ring; RPDC sums ``w_i (x_outer - x_inner)`` for i = 1 .. 8 over a 5x5 window,
    16 of its taps. With a smaller theta the second pixel is weighted by it, and the left-over weight (``w_4``, in
    RPDC ``w_0``) reads the centre with ``1 - theta``. Su et al., "Pixel Difference Networks for Efficient Edge
    Detection", arXiv 2108.07009.

    Args:
        input: ``[N, C, H, W]``.
        weight: ``[O, C / groups, 3, 3]``.
        bias: ``[O]`` or None; added once.
        stride: as in :func:`conv2d`.
        padding: of the 3x3 kernel; RPDC pads ``dilation`` more, so that all kinds give the same size.
        dilation: as in :func:`conv2d`.
        groups: as in :func:`conv2d`.
        kind: ``"CPDC"``, ``"APDC"`` or ``"RPDC"``.
        theta: share of the difference.
        padding_mode: as in :func:`conv2d`.

    Returns:
        ``[N, O, Ho, Wo]``.

    Raises:
        ValueError: an unknown kind, a weight that is not 3x3, or shapes that do not fit.
    """
    check_padding_mode(padding_mode)
    if weight.dim() != 4 or tuple(weight.shape[2:]) != (3, 3):
        raise ValueError(f"the weight must have shape [O, C / groups, 3, 3], got {list(weight.shape)}")
    short = pixel_kind(kind)
    pads = _folded_padding(padding, short, dilation)
    window = Window.create(image_shape(input), 5 if short == "rd" else 3, stride, pads, dilation)
    matrix = pixel_taps(2, short).folding(theta)
    return convolve_folded(input, weight, matrix, bias, window, groups, padding_mode)


class PixelDifferenceConv2d(ReparameterisedConv2d):
    """Pixel difference convolution: :func:`pixel_difference_conv2d`.

    Args:
        in_channels: ``C``.
        out_channels: ``O``.
        kernel_size: 3.
        stride: as in :class:`Conv2d`.
        padding: of the 3x3 kernel; RPDC pads ``dilation`` more. ``dilation`` (the same size) by default.
        dilation: as in :class:`Conv2d`.
        groups: as in :class:`Conv2d`.
        bias: as in :class:`Conv2d`.
        kind: ``"CPDC"``, ``"APDC"`` or ``"RPDC"``; the official ``"cd"``, ``"ad"``, ``"rd"`` too.
        theta: share of the difference.
        padding_mode: as in :class:`Conv2d`.
        **factory: device and dtype.

    Raises:
        ValueError: an unknown kind, or another kernel_size.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 3,
        stride: Size = 1,
        padding: Padding | None = None,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = False,
        kind: str = "CPDC",
        theta: float = 1.0,
        padding_mode: str = "zeros",
        **factory: Any,
    ) -> None:
        if kernel_size not in (3, (3, 3), [3, 3]):
            raise ValueError(
                f"pixel differences are defined on 3x3 weights: kernel_size must be 3, got {kernel_size}"
            )
        self.kind, self.theta = pixel_kind(kind), theta
        pads = dilation if padding is None else padding
        super().__init__(
            in_channels, out_channels, 3, stride, pads, dilation, groups, bias, padding_mode, **factory
        )
        self.folded_padding()

    def folding(self) -> Tensor:
        """From the nine weights to the plain kernel: ``[9, 9]``, and ``[9, 25]`` for RPDC."""
        return pixel_taps(2, self.kind).folding(self.theta)

    def folded_size(self) -> tuple[int, int]:
        """5x5 for RPDC, 3x3 otherwise."""
        return (5, 5) if self.kind == "rd" else (3, 3)

    def folded_padding(self) -> Padding:
        """Padding of the folded kernel."""
        return _folded_padding(self.padding, self.kind, self.dilation)

    def forward(self, input: Tensor) -> Tensor:
        """See :func:`pixel_difference_conv2d`."""
        return pixel_difference_conv2d(
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.kind,
            self.theta,
            self.padding_mode,
        )

    def extra_repr(self) -> str:
        """Its arguments."""
        return f"{super().extra_repr()}, kind={self.kind!r}, theta={self.theta}"
