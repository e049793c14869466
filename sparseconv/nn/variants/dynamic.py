"""Dynamic convolution: kernels mixed by a softmax attention of each sample."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sparseconv.nn.variants.base import Size
from sparseconv.nn.variants.mixture import MixtureConvolution
from sparseconv.tensor import SparseTensor


class DynamicConvolution(MixtureConvolution):
    """Dynamic convolution: ``[N, C]`` to ``[n_out, O]``, a kernel mixed for each sample by a softmax attention.

    ``W[n] = sum over k of a[n, k] W_k`` with ``a = softmax(fc2(relu(fc1(mean(x)))) / temperature)``, the mean over
    the sample's voxels (0 where it has none). A high temperature at first trains all kernels;
    :meth:`update_temperature` lowers it. Chen et al., "Dynamic Convolution: Attention over Convolution Kernels",
    arXiv 1912.03458. The function is :func:`sparseconv.functional.mixture_conv`.

    The submanifold classes keep the input's sites, row for row: ``[N, O]``. The Sparse classes make every site in
    reach, sorted: ``[n_out, O]``. Features and parameters have one type (float32, float64, float16 or bfloat16),
    or are brought to that of autocast.

    Args:
        in_channels: ``C``.
        out_channels: ``O``.
        kernel_size: one side, or one for each axis; odd in the submanifold classes.
        ratio: hidden units are ``int(C ratio) + 1``, or K for three input channels.
        stride: step of the window, in sites; 1 in the submanifold classes.
        padding: empty sites on both sides of each axis; without effect in the submanifold classes.
        dilation: spacing of the taps, in sites.
        groups: channel groups; must divide both channel numbers.
        bias: whether each kernel has a bias, mixed as the kernels are.
        K: number of kernels.
        temperature: of the softmax; saved with the state.
        init_weight: Kaiming's initial values and zero biases, as the known code has, instead of torch's.
        indice_key: a name for the map, by which an inverse convolution finds it.
        **factory: device and dtype of the parameters.

    Attributes:
        weight: ``[K, O, *kernel, C / groups]``.
        bias: ``[K, O]`` or None.
        fc1: linear layer from C to the hidden units, without bias.
        fc2: linear layer from there to K.
        temperature: float32 scalar.

    Raises:
        TypeError: a size that is no integer; in the call, no sparse tensor, or features of another type.
        ValueError: a temperature that is not positive, a negative ratio, or a size that cannot work; in the call,
            features of other channels or axes.
    """

    temperature: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 3,
        ratio: float = 0.25,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        K: int = 4,
        temperature: float = 34,
        init_weight: bool = True,
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
            K,
            indice_key,
            **factory,
        )
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        if ratio < 0:
            raise ValueError(f"ratio must not be negative, got {ratio}")
        hidden = K if in_channels == 3 else int(in_channels * ratio) + 1
        self.fc1 = nn.Linear(in_channels, hidden, bias=False, **factory)
        self.fc2 = nn.Linear(hidden, K, **factory)
        self.register_buffer("temperature", torch.tensor(float(temperature), device=factory.get("device")))
        self.init_weight = init_weight
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Kaiming's initial values with ``init_weight``, else those of layers of their own."""
        super().reset_parameters()
        self.fc1.reset_parameters()
        self.fc2.reset_parameters()
        if not self.init_weight:
            return
        with torch.no_grad():
            for kernel in self.weight:
                # Kaiming's fan is read off [O, C / groups, taps].
                nn.init.kaiming_uniform_(kernel.movedim(-1, 1), mode="fan_in", nonlinearity="relu")
            for layer in (self.fc1, self.fc2):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(self.fc2.bias)
            if self.bias is not None:
                nn.init.zeros_(self.bias)

    def attention(self, input: SparseTensor) -> Tensor:
        """Share of each kernel: ``[B, K]``, rows sum to 1."""
        scores = self.fc2(torch.relu(self.fc1(self.sample_means(input))))
        return torch.softmax(scores / self.temperature.to(scores.dtype), dim=1)

    def update_temperature(self, step: float = 3.0, final: float = 1.0) -> None:
        """Lower the temperature by ``step``, down to ``final``: call it once an epoch."""
        self.temperature.sub_(step).clamp_(min=final)

    def forward(self, input: SparseTensor, fusion: str = "kernel") -> SparseTensor:
        """See :func:`sparseconv.functional.mixture_conv`."""
        return self.mix(input, self.attention(input), fusion)


class SubMDynamicConv1d(DynamicConvolution, ndim=1, subm=True):
    """Dynamic convolution in 1D on the input's sites: ``[N, C]`` to ``[N, O]``.

    See :class:`DynamicConvolution`.
    """


class SubMDynamicConv2d(DynamicConvolution, ndim=2, subm=True):
    """Dynamic convolution in 2D on the input's sites: ``[N, C]`` to ``[N, O]``.

    See :class:`DynamicConvolution`.
    """


class SubMDynamicConv3d(DynamicConvolution, ndim=3, subm=True):
    """Dynamic convolution in 3D on the input's sites: ``[N, C]`` to ``[N, O]``.

    See :class:`DynamicConvolution`.
    """


class SubMDynamicConv4d(DynamicConvolution, ndim=4, subm=True):
    """Dynamic convolution in 4D on the input's sites: ``[N, C]`` to ``[N, O]``.

    See :class:`DynamicConvolution`.
    """


class SparseDynamicConv1d(DynamicConvolution, ndim=1):
    """Dynamic convolution in 1D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`DynamicConvolution`.
    """


class SparseDynamicConv2d(DynamicConvolution, ndim=2):
    """Dynamic convolution in 2D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`DynamicConvolution`.
    """


class SparseDynamicConv3d(DynamicConvolution, ndim=3):
    """Dynamic convolution in 3D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`DynamicConvolution`.
    """


class SparseDynamicConv4d(DynamicConvolution, ndim=4):
    """Dynamic convolution in 4D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`DynamicConvolution`.
    """
