"""Items from data-loader workers, some of which may die.

Workers are spawned, never forked: the parent's OpenMP threads do not survive a fork, and a fork server's child
could die in the middle of a message without the parent's hearing of it. The end of a spawned worker raises
SIGCHLD in the parent, which torch's data loader turns into an error wherever the parent is, once. Where nobody
hears that error (in a destructor, say) the parent may wait for ever for the rest of a dead worker's message, so a
thread watches the workers too.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import wait
from typing import Any, Protocol

from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling

# Each worker is this many items ahead of the parent, so that memory does not grow with the job.
_PREFETCH = 2
# So often may workers die in a row before any of them has begun a file: then it is no file's fault.
_FRUITLESS_DEATHS = 3
# Seconds that the parent has to act on a worker's end before all of its workers are ended.
_GRACE = 5.0


class Watched(Protocol):
    """A map-style data set that notes, for each worker, the number of the item that it began last, from 1 on."""

    started: Any

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...

    def watched(self, workers: int) -> Watched:
        """A copy with a fresh note for each worker."""
        ...


def for_each(
    items: Watched, workers: int, consume: Callable[[int, Any], None], give_up: Callable[[int, str], None]
) -> None:
    """Load every item once and consume it in this process.

    Items come in order. Where a worker dies, the items that workers had begun and not delivered are loaded again,
    each in a worker of its own; one that kills that worker too is given up, and the rest goes on.

    Args:
        items: what to load.
        workers: processes; 0: load in this one, where nothing survives a crash.
        consume: called with index and item; may be called again for an item during which a worker died.
        give_up: called with the index and the reason.

    Raises:
        ChildProcessError: workers die before they begin any item.
    """
    if workers == 0:
        for index in range(len(items)):
            consume(index, items[index])
        return
    done: set[int] = set()

    def take(index: int, item: Any) -> None:
        consume(index, item)
        done.add(index)

    pending = list(range(len(items)))
    fruitless = 0
    while pending:
        before = len(done)
        round_items = items.watched(min(workers, len(pending)))
        death = _load(round_items, pending, min(workers, len(pending)), take)
        suspects = sorted({number - 1 for number in round_items.started if number} - done)
        for suspect in suspects if death is not None else []:
            death_alone = _load(items.watched(1), [suspect], 1, take)
            if death_alone is not None and suspect not in done:
                give_up(suspect, f"its reading process died twice, the second time alone ({death_alone})")
                done.add(suspect)
        pending = [index for index in pending if index not in done]
        fruitless = 0 if len(done) > before else fruitless + 1
        if fruitless == _FRUITLESS_DEATHS:
            raise ChildProcessError(f"reading processes die before they read any file ({death}): try --jobs 0")


def _load(items: Any, indices: Sequence[int], workers: int, take: Callable[[int, Any], None]) -> str | None:
    """Load items by index until all are taken or a worker dies; then how it died."""
    loader: DataLoader[Any] = DataLoader(
        items,
        batch_size=None,
        sampler=indices,
        num_workers=workers,
        multiprocessing_context="spawn",
        prefetch_factor=_PREFETCH,
        collate_fn=_unchanged,
        worker_init_fn=_one_thread,
    )
    try:
        with _workers_without_interrupts():
            loaded = iter(loader)
        with _watched_over(loaded):
            for index, item in zip(indices, loaded, strict=True):
                take(index, item)
    except RuntimeError as error:
        if not is_worker_death(error):
            raise
        # Where the parent was waiting for data, the loader puts its own words before the signal's.
        cause = error.__cause__
        text = " ".join(str(cause if cause is not None and is_worker_death(cause) else error).split())
        return text.partition(" Details are lost")[0].rstrip(". ")
    return None


@contextlib.contextmanager
def _watched_over(loaded: Any) -> Iterator[None]:
    """End a data loader's wait for a message that will not come: while the block goes on, no worker may be dead.

    Once no process is left that could write the rest of the message, the parent's read ends with an error.
    """
    workers = getattr(loaded, "_workers", ())
    finished = threading.Event()

    def watch() -> None:
        sentinels = [worker.sentinel for worker in workers]
        while sentinels and not finished.is_set():
            if wait(sentinels, timeout=1.0) and not finished.wait(_GRACE):
                # Their ends are no news any more: an error for each would fall anywhere in what follows.
                with contextlib.suppress(Exception):
                    signal_handling._remove_worker_pids(id(loaded))
                    loaded._worker_pids_set = False
                for worker in workers:
                    worker.kill()
                loaded._worker_result_queue._writer.close()
                return

    watcher = threading.Thread(target=watch, name="watcher of data-loader workers", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        finished.set()
        watcher.join()


def is_worker_death(error: BaseException) -> bool:
    """Whether this is torch's news, raised wherever the parent is, that a worker of a data loader has died."""
    return isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker")


def _unchanged(item: Any) -> Any:
    return item


def _one_thread(worker: int) -> None:
    """The data loader has set torch to one thread, which the kernels follow; LAZ decoding has its own switch."""
    os.environ.setdefault("RAYON_NUM_THREADS", "1")


@contextlib.contextmanager
def _workers_without_interrupts() -> Iterator[None]:
    """Processes started inside never see Ctrl-C: the parent does, and ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
