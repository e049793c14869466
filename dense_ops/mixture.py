"""Kernels mixed for each sample: CondConv, dynamic convolution and DyNet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparseconv.compilation import eager
from sparseconv.dense_ops.conv import Conv2d, conv2d
from sparseconv.dense_ops.executor import convolve_per_sample, image_shape
from sparseconv.dense_ops.flops import Flops, count_parameters, split_shape
from sparseconv.dense_ops.window import Padding, Pair, Size, Window

FUSIONS = ("kernel", "output")


def global_average(input: Tensor) -> Tensor:
    """Mean over each image: ``[N, C, H, W]`` to ``[N, C]``."""
    image_shape(input)
    return input.mean((2, 3))


def _check_fusion(fusion: str) -> None:
    if fusion not in FUSIONS:
        raise ValueError(f"fusion must be 'kernel' or 'output', got {fusion!r}")


@eager
def mixture_conv2d(
    input: Tensor,
    weight: Tensor,
    mixture: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    fusion: str = "kernel",
) -> Tensor:
    """Convolution with a mixture of kernels for each sample.

    ``W[n] = sum over e of m[n, e] W_e`` and ``b[n] = sum over e of m[n, e] b_e``. By linearity mixing the
    kernels and mixing their outputs are equal; kernels are cheaper wherever an image has more than one pixel.

    Args:
        input: ``[N, C, H, W]``.
        weight: ``[E, O, C / groups, kh, kw]``.
        mixture: ``[N, E]``, or ``[N, O, E]`` with a mixture for each output channel; the bias is then ``[O]``.
        bias: ``[E, O]``, mixed like the weight, or ``[O]``, the same for all; or None.
        stride: as in :func:`conv2d`.
        padding: as in :func:`conv2d`.
        dilation: as in :func:`conv2d`.
        groups: as in :func:`conv2d`.
        fusion: ``"kernel"`` mixes kernels, ``"output"`` the outputs of all kernels, one kernel at a time.

    Returns:
        ``[N, O, Ho, Wo]``.

    Raises:
        ValueError: an unknown fusion, or shapes that do not fit.
    """
    _check_fusion(fusion)
    if weight.dim() != 5:
        raise ValueError(f"the weight must have shape [E, O, C / groups, kh, kw], got {list(weight.shape)}")
    experts, c_out = weight.shape[:2]
    wanted = ([input.shape[0], experts], [input.shape[0], c_out, experts])
    if list(mixture.shape) not in wanted:
        raise ValueError(f"the mixture must have shape {wanted[0]} or {wanted[1]}, got {list(mixture.shape)}")
    if bias is not None and list(bias.shape) not in ([experts, c_out], [c_out]):
        raise ValueError(f"the bias must have shape [{experts}, {c_out}] or [{c_out}], got {list(bias.shape)}")
    mixed_bias = bias is not None and bias.dim() == 2
    if mixed_bias and mixture.dim() == 3:
        raise ValueError("with a mixture for each output channel the bias must have shape [O]")
    mixture = mixture.to(weight)
    if fusion == "kernel":
        each = "ne" if mixture.dim() == 2 else "noe"
        kernels = torch.einsum(f"{each},eocuv->nocuv", mixture, weight)
        offsets = None
        if bias is not None:
            offsets = mixture @ bias if mixed_bias else bias.expand(input.shape[0], -1)
        window = Window.create(image_shape(input), weight.shape[3:], stride, padding, dilation)
        return convolve_per_sample(input, kernels, offsets, window, groups)
    total: Tensor | None = None
    for expert in range(experts):
        own = bias[expert] if bias is not None and mixed_bias else None
        part = conv2d(input, weight[expert], own, stride, padding, dilation, groups)
        scale = mixture[..., expert].reshape(input.shape[0], -1, 1, 1).to(part)
        total = part * scale if total is None else total + part * scale
    if total is None:
        raise ValueError(f"the weight must hold at least one kernel, got {list(weight.shape)}")
    return total if bias is None or mixed_bias else total + bias[:, None, None].to(total)


class MixtureConv2d(nn.Module):
    """Base of the layers that mix ``E`` kernels for each sample: :func:`mixture_conv2d`.

    Attributes:
        weight: ``[E, O, C / groups, kh, kw]``.
        bias: ``[E, O]`` or None.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size,
        padding: Padding,
        dilation: Size,
        groups: int,
        bias: bool,
        experts: int,
        **factory: Any,
    ) -> None:
        super().__init__()
        if experts < 1:
            raise ValueError(f"there must be at least one kernel to mix, got {experts}")
        # Each kernel starts as a layer of its own would: the fan is that of one kernel.
        layers = [
            Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, **factory)
            for _ in range(experts)
        ]
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size: Pair = (layers[0].kernel_size[0], layers[0].kernel_size[1])
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))
        biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
        self.bias = nn.Parameter(torch.stack(biases)) if biases else None

    def mix(self, input: Tensor, mixture: Tensor, fusion: str = "kernel") -> Tensor:
        """See :func:`mixture_conv2d`."""
        return mixture_conv2d(
            input,
            self.weight,
            mixture,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            fusion,
        )

    def routing_macs(self) -> int:
        """Multiply-adds, for each sample, that find the mixture."""
        raise NotImplementedError

    def flops(self, input_shape: Sequence[int]) -> Flops:
        """The convolution once, ``E O C/g kh kw`` to mix the kernels, and what finds the mixture."""
        batch_size, shape = split_shape(input_shape, self.in_channels)
        window = Window.create(shape, self.kernel_size, self.stride, self.padding, self.dilation)
        macs = window.macs(self.in_channels, self.out_channels, self.groups)
        return Flops(batch_size * (macs + self.weight.numel() + self.routing_macs()), count_parameters(self))

    def extra_repr(self) -> str:
        """Its arguments."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding!r}, dilation={self.dilation}, groups={self.groups}, kernels={len(self.weight)}"
        )


class CondConv2d(MixtureConv2d):
    """Conditionally parameterised convolution: kernels mixed with ``sigmoid(R mean(x) + c)``.

    Yang et al., "CondConv", arXiv 1904.04971. See :func:`mixture_conv2d`.

    Args:
        in_channels: ``C``.
        out_channels: ``O``.
        kernel_size: side of the kernels.
        stride: as in :class:`Conv2d`, and so are the next four.
        padding: as in :class:`Conv2d`.
        dilation: as in :class:`Conv2d`.
        groups: as in :class:`Conv2d`.
        bias: whether each expert has a bias.
        num_experts: ``E``.
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
        padding: Padding = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = False,
        num_experts: int = 4,
        **factory: Any,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, num_experts, **factory
        )
        self.routing = nn.Linear(in_channels, num_experts, **factory)

    def forward(self, input: Tensor, routing_weights: Tensor | None = None, fusion: str = "kernel") -> Tensor:
        """See :func:`mixture_conv2d`.

        Args:
            input: ``[N, C, H, W]``.
            routing_weights: ``[N, E]``, where several layers share them; the layer's own by default.
            fusion: ``"kernel"`` or ``"output"``.
        """
        if routing_weights is None:
            routing_weights = torch.sigmoid(self.routing(global_average(input)))
        return self.mix(input, routing_weights, fusion)

    def routing_macs(self) -> int:
        """``C E``."""
        return self.routing.weight.numel()


