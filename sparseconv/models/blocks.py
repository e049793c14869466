"""What the published networks share: conv-norm-activation, the residual block, and the type that they return."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from sparseconv.nn import BatchNorm, Identity, ReLU, Sequential, SparseModule, SubMConv3d, fold_batch_norm
from sparseconv.tensor import SparseTensor

Norm = Callable[[int], nn.Module]


@dataclass(frozen=True, eq=False)
class BackboneOutput:
    """What every network of :mod:`sparseconv.models` returns.

    Attributes:
        encoded: the result: what a head reads.
        stages: the encoder's levels by name, fine to coarse.
    """

    encoded: SparseTensor
    stages: Mapping[str, SparseTensor]


def detection_norm(channels: int) -> BatchNorm:
    """Batch norm as the detectors set it: ``eps=1e-3, momentum=0.01``."""
    return BatchNorm(channels, eps=1e-3, momentum=0.01)


def conv_block(conv: nn.Module, channels: int, norm: Norm = detection_norm) -> Sequential:
    """A convolution to ``channels``, norm, ReLU: children ``0``, ``1``, ``2``."""
    return Sequential(conv, norm(channels), ReLU())


class BasicBlock(SparseModule):
    """Residual block of two 3x3x3 submanifold convolutions on the input's sites.

    He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, figure 5 left.

    Args:
        in_channels: C_in.
        channels: C_out.
        norm: makes a norm for a number of channels.
        bias: whether the convolutions have one.
        projection: what brings the input to C_out channels; None where C_in equals C_out.
        indice_key: names the map of both convolutions.

    Raises:
        ValueError: C_in and C_out differ and there is no ``projection``.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        norm: Norm = detection_norm,
        bias: bool = False,
        projection: nn.Module | None = None,
        indice_key: str | None = None,
    ) -> None:
        super().__init__()
        if projection is None and in_channels != channels:
            raise ValueError(
                f"a residual block from {in_channels} to {channels} channels needs a projection of its input"
            )
        self.conv1 = SubMConv3d(in_channels, channels, 3, bias=bias, indice_key=indice_key)
        self.bn1 = norm(channels)
        self.relu: nn.Module = ReLU()
        self.conv2 = SubMConv3d(channels, channels, 3, bias=bias, indice_key=indice_key)
        self.bn2 = norm(channels)
        self.downsample = projection

    def forward(self, input: SparseTensor) -> SparseTensor:
        """``[N, C_in]`` to ``[N, C_out]``."""
        skip = input if self.downsample is None else self.downsample(input)
        inner: SparseTensor = self.relu(self.bn1(self.conv1(input)))
        if self.conv2.fused_relu:
            return self.conv2(inner, add_input=skip)
        inner = self.bn2(self.conv2(inner))
        return self.relu(inner.replace_feature(inner.features + skip.features))

    def fuse_layers(self) -> None:
        """Fold both norms, the sum and the ReLUs into the convolutions; see :func:`sparseconv.nn.fuse`."""
        if fold_batch_norm(self.conv1, self.bn1) and fold_batch_norm(self.conv2, self.bn2):
            self.conv1.fused_relu = self.conv2.fused_relu = True
            self.bn1 = self.bn2 = self.relu = Identity()
