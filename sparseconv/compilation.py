"""Where a graph of ``torch.compile`` ends: kernel maps are built in Python, on data."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def eager(function: Callable[P, R]) -> Callable[P, R]:
    """Run ``function`` outside the graph that is being compiled, if one is.

    ``torch.compiler.disable`` as a decorator would do the same, but loads the compiler at import: 0.7 s that a
    program without ``torch.compile`` never needs.
    """

    @functools.wraps(function)
    def outside(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling():
            return torch.compiler.disable(function)(*args, **kwargs)
        return function(*args, **kwargs)

    return outside
