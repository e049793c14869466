"""A step of a call on several threads that fails in the caller or in a helper."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any


def failing_step(take: Callable[..., object], in_caller: bool, error: BaseException) -> Callable[..., object]:
    """``take``, but raising ``error`` in the thread that calls this, or in every other one."""
    caller = threading.current_thread()
    has_failed = threading.Event()

    def fail(*arguments: Any, **options: Any) -> object:
        if (threading.current_thread() is caller) == in_caller:
            has_failed.set()
            raise error
        if not in_caller:
            # The caller alone could end before a helper is there, or before its error is noted.
            has_failed.wait(60)
            time.sleep(0.05)
        return take(*arguments, **options)

    return fail
