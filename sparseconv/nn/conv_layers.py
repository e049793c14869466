"""The named convolution layers: four families, 1d to 4d. Signatures are spconv's, positionally too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from sparseconv.nn.conv import SparseConvolution
from sparseconv.nn.module import DimensionedModule

Size = int | Sequence[int]


class _SubMConv(SparseConvolution, DimensionedModule):
    """Submanifold convolution: the output sites are the input's, row for row.

    Graham et al., "3D Semantic Segmentation with Submanifold Sparse Convolutional Networks", CVPR 2018. spconv's
    constructor, positionally too. The function is :func:`sparseconv.functional.subm_conv`; further methods are
    those of :class:`SparseConvolution`. Features and parameters have one type (float32, float64, float16 or
    bfloat16), or are brought to that of autocast; sums are taken in float32 or wider.

    Args:
        in_channels: ``C_in``.
        out_channels: ``C_out``.
        kernel_size: one odd side, or one for each axis.
        stride: without effect, as in spconv.
        padding: without effect, as in spconv: the kernel is centred.
        dilation: spacing of the taps, in sites.
        groups: channel groups; must divide both channel numbers.
        bias: whether to add a learned ``[C_out]``.
        indice_key: a name for the map; layers of equal geometry share it with or without one.
        algo: accepted for spconv's sake and ignored, as are the following ones up to ``name``.
        fp32_accum: ignored.
        large_kernel_fast_algo: ignored.
        name: ignored.
        device: of the parameters.
        dtype: of the parameters.

    Attributes:
        weight: ``[C_out, *kernel, C_in / groups]``, taps row-major with the last axis fastest, not flipped:
            spconv's layout.
        bias: ``[C_out]`` or None.

    Raises:
        TypeError: a size that is no integer; in the call, no sparse tensor, or features of another type.
        ValueError: an even side, or a size that cannot work; in the call, features of other channels or axes, or a
            name that stands for another map.
    """

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
        algo: Any = None,
        fp32_accum: bool | None = None,
        large_kernel_fast_algo: bool = False,
        name: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        del stride, padding, algo, fp32_accum, large_kernel_fast_algo, name
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
            device=device,
            dtype=dtype,
        )


class _SparseConv(SparseConvolution, DimensionedModule):
    """Sparse convolution: an output site wherever an active input is in reach, sorted.

    Equal to ``torch.nn.Conv3d`` (``Conv1d``, ``Conv2d``) on the dense grid, at the output sites. spconv's
    constructor, positionally too. The function is :func:`sparseconv.functional.sparse_conv`; further methods are
    those of :class:`SparseConvolution`. Features and parameters have one type (float32, float64, float16 or
    bfloat16), or are brought to that of autocast; sums are taken in float32 or wider.

    Args:
        in_channels: ``C_in``.
        out_channels: ``C_out``.
        kernel_size: one side, or one for each axis; it may be even.
        stride: step of the window, in sites.
        padding: empty sites on both sides of each axis.
        dilation: spacing of the taps, in sites.
        groups: channel groups; must divide both channel numbers.
        bias: whether to add a learned ``[C_out]``.
        indice_key: a name for the map, by which an inverse convolution finds it.
        algo: accepted for spconv's sake and ignored, as are the following ones up to ``name``.
        fp32_accum: ignored.
        record_voxel_count: ignored.
        large_kernel_fast_algo: ignored.
        name: ignored.
        device: of the parameters.
        dtype: of the parameters.

    Attributes:
        weight: ``[C_out, *kernel, C_in / groups]``, taps row-major with the last axis fastest, not flipped:
            spconv's layout.
        bias: ``[C_out]`` or None.

    Raises:
        TypeError: a size that is no integer; in the call, no sparse tensor, or features of another type.
        ValueError: groups that do not divide, or a size that cannot work; in the call, features of other channels
            or axes, a kernel larger than the padded grid, or a name that stands for another map.
    """

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
        algo: Any = None,
        fp32_accum: bool | None = None,
        record_voxel_count: bool = False,
        large_kernel_fast_algo: bool = False,
        name: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        del algo, fp32_accum, record_voxel_count, large_kernel_fast_algo, name
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
            indice_key=indice_key,
            device=device,
            dtype=dtype,
        )


class _SparseConvTranspose(SparseConvolution, DimensionedModule):
    """Transposed sparse convolution: an output site wherever an active input reaches, sorted.

    Equal to ``torch.nn.ConvTranspose3d`` (``1d``, ``2d``) on the dense grid, at the output sites, its grid
    included. spconv's constructor, positionally too. The function is
    :func:`sparseconv.functional.sparse_conv_transpose`; further methods are those of :class:`SparseConvolution`.
    Features and parameters have one type (float32, float64, float16 or bfloat16), or are brought to that of
    autocast; sums are taken in float32 or wider.

    Args:
        in_channels: ``C_in``.
        out_channels: ``C_out``.
        kernel_size: one side, or one for each axis; it may be even.
        stride: sites of the output for one of the input.
        padding: sites cut off both sides of each axis of the output.
        dilation: spacing of the taps, in sites of the output.
        groups: channel groups; must divide both channel numbers.
        bias: whether to add a learned ``[C_out]``.
        indice_key: a name for the map, by which an inverse convolution finds it.
        algo: accepted for spconv's sake and ignored, as are the following ones up to ``name``.
        fp32_accum: ignored.
        record_voxel_count: ignored.
        large_kernel_fast_algo: ignored.
        name: ignored.
        output_padding: sites added behind the last one of each axis; below the larger of stride and dilation.
        device: of the parameters.
        dtype: of the parameters.

    Attributes:
        weight: ``[C_out, *kernel, C_in / groups]``, taps row-major with the last axis fastest, not flipped:
            spconv's layout.
        bias: ``[C_out]`` or None.

    Raises:
        TypeError: a size that is no integer; in the call, no sparse tensor, or features of another type.
        ValueError: an output_padding that is too large, or a size that cannot work; in the call, features of other
            channels or axes, padding that removes the whole output, or a name that stands for another map.
    """

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
        algo: Any = None,
        fp32_accum: bool | None = None,
        record_voxel_count: bool = False,
        large_kernel_fast_algo: bool = False,
        name: str | None = None,
        output_padding: Size = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        del algo, fp32_accum, record_voxel_count, large_kernel_fast_algo, name
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
            output_padding=output_padding,
            transposed=True,
            indice_key=indice_key,
            device=device,
            dtype=dtype,
        )


class _SparseInverseConv(SparseConvolution, DimensionedModule):
    """Inverse convolution: back to the sites before the layer named ``indice_key``, over its map swapped.

    ``[N, C_in]`` on the sites that the named convolution or pooling made, to ``[n_out, C_out]`` on those that it
    read, in their order. spconv's constructor, positionally too. The function is
    :func:`sparseconv.functional.inverse_conv`; further methods are those of :class:`SparseConvolution`. Features
    and parameters have one type (float32, float64, float16 or bfloat16), or are brought to that of autocast; sums
    are taken in float32 or wider.

    Args:
        in_channels: ``C_in``.
        out_channels: ``C_out``.
        kernel_size: that of the named layer.
        indice_key: name of the layer to undo.
        bias: whether to add a learned ``[C_out]``.
        algo: accepted for spconv's sake and ignored, as are the following ones up to ``name``.
        fp32_accum: ignored.
        large_kernel_fast_algo: ignored.
        name: ignored.
        groups: channel groups; must divide both channel numbers.
        device: of the parameters.
        dtype: of the parameters.

    Attributes:
        weight: ``[C_out, *kernel, C_in / groups]``, taps row-major with the last axis fastest, not flipped:
            spconv's layout.
        bias: ``[C_out]`` or None.

    Raises:
        TypeError: a size that is no integer; in the call, no sparse tensor, or features of another type.
        ValueError: no name, or a size that cannot work; in the call, features of other channels or axes, an
            unknown name, another kernel size than the named layer, or other sites.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        indice_key: str,
        bias: bool = True,
        algo: Any = None,
        fp32_accum: bool | None = None,
        large_kernel_fast_algo: bool = False,
        name: str | None = None,
        groups: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        del algo, fp32_accum, large_kernel_fast_algo, name
        super().__init__(
            self._ndim,
            in_channels,
            out_channels,
            kernel_size,
            groups=groups,
            bias=bias,
            inverse=True,
            indice_key=indice_key,
            device=device,
            dtype=dtype,
        )


