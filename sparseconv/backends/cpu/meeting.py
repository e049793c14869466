"""Where threads meet that take the steps of one call together, without a word of Python between.

A step of a scan takes as long as waking a thread does, 60 us, and so does each meeting of two threads at the
interpreter's lock. So helpers are woken once, and threads meet at words of memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from sparseconv.backends.cpu.atomic import add, linger, load, pause
from sparseconv.backends.cpu.helper_threads import Helpers
from sparseconv.backends.cpu.jit import kernel

# Words are this far from each other: each is on a cache line of its own.
LINE = 8
# The word that ends the work of all.
HAS_ENDED = 0

# Looks at what others do before a waiting thread returns to Python, where it sleeps: another program may need the
# core. A look takes about 25 ns, so this is a quarter of a millisecond.
LOOKS = 10_000
# For a thread that has waited for long, awake: it gives its core to another program.
_SLEEP_SECONDS = 5e-5


@kernel
def word(place, index):
    """Address of a word."""
    return place + np.uint64(8 * index)


@kernel
def wait(place, index, value):
    """Look until the word has at least the value; returns whether it has: False after a while, or at the end."""
    for _ in range(LOOKS):
        if load(word(place, index)) >= value:
            return True
        if load(word(place, HAS_ENDED)) != 0:
            return False
        pause()
    return False


@kernel
def wait_for(place, index):
    """Wait until the caller has set the word; returns whether it has: False after a while.

    For the end of a helper's step: in Python it would come to the interpreter's lock together with the caller.
    """
    is_set = wait(place, index, 1)
    if is_set:
        # The caller leaves the interpreter's lock in the meantime.
        linger()
    return is_set


@kernel
def take(place, ticket, tasks, from_back):
    """A task that no other thread has, or -1: the caller takes them from the front and helpers from the back.

    So a thread comes again to the memory that it had in the step before. The words for front and back stand behind
    that of the tickets.
    """
    if load(word(place, HAS_ENDED)) != 0 or add(word(place, ticket), 1) >= tasks:
        return -1
    if from_back:
        return tasks - 1 - add(word(place, ticket + 2 * LINE), 1)
    return add(word(place, ticket + LINE), 1)


class Meeting:
    """The words of one call, and the threads that take its steps.

    A step is called by each thread and returns whether all of them have ended it; False after a while of waiting,
    and is then called again.
    """

    def __init__(self, count: int) -> None:
        """``count`` int64, all zero."""
        self.words = np.zeros(count, np.int64)
        self.place = np.uint64(self.words.ctypes.data)

    def helpers(self, steps: Sequence[Callable[[], bool]]) -> Helpers:
        """Threads that take these steps, once they are called."""

        def work() -> None:
            for step in steps:
                while not step():
                    if self.words[HAS_ENDED]:
                        return
                    time.sleep(_SLEEP_SECONDS)

        return Helpers(work, self.dismiss)

    def lead(self, step: Callable[[], bool], helpers: Helpers) -> None:
        """Take a step as the caller; raises what a helper raised."""
        while not step():
            helpers.check()
            time.sleep(_SLEEP_SECONDS)

    def dismiss(self) -> None:
        """End the helpers' work, whatever is left of it."""
        self.words[HAS_ENDED] = 1
