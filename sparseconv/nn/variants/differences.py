"""Base of the difference convolutions: a weight, and the taps that it multiplies and subtracts."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sparseconv.difference_taps import DifferenceTaps
from sparseconv.functional.variants.differences import check_missing, difference_map
from sparseconv.functional.variants.folded import fold_taps
from sparseconv.functional.variants.placement import placed
from sparseconv.kernel_map import KernelMap
from sparseconv.nn.conv import SparseConvolution
from sparseconv.nn.variants.base import (
    Size,
    VariantConvolution,
    new_parameter,
    plain_convolution,
    uniform_by_fan_,
)
from sparseconv.tensor import NamedMap, SparseTensor


def check_three(kernel_size: Size, what: str) -> None:
    """Refuse a kernel_size that is not 3.

    Raises:
        ValueError: it is another one.
    """
    sides = (kernel_size,) if isinstance(kernel_size, int) else tuple(kernel_size)
    if set(sides) != {3}:
        raise ValueError(f"{what}: kernel_size must be 3, got {kernel_size}")


class DifferenceConvolution(VariantConvolution):
    """Base of the difference convolutions: weights, and the taps that they subtract.

    Attributes:
        weight: ``[O, .., C / groups]``; see the class.
        bias: ``[O]`` or None.
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size,
        padding: Size,
        dilation: Size,
        groups: int,
        bias: bool,
        theta: float,
        missing: str,
        indice_key: str | None,
        **factory: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, indice_key)
        check_missing(missing)
        self.theta, self.missing = theta, missing
        self.weight = new_parameter(out_channels, *self.weight_taps(), in_channels // groups, **factory)
        self.register_parameter("bias", new_parameter(out_channels, **factory) if bias else None)
        self.reset_parameters()

    def taps(self) -> DifferenceTaps:
        """The taps that each weight multiplies and subtracts."""
        raise NotImplementedError

    def weight_taps(self) -> tuple[int, ...]:
        """Kernel axes of the weight."""
        return tuple(self.kernel_size)

    def plain_padding(self) -> Size:
        """Padding of the plain kernel."""
        return self.padding

    def reset_parameters(self) -> None:
        """Uniform in +-1/sqrt(fan_in), as :class:`SparseConvolution`."""
        uniform_by_fan_(self.weight, self.bias)

    def record(self, input: SparseTensor) -> NamedMap:
        """Sites and map of the plain convolution of this geometry."""
        return placed(
            input,
            self.taps().kernel_size,
            self.stride,
            self.plain_padding(),
            self.dilation,
            subm=self.subm,
        )

    def kernel_map(self, input: SparseTensor) -> KernelMap:
        """The pairs that :meth:`forward` multiplies."""
        return difference_map(self.record(input), self.taps(), self.theta, self.missing)

    def to_conv(self) -> SparseConvolution:
        """The plain convolution that gives the same output.

        Raises:
            ValueError: ``missing="ignore"``: what is subtracted then depends on the voxels that exist.
        """
        if self.missing != "zero":
            raise ValueError(
                "only missing='zero' is a plain convolution; with 'ignore' the kernel depends on the voxels there"
            )
        taps = self.taps()
        with torch.no_grad():
            weight = fold_taps(self.weight, taps.folding(self.theta)).unflatten(1, taps.kernel_size)
        return plain_convolution(weight, self.bias, self, padding=self.plain_padding())

    def extra_repr(self) -> str:
        """Its arguments."""
        return f"{super().extra_repr()}, theta={self.theta}, missing={self.missing!r}"
