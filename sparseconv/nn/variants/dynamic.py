"""Dynamic convolution: kernels mixed by a softmax attention of each sample."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sparseconv import functional as F
from sparseconv.nn.variants.base import Size
from sparseconv.nn.variants.mixture import MixtureConvolution
from sparseconv.tensor import SparseTensor


class DynamicConvolution(MixtureConvolution):
    """Dynamic convolution: kernels mixed with ``softmax(fc2(relu(fc1(mean(x)))) / temperature)``.

    Chen et al., "Dynamic Convolution: Attention over Convolution Kernels", arXiv 1912.03458. A high temperature at
    first trains all kernels; :meth:`update_temperature` lowers it. See :func:`sparseconv.functional.mixture_conv`.

    Args:
        in_channels: ``C``.
        out_channels: ``O``.
        kernel_size: of the kernels.
        ratio: hidden units are ``int(C ratio) + 1``, or K for three input channels.
        stride: as in :class:`CondConvolution`, and so are the next four.
        padding: see there.
        dilation: see there.
        groups: see there.
        bias: see there.
        K: number of kernels.
        temperature: of the softmax; saved with the state.
        init_weight: Kaiming's initial values and zero biases, as the known code has, instead of torch's.
        indice_key: a name for the map.
        **factory: device and dtype.

    Attributes:
        fc1: linear layer from C to the hidden units, without bias.
        fc2: linear layer from there to K.

    Raises:
        ValueError: the temperature is not positive.
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
        scores = self.fc2(torch.relu(self.fc1(F.global_avg_pool(input))))
        return torch.softmax(scores / self.temperature.to(scores.dtype), dim=1)

    def update_temperature(self, step: float = 3.0, final: float = 1.0) -> None:
        """Lower the temperature by ``step``, down to ``final``: call it once an epoch."""
        self.temperature.sub_(step).clamp_(min=final)

    def forward(self, input: SparseTensor, fusion: str = "kernel") -> SparseTensor:
        """See :func:`sparseconv.functional.mixture_conv`."""
        return self.mix(input, self.attention(input), fusion)


class SubMDynamicConv1d(DynamicConvolution, ndim=1, subm=True):
    """In 1D, on the input's sites; see :class:`DynamicConvolution`."""


class SubMDynamicConv2d(DynamicConvolution, ndim=2, subm=True):
    """In 2D, on the input's sites; see :class:`DynamicConvolution`."""


class SubMDynamicConv3d(DynamicConvolution, ndim=3, subm=True):
    """In 3D, on the input's sites; see :class:`DynamicConvolution`."""


class SubMDynamicConv4d(DynamicConvolution, ndim=4, subm=True):
    """In 4D, on the input's sites; see :class:`DynamicConvolution`."""


class SparseDynamicConv1d(DynamicConvolution, ndim=1):
    """In 1D, on every site in reach; see :class:`DynamicConvolution`."""


class SparseDynamicConv2d(DynamicConvolution, ndim=2):
    """In 2D, on every site in reach; see :class:`DynamicConvolution`."""


class SparseDynamicConv3d(DynamicConvolution, ndim=3):
    """In 3D, on every site in reach; see :class:`DynamicConvolution`."""


class SparseDynamicConv4d(DynamicConvolution, ndim=4):
    """In 4D, on every site in reach; see :class:`DynamicConvolution`."""
