"""Chains of modules, branches and the way to dense tensors."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, overload

from torch import Tensor, nn

from sparseconv import functional as F
from sparseconv.nn.module import SparseModule, takes_sparse
from sparseconv.tensor import SparseTensor, check_sparse


class Sequential(SparseModule):
    """Chain of sparse and plain modules; plain ones (``nn.Linear``, ``nn.BatchNorm1d``, ..) see the features.

    Args:
        *modules: modules in order, or one ``OrderedDict`` of them.
        **named_modules: further modules by name.

    Raises:
        ValueError: a name is taken.
    """

    def __init__(self, *modules: nn.Module | OrderedDict[str, nn.Module], **named_modules: nn.Module) -> None:
        super().__init__()
        named: list[tuple[str, nn.Module]] = []
        for number, module in enumerate(modules):
            if isinstance(module, OrderedDict):
                if len(modules) > 1:
                    raise TypeError("pass either modules or one OrderedDict of them")
                named += module.items()
            else:
                named.append((str(number), module))
        for name, module in (*named, *named_modules.items()):
            if name in self._modules:
                raise ValueError(f"the module name {name!r} is taken")
            self.add_module(name, module)

    def add(self, module: nn.Module, name: str | None = None) -> None:
        """Append a module, under the next number unless named.

        Raises:
            KeyError: the name is taken.
        """
        if name is None:
            # A slice keeps the names of its modules, so the length alone may be taken.
            name = next(str(n) for n in itertools.count(len(self)) if str(n) not in self._modules)
        if name in self._modules:
            raise KeyError(f"the module name {name!r} is taken")
        self.add_module(name, module)

    def __len__(self) -> int:
        """Number of modules."""
        return len(self._modules)

    @overload
    def __getitem__(self, position: int) -> nn.Module: ...

    @overload
    def __getitem__(self, position: slice) -> Sequential: ...

    def __getitem__(self, position: int | slice) -> nn.Module:
        """Module at a position, or a chain of a slice of them."""
        if isinstance(position, slice):
            return Sequential(OrderedDict(list(self.named_children())[position]))
        return list(self.children())[position]

    def __iter__(self) -> Iterator[nn.Module]:
        """Modules in order."""
        return self.children()

    def forward(self, input: Any) -> Any:
        """Hand the tensor from module to module."""
        for module in self:
            if isinstance(input, SparseTensor) and not takes_sparse(module):
                if len(input) or not isinstance(module, nn.modules.batchnorm._BatchNorm):
                    # torch's batch norms refuse an empty batch in training; it has no statistics to take.
                    input = input.replace_feature(module(input.features))
            else:
                input = module(input)
        return input


class ToDense(SparseModule):
    """Dense grid ``[B, C, *shape]`` of a sparse tensor ``[N, C]``; see :meth:`sparseconv.SparseTensor.dense`."""

    def forward(self, input: SparseTensor) -> Tensor:
        """See :meth:`sparseconv.SparseTensor.dense`.

        Raises:
            TypeError: the input is no sparse tensor.
            ValueError: the grid is unbounded, or would need more than 1 TB.
        """
        check_sparse(input, "ToDense")
        return input.dense()


class Add(SparseModule):
    """Sum of tensors. See :func:`sparseconv.functional.add`."""

    def forward(self, *tensors: SparseTensor) -> SparseTensor:
        """See :func:`sparseconv.functional.add`."""
        return F.add(*tensors)


class Concatenate(SparseModule):
    """Channels of several tensors behind each other. See :func:`sparseconv.functional.cat`."""

    def forward(self, *tensors: SparseTensor) -> SparseTensor:
        """See :func:`sparseconv.functional.cat`."""
        return F.cat(*tensors)


class Prune(SparseModule):
    """Keep some of the sites. See :func:`sparseconv.functional.prune`."""

    def forward(self, input: SparseTensor, keep: Tensor) -> SparseTensor:
        """See :func:`sparseconv.functional.prune`."""
        return F.prune(input, keep)
