"""``spconv.pytorch.modules``: the base class, the container, and norms and activations on sparse tensors."""

from __future__ import annotations

import sys
import time
from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from sparseconv import nn as engine
from sparseconv.compat.spconv.pytorch.core import SparseConvTensor
from sparseconv.nn.module import takes_sparse


class SparseModule(engine.SparseModule):
    """A module whose forward takes a :class:`SparseConvTensor`.

    Args:
        name: kept, not used.
    """

    def __init__(self, name: str | None = None) -> None:
        super().__init__()
        self.name = name
        self._sparse_unique_name = ""


class _OnFeatures:
    """Mixin: run the torch module that follows in the class order on the features."""

    def forward(self, input: Any) -> Any:
        if not isinstance(input, SparseConvTensor):
            return super().forward(input)  # type: ignore[misc]
        return on_features(super().forward, self, input)  # type: ignore[misc]


def on_features(run: Any, module: Any, input: SparseConvTensor) -> SparseConvTensor:
    """Run a plain module on the features; a batch norm takes no statistics of no sites."""
    if len(input) == 0 and isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if isinstance(module, nn.SyncBatchNorm) and distributed:
            # A process without sites takes part, or the others would wait for it.
            return input.replace_feature(run(input.features))
        if module.weight is None:
            return input
        # Tied to the parameters, so that every process of a distributed training has gradients.
        tied = (input.features * module.weight + module.bias).to(input.features.dtype)
        return input.replace_feature(tied)
    return input.replace_feature(run(input.features))


class SparseBatchNorm(_OnFeatures, nn.BatchNorm1d):
    """Batch norm over all sites. See :class:`torch.nn.BatchNorm1d`."""


class SparseSyncBatchNorm(_OnFeatures, nn.SyncBatchNorm):
    """Batch norm over the sites of all processes. See :class:`torch.nn.SyncBatchNorm`."""


class SparseReLU(_OnFeatures, nn.ReLU):
    """See :class:`torch.nn.ReLU`."""


class SparseIdentity(_OnFeatures, nn.Identity):
    """See :class:`torch.nn.Identity`."""


_ON_TENSORS = (engine.SparseModule, _OnFeatures)


def is_spconv_module(module: nn.Module) -> bool:
    """Whether a module's forward takes a sparse tensor."""
    return isinstance(module, _ON_TENSORS)


def is_sparse_conv(module: nn.Module) -> bool:
    """Whether a module is a sparse convolution."""
    return isinstance(module, engine.SparseConvolution)


class SparseSequential(SparseModule):
    """Chain of sparse and plain modules; plain ones see the features.

    A ``torch.nn.Sequential`` of sparse modules sees the tensor.

    Args:
        *args: modules in order, or one ``OrderedDict`` of them.
        **kwargs: further modules by name.

    Raises:
        ValueError: a name is taken.
    """

    def __init__(self, *args: Any, **kwargs: nn.Module) -> None:
        super().__init__()
        if len(args) == 1 and isinstance(args[0], OrderedDict):
            named = list(args[0].items())
        else:
            named = [(str(number), module) for number, module in enumerate(args)]
        for name, module in (*named, *kwargs.items()):
            if name in self._modules:
                raise ValueError(f"the module name {name!r} is taken")
            self.add_module(name, module)
        self._sparity_dict: dict[str, float] = {}

    def __getitem__(self, idx: int | slice) -> Any:
        """Module at a position, or a chain of a slice of them."""
        if isinstance(idx, slice):
            return SparseSequential(OrderedDict(list(self._modules.items())[idx]))
        return list(self._modules.values())[idx]

    def __len__(self) -> int:
        """Number of modules."""
        return len(self._modules)

    @property
    def sparity_dict(self) -> dict[str, float]:
        """Kept for its name; not filled."""
        return self._sparity_dict

    def add(self, module: nn.Module, name: str | None = None) -> None:
        """Append a module, under the next number unless named.

        Raises:
            KeyError: the name is taken.
        """
        name = str(len(self._modules)) if name is None else name
        if name in self._modules:
            raise KeyError(f"the module name {name!r} is taken")
        self.add_module(name, module)

    def forward(self, input: Any) -> Any:
        """Hand the tensor from module to module."""
        for module in self._modules.values():
            if isinstance(input, SparseConvTensor) and not _takes_tensor(module):
                input = on_features(module, module, input)
            else:
                input = module(input)  # type: ignore[misc]
        return input


def _takes_tensor(module: nn.Module | None) -> bool:
    if module is None or is_spconv_module(module):
        return True
    inside = any(is_spconv_module(part) for part in module.modules())
    return isinstance(module, nn.Sequential | nn.DataParallel) and (inside or takes_sparse(module))


def assign_name_for_sparse_modules(module: nn.Module) -> None:
    """Give each sparse module its path as ``_sparse_unique_name``."""
    for name, part in module.named_modules():
        if isinstance(part, SparseModule):
            part._sparse_unique_name = name


class PrintTensorMeta(SparseModule):
    """Write size and range of what passes to stdout."""

    def forward(self, input: Any) -> Any:
        """Write, and pass on."""
        features = input.features if isinstance(input, SparseConvTensor) else input
        low, high = torch.aminmax(features.detach()) if features.numel() else (0.0, 0.0)
        sys.stdout.write(f"{list(features.shape)} {features.dtype} {float(low):.6g} .. {float(high):.6g}\n")
        return input


class PrintCurrentTime(SparseModule):
    """Write the time at which something passes to stdout."""

    def forward(self, input: Any) -> Any:
        """Write, and pass on."""
        sys.stdout.write(f"{time.time():.6f}\n")
        return input
