"""Convolution layers, 1d to 4d, with spconv's constructor signatures and weight layout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from sparseconv import functional as F
from sparseconv.coordinates import Coordinates
from sparseconv.functional.conv import check_output_padding
from sparseconv.functional.naming import recall
from sparseconv.geometry import ConvGeometry, per_axis
from sparseconv.kernel_map import KernelMap
from sparseconv.nn.module import SparseModule
from sparseconv.tensor import SparseTensor
from sparseconv.weight_layouts import describe_foreign

Size = int | Sequence[int]


class SparseConvolution(SparseModule):
    """What all convolution layers share: parameters, their initial values and their description.

    The weight is ``[C_out, *kernel, C_in / groups]``, taps row-major with the last axis fastest and not
    flipped, axes in the order of the index columns. Initial values are those of ``torch.nn.Conv3d``.

    Args:
        ndim: number of spatial axes, 1..4.
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: one integer, or one for each axis.
        stride: step of the window, in sites; without effect with ``subm``, as in spconv.
        padding: as torch, in sites; without effect with ``subm``, as in spconv.
        dilation: spacing of the taps, in sites.
        groups: channel groups; must divide both channel numbers.
        bias: whether to add a learned ``[C_out]``.
        subm: submanifold: output sites are the input's; odd kernels only.
        output_padding: transposed convolution only.
        transposed: transposed convolution.
        inverse: inverse convolution; needs ``indice_key``.
        indice_key: names this layer's map, so that an inverse convolution finds it. Layers of equal geometry
            share their map with or without it.
        algo: accepted for spconv's sake and ignored, as all following ones but ``device`` and ``dtype``.
        fp32_accum: ignored; sums are always taken in float32 or wider.
        record_voxel_count: ignored.
        large_kernel_fast_algo: ignored.
        name: ignored.
        device: of the parameters.
        dtype: of the parameters.

    Raises:
        TypeError, ValueError: a size that cannot work, at construction.
    """

    def __init__(
        self,
        ndim: int,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 3,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        subm: bool = False,
        output_padding: Size = 0,
        transposed: bool = False,
        inverse: bool = False,
        indice_key: str | None = None,
        algo: Any = None,
        fp32_accum: bool | None = None,
        record_voxel_count: bool = False,
        large_kernel_fast_algo: bool = False,
        name: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        del algo, fp32_accum, record_voxel_count, large_kernel_fast_algo, name
        for label, value in (
            ("in_channels", in_channels),
            ("out_channels", out_channels),
            ("groups", groups),
        ):
            per_axis(value, 1, label, minimum=1, maximum=1 << 24)
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"groups must divide both channel numbers, got groups {groups} with {in_channels} in and "
                f"{out_channels} out"
            )
        if inverse and not indice_key:
            raise ValueError("an inverse convolution needs the indice_key of the layer that it undoes")
        if subm:
            geometry = ConvGeometry.submanifold(ndim, kernel_size, dilation)
        else:
            geometry = ConvGeometry.create(ndim, kernel_size, stride, padding, dilation)
        self.ndim = ndim
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = list(geometry.kernel_size)
        self.stride = list(geometry.stride)
        self.padding = list(geometry.padding)
        self.dilation = list(geometry.dilation)
        self.output_padding = list(check_output_padding(output_padding, geometry)) if transposed else [0] * ndim
        self.groups = groups
        self.subm = subm
        self.transposed = transposed
        self.inverse = inverse
        self.indice_key = indice_key
        self.conv1x1 = geometry.is_pointwise
        self.fused_relu = False
        shape = (out_channels, *geometry.kernel_size, in_channels // groups)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        if bias:
            self.bias: nn.Parameter | None = nn.Parameter(torch.empty(out_channels, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform in +-1/sqrt(fan_in), as ``torch.nn.Conv3d``; fan_in counts the taps that one output sees."""
        bound = 1 / math.sqrt(math.prod(self.weight.shape[1:]))
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """As torch, and name the remedy where the weight has another library's layout."""
        for name in ("weight", "kernel"):
            found = state_dict.get(prefix + name)
            if isinstance(found, torch.Tensor):
                remedy = describe_foreign(name, found.shape, self.weight.shape)
                if remedy is not None:
                    error_msgs.append(f"{prefix.rstrip('.') or 'the layer'}: {remedy}")
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def is_inverseable(self) -> bool:
        """Whether an inverse convolution can undo this layer."""
        return self.indice_key is not None and not self.subm

    def forward(self, input: SparseTensor, add_input: SparseTensor | None = None) -> SparseTensor:
        """One call of :mod:`sparseconv.functional`.

        Args:
            input: ``[N, C_in]``.
            add_input: tensor on the output's sites that is added to the result, before the activation if
                :func:`sparseconv.fuse` gave the layer one.
        """
        if self.subm:
            return F.subm_conv(
                input,
                self.weight,
                self.bias,
                self.dilation,
                self.groups,
                self.indice_key,
                residual=add_input,
                relu=self.fused_relu,
            )
        if self.inverse:
            return F.inverse_conv(
                input,
                self.weight,
                self.bias,
                str(self.indice_key),
                self.groups,
                residual=add_input,
                relu=self.fused_relu,
            )
        if self.transposed:
            return F.sparse_conv_transpose(
                input,
                self.weight,
                self.bias,
                self.stride,
                self.padding,
                self.output_padding,
                self.dilation,
                self.groups,
                self.indice_key,
                residual=add_input,
                relu=self.fused_relu,
            )
        return F.sparse_conv(
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.indice_key,
            residual=add_input,
            relu=self.fused_relu,
        )

    def onto(self, input: SparseTensor, target: SparseTensor | Coordinates) -> SparseTensor:
        """This layer's values at given output sites; see :func:`sparseconv.functional.conv_onto`."""
        return F.conv_onto(
            input,
            target,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.transposed or self.inverse,
        )

    @property
    def geometry(self) -> ConvGeometry:
        """Kernel, stride, padding and dilation as the map's key."""
        return ConvGeometry(tuple(self.kernel_size), tuple(self.stride), tuple(self.padding), tuple(self.dilation))

    def kernel_map(self, input: SparseTensor) -> KernelMap:
        """The map that :meth:`forward` runs on ``input``: the kept one, or built and kept."""
        sites = input.coordinates
        if self.subm:
            return sites.submanifold_map(self.geometry)
        if self.inverse:
            return recall(input, str(self.indice_key)).kernel_map.transposed()
        if self.transposed:
            return sites.upsample(self.geometry, tuple(self.output_padding))[1]
        return sites.downsample(self.geometry)[1]

    def extra_repr(self) -> str:
        """Sizes, leaving out what is at its default."""
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"]
        if not self.subm and not self.inverse:
            parts.append(f"stride={self.stride}")
            if any(self.padding):
                parts.append(f"padding={self.padding}")
        if any(d != 1 for d in self.dilation):
            parts.append(f"dilation={self.dilation}")
        if any(self.output_padding):
            parts.append(f"output_padding={self.output_padding}")
        if self.groups != 1:
            parts.append(f"groups={self.groups}")
        if self.bias is None:
            parts.append("bias=False")
        if self.fused_relu:
            parts.append("fused_relu=True")
        if self.indice_key is not None:
            parts.append(f"indice_key={self.indice_key!r}")
        return ", ".join(parts)
