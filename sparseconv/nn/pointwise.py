"""Layers that act on each site's features alone: activations, linear, dropout.

Each is the torch module of the same name; it takes a sparse tensor, or a plain tensor as torch does.
"""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor, nn

from sparseconv.nn.module import SparseModule
from sparseconv.tensor import SparseTensor

Features = TypeVar("Features", SparseTensor, Tensor)


class OnFeatures(SparseModule):
    """Mixin: run the torch module that follows in the class order on the features."""

    def forward(self, input: Features) -> Features:
        """Features ``[N, C]`` through the torch module, on the same sites."""
        if isinstance(input, SparseTensor):
            return input.replace_feature(super().forward(input.features))
        return super().forward(input)


class Identity(OnFeatures, nn.Identity):
    """See :class:`torch.nn.Identity`."""


class Linear(OnFeatures, nn.Linear):
    """See :class:`torch.nn.Linear`."""


class Dropout(OnFeatures, nn.Dropout):
    """See :class:`torch.nn.Dropout`."""


class ReLU(OnFeatures, nn.ReLU):
    """See :class:`torch.nn.ReLU`."""


class ReLU6(OnFeatures, nn.ReLU6):
    """See :class:`torch.nn.ReLU6`."""


class LeakyReLU(OnFeatures, nn.LeakyReLU):
    """See :class:`torch.nn.LeakyReLU`."""


class PReLU(OnFeatures, nn.PReLU):
    """See :class:`torch.nn.PReLU`."""


class ELU(OnFeatures, nn.ELU):
    """See :class:`torch.nn.ELU`."""


class GELU(OnFeatures, nn.GELU):
    """See :class:`torch.nn.GELU`."""


class SiLU(OnFeatures, nn.SiLU):
    """See :class:`torch.nn.SiLU`."""


class Hardswish(OnFeatures, nn.Hardswish):
    """See :class:`torch.nn.Hardswish`."""


class Softplus(OnFeatures, nn.Softplus):
    """See :class:`torch.nn.Softplus`."""


class Sigmoid(OnFeatures, nn.Sigmoid):
    """See :class:`torch.nn.Sigmoid`."""


class Tanh(OnFeatures, nn.Tanh):
    """See :class:`torch.nn.Tanh`."""
