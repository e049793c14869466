"""A value computed at its first use and kept on its object."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class memoized(Generic[T]):
    """Like ``functools.cached_property``, without a lock.

    That one holds a lock of the class until Python 3.12, which a child forked meanwhile finds locked for ever. Two
    threads may compute the value twice here; both get an equal one.
    """

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self._compute = compute
        self._name = compute.__name__
        self.__doc__ = compute.__doc__

    def __get__(self, owner: Any, kind: type | None = None) -> T:
        """Compute and keep; afterwards the object's own attribute is found first."""
        if owner is None:
            return self  # type: ignore[return-value]
        value = self._compute(owner)
        owner.__dict__[self._name] = value
        return value
