"""Convolutions whose plain kernel is a fixed linear map of their weight."""

from __future__ import annotations

import torch
from torch import Tensor

from sparseconv.functional.variants.placement import keep_taps
from sparseconv.kernel_map import KernelMap
from sparseconv.ops.mapped import convolve_features
from sparseconv.tensor import NamedMap


def fold_taps(weight: Tensor, matrix: Tensor) -> Tensor:
    """Map the taps of a weight ``[O, .., C / groups]`` with T taps by ``[T, K]``: ``[O, K, C / groups]``."""
    # Autocast would round the weight twice, before the sums and after.
    with torch.autocast(weight.device.type, enabled=False):
        return torch.einsum("otc,tk->okc", weight.flatten(1, -2), matrix.to(weight))


def used_taps(matrix: Tensor) -> tuple[int, ...]:
    """Taps of the plain kernel that some weight reaches."""
    return tuple(matrix.any(0).nonzero().flatten().tolist())


def folded_map(record: NamedMap, matrix: Tensor) -> KernelMap:
    """The pairs of the taps that some weight reaches."""
    return keep_taps(record.kernel_map, used_taps(matrix))


def convolve_folded(
    features: Tensor, weight: Tensor, matrix: Tensor, bias: Tensor | None, record: NamedMap, groups: int
) -> Tensor:
    """Convolve with the weight folded by ``matrix [T, K]``, over the taps that some weight reaches.

    Args:
        features: ``[n_in, C]``.
        weight: ``[O, .., C / groups]`` with T taps.
        matrix: ``[T, K]``; K is the number of taps of the map.
        bias: ``[O]`` or None.
        record: sites and map of the plain kernel.
        groups: channel groups.
    """
    taps = fold_taps(weight, matrix[:, list(used_taps(matrix))])
    return convolve_features(features, taps, bias, folded_map(record, matrix), groups)
