"""``spconv.pytorch.conv``: the engine's convolution layers on spconv's tensor, with spconv's signatures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as torch_functional
from torch import Tensor

from sparseconv import functional as F
from sparseconv import nn as engine
from sparseconv.compat.cumm.tensorview import gemm
from sparseconv.compat.spconv.core import ConvAlgo
from sparseconv.compat.spconv.pytorch.core import SparseConvTensor, expand_nd, through_engine
from sparseconv.compat.spconv.pytorch.modules import SparseModule
from sparseconv.kernel_map import KernelMap
from sparseconv.tensor import SparseTensor, check_sparse

Size = int | Sequence[int]


class SparseConvolution(SparseModule, engine.SparseConvolution):
    """Base of all convolution layers; spconv's signature. See :class:`sparseconv.nn.SparseConvolution`.

    The weight is ``[C_out, *kernel, C_in / groups]``. ``algo``, ``fp32_accum`` and ``large_kernel_fast_algo``
    change nothing. ``act_type`` is applied behind the bias (and behind ``add_input``).
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
        algo: ConvAlgo | None = None,
        fp32_accum: bool | None = None,
        record_voxel_count: bool = False,
        act_type: Any = gemm.Activation.None_,
        act_alpha: float = 0,
        act_beta: float = 0,
        large_kernel_fast_algo: bool = False,
        name: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        use_hash: bool = False,
    ) -> None:
        del large_kernel_fast_algo, use_hash
        engine.SparseConvolution.__init__(
            self,
            ndim,
            in_channels,
            out_channels,
            expand_nd(ndim, kernel_size),
            expand_nd(ndim, stride),
            expand_nd(ndim, padding),
            expand_nd(ndim, dilation),
            groups,
            bias,
            subm,
            output_padding,
            transposed,
            inverse,
            indice_key,
            device=device,
            dtype=dtype,
        )
        self.name = name
        self._sparse_unique_name = ""
        self.algo = ConvAlgo.Native if algo is None else algo
        self.fp32_accum = fp32_accum
        self.act_type, self.act_alpha, self.act_beta = act_type, act_alpha, act_beta
        self.record_voxel_count = record_voxel_count
        if record_voxel_count and not subm and not inverse:
            self.register_buffer("max_num_voxels_during_training", torch.zeros(1, dtype=torch.int32))

    def get_max_num_voxels(self) -> Tensor | None:
        """Most output sites of a training step, where ``record_voxel_count`` is set: int32 ``[1]``."""
        return getattr(self, "max_num_voxels_during_training", None)

    def forward(  # type: ignore[override]
        self, input: SparseConvTensor, add_input: SparseConvTensor | None = None
    ) -> SparseConvTensor:
        """Convolve; ``add_input`` is added to the result before the activation."""
        if not isinstance(input, SparseConvTensor):
            check_sparse(input, type(self).__name__)
            return engine.SparseConvolution.forward(self, input)
        # As in spconv, a 1x1 layer keeps its rows and leaves nothing in indice_dict.
        in_place = self.subm or self._keeps_rows
        key = None if self._keeps_rows else self.indice_key
        own_row = self._own_row if in_place else None
        output = through_engine(input, self._convolve, key, own_row, self.inverse, self.subm)
        count = self.get_max_num_voxels()
        if count is not None and self.training:
            count.clamp_(min=len(output))
        if add_input is not None:
            output = output + add_input
        if self.act_type is not gemm.Activation.None_:
            output = output.replace_feature(gemm.activate(output.features, self.act_type, self.act_alpha))
        return output

    @property
    def _keeps_rows(self) -> bool:
        """Whether the layer is a linear map of each row."""
        return self.conv1x1 and not self.inverse and not any(self.output_padding)

    def _convolve(self, input: SparseTensor) -> SparseTensor:
        if self._keeps_rows:
            return F.subm_conv(input, self.weight, self.bias, 1, self.groups, relu=self.fused_relu)
        return engine.SparseConvolution.forward(self, input)

    def _own_row(self, features: Tensor) -> Tensor:
        """The centre tap alone, on ``[N, C_in]``."""
        taps = self.weight.flatten(1, -2)
        centre = taps[:, taps.shape[1] // 2, :, None]
        return torch_functional.conv1d(features[:, :, None], centre, groups=self.groups)[:, :, 0]

    def kernel_map(self, input: SparseTensor | SparseConvTensor) -> KernelMap:
        """The map that :meth:`forward` runs on the distinct sites of ``input``."""
        if isinstance(input, SparseConvTensor):
            input = input.to_sparse_tensor(self.indice_key)
        if self._keeps_rows:
            return input.coordinates.submanifold_map(self.geometry)
        return engine.SparseConvolution.kernel_map(self, input)


class _SparseConv(SparseConvolution):
    _ndim: ClassVar[int]
    _transposed: ClassVar[bool] = False

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
        indice_key: str | None = None,
        algo: ConvAlgo | None = None,
        fp32_accum: bool | None = None,
        record_voxel_count: bool = False,
        large_kernel_fast_algo: bool = False,
        name: str | None = None,
        *,
        use_hash: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        del large_kernel_fast_algo, use_hash
        super().__init__(
            self._ndim,
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            transposed=self._transposed,
            indice_key=indice_key,
            algo=algo,
            fp32_accum=fp32_accum,
            record_voxel_count=record_voxel_count,
            name=name,
            device=device,
            dtype=dtype,
        )


class _SubMConv(SparseConvolution):
    _ndim: ClassVar[int]

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
        indice_key: str | None = None,
        algo: ConvAlgo | None = None,
        fp32_accum: bool | None = None,
        large_kernel_fast_algo: bool = False,
        name: str | None = None,
        *,
        use_hash: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        del stride, padding, large_kernel_fast_algo, use_hash
        super().__init__(
            self._ndim,
            in_channels,
            out_channels,
            kernel_size,
            dilation=dilation,
            groups=groups,
            bias=bias,
            subm=True,
            indice_key=indice_key,
            algo=algo,
            fp32_accum=fp32_accum,
            name=name,
            device=device,
            dtype=dtype,
        )


class _SparseInverseConv(SparseConvolution):
    _ndim: ClassVar[int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        indice_key: str | None,
        bias: bool = True,
        algo: ConvAlgo | None = None,
        fp32_accum: bool | None = None,
        large_kernel_fast_algo: bool = False,
        name: str | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        del large_kernel_fast_algo
        super().__init__(
            self._ndim,
            in_channels,
            out_channels,
            kernel_size,
            bias=bias,
            inverse=True,
            indice_key=indice_key,
            algo=algo,
            fp32_accum=fp32_accum,
            name=name,
            device=device,
            dtype=dtype,
        )


class SubMConv1d(_SubMConv):
    """Submanifold convolution in 1D: stride and padding are accepted and ignored."""

    _ndim = 1


class SubMConv2d(_SubMConv):
    """Submanifold convolution in 2D: stride and padding are accepted and ignored."""

    _ndim = 2


class SubMConv3d(_SubMConv):
    """Submanifold convolution in 3D: stride and padding are accepted and ignored."""

    _ndim = 3


class SubMConv4d(_SubMConv):
    """Submanifold convolution in 4D: stride and padding are accepted and ignored."""

    _ndim = 4


class SparseConv1d(_SparseConv):
    """Sparse convolution in 1D."""

    _ndim = 1


class SparseConv2d(_SparseConv):
    """Sparse convolution in 2D."""

    _ndim = 2


class SparseConv3d(_SparseConv):
    """Sparse convolution in 3D."""

    _ndim = 3


class SparseConv4d(_SparseConv):
    """Sparse convolution in 4D."""

    _ndim = 4


class _SparseConvTranspose(_SparseConv):
    _transposed = True


class SparseConvTranspose1d(_SparseConvTranspose):
    """Transposed sparse convolution in 1D."""

    _ndim = 1


class SparseConvTranspose2d(_SparseConvTranspose):
    """Transposed sparse convolution in 2D."""

    _ndim = 2


class SparseConvTranspose3d(_SparseConvTranspose):
    """Transposed sparse convolution in 3D."""

    _ndim = 3


class SparseConvTranspose4d(_SparseConvTranspose):
    """Transposed sparse convolution in 4D."""

    _ndim = 4


class SparseInverseConv1d(_SparseInverseConv):
    """Inverse convolution in 1D: back to the sites before the layer named ``indice_key``."""

    _ndim = 1


class SparseInverseConv2d(_SparseInverseConv):
    """Inverse convolution in 2D: back to the sites before the layer named ``indice_key``."""

    _ndim = 2


class SparseInverseConv3d(_SparseInverseConv):
    """Inverse convolution in 3D: back to the sites before the layer named ``indice_key``."""

    _ndim = 3


class SparseInverseConv4d(_SparseInverseConv):
    """Inverse convolution in 4D: back to the sites before the layer named ``indice_key``."""

    _ndim = 4
