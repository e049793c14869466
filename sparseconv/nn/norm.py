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
    """Batch normalisation over all sites of the batch: ``[N, C]`` to ``[N, C]`` on the same sites.

    Ioffe and Szegedy, "Batch Normalization", ICML 2015. Constructor, parameters and buffers are those of
    :class:`torch.nn.BatchNorm1d`, which a plain tensor goes through; the function is
    :func:`sparseconv.functional.batch_norm`.
    """

    def forward(self, input: Features) -> Features:
        """Normalise; no statistics are taken of no sites, and gradients are then zero.

        Raises:
            ValueError: one site in training, or another number of channels.
        """
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
    """Group normalisation over each sample's sites: ``[N, C]`` to ``[N, C]`` on the same sites.

    Wu and He, "Group Normalization", ECCV 2018. Constructor and parameters are those of
    :class:`torch.nn.GroupNorm`; the function is :func:`sparseconv.functional.group_norm`.

    Args:
        num_groups: must divide ``num_channels``.
        num_channels: ``C``.
        eps: added to the variance.
        affine: learn a scale and a shift for each channel.
        device: of the parameters.
        dtype: of the parameters.

    Attributes:
        weight: ``[C]`` of ones at first, or None.
        bias: ``[C]`` of zeros at first, or None.

    Raises:
        TypeError: a number of groups or channels that is no integer, or ``affine`` that is no bool.
        ValueError: ``num_groups`` does not divide ``num_channels``.
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("num_groups", num_groups), ("num_channels", num_channels)):
            if not hasattr(value, "__index__"):
                raise TypeError(f"{name} must be an integer, got {value!r}")
        if not isinstance(affine, bool):
            # torch's InstanceNorm has a momentum in this place.
            raise TypeError(
                f"affine must be True or False, got {affine!r}: there is no momentum here, since no running "
                "statistics are kept"
            )
        if num_groups < 1 or num_channels % num_groups:
            raise ValueError(
                f"num_groups must divide num_channels, got {num_groups} groups and {num_channels} channels"
            )
        self.num_groups = num_groups
        self.num_channels = num_channels
        self.eps = eps
        self.affine = affine
        if affine:
            self.weight: nn.Parameter | None = nn.Parameter(torch.empty(num_channels, device=device, dtype=dtype))
            self.bias: nn.Parameter | None = nn.Parameter(torch.empty(num_channels, device=device, dtype=dtype))
        else:
            self.register_parameter("weight", None)
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Scale 1 and shift 0."""
        if self.weight is not None and self.bias is not None:
            nn.init.ones_(self.weight)
            nn.init.zeros_(self.bias)

    def forward(self, input: SparseTensor) -> SparseTensor:
        """See :func:`sparseconv.functional.group_norm`.

        Raises:
            TypeError: the input is no sparse tensor.
            ValueError: another number of channels.
        """
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
    """Instance normalisation of each channel over each sample's sites: ``[N, C]`` to ``[N, C]``, same sites.

    Ulyanov et al., "Instance Normalization", 2016; the function is :func:`sparseconv.functional.instance_norm`. No
    running statistics are kept, so there is no momentum, and training and evaluation compute the same.

    Args:
        num_features: ``C``.
        eps: added to the variance.
        affine: learn a scale and a shift for each channel; off as in torch.
        device: of the parameters.
        dtype: of the parameters.

    Attributes:
        weight: ``[C]`` or None.
        bias: ``[C]`` or None.

    Raises:
        TypeError: as :class:`GroupNorm`.
        ValueError: fewer than one channel.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        affine: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_features, num_features, eps, affine, device, dtype)
