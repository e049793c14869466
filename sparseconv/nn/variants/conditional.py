"""CondConv: kernels mixed by a sigmoid routing of each sample."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sparseconv import functional as F
from sparseconv.nn.variants.base import Size
from sparseconv.nn.variants.mixture import MixtureConvolution
from sparseconv.tensor import SparseTensor


class CondConvolution(MixtureConvolution):
    """Conditionally parameterised convolution: kernels mixed with ``sigmoid(R mean(x) + c)``.

    Yang et al., "CondConv", arXiv 1904.04971. See :func:`sparseconv.functional.mixture_conv`.

    Args:
        in_channels: ``C``.
        out_channels: ``O``.
        kernel_size: of the kernels.
        stride: as in :class:`SparseConvolution`; 1 in the submanifold classes.
        padding: as in :class:`SparseConvolution`; without effect in the submanifold classes.
        dilation: spacing of the taps.
        groups: channel groups.
        bias: whether each expert has a bias.
        num_experts: ``E``.
        indice_key: a name for the map.
        **factory: device and dtype.

    Attributes:
        routing: linear layer from C to E.
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
        bias: bool = False,
        num_experts: int = 4,
        indice_key: str | None = None,
        **factory: Any,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            num_experts,
            indice_key,
            **factory,
        )
        self.routing = nn.Linear(in_channels, num_experts, **factory)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Kernels as layers of their own, and the routing as a linear layer."""
        super().reset_parameters()
        self.routing.reset_parameters()

    def forward(
        self, input: SparseTensor, routing_weights: Tensor | None = None, fusion: str = "kernel"
    ) -> SparseTensor:
        """See :func:`sparseconv.functional.mixture_conv`.

        Args:
            input: ``[N, C]`` of B samples.
            routing_weights: ``[B, E]``, where several layers share them; the layer's own by default.
            fusion: ``"kernel"`` or ``"output"``.
        """
        if routing_weights is None:
            routing_weights = torch.sigmoid(self.routing(F.global_avg_pool(input)))
        return self.mix(input, routing_weights, fusion)


class SubMCondConv1d(CondConvolution, ndim=1, subm=True):
    """In 1D, on the input's sites; see :class:`CondConvolution`."""


class SubMCondConv2d(CondConvolution, ndim=2, subm=True):
    """In 2D, on the input's sites; see :class:`CondConvolution`."""


class SubMCondConv3d(CondConvolution, ndim=3, subm=True):
    """In 3D, on the input's sites; see :class:`CondConvolution`."""


class SubMCondConv4d(CondConvolution, ndim=4, subm=True):
    """In 4D, on the input's sites; see :class:`CondConvolution`."""


class SparseCondConv1d(CondConvolution, ndim=1):
    """In 1D, on every site in reach; see :class:`CondConvolution`."""


class SparseCondConv2d(CondConvolution, ndim=2):
    """In 2D, on every site in reach; see :class:`CondConvolution`."""


class SparseCondConv3d(CondConvolution, ndim=3):
    """In 3D, on every site in reach; see :class:`CondConvolution`."""


class SparseCondConv4d(CondConvolution, ndim=4):
    """In 4D, on every site in reach; see :class:`CondConvolution`."""
