"""Base of every layer that takes a sparse tensor."""

from __future__ import annotations

from torch import nn


class SparseModule(nn.Module):
    """A module whose forward takes a :class:`sparseconv.SparseTensor`.

    Derive from it, so that :class:`Sequential` hands the sparse tensor over and not its features.
    """


def takes_sparse(module: nn.Module) -> bool:
    """Whether a module, or any module inside it, is a :class:`SparseModule`."""
    return any(isinstance(part, SparseModule) for part in module.modules())
