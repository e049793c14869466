"""Work that an interrupt must not cut in two.

Numba's and LLVM's bookkeeping does not survive an exception at any line. Of four runs that compiled 200 kernels,
each with an interrupt at a random time, two ended in a segmentation fault; in the others 28 kernels gave a
``RuntimeError: no compiled object yet``.
"""

from __future__ import annotations

import functools
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

Result = TypeVar("Result")


# Found anew they would take half of the time of a call.
_signals = functools.cache(signal.valid_signals)


class _Handlers:
    """Handlers of signals that are called as ever, and whose exceptions are kept."""

    def __init__(self) -> None:
        self._before: dict[int, Callable[[int, FrameType | None], Any]] = {}
        self._is_keeping = True
        self._raised: list[BaseException] = []

    def _hear(self, number: int, frame: FrameType | None) -> None:
        try:
            self._before[number](number, frame)
        except BaseException as raised:
            if not self._is_keeping:
                raise
            self._raised.append(raised)

    def wrap(self) -> None:
        """Take the place of every handler that is written in Python."""
        for number in _signals():
            before = signal.getsignal(number)
            if callable(before):
                self._before[number] = before
                signal.signal(number, self._hear)

    def unwrap(self) -> None:
        """Put the handlers back, but for those that another one has taken the place of."""
        # An interrupt in this loop may leave some in their places: from here on they pass all through.
        self._is_keeping = False
        for number, before in self._before.items():
            if signal.getsignal(number) == self._hear:
                signal.signal(number, before)

    def raise_kept(self) -> None:
        """Raise what came first."""
        if self._raised:
            try:
                raise self._raised[0]
            finally:
                # Its traceback holds all callers' frames, and through this one itself.
                self._raised.clear()


def uninterrupted(work: Callable[[], Result]) -> Result:
    """Call ``work``; what the handler of a signal raises meanwhile is raised once the work has ended.

    Python calls such handlers in the main thread, between any two lines; other threads hear none.
    """
    if threading.get_ident() != threading.main_thread().ident:
        return work()
    handlers = _Handlers()
    try:
        handlers.wrap()
        return work()
    finally:
        try:
            handlers.unwrap()
        finally:
            handlers.raise_kept()
