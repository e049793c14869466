"""Base of the layers whose kernel is a mixture of kernels for each sample."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from sparseconv import functional as F
from sparseconv.geometry import per_axis
from sparseconv.nn.variants.base import Size, VariantConvolution, new_parameter, uniform_by_fan_
from sparseconv.tensor import SparseTensor


class MixtureConvolution(VariantConvolution):
    """Base of the layers that mix ``E`` kernels for each sample: :func:`sparseconv.functional.mixture_conv`.

    A sample without sites has the mean 0, and no output.

    Attributes:
        weight: ``[E, O, *kernel, C / groups]``.
        bias: ``[E, O]`` or None.
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
        experts: int,
        indice_key: str | None,
        **factory: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, indice_key)
        per_axis(experts, 1, "the number of kernels to mix", minimum=1, maximum=1 << 16)
        self.weight = new_parameter(experts, out_channels, *self.kernel_size, in_channels // groups, **factory)
        self.register_parameter("bias", new_parameter(experts, out_channels, **factory) if bias else None)

    def reset_parameters(self) -> None:
        """Each kernel as a layer of its own would start."""
        uniform_by_fan_(self.weight, self.bias, leading=2)

    def mix(self, input: SparseTensor, mixture: Tensor, fusion: str = "kernel") -> SparseTensor:
        """See :func:`sparseconv.functional.mixture_conv`."""
        return F.mixture_conv(
            input,
            self.weight,
            mixture,
            self.bias,
            *self._window(),
            fusion=fusion,
            subm=self.subm,
            indice_key=self.indice_key,
        )

    def extra_repr(self) -> str:
        """Its arguments."""
        return f"{super().extra_repr()}, kernels={len(self.weight)}"
