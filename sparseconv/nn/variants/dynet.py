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
    """Dynamic convolution of DyNet: ``[N, C]`` to ``[n_out, O]``, a mixture of kernels for each output channel.

    ``w[n, t] = sum over i of eta[n, t, i] w[t, i]`` with ``eta = sigmoid(FC(mean(x)))``, the mean over the
    sample's voxels (0 where it has none). Zhang et al., "DyNet: Dynamic Convolution for Accelerating Convolutional
    Neural Networks", arXiv 2004.10694; no public implementation of the authors was found, so the kernel order
    ``t group_size + i`` is this library's. The function is :func:`sparseconv.functional.mixture_conv`.

    The submanifold classes keep the input's sites, row for row: ``[N, O]``. The Sparse classes make every site in
    reach, sorted: ``[n_out, O]``. Features and parameters have one type (float32, float64, float16 or bfloat16),
    or are brought to that of autocast.

    Args:
        in_channels: ``C``.
        out_channels: ``O``.
        kernel_size: one side, or one for each axis; odd in the submanifold classes.
        stride: step of the window, in sites; 1 in the submanifold classes.
        padding: empty sites on both sides of each axis; without effect in the submanifold classes.
        dilation: spacing of the taps, in sites.
        groups: channel groups; must divide both channel numbers.
        bias: whether to add a learned ``[O]``; it is not mixed.
        group_size: kernels that each output channel mixes.
        hidden: units of a hidden layer with ReLU before the coefficients; none by default.
        indice_key: a name for the map, by which an inverse convolution finds it.
        **factory: device and dtype of the parameters.

    Attributes:
        weight: ``[O * group_size, *kernel, C / groups]``.
        bias: ``[O]`` or None.
        coefficients: from C to ``O * group_size``.

    Raises:
        TypeError: a size that is no integer; in the call, no sparse tensor, or features of another type.
        ValueError: a size that cannot work; in the call, features of other channels or axes.
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
        if hidden is not None:
            per_axis(hidden, 1, "hidden", minimum=1, maximum=1 << 24)
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
        scores: Tensor = self.coefficients(self.sample_means(input))
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
    """Dynamic convolution of DyNet in 1D on the input's sites: ``[N, C]`` to ``[N, O]``.

    See :class:`DyNetConvolution`.
    """


class SubMDyNetConv2d(DyNetConvolution, ndim=2, subm=True):
    """Dynamic convolution of DyNet in 2D on the input's sites: ``[N, C]`` to ``[N, O]``.

    See :class:`DyNetConvolution`.
    """


class SubMDyNetConv3d(DyNetConvolution, ndim=3, subm=True):
    """Dynamic convolution of DyNet in 3D on the input's sites: ``[N, C]`` to ``[N, O]``.

    See :class:`DyNetConvolution`.
    """


class SubMDyNetConv4d(DyNetConvolution, ndim=4, subm=True):
    """Dynamic convolution of DyNet in 4D on the input's sites: ``[N, C]`` to ``[N, O]``.

    See :class:`DyNetConvolution`.
    """


class SparseDyNetConv1d(DyNetConvolution, ndim=1):
    """Dynamic convolution of DyNet in 1D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`DyNetConvolution`.
    """


class SparseDyNetConv2d(DyNetConvolution, ndim=2):
    """Dynamic convolution of DyNet in 2D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`DyNetConvolution`.
    """


class SparseDyNetConv3d(DyNetConvolution, ndim=3):
    """Dynamic convolution of DyNet in 3D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`DyNetConvolution`.
    """


class SparseDyNetConv4d(DyNetConvolution, ndim=4):
    """Dynamic convolution of DyNet in 4D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`DyNetConvolution`.
    """
