"""``spconv.pytorch.ops``: grids and tables of pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from sparseconv.compat.spconv.core import ConvAlgo
from sparseconv.compat.spconv.pytorch.pair_table import pair_table
from sparseconv.coordinates import Coordinates
from sparseconv.geometry import ConvGeometry

__all__ = ["ConvAlgo", "get_conv_output_size", "get_deconv_output_size", "get_indice_pairs"]


def get_conv_output_size(
    input_size: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> list[int]:
    """Grid of a convolution's output; a kernel side of -1 spans its axis and gives 1.

    Raises:
        ValueError: an axis would have no cell.
    """
    whole = [side == -1 for side in kernel_size]
    sizes = [1 if spans else int(size) for size, spans in zip(input_size, whole, strict=True)]
    kernel = [1 if spans else int(side) for side, spans in zip(kernel_size, whole, strict=True)]
    geometry = ConvGeometry.create(len(sizes), kernel, stride, padding, dilation)
    shape = geometry.output_shape(sizes)
    return [1 if spans else size for size, spans in zip(shape, whole, strict=True)]


def get_deconv_output_size(
    input_size: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    output_padding: Sequence[int],
) -> list[int]:
    """Grid of a transposed convolution's output, dilation included.

    Raises:
        ValueError: an axis would have no cell.
    """
    geometry = ConvGeometry.create(len(input_size), kernel_size, stride, padding, dilation)
    return geometry.transposed_output_shape([int(size) for size in input_size], output_padding)


def get_indice_pairs(
    indices: Tensor,
    batch_size: int,
    spatial_shape: Sequence[int],
    algo: ConvAlgo | None = None,
    ksize: Any = 3,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    out_padding: Any = 0,
    subm: bool = False,
    transpose: bool = False,
    num_out_act_bound: int = -1,
) -> tuple[Tensor, Tensor, Tensor]:
    """Output sites and pairs of a layer.

    Args:
        indices: int32 ``[N, 1+D]``, distinct.
        batch_size: number of samples.
        spatial_shape: grid.
        algo: ignored.
        ksize: kernel size.
        stride: stride; ignored by a submanifold layer, as padding is.
        padding: padding.
        dilation: dilation.
        out_padding: output padding of a transposed layer.
        subm: keep the sites.
        transpose: transposed convolution.
        num_out_act_bound: ignored.

    Returns:
        Output sites int32 ``[M, 1+D]``; the table int32 ``[2, K, N]``, -1 behind the last pair; int32 ``[K]``
        pairs of each tap. All taps are filled, those of a submanifold layer too.
    """
    del algo, num_out_act_bound
    ndim = indices.shape[1] - 1
    sites = Coordinates(indices.clone(), spatial_shape, batch_size)
    if subm:
        kernel_map = sites.submanifold_map(ConvGeometry.submanifold(ndim, ksize, dilation))
        return indices, *pair_table(kernel_map, len(indices))
    geometry = ConvGeometry.create(ndim, ksize, stride, padding, dilation)
    if transpose:
        extra = tuple(out_padding) if hasattr(out_padding, "__iter__") else (out_padding,) * ndim
        outputs, kernel_map = sites.upsample(geometry, extra)
    else:
        outputs, kernel_map = sites.downsample(geometry)
    return outputs.indices, *pair_table(kernel_map, len(indices))
