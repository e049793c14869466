"""Ctrl-C that is heard even where Python drops its KeyboardInterrupt.

Raised in a destructor or a weak reference's callback it is printed at best, and code in C may clear it. So the
signal is noted as well, and the note is read between two scans.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """Whether Ctrl-C was pressed.

    Attributes:
        heard: set by the signal.
    """

    def __init__(self) -> None:
        self.heard = False

    def check(self) -> None:
        """Raise KeyboardInterrupt where Ctrl-C was pressed."""
        if self.heard:
            raise KeyboardInterrupt


@contextmanager
def noted_interrupts() -> Iterator[Interrupts]:
    """Note Ctrl-C inside the block, beside what it does there; only the main thread ever hears it."""
    interrupts = Interrupts()
    before = signal.getsignal(signal.SIGINT)
    # Ignored from outside, as in a job of a shell's background, it stays ignored.
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield interrupts
        return

    def hear(number: int, frame: FrameType | None) -> None:
        interrupts.heard = True
        before(number, frame)

    signal.signal(signal.SIGINT, hear)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, before)
