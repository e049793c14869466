"""DyNet: kernels mixed for each output channel of each sample."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sparseconv import functional as F
from sparseconv.geometry import per_axis
from sparseconv.nn.variants.base import Size, VariantConvolution, new_parameter, uniform_by_fan_
from sparseconv.tensor import SparseTensor


class DyNetConvolution(VariantConvolution):
    """Dynamic convolution of DyNet: a mixture of ``group_size`` kernels for each output channel.

    ``w[n, t] = sum over i of eta[n, t, i] w[t, i]`` with ``eta = sigmoid(FC(mean(x)))``. Zhang et al., "DyNet:
    Dynamic Convolution for Accelerating Convolutional Neural Networks", arXiv 2004.10694; no public implementation
    of the authors was found, so the kernel order ``t group_size + i`` is this library's. See
    :func:`sparseconv.functional.mixture_conv`.

    Args:
        in_channels: ``C``.
        out_channels: ``O``.
        kernel_size: of the kernels.
        stride: as in :class:`CondConvolution`, and so are the next three.
        padding: see there.
        dilation: see there.
        groups: see there.
        bias: whether there is a bias; it is not mixed.
        group_size: kernels that each output channel mixes.
        hidden: units of a hidden layer with ReLU before the coefficients; none by default.
        indice_key: a name for the map.
        **factory: device and dtype.

    Attributes:
        weight: ``[O * group_size, *kernel, C / groups]``.
        bias: ``[O]`` or None.
        coefficients: from C to ``O * group_size``.
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
        group_size: int = 6,
        hidden: int | None = None,
        indice_key: str | None = None,
        **factory: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, indice_key)
        per_axis(group_size, 1, "group_size", minimum=1, maximum=1 << 16)
        self.group_size = group_size
        outputs = out_channels * group_size
        self.weight = new_parameter(outputs, *self.kernel_size, in_channels // groups, **factory)
        self.register_parameter("bias", new_parameter(out_channels, **factory) if bias else None)
        if hidden is None:
            self.coefficients = nn.Sequential(nn.Linear(in_channels, outputs, **factory))
        else:
            self.coefficients = nn.Sequential(
                nn.Linear(in_channels, hidden, **factory), nn.ReLU(), nn.Linear(hidden, outputs, **factory)
            )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Kernels as layers of their own, and the coefficients as linear layers."""
        uniform_by_fan_(self.weight, self.bias)
        for layer in self.coefficients:
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()

    def eta(self, input: SparseTensor) -> Tensor:
        """Coefficients ``[B, O, group_size]``."""
        scores: Tensor = self.coefficients(F.global_avg_pool(input))
        return torch.sigmoid(scores).unflatten(1, (self.out_channels, self.group_size))

    def forward(self, input: SparseTensor, fusion: str = "kernel") -> SparseTensor:
        """See :func:`sparseconv.functional.mixture_conv`."""
        weight = self.weight.unflatten(0, (self.out_channels, self.group_size)).transpose(0, 1)
        return F.mixture_conv(
            input,
            weight,
            self.eta(input),
            self.bias,
            *self._window(),
            fusion=fusion,
            subm=self.subm,
            indice_key=self.indice_key,
        )

    def extra_repr(self) -> str:
        """Its arguments."""
        return f"{super().extra_repr()}, group_size={self.group_size}"


class SubMDyNetConv1d(DyNetConvolution, ndim=1, subm=True):
    """In 1D, on the input's sites; see :class:`DyNetConvolution`."""


class SubMDyNetConv2d(DyNetConvolution, ndim=2, subm=True):
    """In 2D, on the input's sites; see :class:`DyNetConvolution`."""


class SubMDyNetConv3d(DyNetConvolution, ndim=3, subm=True):
    """In 3D, on the input's sites; see :class:`DyNetConvolution`."""


class SubMDyNetConv4d(DyNetConvolution, ndim=4, subm=True):
    """In 4D, on the input's sites; see :class:`DyNetConvolution`."""


class SparseDyNetConv1d(DyNetConvolution, ndim=1):
    """In 1D, on every site in reach; see :class:`DyNetConvolution`."""


class SparseDyNetConv2d(DyNetConvolution, ndim=2):
    """In 2D, on every site in reach; see :class:`DyNetConvolution`."""


class SparseDyNetConv3d(DyNetConvolution, ndim=3):
    """In 3D, on every site in reach; see :class:`DyNetConvolution`."""


class SparseDyNetConv4d(DyNetConvolution, ndim=4):
    """In 4D, on every site in reach; see :class:`DyNetConvolution`."""
