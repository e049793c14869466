"""Normalisation over the sites of the batch, or of each sample."""

from __future__ import annotations

import torch
from torch import Tensor

from sparseconv import ops
from sparseconv.ops.precision import widen
from sparseconv.tensor import SparseTensor, check_sparse


def _check_per_channel(user: str, channels: int, **parameters: Tensor | None) -> None:
    for name, values in parameters.items():
        if values is not None and values.shape != (channels,):
            raise ValueError(
                f"{user} was given features of {channels} channels and a {name} of shape {list(values.shape)}: it "
                f"must have shape [{channels}]"
            )


def batch_norm(
    input: SparseTensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> SparseTensor:
    """Batch normalisation: mean and variance of each channel over all sites of the batch.

    Ioffe and Szegedy, "Batch Normalization", ICML 2015; absent sites do not count. As
    ``torch.nn.functional.batch_norm`` on the features, in float32 or wider, with every sum in a fixed order.

    Args:
        input: sparse tensor ``[N, C]``; an empty one passes with no statistics taken.
        running_mean: ``[C]``, updated in place in training; what normalises otherwise. Only in training may it and
            ``running_var`` be None.
        running_var: ``[C]``, updated in place in training with the unbiased variance.
        weight: ``[C]`` or None.
        bias: ``[C]`` or None.
        training: whether to take the statistics of the input.
        momentum: share of the new statistics in the running ones.
        eps: added to the variance.

    Returns:
        ``[N, C]`` on the same sites, in the input's type.

    Raises:
        TypeError: the input is no sparse tensor.
        ValueError: one site in training, which has no variance; no running statistics where they would normalise,
            or one of them alone; or another number of channels.
    """
    check_sparse(input, "batch_norm")
    features = input.features
    rows, channels = features.shape
    _check_per_channel(
        "batch_norm", channels, weight=weight, bias=bias, running_mean=running_mean, running_var=running_var
    )
    if (running_mean is None) != (running_var is None):
        raise ValueError(
            "batch_norm needs running_mean and running_var together: pass both, or neither in training"
        )
    if running_mean is None and not training:
        raise ValueError(
            "batch_norm has no statistics to normalise by: pass running_mean and running_var, or training=True to "
            "take those of the input"
        )
    wide = torch.promote_types(features.dtype, torch.float32)
    if training and rows == 1:
        raise ValueError(
            f"batch norm needs more than one site in training, got features [1, {channels}]: use a larger "
            "batch or eval mode"
        )
    if training and rows:
        mean, variance = ops.column_moments(features)
        with torch.no_grad():
            if running_mean is not None and running_var is not None:
                unbiased = variance.detach() * (rows / (rows - 1))
                running_mean.lerp_(mean.detach().to(running_mean.dtype), momentum)
                running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    elif running_mean is not None and running_var is not None:
        mean, variance = running_mean.to(wide), running_var.to(wide)
    else:
        mean, variance = features.new_zeros(channels, dtype=wide), features.new_ones(channels, dtype=wide)
    scale = torch.rsqrt(variance + eps)
    if weight is not None:
        scale = scale * weight.to(wide)
    shift = -mean * scale
    if bias is not None:
        shift = shift + bias.to(wide)
    return input.replace_feature(ops.scale_shift(features, scale, shift))


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

    Returns:
        ``[N, C]`` on the same sites, in the input's type; sums are taken in float32 or wider. A sample of one site
        and one channel a group has the variance 0, and comes out as the bias.

    Raises:
        TypeError: the input is no sparse tensor.
        ValueError: ``num_groups`` does not divide C, or a weight or bias of another shape.
    """
    check_sparse(input, "group_norm")
    features = input.features
    rows, channels = features.shape
    _check_per_channel("group_norm", channels, weight=weight, bias=bias)
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

    Ulyanov et al., "Instance Normalization", 2016; absent sites do not count. It is :func:`group_norm` with a
    group for each channel, and so are its arguments, result and errors.
    """
    check_sparse(input, "instance_norm")
    return group_norm(input, input.features.shape[1], weight, bias, eps)
