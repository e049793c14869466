"""A small pool that runs a kernel over ranges of rows.

Kernels are serial and release the GIL. Numba's own threading layers are not used: ``omp`` kills a forked
child, ``workqueue`` aborts when two Python threads call at once, and each parallel region costs milliseconds
here. The pool follows ``torch.get_num_threads()`` and is made anew after a fork. Its queue and locks are the
interpreter's own: an interrupt leaves those written in Python, as an executor's, locked for ever.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import os
import queue
import threading
from collections.abc import Callable

import numpy as np
import torch

from sparseconv.backends.cpu.atomic import linger, load, pause
from sparseconv.backends.cpu.jit import kernel
from sparseconv.backends.cpu.placement import Placement

# Of what is left a thread takes this share of its own part: large ranges first, since handing one out takes 2 us,
# and small ones last, since all threads wait for the last range.
_SHARE = 3
# A range may be so many times shorter than one that is worth a thread.
_SHORTENED = 4
# Looks of 25 ns at whether the others have left, before a thread sleeps: to be woken takes it 40 us, and a last
# range of the usual length about twice that.
_LOOKS = 4000
# How long the end of the process waits for a kernel to return.
_LAST_SECONDS = 5.0


@kernel
def _look_until_left(inside):
    """Wait until the word is zero, but not for long."""
    word = np.uint64(inside.ctypes.data)
    for _ in range(_LOOKS):
        if load(word) == 0:
            linger()
            return
        pause()


@functools.cache
def _compile_looks() -> None:
    """Once a process, whether anybody is waited for or not: a warm-up is to leave nothing to compile."""
    with contextlib.suppress(Exception):
        _look_until_left(np.zeros(1, np.int64))


class _Pool:
    """Threads that call what is put into their queue."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._placement = Placement()

    @property
    def size(self) -> int:
        """How many threads there are."""
        return len(self._threads)

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
            # What the call holds is not kept until the next one.
            del call

    def submit(self, call: Callable[[], None], count: int) -> None:
        """Have ``count`` threads make this call, which must not raise; fewer where no more can be started."""
        with self._lock, contextlib.suppress(RuntimeError):
            # At interpreter exit, or at a limit of the system, there are fewer.
            while len(self._threads) < count:
                thread = threading.Thread(target=self._serve, name=f"sparseconv_{self.size}", daemon=True)
                thread.start()
                self._threads.append(thread)
        with self._lock:
            self._placement.keep_off_caller(self._threads)
        for _ in range(min(count, self.size)):
            self._calls.put(call)

    def end(self) -> None:
        """Let the threads return."""
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads:
            thread.join(_LAST_SECONDS)


_pool = _Pool()


def _forget_pool() -> None:
    """In a forked child the parent's threads do not exist, and its lock may be held for ever."""
    global _pool
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)
# Code that runs must not be unloaded.
atexit.register(lambda: _pool.end())


class Joined:
    """Pool threads that join a caller's work, until the caller has ended its own share."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._lock = threading.Lock()
        self._work: Callable[[], None] | None = work
        # A word that is looked at without the interpreter's lock.
        self._inside = np.zeros(1, np.int64)
        self._has_waiter = False
        self._all_left = threading.Lock()
        self.errors: list[BaseException] = []

    @property
    def are_there(self) -> bool:
        """Whether any is inside."""
        return bool(self._inside[0])

    def call(self, count: int) -> None:
        """Call for up to ``count`` threads."""
        if count > 0:
            _pool.submit(self._join, count)

    def on_error(self) -> None:
        """Called in a thread whose work has raised."""

    def _join(self) -> None:
        with self._lock:
            # The caller may have ended before this thread woke.
            work = self._work
            if work is None:
                return
            self._inside[0] += 1
        try:
            work()
        except BaseException as raised:
            self.errors.append(raised)
            self.on_error()
        # What the work holds is the caller's to free.
        del work
        with self._lock:
            self._inside[0] -= 1
            if self._inside[0] == 0 and self._has_waiter:
                self._has_waiter = False
                self._all_left.release()

    def close(self) -> None:
        """Let no more threads in. A call that is still queued keeps this object, and no longer the work."""
        with self._lock:
            self._work = None

    def wait(self) -> None:
        """Wait until all have left: they use the caller's memory; interrupts meanwhile are noted as errors."""
        while self._inside[0]:
            try:
                # It only saves time: what stands in its way must not end the wait.
                with contextlib.suppress(Exception):
                    _look_until_left(self._inside)
                with self._lock:
                    if self._inside[0] and not self._has_waiter:
                        self._all_left.acquire(blocking=False)
                        self._has_waiter = True
                if self._has_waiter:
                    self._all_left.acquire()
                    self._all_left.release()
            except KeyboardInterrupt as raised:
                self.errors.append(raised)


def _cut(total: int, threads: int, shortest: int) -> list[int]:
    """Bounds of ranges that grow shorter, down to ``shortest``."""
    bounds, at = [0], 0
    while at < total:
        length = max(shortest, (total - at) // (_SHARE * threads))
        # No rest that is shorter.
        at = at + length if total - at - length >= shortest else total
        bounds.append(at)
    return bounds


def run_ranges(task: Callable[[int, int], object], total: int, smallest: int) -> None:
    """Call ``task(start, stop)`` over ranges that cover ``0 .. total``, on several threads where it pays.

    Args:
        task: must give the same result however the ranges are cut; runs concurrently with itself.
        total: length of the whole range; nothing is called where it is 0.
        smallest: a range shorter than this is not worth a thread of its own.
    """
    if total <= 0:
        return
    _compile_looks()
    threads = min(torch.get_num_threads(), total // max(1, smallest))
    if threads <= 1:
        task(0, total)
        return
    bounds = _cut(total, threads, max(1, smallest // _SHORTENED))
    pieces = len(bounds) - 1
    # next() of itertools.count is atomic, so each range is taken once.
    ticket = itertools.count()

    def work() -> None:
        while (piece := next(ticket)) < pieces:
            task(bounds[piece], bounds[piece + 1])

    joined = Joined(work)
    try:
        joined.call(threads - 1)
        work()
    except BaseException as raised:
        joined.errors.append(raised)
    joined.close()
    joined.wait()
    if joined.errors:
        raise joined.errors[0]
