"""Normalisation layers. Absent sites never count; an empty tensor passes unchanged."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sparseconv import functional as F
from sparseconv.nn.module import SparseModule
from sparseconv.nn.pointwise import OnFeatures
from sparseconv.tensor import SparseTensor, check_sparse

Features = TypeVar("Features", SparseTensor, Tensor)


class BatchNorm(SparseModule, nn.BatchNorm1d):
    """Batch normalisation over all sites of the batch. See :func:`sparseconv.functional.batch_norm`.

    Parameters and buffers are those of :class:`torch.nn.BatchNorm1d`, which a plain tensor goes through.
    """

    def forward(self, input: Features) -> Features:
        """No statistics are taken of no sites; gradients are then zero."""
        if not isinstance(input, SparseTensor):
            return super().forward(input)
        uses_batch = self.training or self.running_mean is None
        momentum = 0.0 if self.momentum is None else self.momentum
        if self.training and self.num_batches_tracked is not None and len(input):
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                momentum = 1.0 / float(self.num_batches_tracked)
        updated = self.training and self.track_running_stats
        return F.batch_norm(
            input,
            self.running_mean if updated or not uses_batch else None,
            self.running_var if updated or not uses_batch else None,
            self.weight,
            self.bias,
            uses_batch,
            momentum,
            self.eps,
        )


def _scaled(features: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Empty features tied to the parameters, so that every process of a distributed training has gradients."""
    if weight is not None and bias is not None:
        return (features * weight + bias).to(features.dtype)
    return features


class SyncBatchNorm(SparseModule, nn.SyncBatchNorm):
    """Batch normalisation over the sites of all processes. See :class:`torch.nn.SyncBatchNorm`.

    :meth:`convert_sync_batchnorm` turns every :class:`BatchNorm` of a model into this class, and torch's batch
    norms into torch's.
    """

    def forward(self, input: Features) -> Features:
        """Features through the torch module. A process without sites takes part, or the others would wait."""
        if not isinstance(input, SparseTensor):
            return super().forward(input)
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if len(input) == 0 and not (self.training and distributed):
            return input.replace_feature(_scaled(input.features, self.weight, self.bias))
        return input.replace_feature(super().forward(input.features))

    @classmethod
    def convert_sync_batchnorm(cls, module: nn.Module, process_group: Any = None) -> nn.Module:
        """Replace batch norms inside ``module``, keeping their parameters and buffers; sparse ones stay sparse."""
        if isinstance(module, BatchNorm):
            synced = cls(
                module.num_features,
                module.eps,
                module.momentum,
                affine=False,
                track_running_stats=False,
                process_group=process_group,
            )
            synced.affine, synced.track_running_stats = module.affine, module.track_running_stats
            synced.weight, synced.bias = module.weight, module.bias
            synced.running_mean, synced.running_var = module.running_mean, module.running_var
            synced.num_batches_tracked = module.num_batches_tracked
            synced.train(module.training)
            return synced
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            return nn.SyncBatchNorm.convert_sync_batchnorm(module, process_group)
        for name, child in module.named_children():
            module.add_module(name, cls.convert_sync_batchnorm(child, process_group))
        return module


class LayerNorm(OnFeatures, nn.LayerNorm):
    """Layer normalisation over each site's channels. See :class:`torch.nn.LayerNorm`."""


class GroupNorm(SparseModule):
    """Group normalisation. See :func:`sparseconv.functional.group_norm`.

    Args:
        num_groups: must divide ``num_channels``.
        num_channels: channels of the input.
        eps: added to the variance.
        affine: learn a scale and a shift for each channel.

    Raises:
        ValueError: ``num_groups`` does not divide ``num_channels``.
    """

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True) -> None:
        super().__init__()
        if num_groups < 1 or num_channels % num_groups:
            raise ValueError(
                f"num_groups must divide num_channels, got {num_groups} groups and {num_channels} channels"
            )
        self.num_groups = num_groups
        self.num_channels = num_channels
        self.eps = eps
        self.affine = affine
        if affine:
            self.weight: nn.Parameter | None = nn.Parameter(torch.ones(num_channels))
            self.bias: nn.Parameter | None = nn.Parameter(torch.zeros(num_channels))
        else:
            self.register_parameter("weight", None)
            self.register_parameter("bias", None)

    def forward(self, input: SparseTensor) -> SparseTensor:
        """See :func:`sparseconv.functional.group_norm`."""
        check_sparse(input, type(self).__name__)
        if input.features.shape[1] != self.num_channels:
            raise ValueError(
                f"{type(self).__name__} was made for {self.num_channels} channels, got features with "
                f"{input.features.shape[1]}"
            )
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """Sizes."""
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}"


class InstanceNorm(GroupNorm):
    """Instance normalisation: one group for each channel. See :func:`sparseconv.functional.instance_norm`.

    Args:
        num_features: channels of the input.
        eps: added to the variance.
        affine: learn a scale and a shift for each channel; off as in torch.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, affine: bool = False) -> None:
        super().__init__(num_features, num_features, eps, affine)
