"""Operators of ``torch.library``, defined without ``custom_op``.

``custom_op`` guards every call against Dynamo, and imports it for that at the first one: a second of start-up, and
microseconds a call. Nothing is lost without: Dynamo does not trace into a registered operator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_LIBRARY = torch.library.Library("sparseconv", "FRAGMENT")


class Operator:
    """A callable operator ``torch.ops.sparseconv.<name>`` for every device, from a typed function.

    Args:
        function: the implementation; its annotations give the schema. It changes no argument and returns none.

    Attributes:
        qualified_name: ``sparseconv::<name>``.
        overload: what ``torch.library.opcheck`` takes.

    Raises:
        ValueError: an annotation has no schema type.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        name = function.__name__
        _LIBRARY.define(name + torch.library.infer_schema(function, mutates_args=()))
        _LIBRARY.impl(name, function, "CompositeExplicitAutograd")
        self.qualified_name = f"sparseconv::{name}"
        self.overload: torch._ops.OpOverload = getattr(torch.ops.sparseconv, name).default
        self.__doc__ = function.__doc__
        self.__wrapped__ = function

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Run the operator: through autograd, autocast and fakes like any of torch's own."""
        return self.overload(*arguments, **named)

    def register_fake(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Register what the result looks like without running: a decorator."""
        torch.library.register_fake(self.qualified_name, function, lib=_LIBRARY)
        return function

    def register_autograd(self, backward: Callable[..., Any], *, setup_context: Callable[..., Any]) -> None:
        """Register the derivative, as ``torch.library.register_autograd`` takes it."""
        torch.library.register_autograd(self.qualified_name, backward, setup_context=setup_context, lib=_LIBRARY)