class DynamicConv2d(MixtureConv2d):
    """Dynamic convolution: kernels mixed with ``softmax(fc2(relu(fc1(mean(x)))) / temperature)``.

    Chen et al., "Dynamic Convolution: Attention over Convolution Kernels", arXiv 1912.03458. A high
    temperature at first trains all kernels; :meth:`update_temperature` lowers it. See :func:`mixture_conv2d`.

    Args:
        in_channels: ``C``.
        out_channels: ``O``.
        kernel_size: side of the kernels.
        ratio: hidden units are ``int(C ratio) + 1``, or K for three input channels.
        stride: as in :class:`Conv2d`, and so are the next four.
        padding: as in :class:`Conv2d`.
        dilation: as in :class:`Conv2d`.
        groups: as in :class:`Conv2d`.
        bias: whether each kernel has a bias.
        K: number of kernels.
        temperature: of the softmax; saved with the state.
        init_weight: Kaiming's initial values and zero biases, as the known code has, instead of torch's.
        **factory: device and dtype.

    Attributes:
        fc1: linear layer from C to the hidden units, without bias.
        fc2: linear layer from there to K.
    """

    temperature: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 3,
        ratio: float = 0.25,
        stride: Size = 1,
        padding: Padding = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        K: int = 4,
        temperature: float = 34,
        init_weight: bool = True,
        **factory: Any,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, K, **factory
        )
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        hidden = K if in_channels == 3 else int(in_channels * ratio) + 1
        self.fc1 = nn.Linear(in_channels, hidden, bias=False, **factory)
        self.fc2 = nn.Linear(hidden, K, **factory)
        self.register_buffer("temperature", torch.tensor(float(temperature), device=factory.get("device")))
        if init_weight:
            with torch.no_grad():
                for kernel in self.weight:
                    nn.init.kaiming_uniform_(kernel, mode="fan_in", nonlinearity="relu")
                for layer in (self.fc1, self.fc2):
                    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(self.fc2.bias)
                if self.bias is not None:
                    nn.init.zeros_(self.bias)

    def attention(self, input: Tensor) -> Tensor:
        """Share of each kernel: ``[N, K]``, rows sum to 1."""
        scores = self.fc2(F.relu(self.fc1(global_average(input))))
        return torch.softmax(scores / self.temperature.to(scores.dtype), dim=1)

    def update_temperature(self, step: float = 3.0, final: float = 1.0) -> None:
        """Lower the temperature by ``step``, down to ``final``: call it once an epoch."""
        self.temperature.sub_(step).clamp_(min=final)

    def forward(self, input: Tensor, fusion: str = "kernel") -> Tensor:
        """See :func:`mixture_conv2d`."""
        return self.mix(input, self.attention(input), fusion)

    def routing_macs(self) -> int:
        """``C h + h K``."""
        return self.fc1.weight.numel() + self.fc2.weight.numel()


