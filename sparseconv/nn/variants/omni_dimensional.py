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
    """Omni-dimensional dynamic convolution: :func:`sparseconv.functional.od_conv`.

    Args:
        in_channels: ``C``.
        out_channels: ``O``.
        kernel_size: of the kernels.
        stride: as in :class:`SparseConvolution`; 1 in the submanifold classes.
        padding: as in :class:`SparseConvolution`; without effect in the submanifold classes.
        dilation: spacing of the taps.
        groups: channel groups.
        reduction: hidden units for each input channel; at least 16 units.
        kernel_num: ``K``.
        norm: ``"batch"`` as in the paper, which cannot train on one sample; ``"layer"`` can.
        indice_key: a name for the map.
        **factory: device and dtype.

    Attributes:
        weight: ``[K, O, *kernel, C / groups]``.
        attention: the four attentions.

    Raises:
        ValueError: an unknown norm.
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
    """In 1D, on the input's sites; see :class:`ODConvolution`."""


class SubMODConv2d(ODConvolution, ndim=2, subm=True):
    """In 2D, on the input's sites; see :class:`ODConvolution`."""


class SubMODConv3d(ODConvolution, ndim=3, subm=True):
    """In 3D, on the input's sites; see :class:`ODConvolution`."""


class SubMODConv4d(ODConvolution, ndim=4, subm=True):
    """In 4D, on the input's sites; see :class:`ODConvolution`."""


class SparseODConv1d(ODConvolution, ndim=1):
    """In 1D, on every site in reach; see :class:`ODConvolution`."""


class SparseODConv2d(ODConvolution, ndim=2):
    """In 2D, on every site in reach; see :class:`ODConvolution`."""


class SparseODConv3d(ODConvolution, ndim=3):
    """In 3D, on every site in reach; see :class:`ODConvolution`."""


class SparseODConv4d(ODConvolution, ndim=4):
    """In 4D, on every site in reach; see :class:`ODConvolution`."""
