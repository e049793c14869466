"""Circle convolution: the taps of a square kernel moved onto concentric circles."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sparseconv.circle_taps import Radius, ball_matrix, equal_side
from sparseconv.compilation import eager
from sparseconv.dense_ops.executor import image_shape
from sparseconv.dense_ops.padding import check_padding_mode
from sparseconv.dense_ops.reparameterised import ReparameterisedConv2d, convolve_folded
from sparseconv.dense_ops.window import Padding, Size, Window


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
    return ball_matrix(kernel_size, 2, radius, angles)


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
        kernel_size: an odd side, or the same one for height and width; 3, 5 and 7 in the paper.
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
        kernel_size: Size = 3,
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
        circle_matrix(equal_side(kernel_size, 2), radius, angles)
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
