"""CondConv: kernels mixed by a sigmoid routing of each sample."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sparseconv.nn.variants.base import Size
from sparseconv.nn.variants.mixture import MixtureConvolution
from sparseconv.tensor import SparseTensor


class CondConvolution(MixtureConvolution):
    """Conditionally parameterised convolution: ``[N, C]`` to ``[n_out, O]``, a kernel mixed for each sample.

    ``W[n] = sum over e of r[n, e] W_e`` with ``r = sigmoid(R mean(x) + c)``, the mean over the sample's voxels (0
    where it has none). Yang et al., "CondConv: Conditionally Parameterized Convolutions for Efficient Inference",
    arXiv 1904.04971. The function is :func:`sparseconv.functional.mixture_conv`.

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
        bias: whether each expert has a bias, mixed as the kernels are.
        num_experts: ``E``.
        indice_key: a name for the map, by which an inverse convolution finds it.
        **factory: device and dtype of the parameters.

    Attributes:
        weight: ``[E, O, *kernel, C / groups]``.
        bias: ``[E, O]`` or None.
        routing: linear layer from C to E.

    Raises:
        TypeError: a size that is no integer; in the call, no sparse tensor, or features of another type.
        ValueError: a size that cannot work; in the call, features of other channels or axes, or routing weights of
            another shape.
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
            routing_weights = torch.sigmoid(self.routing(self.sample_means(input)))
        return self.mix(input, routing_weights, fusion)


class SubMCondConv1d(CondConvolution, ndim=1, subm=True):
    """Conditionally parameterised convolution in 1D on the input's sites: ``[N, C]`` to ``[N, O]``.

    See :class:`CondConvolution`.
    """


class SubMCondConv2d(CondConvolution, ndim=2, subm=True):
    """Conditionally parameterised convolution in 2D on the input's sites: ``[N, C]`` to ``[N, O]``.

    See :class:`CondConvolution`.
    """


class SubMCondConv3d(CondConvolution, ndim=3, subm=True):
    """Conditionally parameterised convolution in 3D on the input's sites: ``[N, C]`` to ``[N, O]``.

    See :class:`CondConvolution`.
    """


class SubMCondConv4d(CondConvolution, ndim=4, subm=True):
    """Conditionally parameterised convolution in 4D on the input's sites: ``[N, C]`` to ``[N, O]``.

    See :class:`CondConvolution`.
    """


class SparseCondConv1d(CondConvolution, ndim=1):
    """Conditionally parameterised convolution in 1D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`CondConvolution`.
    """


class SparseCondConv2d(CondConvolution, ndim=2):
    """Conditionally parameterised convolution in 2D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`CondConvolution`.
    """


class SparseCondConv3d(CondConvolution, ndim=3):
    """Conditionally parameterised convolution in 3D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`CondConvolution`.
    """


class SparseCondConv4d(CondConvolution, ndim=4):
    """Conditionally parameterised convolution in 4D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`CondConvolution`.
    """
