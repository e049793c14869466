"""What the convolution variants share: checked sizes, initial values and their description."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparseconv import functional as F
from sparseconv.functional.variants.placement import check_stride, placed
from sparseconv.geometry import ConvGeometry
from sparseconv.kernel_map import KernelMap
from sparseconv.nn.conv import SparseConvolution
from sparseconv.nn.module import DimensionedModule
from sparseconv.tensor import NamedMap, SparseTensor, check_sparse

Size = int | Sequence[int]


class VariantConvolution(DimensionedModule):
    """Base of the variants with a kernel of their own.

    The submanifold classes take ``stride`` and ``padding`` in the same places: the stride must be 1, the padding
    has no effect.

    Args:
        in_channels: ``C``.
        out_channels: ``O``.
        kernel_size: one integer, or one for each axis.
        stride: as in :class:`SparseConvolution`.
        padding: as in :class:`SparseConvolution`.
        dilation: as in :class:`SparseConvolution`.
        groups: channel groups; must divide both channel numbers.
        indice_key: a name for the layer's map.

    Raises:
        TypeError, ValueError: a size that cannot work.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size,
        padding: Size,
        dilation: Size,
        groups: int,
        indice_key: str | None = None,
    ) -> None:
        super().__init__()
        if self._subm:
            check_stride(stride, self._ndim)
        # Without memory: it checks the sizes as every convolution layer does.
        sizes = SparseConvolution(
            self._ndim,
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias=False,
            subm=self._subm,
            device="meta",
        )
        self.ndim, self.subm = self._ndim, self._subm
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride = sizes.kernel_size, sizes.stride
        self.padding, self.dilation = sizes.padding, sizes.dilation
        self.indice_key = indice_key

    @property
    def geometry(self) -> ConvGeometry:
        """Kernel, stride, padding and dilation as the map's key."""
        return ConvGeometry(tuple(self.kernel_size), tuple(self.stride), tuple(self.padding), tuple(self.dilation))

    def record(self, input: SparseTensor) -> NamedMap:
        """Sites and map of the plain convolution of this geometry: the kept ones, or built and kept."""
        return placed(input, self.kernel_size, self.stride, self.padding, self.dilation, subm=self.subm)

    def kernel_map(self, input: SparseTensor) -> KernelMap:
        """The pairs that :meth:`forward` multiplies."""
        return self.record(input).kernel_map

    def macs(self, input: SparseTensor) -> int:
        """Exact multiply-adds of the layer's own convolution on ``input``; layers inside it count their own."""
        return self.kernel_map(input).macs(self.in_channels, self.out_channels, self.groups)

    def check_features(self, input: SparseTensor) -> None:
        """Refuse features that the layer's parameters do not fit, before a part of it is run on them.

        Raises:
            TypeError: no sparse tensor, or features of another type and no autocast.
            ValueError: other channels.
        """
        check_sparse(input, type(self).__name__)
        if input.features.shape[1] != self.in_channels:
            raise ValueError(
                f"{type(self).__name__} was made for {self.in_channels} channels, got features with "
                f"{input.features.shape[1]}"
            )
        weight = next(self.parameters())
        if input.dtype != weight.dtype and not torch.is_autocast_enabled(input.device.type):
            raise TypeError(
                f"features are {input.dtype} and the parameters {weight.dtype}: convert one of them "
                "(model.half(), x.float(), ..) or use torch.autocast"
            )

    def sample_means(self, input: SparseTensor) -> Tensor:
        """Mean features of each sample, 0 where it has no sites: ``[B, C]``; checked as :meth:`check_features`."""
        self.check_features(input)
        return F.global_avg_pool(input)

    def _window(self) -> tuple[list[int], list[int], list[int], int]:
        return self.stride, self.padding, self.dilation, self.groups

    def extra_repr(self) -> str:
        """Sizes, leaving out what is at its default."""
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"]
        if not self.subm:
            parts.append(f"stride={self.stride}")
            if any(self.padding):
                parts.append(f"padding={self.padding}")
        if any(d != 1 for d in self.dilation):
            parts.append(f"dilation={self.dilation}")
        if self.groups != 1:
            parts.append(f"groups={self.groups}")
        if getattr(self, "bias", False) is None:
            parts.append("bias=False")
        if self.indice_key is not None:
            parts.append(f"indice_key={self.indice_key!r}")
        return ", ".join(parts)


def new_parameter(*shape: int, **factory: Any) -> nn.Parameter:
    """An uninitialised parameter.

    Args:
        *shape: its sizes.
        **factory: device and dtype.
    """
    return nn.Parameter(torch.empty(shape, **factory))


def uniform_by_fan_(weight: Tensor, bias: Tensor | None, leading: int = 1) -> None:
    """Uniform in +-1/sqrt(fan_in), as :class:`SparseConvolution`; fan_in counts what one output sees.

    Args:
        weight: ``[.., *kernel, C / groups]``.
        bias: or None.
        leading: axes of the weight before the kernel's: 2 for a stack of kernels, each of which starts as a layer
            of its own would.
    """
    bound = 1 / math.sqrt(math.prod(weight.shape[leading:]))
    nn.init.uniform_(weight, -bound, bound)
    if bias is not None:
        nn.init.uniform_(bias, -bound, bound)


def plain_convolution(
    weight: Tensor,
    bias: Tensor | None,
    like: VariantConvolution | SparseConvolution,
    *,
    stride: Size | None = None,
    padding: Size | None = None,
    dilation: Size | None = None,
    groups: int | None = None,
) -> SparseConvolution:
    """A plain convolution layer with the given values, and the sites of ``like``.

    Args:
        weight: ``[O, *kernel, C / groups]``.
        bias: ``[O]`` or None.
        like: gives what is not given here.
        stride: its stride by default.
        padding: its padding by default.
        dilation: its dilation by default.
        groups: its groups by default.
    """
    n_groups = like.groups if groups is None else groups
    layer = SparseConvolution(
        like.ndim,
        weight.shape[-1] * n_groups,
        weight.shape[0],
        weight.shape[1:-1],
        like.stride if stride is None else stride,
        like.padding if padding is None else padding,
        like.dilation if dilation is None else dilation,
        n_groups,
        bias is not None,
        like.subm,
        indice_key=like.indice_key,
        device=weight.device,
        dtype=weight.dtype,
    )
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None and layer.bias is not None:
            layer.bias.copy_(bias)
    return layer.train(like.training)


def from_dense_state(state_dict: Mapping[str, Tensor], ndim: int = 2) -> dict[str, Tensor]:
    """State of a layer of ``sparseconv.dense_ops`` for the sparse layer of the same variant.

    Names and roles are the same; kernels move from ``[.., O, C / groups, *kernel]`` to
    ``[.., O, *kernel, C / groups]``.

    Args:
        state_dict: of the dense layer.
        ndim: number of spatial axes of its kernels.
    """

    def moved(value: Tensor) -> Tensor:
        return value.movedim(-ndim - 1, -1).contiguous() if value.dim() >= ndim + 2 else value

    return {name: moved(value) for name, value in state_dict.items()}
