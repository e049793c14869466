"""Layers that act on each site's features alone: activations, linear, dropout.

Each is the torch module of the same name; it takes a sparse tensor, or a plain tensor as torch does.
"""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor, nn

from sparseconv.nn.module import SparseModule
from sparseconv.tensor import SparseTensor

Features = TypeVar("Features", SparseTensor, Tensor)


class _Pointwise(SparseModule):
    """Mixin: run the torch module that follows in the class order on the features."""

    def forward(self, input: Features) -> Features:
        """Features ``[N, C]`` through the torch module, on the same sites."""
        if isinstance(input, SparseTensor):
            return input.replace_feature(super().forward(input.features))
        return super().forward(input)


class Identity(_Pointwise, nn.Identity):
    """See :class:`torch.nn.Identity`."""


class Linear(_Pointwise, nn.Linear):
    """See :class:`torch.nn.Linear`."""


class Dropout(_Pointwise, nn.Dropout):
    """See :class:`torch.nn.Dropout`."""


class ReLU(_Pointwise, nn.ReLU):
    """See :class:`torch.nn.ReLU`."""


class ReLU6(_Pointwise, nn.ReLU6):
    """See :class:`torch.nn.ReLU6`."""


class LeakyReLU(_Pointwise, nn.LeakyReLU):
    """See :class:`torch.nn.LeakyReLU`."""


class PReLU(_Pointwise, nn.PReLU):
    """See :class:`torch.nn.PReLU`."""


class ELU(_Pointwise, nn.ELU):
    """See :class:`torch.nn.ELU`."""


class GELU(_Pointwise, nn.GELU):
    """See :class:`torch.nn.GELU`."""


class SiLU(_Pointwise, nn.SiLU):
    """See :class:`torch.nn.SiLU`."""


class Hardswish(_Pointwise, nn.Hardswish):
    """See :class:`torch.nn.Hardswish`."""


class Softplus(_Pointwise, nn.Softplus):
    """See :class:`torch.nn.Softplus`."""


class Sigmoid(_Pointwise, nn.Sigmoid):
    """See :class:`torch.nn.Sigmoid`."""


class Tanh(_Pointwise, nn.Tanh):
    """See :class:`torch.nn.Tanh`."""
