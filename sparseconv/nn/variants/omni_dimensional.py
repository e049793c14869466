"""Omni-dimensional dynamic convolution: attention over kernels, taps, input and output channels."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sparseconv import functional as F
from sparseconv.geometry import per_axis
from sparseconv.nn.variants.base import Size, VariantConvolution, new_parameter
from sparseconv.omni_attention import Attentions, OmniDimensionalAttention
from sparseconv.tensor import SparseTensor, check_sparse


class SampleAttention(OmniDimensionalAttention):
    """The attentions of an ODConv layer, from the mean of each sample; one without sites stays out of the norm."""

    def forward(self, input: SparseTensor) -> Attentions:
        """Attentions over kernels ``[B, K]``, channels ``[B, C]``, filters ``[B, O]`` and taps ``[B, *kernel]``.

        Raises:
            TypeError: the input is no sparse tensor.
            ValueError: a batch norm in training and one sample with sites.
        """
        check_sparse(input, "an ODConv layer")
        return self.attend(F.global_avg_pool(input), input.coordinates.batch_map().in_counts() > 0)


class ODConvolution(VariantConvolution):
    """Omni-dimensional dynamic convolution: ``[N, C]`` to ``[n_out, O]``, four attentions for each sample.

    ``W[n] = a_f[o] a_c[c] a_s[t] sum over k of a_w[k] W_k[o, t, c]``, the attentions from the mean over the
    sample's voxels (0 where it has none; such samples stay out of the norm). There is no bias. Li et al.,
    "Omni-Dimensional Dynamic Convolution", ICLR 2022. The function is :func:`sparseconv.functional.od_conv`.

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
        reduction: hidden units for each input channel; at least 16 units.
        kernel_num: ``K``.
        norm: ``"batch"`` as in the paper, which cannot train on one sample; ``"layer"`` can.
        indice_key: a name for the map, by which an inverse convolution finds it.
        **factory: device and dtype of the parameters.

    Attributes:
        weight: ``[K, O, *kernel, C / groups]``.
        attention: the four attentions.

    Raises:
        TypeError: a size that is no integer; in the call, no sparse tensor, or features of another type.
        ValueError: an unknown norm, or a size that cannot work; in the call, features of other channels or axes,
            or one sample with sites in training with ``norm="batch"``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 3,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        reduction: float = 0.0625,
        kernel_num: int = 4,
        norm: str = "batch",
        indice_key: str | None = None,
        **factory: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, indice_key)
        per_axis(kernel_num, 1, "kernel_num", minimum=1, maximum=1 << 16)
        self.attention = SampleAttention(
            in_channels, out_channels, self.kernel_size, groups, reduction, kernel_num, norm, **factory
        )
        self.weight = new_parameter(kernel_num, out_channels, *self.kernel_size, in_channels // groups, **factory)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Kaiming's initial values, as the authors' code."""
        self.attention.reset_parameters()
        with torch.no_grad():
            for kernel in self.weight:
                # Kaiming's fan is read off [O, C / groups, taps].
                nn.init.kaiming_normal_(kernel.movedim(-1, 1), mode="fan_out", nonlinearity="relu")

    def update_temperature(self, temperature: float) -> None:
        """Set the temperature of all attentions; training starts high and ends at 1. Saved with the state.

        Raises:
            ValueError: it is not positive.
        """
        self.attention.set_temperature(temperature)

    def forward(self, input: SparseTensor) -> SparseTensor:
        """See :func:`sparseconv.functional.od_conv`."""
        self.check_features(input)
        kernels, channels, filters, spatial = self.attention(input)
        return F.od_conv(
            input,
            self.weight,
            kernels,
            channels,
            filters,
            spatial,
            *self._window(),
            subm=self.subm,
            indice_key=self.indice_key,
        )

    def extra_repr(self) -> str:
        """Its arguments."""
        return f"{super().extra_repr()}, kernel_num={len(self.weight)}"


class SubMODConv1d(ODConvolution, ndim=1, subm=True):
    """Omni-dimensional dynamic convolution in 1D on the input's sites: ``[N, C]`` to ``[N, O]``.

    See :class:`ODConvolution`.
    """


class SubMODConv2d(ODConvolution, ndim=2, subm=True):
    """Omni-dimensional dynamic convolution in 2D on the input's sites: ``[N, C]`` to ``[N, O]``.

    See :class:`ODConvolution`.
    """


class SubMODConv3d(ODConvolution, ndim=3, subm=True):
    """Omni-dimensional dynamic convolution in 3D on the input's sites: ``[N, C]`` to ``[N, O]``.

    See :class:`ODConvolution`.
    """


class SubMODConv4d(ODConvolution, ndim=4, subm=True):
    """Omni-dimensional dynamic convolution in 4D on the input's sites: ``[N, C]`` to ``[N, O]``.

    See :class:`ODConvolution`.
    """


class SparseODConv1d(ODConvolution, ndim=1):
    """Omni-dimensional dynamic convolution in 1D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`ODConvolution`.
    """


class SparseODConv2d(ODConvolution, ndim=2):
    """Omni-dimensional dynamic convolution in 2D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`ODConvolution`.
    """


class SparseODConv3d(ODConvolution, ndim=3):
    """Omni-dimensional dynamic convolution in 3D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`ODConvolution`.
    """


class SparseODConv4d(ODConvolution, ndim=4):
    """Omni-dimensional dynamic convolution in 4D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`ODConvolution`.
    """