class SubMConv1d(_SubMConv, ndim=1, subm=True):
    """Submanifold convolution in 1D on the input's sites: ``[N, C_in]`` to ``[N, C_out]``."""


class SubMConv2d(_SubMConv, ndim=2, subm=True):
    """Submanifold convolution in 2D on the input's sites: ``[N, C_in]`` to ``[N, C_out]``."""


class SubMConv3d(_SubMConv, ndim=3, subm=True):
    """Submanifold convolution in 3D on the input's sites: ``[N, C_in]`` to ``[N, C_out]``."""


class SubMConv4d(_SubMConv, ndim=4, subm=True):
    """Submanifold convolution in 4D on the input's sites: ``[N, C_in]`` to ``[N, C_out]``."""


class SparseConv1d(_SparseConv, ndim=1):
    """Sparse convolution in 1D on every site in reach: ``[N, C_in]`` to ``[n_out, C_out]``."""


class SparseConv2d(_SparseConv, ndim=2):
    """Sparse convolution in 2D on every site in reach: ``[N, C_in]`` to ``[n_out, C_out]``."""


class SparseConv3d(_SparseConv, ndim=3):
    """Sparse convolution in 3D on every site in reach: ``[N, C_in]`` to ``[n_out, C_out]``."""


class SparseConv4d(_SparseConv, ndim=4):
    """Sparse convolution in 4D on every site in reach: ``[N, C_in]`` to ``[n_out, C_out]``."""


class SparseConvTranspose1d(_SparseConvTranspose, ndim=1):
    """Transposed sparse convolution in 1D on every site in reach: ``[N, C_in]`` to ``[n_out, C_out]``."""


class SparseConvTranspose2d(_SparseConvTranspose, ndim=2):
    """Transposed sparse convolution in 2D on every site in reach: ``[N, C_in]`` to ``[n_out, C_out]``."""


class SparseConvTranspose3d(_SparseConvTranspose, ndim=3):
    """Transposed sparse convolution in 3D on every site in reach: ``[N, C_in]`` to ``[n_out, C_out]``."""


class SparseConvTranspose4d(_SparseConvTranspose, ndim=4):
    """Transposed sparse convolution in 4D on every site in reach: ``[N, C_in]`` to ``[n_out, C_out]``."""


class SparseInverseConv1d(_SparseInverseConv, ndim=1):
    """Inverse convolution in 1D onto the sites before the layer named ``indice_key``."""


class SparseInverseConv2d(_SparseInverseConv, ndim=2):
    """Inverse convolution in 2D onto the sites before the layer named ``indice_key``."""


class SparseInverseConv3d(_SparseInverseConv, ndim=3):
    """Inverse convolution in 3D onto the sites before the layer named ``indice_key``."""


class SparseInverseConv4d(_SparseInverseConv, ndim=4):
    """Inverse convolution in 4D onto the sites before the layer named ``indice_key``."""
