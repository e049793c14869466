"""Circle convolution: the taps of a square kernel moved onto concentric circles."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sparseconv.compilation import eager
from sparseconv.dense_ops.executor import image_shape
from sparseconv.dense_ops.padding import check_padding_mode
from sparseconv.dense_ops.reparameterised import ReparameterisedConv2d, convolve_folded
from sparseconv.dense_ops.window import Padding, Size, Window

Radius = float | Mapping[int, float] | None

# Angles of evenly spaced taps off the axes and diagonals, by (|gx|, |gy|).
_EVEN_ANGLES = {
    (2, 1): math.pi / 8,
    (1, 2): 3 * math.pi / 8,
    (3, 1): math.pi / 12,
    (1, 3): 5 * math.pi / 12,
    (3, 2): 2 * math.pi / 12,
    (2, 3): 4 * math.pi / 12,
}


def _place(gx: int, gy: int, radii: dict[int, float], angles: str) -> tuple[float, float]:
    """Where the tap at (gx, gy) samples, relative to the centre."""
    ring = math.floor(math.hypot(gx, gy))
    if gx == 0 or gy == 0:
        return float(gx), float(gy)
    angle = math.atan2(abs(gy), abs(gx))
    if angles == "even":
        angle = _EVEN_ANGLES.get((abs(gx), abs(gy)), angle)
    radius = radii.get(ring, float(ring))
    return math.copysign(radius * math.cos(angle), gx), math.copysign(radius * math.sin(angle), gy)


def _rings(half: int) -> set[int]:
    """Rings of the taps that lie off the axes."""
    span = range(1, half + 1)
    return {math.floor(math.hypot(a, b)) for a in span for b in span}


@functools.lru_cache(maxsize=64)
def _matrix(kernel_size: int, radii: tuple[tuple[int, float], ...], angles: str) -> Tensor:
    half = kernel_size // 2
    grid = range(-half, half + 1)
    with torch.inference_mode(False):
        places = torch.tensor(
            [_place(gx, gy, dict(radii), angles) for gy in grid for gx in grid], dtype=torch.float64
        )
        pixels = torch.tensor([(gx, gy) for gy in grid for gx in grid], dtype=torch.float64)
        distance = (places[:, None] - pixels).abs()  # [taps, pixels, 2]
        return (1 - distance).clamp(min=0).prod(2)


def circle_matrix(kernel_size: int, radius: Radius = None, angles: str = "grid") -> Tensor:
    """Bilinear weights of the pixels (columns) that each tap (row) samples: float64 ``[k^2, k^2]``; rows sum to 1.

    A tap off the axes at grid place (gx, gy) moves to the radius ``floor(hypot(gx, gy))``, its ring, along its own
    direction; taps on the axes stay.

    Args:
        kernel_size: an odd side.
        radius: other radii for the taps off the axes: one number for a 3x3 kernel (0: centre, sqrt(2)/2:
            diamond, 1: circle, sqrt(2): the square kernel itself), or a mapping from ring to radius.
        angles: ``"grid"`` keeps each tap's direction, ``"even"`` spaces the taps of a ring evenly (up to 7x7).

    Raises:
        ValueError: an even side, unknown angles, or radii that do not name rings or lie outside the kernel.
    """
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"a circle kernel has a centre: kernel_size must be odd, got {kernel_size}")
    if angles not in ("grid", "even"):
        raise ValueError(f"angles must be 'grid' or 'even', got {angles!r}")
    half = kernel_size // 2
    if angles == "even" and half > 3:
        raise ValueError(f"evenly spaced angles are defined up to 7x7, got kernel_size {kernel_size}")
    rings = _rings(half)
    if radius is None:
        radius = {}
    elif not isinstance(radius, Mapping):
        if len(rings) != 1:
            raise ValueError(
                f"one radius is meant for a 3x3 kernel: give a mapping from ring {sorted(rings)} to radius for "
                f"kernel_size {kernel_size}"
            )
        radius = dict.fromkeys(rings, radius)
    if not set(radius) <= rings or not all(0 <= r <= half * math.sqrt(2) for r in radius.values()):
        raise ValueError(
            f"radius must give rings of {sorted(rings)} a radius in 0 .. {half * math.sqrt(2):.4g}, got "
            f"{dict(radius)}"
        )
    return _matrix(kernel_size, tuple(sorted((ring, float(r)) for ring, r in radius.items())), angles)


@eager
def circle_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    radius: Radius = None,
    angles: str = "grid",
) -> Tensor:
    """Convolution whose taps lie on circles, run as one folded kernel ``W T``; see :func:`circle_matrix`.

    He et al., "Integrating Large Circular Kernels into CNNs through Neural Architecture Search", arXiv 2107.02451.

    Args:
        input: ``[N, C, H, W]``.
        weight: ``[O, C / groups, k, k]``, k odd.
        bias: ``[O]`` or None.
        stride: as in :func:`conv2d`.
        padding: as in :func:`conv2d`.
        dilation: as in :func:`conv2d`.
        groups: as in :func:`conv2d`.
        padding_mode: as in :func:`conv2d`.
        radius: as in :func:`circle_matrix`.
        angles: as in :func:`circle_matrix`.

    Returns:
        ``[N, O, Ho, Wo]``.

    Raises:
        ValueError: a kernel that is not square and odd, or shapes that do not fit.
    """
    check_padding_mode(padding_mode)
    if weight.dim() != 4 or weight.shape[2] != weight.shape[3]:
        raise ValueError(f"the weight must have shape [O, C / groups, k, k], got {list(weight.shape)}")
    window = Window.create(image_shape(input), weight.shape[2:], stride, padding, dilation)
    matrix = circle_matrix(weight.shape[2], radius, angles)
    return convolve_folded(input, weight, matrix, bias, window, groups, padding_mode)


class CircleConv2d(ReparameterisedConv2d):
    """Circle convolution: :func:`circle_conv2d`.

    Args:
        in_channels: ``C``.
        out_channels: ``O``.
        kernel_size: an odd side; 3, 5 and 7 in the paper.
        stride: as in :class:`Conv2d`.
        padding: as in :class:`Conv2d`.
        dilation: as in :class:`Conv2d`.
        groups: as in :class:`Conv2d`.
        bias: as in :class:`Conv2d`.
        padding_mode: as in :class:`Conv2d`.
        radius: as in :func:`circle_matrix`.
        angles: as in :func:`circle_matrix`.
        **factory: device and dtype.

    Raises:
        ValueError: a kernel that is not square and odd.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: Size = 1,
        padding: Padding = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        radius: Radius = None,
        angles: str = "grid",
        **factory: Any,
    ) -> None:
        self.radius, self.angles = radius, angles
        circle_matrix(kernel_size, radius, angles)
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

    def folding(self) -> Tensor:
        """See :func:`circle_matrix`."""
        return circle_matrix(self.kernel_size[0], self.radius, self.angles)

    def forward(self, input: Tensor) -> Tensor:
        """See :func:`circle_conv2d`."""
        return circle_conv2d(
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.padding_mode,
            self.radius,
            self.angles,
        )

    def extra_repr(self) -> str:
        """Its arguments."""
        return f"{super().extra_repr()}, radius={self.radius}, angles={self.angles!r}"
