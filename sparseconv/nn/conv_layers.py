"""The named convolution layers: four families, 1d to 4d. Signatures are spconv's, positionally too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from sparseconv.nn.conv import SparseConvolution

Size = int | Sequence[int]


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


class _SparseConv(SparseConvolution):
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


class _SparseConvTranspose(SparseConvolution):
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


class _SparseInverseConv(SparseConvolution):
    _ndim: ClassVar[int]

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


class SubMConv1d(_SubMConv):
    """Submanifold convolution in 1D: the output sites are the input's.

    ``stride`` and ``padding`` are accepted and have no effect, as in spconv. See
    :class:`SparseConvolution` and :func:`sparseconv.functional.subm_conv`.
    """

    _ndim = 1


class SubMConv2d(_SubMConv):
    """Submanifold convolution in 2D: the output sites are the input's.

    ``stride`` and ``padding`` are accepted and have no effect, as in spconv. See
    :class:`SparseConvolution` and :func:`sparseconv.functional.subm_conv`.
    """

    _ndim = 2


class SubMConv3d(_SubMConv):
    """Submanifold convolution in 3D: the output sites are the input's.

    ``stride`` and ``padding`` are accepted and have no effect, as in spconv. See
    :class:`SparseConvolution` and :func:`sparseconv.functional.subm_conv`.
    """

    _ndim = 3


class SubMConv4d(_SubMConv):
    """Submanifold convolution in 4D: the output sites are the input's.

    ``stride`` and ``padding`` are accepted and have no effect, as in spconv. See
    :class:`SparseConvolution` and :func:`sparseconv.functional.subm_conv`.
    """

    _ndim = 4


class SparseConv1d(_SparseConv):
    """Sparse convolution in 1D.

    See :class:`SparseConvolution` and :func:`sparseconv.functional.sparse_conv`.
    """

    _ndim = 1


class SparseConv2d(_SparseConv):
    """Sparse convolution in 2D.

    See :class:`SparseConvolution` and :func:`sparseconv.functional.sparse_conv`.
    """

    _ndim = 2


class SparseConv3d(_SparseConv):
    """Sparse convolution in 3D.

    See :class:`SparseConvolution` and :func:`sparseconv.functional.sparse_conv`.
    """

    _ndim = 3


class SparseConv4d(_SparseConv):
    """Sparse convolution in 4D.

    See :class:`SparseConvolution` and :func:`sparseconv.functional.sparse_conv`.
    """

    _ndim = 4


class SparseConvTranspose1d(_SparseConvTranspose):
    """Transposed sparse convolution in 1D.

    See :class:`SparseConvolution` and :func:`sparseconv.functional.sparse_conv_transpose`.
    """

    _ndim = 1


class SparseConvTranspose2d(_SparseConvTranspose):
    """Transposed sparse convolution in 2D.

    See :class:`SparseConvolution` and :func:`sparseconv.functional.sparse_conv_transpose`.
    """

    _ndim = 2


class SparseConvTranspose3d(_SparseConvTranspose):
    """Transposed sparse convolution in 3D.

    See :class:`SparseConvolution` and :func:`sparseconv.functional.sparse_conv_transpose`.
    """

    _ndim = 3


class SparseConvTranspose4d(_SparseConvTranspose):
    """Transposed sparse convolution in 4D.

    See :class:`SparseConvolution` and :func:`sparseconv.functional.sparse_conv_transpose`.
    """

    _ndim = 4


class SparseInverseConv1d(_SparseInverseConv):
    """Inverse convolution in 1D: back to the sites before the layer named ``indice_key``.

    See :class:`SparseConvolution` and :func:`sparseconv.functional.inverse_conv`.
    """

    _ndim = 1


class SparseInverseConv2d(_SparseInverseConv):
    """Inverse convolution in 2D: back to the sites before the layer named ``indice_key``.

    See :class:`SparseConvolution` and :func:`sparseconv.functional.inverse_conv`.
    """

    _ndim = 2


class SparseInverseConv3d(_SparseInverseConv):
    """Inverse convolution in 3D: back to the sites before the layer named ``indice_key``.

    See :class:`SparseConvolution` and :func:`sparseconv.functional.inverse_conv`.
    """

    _ndim = 3


class SparseInverseConv4d(_SparseInverseConv):
    """Inverse convolution in 4D: back to the sites before the layer named ``indice_key``.

    See :class:`SparseConvolution` and :func:`sparseconv.functional.inverse_conv`.
    """

    _ndim = 4
