"""Kernels mixed for each sample: CondConv, dynamic convolution and DyNet."""

from __future__ import annotations

from typing import Any

import torch
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
        kernel_size: Size,
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
        kernel_size: Size,
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
