"""Multiply-adds of the engine's ops from their arguments, for our own counts and for torch's counter.

``torch.utils.flop_counter.FlopCounterMode`` then counts them like torch's own convolutions: forward and backward,
without biases, one multiply-add as two FLOPs. A map's pairs are the length of its rows, so that shapes alone give
the exact number, under fake tensors too; weighted pairs may hold absent ones, which do not count where their rows
can be read. Pooling is left out, as torch leaves it out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

Formula = Callable[..., int]

_COUNTER = "torch.utils.flop_counter"


def _convolve(features: Tensor, weight: Tensor, bias: Tensor | None, in_rows: Tensor, *_: Any) -> int:
    return in_rows.shape[0] * weight.shape[0] * weight.shape[2]


def _convolve_epilogue(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    relu: bool,
    in_rows: Tensor,
    *_: Any,
) -> int:
    return in_rows.shape[0] * weight.shape[0] * weight.shape[2]


def _convolve_weight_gradient(
    features: Tensor,
    grad: Tensor,
    in_rows: Tensor,
    out_rows: Tensor,
    tap_offsets: Tensor,
    back_in_rows: Tensor,
    back_out_rows: Tensor,
    groups: int,
) -> int:
    return in_rows.shape[0] * (features.shape[1] // groups) * grad.shape[1]


def _weighted_sum(features: Tensor, coefficients: Tensor, in_rows: Tensor, out_rows: Tensor, *_: Any) -> int:
    return present_pairs(in_rows, out_rows) * features.shape[1]


def _pair_dots(left: Tensor, right: Tensor, left_rows: Tensor, right_rows: Tensor, groups: int) -> int:
    return present_pairs(left_rows, right_rows) * left.shape[1]


def present_pairs(rows: Tensor, others: Tensor) -> int:
    """Pairs of which neither row is -1; all of them where the rows hold no data (fake tensors)."""
    if rows.device.type == "meta" or isinstance(rows, FakeTensor):
        return rows.shape[0]
    return int(((rows >= 0) & (others >= 0)).sum())


# By the op's name in torch.ops.sparseconv: multiply-adds from the op's arguments.
MULTIPLY_ADDS: dict[str, Formula] = {
    "convolve": _convolve,
    "convolve_epilogue": _convolve_epilogue,
    "convolve_weight_gradient": _convolve_weight_gradient,
    "weighted_sum": _weighted_sum,
    "pair_dots": _pair_dots,
}


def _flops(formula: Formula) -> Formula:
    def flops(*arguments: Any, out_val: Any = None, **named: Any) -> int:
        return 2 * formula(*arguments, **named)

    return flops


def _register(counter: ModuleType) -> None:
    for name, formula in MULTIPLY_ADDS.items():
        packet = getattr(torch.ops.sparseconv, name)
        if packet not in counter.flop_registry:
            counter.register_flop_formula(packet, get_raw=True)(_flops(formula))


class _ThenRegister(Loader):
    """Loads the counter as its own loader does, then tells it about the engine's ops."""

    def __init__(self, loader: Loader, finder: MetaPathFinder) -> None:
        self._loader, self._finder = loader, finder

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        _register(module)
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)


class _CounterFinder(MetaPathFinder):
    """Waits for the first import of the counter, and is gone from ``sys.meta_path`` afterwards.

    A mere look for the counter (``importlib.util.find_spec``) imports nothing, and leaves it in its place.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _COUNTER:
            return None
        for finder in list(sys.meta_path):
            spec = None if isinstance(finder, _CounterFinder) else finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _ThenRegister(spec.loader, self)
                return spec
        return None


def register_flop_formulas() -> None:
    """Make ``FlopCounterMode`` count the engine's ops, now or as soon as it is imported.

    Torch's counter imports Triton where that is installed (0.13 s); a program that counts nothing must not pay
    for it.
    """
    counter = sys.modules.get(_COUNTER)
    if counter is not None and hasattr(counter, "register_flop_formula"):
        _register(counter)
    elif not any(isinstance(finder, _CounterFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _CounterFinder())
