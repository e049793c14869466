"""A small pool that runs a kernel over ranges of rows.

Kernels are serial and release the GIL. Numba's own threading layers are not used: ``omp`` kills a forked
child, ``workqueue`` aborts when two Python threads call at once, and each parallel region costs milliseconds
here. The pool follows ``torch.get_num_threads()`` and is made anew after a fork.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_pool_size = 0

# Ranges per thread: enough to even out uneven rows, few enough that handing them out (about 2 us each)
# stays below 1 % of the work.
_RANGES_PER_THREAD = 8


def _forget_pool() -> None:
    """In a forked child the parent's threads do not exist, and its lock may be held for ever."""
    global _lock, _pool, _pool_size
    _lock = threading.Lock()
    _pool = None
    _pool_size = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def submit(work: Callable[[], None], count: int) -> list[Future[None]]:
    """Hand ``work`` to ``count`` pool threads, growing the pool where it is too small.

    Where no more threads can be started (at interpreter exit, or at a limit of the system), fewer are used.
    """
    global _pool, _pool_size
    submitted: list[Future[None]] = []
    with _lock:
        if _pool is None or _pool_size < count:
            if _pool is not None:
                # What is queued there still runs; nothing new is handed to it.
                _pool.shutdown(wait=False)
            _pool = ThreadPoolExecutor(count, thread_name_prefix="sparseconv")
            _pool_size = count
        with contextlib.suppress(RuntimeError):
            for _ in range(count):
                submitted.append(_pool.submit(work))  # noqa: PERF401 - what was submitted before a failure counts
    return submitted


def run_ranges(task: Callable[[int, int], object], total: int, smallest: int) -> None:
    """Call ``task(start, stop)`` over ranges that cover ``0 .. total``, on several threads where it pays.

    Args:
        task: must give the same result however the ranges are cut; runs concurrently with itself.
        total: length of the whole range; nothing is called where it is 0.
        smallest: a range shorter than this is not worth a thread of its own.
    """
    if total <= 0:
        return
    threads = torch.get_num_threads()
    pieces = min(threads * _RANGES_PER_THREAD, total // max(1, smallest))
    if threads == 1 or pieces <= 1:
        task(0, total)
        return
    bounds = [total * i // pieces for i in range(pieces + 1)]
    # next() of itertools.count is atomic, so each range is taken once.
    ticket = itertools.count()

    def work() -> None:
        while (piece := next(ticket)) < pieces:
            task(bounds[piece], bounds[piece + 1])

    helpers = submit(work, min(threads, pieces) - 1)
    errors: list[BaseException] = []
    try:
        work()
    except BaseException as raised:
        errors.append(raised)
    # A helper that has not started has nothing left to do.
    started = [helper for helper in helpers if not helper.cancel()]
    errors.extend(failure for helper in started if (failure := helper.exception()) is not None)
    if errors:
        raise errors[0]
