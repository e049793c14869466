"""``spconv.pytorch.tables``: joining and adding branches."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn

from sparseconv.compat.spconv.pytorch.core import SparseConvTensor
from sparseconv.compat.spconv.pytorch.functional import sparse_add_hash_based
from sparseconv.compat.spconv.pytorch.modules import SparseModule


class JoinTable(SparseModule):
    """Channels of several tensors on the same sites behind each other."""

    def forward(self, input: list[SparseConvTensor]) -> SparseConvTensor:
        """Concatenate; sites are the first tensor's."""
        return input[0].replace_feature(torch.cat([tensor.features for tensor in input], 1))

    def input_spatial_size(self, out_size: Any) -> Any:
        """The same."""
        return out_size


class AddTable(SparseModule):
    """Sum of several tensors on the same sites."""

    def forward(self, input: list[SparseConvTensor]) -> SparseConvTensor:
        """Add; sites are the first tensor's."""
        return functools.reduce(lambda total, tensor: total + tensor, input)

    def input_spatial_size(self, out_size: Any) -> Any:
        """The same."""
        return out_size


class AddTableMisaligned(SparseModule):
    """Sum of several tensors on different sites: on their union."""

    def forward(self, input: list[SparseConvTensor]) -> SparseConvTensor:
        """Add; an absent site counts as zero."""
        return sparse_add_hash_based(*input)

    def input_spatial_size(self, out_size: Any) -> Any:
        """The same."""
        return out_size


class ConcatTable(SparseModule):
    """Several modules on one input: a list of their results."""

    def forward(self, input: Any) -> list[Any]:
        """Run every module."""
        return [module(input) for module in self.children()]

    def add(self, module: nn.Module) -> ConcatTable:
        """Append a module."""
        self.add_module(str(len(self._modules)), module)
        return self

    def input_spatial_size(self, out_size: Any) -> Any:
        """Of the first module."""
        first: Any = next(self.children())
        return first.input_spatial_size(out_size)
