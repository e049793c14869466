"""Circle and ball convolution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sparseconv import functional as F
from sparseconv.circle_taps import Radius, equal_side
from sparseconv.functional.variants.folded import fold_taps, folded_map
from sparseconv.kernel_map import KernelMap
from sparseconv.nn.conv import SparseConvolution
from sparseconv.nn.variants.base import (
    Size,
    VariantConvolution,
    new_parameter,
    plain_convolution,
    uniform_by_fan_,
)
from sparseconv.tensor import SparseTensor


class CircleConvolution(VariantConvolution):
    """Convolution with its taps on circles (2D) or spheres (3D): ``[N, C]`` to ``[n_out, O]``.

    Each tap of the square kernel moves along its direction onto the circle of its ring, and its weight is shared
    linearly among the taps round that place: one convolution with a folded kernel (:meth:`to_conv`). He et al.,
    "Integrating Large Circular Kernels into CNNs through Neural Architecture Search", arXiv 2107.02451, in 2D;
    more axes are this library's definition. The function is :func:`sparseconv.functional.circle_conv`.

    The submanifold classes keep the input's sites, row for row: ``[N, O]``. The Sparse classes make every site in
    reach, sorted: ``[n_out, O]``. Features and parameters have one type (float32, float64, float16 or bfloat16),
    or are brought to that of autocast.

    Args:
        in_channels: ``C``.
        out_channels: ``O``.
        kernel_size: an odd side, or the same one for each axis; 3, 5 and 7 in the paper.
        stride: step of the window, in sites; 1 in the submanifold classes.
        padding: empty sites on both sides of each axis; without effect in the submanifold classes.
        dilation: spacing of the taps, in sites.
        groups: channel groups; must divide both channel numbers.
        bias: whether to add a learned ``[O]``.
        radius: of the rings, in taps; see :func:`sparseconv.functional.ball_matrix`.
        angles: ``"grid"`` keeps each tap's direction, ``"even"`` spaces a ring's taps evenly (2D); see there.
        indice_key: a name for the map, by which an inverse convolution finds it.
        **factory: device and dtype of the parameters.

    Attributes:
        weight: ``[O, k, .., k, C / groups]``, before folding.
        bias: ``[O]`` or None.

    Raises:
        TypeError: a size that is no integer; in the call, no sparse tensor, or features of another type.
        ValueError: an even side, sides that differ, a radius that leaves the kernel, unknown angles, or a size out
            of bounds; in the call, features of other channels or axes.
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 3,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        radius: Radius = None,
        angles: str = "grid",
        indice_key: str | None = None,
        **factory: Any,
    ) -> None:
        F.ball_matrix(equal_side(kernel_size, self._ndim), self._ndim, radius, angles)
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, indice_key)
        self.radius, self.angles = radius, angles
        self.weight = new_parameter(out_channels, *self.kernel_size, in_channels // groups, **factory)
        self.register_parameter("bias", new_parameter(out_channels, **factory) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform in +-1/sqrt(fan_in), as :class:`SparseConvolution`."""
        uniform_by_fan_(self.weight, self.bias)

    def folding(self) -> Tensor:
        """See :func:`sparseconv.functional.ball_matrix`."""
        return F.ball_matrix(self.kernel_size[0], self.ndim, self.radius, self.angles)

    def forward(self, input: SparseTensor) -> SparseTensor:
        """See :func:`sparseconv.functional.circle_conv`."""
        return F.circle_conv(
            input,
            self.weight,
            self.bias,
            *self._window(),
            radius=self.radius,
            angles=self.angles,
            subm=self.subm,
            indice_key=self.indice_key,
        )

    def kernel_map(self, input: SparseTensor) -> KernelMap:
        """The pairs that :meth:`forward` multiplies."""
        return folded_map(self.record(input), self.folding())

    def to_conv(self) -> SparseConvolution:
        """The plain convolution that gives the same output."""
        with torch.no_grad():
            weight = fold_taps(self.weight, self.folding()).unflatten(1, self.kernel_size)
        return plain_convolution(weight, self.bias, self)

    def extra_repr(self) -> str:
        """Its arguments."""
        parts = [super().extra_repr()]
        if self.radius is not None:
            parts.append(f"radius={self.radius}")
        if self.angles != "grid":
            parts.append(f"angles={self.angles!r}")
        return ", ".join(parts)


class SubMCircleConv1d(CircleConvolution, ndim=1, subm=True):
    """Circle convolution in 1D on the input's sites: ``[N, C]`` to ``[N, O]``. See :class:`CircleConvolution`."""


class SubMCircleConv2d(CircleConvolution, ndim=2, subm=True):
    """Circle convolution in 2D on the input's sites: ``[N, C]`` to ``[N, O]``. See :class:`CircleConvolution`."""


class SubMCircleConv3d(CircleConvolution, ndim=3, subm=True):
    """Ball convolution in 3D on the input's sites: ``[N, C]`` to ``[N, O]``. See :class:`CircleConvolution`."""


class SubMCircleConv4d(CircleConvolution, ndim=4, subm=True):
    """Ball convolution in 4D on the input's sites: ``[N, C]`` to ``[N, O]``. See :class:`CircleConvolution`."""


class SparseCircleConv1d(CircleConvolution, ndim=1):
    """Circle convolution in 1D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`CircleConvolution`.
    """


class SparseCircleConv2d(CircleConvolution, ndim=2):
    """Circle convolution in 2D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`CircleConvolution`.
    """


class SparseCircleConv3d(CircleConvolution, ndim=3):
    """Ball convolution in 3D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`CircleConvolution`.
    """


class SparseCircleConv4d(CircleConvolution, ndim=4):
    """Ball convolution in 4D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`CircleConvolution`.
    """
