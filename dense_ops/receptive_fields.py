"""Receptive field of a stack of layers: size, stride, centre, and how much of it is seen at all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from torch import nn

from sparseconv.dense_ops.window import Padding, Size, check_padding


@dataclass(frozen=True)
class WindowLayer:
    """One convolution or pooling of a stack.

    Attributes:
        kernel_size: taps of an axis.
        stride: step of the window.
        padding: pixels before the image, or ``"valid"``, ``"same"`` (stride 1 only) or ``"full"``.
        dilation: spacing of the taps.
        transposed: whether it is a transposed convolution.
    """

    kernel_size: Size
    stride: Size = 1
    padding: Padding = 0
    dilation: Size = 1
    transposed: bool = False


@dataclass(frozen=True)
class ReceptiveField:
    """What one output pixel of a stack sees of one axis of its input; pixel centres lie at the integers.

    Attributes:
        size: input pixels from the first to the last that it depends on; an upper bound if not exact.
        stride: input pixels from one output pixel to the next.
        centre: position that output pixel 0 is centred on.
        coverage: seen pixels over size; below 1 where dilation leaves holes (gridding). None if not exact.
        exact: False with a transposed convolution in the stack, whose output pixels differ among themselves.
    """

    size: int
    stride: float
    centre: float
    coverage: float | None
    exact: bool

    def span(self, index: int) -> tuple[float, float]:
        """First and last input position that output pixel ``index`` sees, before clipping to the image."""
        middle = self.centre + index * self.stride
        return middle - (self.size - 1) / 2, middle + (self.size - 1) / 2


def _on_axis(value: Any, axis: int) -> Any:
    return value if isinstance(value, int | str) else value[axis]


def _numbers(layer: WindowLayer | nn.Module, axis: int) -> tuple[int, int, int, int, bool]:
    """Kernel, stride, padding before, dilation of one axis, and whether it is transposed."""
    if not isinstance(layer, WindowLayer):
        if not hasattr(layer, "kernel_size"):
            raise TypeError(
                f"layers must be WindowLayer, convolutions or poolings, got {type(layer).__name__}: leave out "
                "layers that work on each pixel alone"
            )
        stride: Any = layer.stride
        layer = WindowLayer(
            layer.kernel_size,  # type: ignore[arg-type]
            stride,
            layer.padding,  # type: ignore[arg-type]
            getattr(layer, "dilation", 1),
            isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d),
        )
    kernel, stride, dilation = (_on_axis(v, axis) for v in (layer.kernel_size, layer.stride, layer.dilation))
    if min(kernel, stride, dilation) < 1:
        raise ValueError(
            f"kernel_size, stride and dilation must be positive, got {kernel}, {stride} and {dilation}"
        )
    padding = _on_axis(layer.padding, axis)
    if isinstance(padding, str):
        check_padding(padding)
        reach = dilation * (kernel - 1)
        if padding == "same" and stride != 1:
            raise ValueError(
                f"padding 'same' with stride {stride} depends on the image size: give the padding in numbers"
            )
        padding = {"valid": 0, "same": reach // 2, "full": reach}[padding]
    return kernel, stride, padding, dilation, layer.transposed


def receptive_field(layers: Iterable[WindowLayer | nn.Module], axis: int = 0) -> ReceptiveField:
    """Follow size ``r``, jump ``j`` and centre ``c`` through a stack of layers.

    From ``j = 1, r = 1, c = 0``, each layer with kernel k, stride s, padding p and dilation d does
    ``r += d(k-1) j; c += (d(k-1)/2 - p) j; j *= s``. A transposed convolution divides: ``r += d(k-1)/s j;
    c += (p - d(k-1)/2)/s j; j /= s``, and ``r`` is a bound from there on. Araujo et al., "Computing Receptive
    Fields of Convolutional Neural Networks", Distill 2019.

    Two 3x3 convolutions see 5 pixels, all of them; two with dilation 2 see 9, but only the 5 at even offsets:
    coverage 5/9.

    Args:
        layers: :class:`WindowLayer` s, or convolutions and poolings of torch or of this package, in order.
        axis: 0 for the height, 1 for the width.

    Raises:
        TypeError: a layer without a window.
        ValueError: sizes that are not positive, or padding that depends on the image size.
    """
    jump, size, centre = Fraction(1), Fraction(1), Fraction(0)
    seen, exact = 1, True  # bit i of seen: whether the field's pixel i is seen
    for layer in layers:
        kernel, stride, padding, dilation, transposed = _numbers(layer, axis)
        reach = Fraction(dilation * (kernel - 1))
        if transposed:
            exact = False
            size += reach / stride * jump
            centre += (padding - reach / 2) / stride * jump
            jump /= stride
            continue
        if exact:
            step = int(dilation * jump)
            before, seen = seen, 0
            for tap in range(kernel):
                seen |= before << tap * step
        size += reach * jump
        centre += (reach / 2 - padding) * jump
        jump *= stride
    pixels = int(size)
    coverage = seen.bit_count() / pixels if exact else None
    return ReceptiveField(pixels, float(jump), float(centre), coverage, exact)
