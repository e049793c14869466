"""A digest of options that is the same in every process, and differs wherever the options do."""

from __future__ import annotations

import copyreg
import hashlib
import os
from collections.abc import Iterable
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import numpy as np
from torch import Tensor

_PLAIN = (type(None), bool, int, float, complex, str, bytes)


def stable_digest(value: object, what: str = "value") -> bytes:
    """Hash a value by its content: every entry of arrays and containers, paths in full, objects by their state.

    Args:
        value: numbers, text, paths, arrays, tensors, containers, functions and classes of a module, and objects of
            these: whatever can be pickled.
        what: name of the value, for the message.

    Returns:
        32 bytes.

    Raises:
        TypeError: a part of it has no content to go by, such as an open file or a lambda.
    """
    return _Digest().of(value, what)


class _Digest:
    def __init__(self) -> None:
        self._open: set[int] = set()

    def of(self, value: Any, what: str) -> bytes:
        if type(value) in _PLAIN:
            return _hash(type(value).__name__, [repr(value).encode()])
        if isinstance(value, os.PathLike):
            return _hash("path", [os.fsencode(os.path.realpath(value))])
        if isinstance(value, type):
            return _hash("class", [_name(value)])
        if isinstance(value, FunctionType) or (
            isinstance(value, BuiltinFunctionType) and isinstance(value.__self__, ModuleType | None)
        ):
            if "<" in value.__qualname__:
                raise TypeError(f"{what} is {value.__qualname__}, a function without a name of its own")
            return _hash("function", [_name(value)])
        if id(value) in self._open:
            raise TypeError(f"{what} contains itself: its content has no end")
        self._open.add(id(value))
        try:
            return self._of_object(value, what)
        finally:
            self._open.discard(id(value))

    def _of_object(self, value: Any, what: str) -> bytes:
        kind = _name(type(value))
        if isinstance(value, np.ndarray | np.generic) and not value.dtype.hasobject:
            array = np.asarray(value)
            return _hash("array", [kind, str(array.dtype).encode(), str(array.shape).encode(), array.tobytes()])
        if isinstance(value, Tensor):
            # NumPy lacks some of torch's floating types; float64 holds them all.
            entries = (value.double() if value.is_floating_point() else value).detach().cpu().numpy()
            shape = str(tuple(value.shape)).encode()
            return _hash("tensor", [str(value.dtype).encode(), shape, entries.tobytes()])
        if type(value) in (list, tuple):
            return _hash("sequence", [kind, *(self.of(item, f"{what}[{i}]") for i, item in enumerate(value))])
        if isinstance(value, set | frozenset):
            return _hash("set", [kind, *sorted(self.of(item, f"an entry of {what}") for item in value)])
        if type(value) is dict:
            return _hash("dict", [kind, *self._pairs(value.items(), what)])
        try:
            reducer = copyreg.dispatch_table.get(type(value))
            reduced: Any = value.__reduce_ex__(4) if reducer is None else reducer(value)
        # A class of a user's own may fail in any way.
        except Exception as error:
            name = type(value).__name__
            raise TypeError(f"{what} is a {name}, whose content cannot be read ({error})") from None
        if isinstance(reduced, str):
            return _hash("name", [kind, reduced.encode()])
        make, arguments, state, items, pairs = (list(reduced) + [None] * 3)[:5]
        return _hash(
            "object",
            [
                kind,
                self.of(make, what),
                self.of(arguments, what),
                self._of_state(state, what),
                _hash("items", (self.of(item, f"{what}[{i}]") for i, item in enumerate(items or ()))),
                _hash("pairs", self._pairs(pairs or (), what)),
            ],
        )

    def _of_state(self, state: Any, what: str) -> bytes:
        if type(state) is dict and all(isinstance(name, str) for name in state):
            names = sorted(state)
            return _hash("state", (_hash(name, [self.of(state[name], f"{what}.{name}")]) for name in names))
        return self.of(state, what)

    def _pairs(self, pairs: Iterable[tuple[Any, Any]], what: str) -> list[bytes]:
        # Two mappings are equal in whatever order they were filled.
        return sorted(
            _hash("pair", [self.of(key, f"a key of {what}"), self.of(item, f"{what}[{key!r:.40}]")])
            for key, item in pairs
        )


def _name(value: Any) -> bytes:
    return f"{value.__module__}.{value.__qualname__}".encode()


def _hash(kind: str, parts: Iterable[bytes]) -> bytes:
    digest = hashlib.sha256(kind.encode())
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()
