"""Normalisation over the sites of each sample."""

from __future__ import annotations

import torch
from torch import Tensor

from sparseconv.ops.precision import widen
from sparseconv.tensor import SparseTensor, check_sparse


def group_norm(
    input: SparseTensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> SparseTensor:
    """Group normalisation: mean and variance over a sample's sites and the channels of a group.

    Wu and He, "Group Normalization", ECCV 2018; absent sites do not count.

    Args:
        input: sparse tensor ``[N, C]``.
        num_groups: must divide C.
        weight: ``[C]`` or None.
        bias: ``[C]`` or None.
        eps: added to the variance.
    """
    check_sparse(input, "group_norm")
    features = input.features
    rows, channels = features.shape
    if num_groups < 1 or channels % num_groups:
        raise ValueError(f"the {channels} channels cannot be cut into {num_groups} groups")
    wide = widen(features)
    batch = input.indices[:, 0].long()
    counts = torch.bincount(batch, minlength=input.batch_size).clamp(min=1)
    size = (counts * (channels // num_groups))[:, None].to(wide.dtype)

    def mean_of(values: Tensor) -> Tensor:
        by_group = values.reshape(rows, num_groups, channels // num_groups).sum(2)
        total = by_group.new_zeros((input.batch_size, num_groups)).index_add(0, batch, by_group)
        means = (total / size).index_select(0, batch)
        return means.repeat_interleave(channels // num_groups, 1)

    centred = wide - mean_of(wide)
    normal = centred * torch.rsqrt(mean_of(centred * centred) + eps)
    if weight is not None:
        normal = normal * weight
    if bias is not None:
        normal = normal + bias
    return input.replace_feature(normal.to(features.dtype))


def instance_norm(
    input: SparseTensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> SparseTensor:
    """Instance normalisation: mean and variance of each channel over a sample's sites.

    Ulyanov et al., "Instance Normalization", 2016; absent sites do not count. Arguments as :func:`group_norm`.
    """
    check_sparse(input, "instance_norm")
    return group_norm(input, input.features.shape[1], weight, bias, eps)