class DyNetConv2d(nn.Module):
    """Dynamic convolution of DyNet: a mixture of ``group_size`` kernels for each output channel.

    ``w[n, t] = sum over i of eta[n, t, i] w[t, i]`` with ``eta = sigmoid(FC(mean(x)))``. Zhang et al., "DyNet:
    Dynamic Convolution for Accelerating Convolutional Neural Networks", arXiv 2004.10694; no public
    implementation of the authors was found, so the kernel order ``t group_size + i`` is this library's. See
    :func:`mixture_conv2d`.

    Args:
        in_channels: ``C``.
        out_channels: ``O``.
        kernel_size: side of the kernels.
        stride: as in :class:`Conv2d`, and so are the next four.
        padding: as in :class:`Conv2d`.
        dilation: as in :class:`Conv2d`.
        groups: as in :class:`Conv2d`.
        bias: whether there is a bias; it is not mixed.
        group_size: kernels that each output channel mixes.
        hidden: units of a hidden layer with ReLU before the coefficients; none by default.
        **factory: device and dtype.

    Attributes:
        weight: ``[O * group_size, C / groups, kh, kw]``.
        coefficients: from C to ``O * group_size``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 3,
        stride: Size = 1,
        padding: Padding = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        group_size: int = 6,
        hidden: int | None = None,
        **factory: Any,
    ) -> None:
        super().__init__()
        outputs = out_channels * group_size
        like = Conv2d(in_channels, outputs, kernel_size, stride, padding, dilation, groups, bias, **factory)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size: Pair = (like.kernel_size[0], like.kernel_size[1])
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.group_size = group_size
        self.weight = nn.Parameter(like.weight.detach())
        self.bias = None if like.bias is None else nn.Parameter(like.bias.detach()[:out_channels].clone())
        if hidden is None:
            self.coefficients = nn.Sequential(nn.Linear(in_channels, outputs, **factory))
        else:
            self.coefficients = nn.Sequential(
                nn.Linear(in_channels, hidden, **factory), nn.ReLU(), nn.Linear(hidden, outputs, **factory)
            )

    def eta(self, input: Tensor) -> Tensor:
        """Coefficients ``[N, O, group_size]``."""
        scores = self.coefficients(global_average(input))
        return torch.sigmoid(scores).unflatten(1, (self.out_channels, self.group_size))

    def forward(self, input: Tensor, fusion: str = "kernel") -> Tensor:
        """See :func:`mixture_conv2d`."""
        weight = self.weight.unflatten(0, (self.out_channels, self.group_size)).transpose(0, 1)
        return mixture_conv2d(
            input,
            weight,
            self.eta(input),
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            fusion,
        )

    def flops(self, input_shape: Sequence[int]) -> Flops:
        """The convolution once, ``g_t O C/g kh kw`` to mix the kernels, and the coefficients: ``C O g_t``."""
        batch_size, shape = split_shape(input_shape, self.in_channels)
        window = Window.create(shape, self.kernel_size, self.stride, self.padding, self.dilation)
        macs = window.macs(self.in_channels, self.out_channels, self.groups) + self.weight.numel()
        macs += sum(math.prod(layer.weight.shape) for layer in self.coefficients if isinstance(layer, nn.Linear))
        return Flops(batch_size * macs, count_parameters(self))
