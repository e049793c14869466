"""``spconv.pytorch.functional``: sums of tensors, and convolution and pooling over tables of pairs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparseconv import ops
from sparseconv.backends import backend_for
from sparseconv.compat.spconv.pytorch.core import SparseConvTensor
from sparseconv.compat.spconv.pytorch.pair_table import kernel_map_of
from sparseconv.compilation import eager
from sparseconv.functional.conv import convolve_features
from sparseconv.kernel_map import KernelMap


@eager
def sparse_add(*tens: SparseConvTensor) -> SparseConvTensor:
    """Sum of tensors of one grid and equal channels on the union of their sites, sorted.

    Raises:
        ValueError: no tensor, or different grids, batches or channels.
    """
    if not tens:
        raise ValueError("sparse_add needs at least one tensor")
    first = tens[0]
    for other in tens[1:]:
        if list(other.spatial_shape) != list(first.spatial_shape) or other.batch_size != first.batch_size:
            raise ValueError(
                f"sparse_add needs tensors of one grid and batch, got {first.spatial_shape} x {first.batch_size} "
                f"and {other.spatial_shape} x {other.batch_size}"
            )
        if other.features.shape[1] != first.features.shape[1]:
            raise ValueError(
                f"sparse_add needs tensors of equal channels, got {first.features.shape[1]} and "
                f"{other.features.shape[1]}"
            )
    indices = torch.cat([tensor.indices for tensor in tens]).int()
    features = torch.cat([tensor.features for tensor in tens])
    if len(indices) != len(features):
        raise ValueError(f"features have {len(features)} rows and indices {len(indices)}")
    sites, rows = backend_for(indices.device).unique_sites(indices)
    total = features.new_zeros((len(sites), features.shape[1])).index_add(0, rows, features)
    output = first.replace_feature(total)
    output.indices = sites
    return output


def sparse_add_hash_based(*tens: SparseConvTensor) -> SparseConvTensor:
    """See :func:`sparse_add`."""
    return sparse_add(*tens)


def indice_conv(
    features: Tensor,
    filters: Tensor,
    indice_pairs: Tensor,
    indice_pair_num: Tensor,
    num_activate_out: int,
    algo: Any = None,
    timer: Any = None,
    bias: Tensor | None = None,
    *ignored: Any,
) -> Tensor:
    """Convolution over a table of pairs.

    Args:
        features: ``[N, C_in]``.
        filters: ``[C_out, *kernel, C_in]``.
        indice_pairs: int32 ``[2, K, N]``, as :func:`..ops.get_indice_pairs` returns it.
        indice_pair_num: pairs of each tap ``[K]``.
        num_activate_out: number of output rows.
        algo: ignored.
        timer: ignored.
        bias: ``[C_out]`` or None.
        *ignored: activation of spconv's inference.
    """
    del algo, timer, ignored
    kernel_map = kernel_map_of(indice_pairs, indice_pair_num, len(features), num_activate_out)
    return convolve_features(features, filters, bias, kernel_map)


def indice_subm_conv(
    features: Tensor,
    filters: Tensor,
    indice_pairs: Tensor,
    indice_pair_num: Tensor,
    num_activate_out: int,
    algo: Any = None,
    timer: Any = None,
    bias: Tensor | None = None,
    *ignored: Any,
) -> Tensor:
    """Submanifold convolution over a table of pairs; arguments as :func:`indice_conv`."""
    return indice_conv(
        features, filters, indice_pairs, indice_pair_num, num_activate_out, algo, timer, bias, *ignored
    )


def indice_inverse_conv(
    features: Tensor,
    filters: Tensor,
    indice_pairs: Tensor,
    indice_pair_num: Tensor,
    num_activate_out: int,
    algo: Any = None,
    timer: Any = None,
    bias: Tensor | None = None,
    *ignored: Any,
) -> Tensor:
    """Inverse convolution: the pairs read from output to input; arguments as :func:`indice_conv`."""
    return indice_conv(
        features, filters, indice_pairs.flip(0), indice_pair_num, num_activate_out, algo, timer, bias, *ignored
    )


def _max(features: Tensor, kernel_map: KernelMap) -> Tensor:
    rows = kernel_map.in_rows, kernel_map.out_rows, kernel_map.tap_offsets
    return ops.max_pool(features, *rows, kernel_map.n_out)[0]


def indice_maxpool(
    features: Tensor, indice_pairs: Tensor, indice_pair_num: Tensor, num_activate_out: int
) -> Tensor:
    """Maximum over a table of pairs: ``[num_activate_out, C]``."""
    return _max(features, kernel_map_of(indice_pairs, indice_pair_num, len(features), num_activate_out))
