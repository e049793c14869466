"""How far a big job is: a bar on a terminal; a line now and then in a log."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sparseconv.scripts.console import err, out
from sparseconv.scripts.jobs.job import Outcome

# Seconds between two lines of a log: a slow scan is then no silence, and a night is a thousand lines.
_LOG_EVERY = 30.0


class Display:
    """Shows a job's outcome as it grows, from the ``with`` block's begin to its end.

    Args:
        log: lines without a terminal; None: a bar with the rate on a terminal.
    """

    def __init__(self, log: Log | None = None) -> None:
        self._log = log if log is not None or err.is_terminal else Log()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=err,
            transient=True,
            disable=self._log is not None,
        )
        self._task = self._bar.add_task("running", total=None, rate="")

    def __enter__(self) -> Display:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()
        if self._log is not None:
            self._log.stop()

    def begin(self, outcome: Outcome) -> None:
        """Say what is left."""
        if outcome.skipped:
            out.print(
                f"[bold]skipped[/bold] {outcome.skipped:,} of {outcome.total:,} scans: done already "
                "(--overwrite runs them again)",
                highlight=False,
            )
        self._bar.update(self._task, total=outcome.total - outcome.skipped)
        if self._log is not None:
            self._log.start(outcome)

    def update(self, outcome: Outcome) -> None:
        """Show how far the job is."""
        finished, rate = _progress(outcome, outcome.seconds)
        self._bar.update(self._task, completed=finished, rate=rate)


def _progress(outcome: Outcome, seconds: float) -> tuple[int, str]:
    """How many scans were gone through, and how fast, in words."""
    finished = len(outcome.done) + len(outcome.failed)
    failed = f", {len(outcome.failed):,} failed" if outcome.failed else ""
    return finished, f"{finished / seconds:.2g} scans/s{failed}" if finished and seconds else ""


class Log:
    """Lines on stderr by the clock and not by the scan, from a thread of its own.

    Args:
        wait: called with the seconds until the next line; returns True where no more lines are wanted. None: until
            :meth:`stop`.
        clock: seconds.
    """

    def __init__(
        self, wait: Callable[[float], bool] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stopped = threading.Event()
        self._wait = wait or self._stopped.wait
        self._clock = clock
        self._thread: threading.Thread | None = None

    def start(self, outcome: Outcome) -> None:
        """Begin to write about an outcome that another thread changes."""
        self._thread = threading.Thread(target=self._write, args=(outcome,), name="log of a big job", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; no line is written after this returns."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def _write(self, outcome: Outcome) -> None:
        start = self._clock()
        while not self._wait(_LOG_EVERY):
            seconds = self._clock() - start
            # By this clock: the outcome's own stands still while a scan goes on.
            finished, rate = _progress(outcome, seconds)
            left = outcome.total - outcome.skipped
            line = f"sparseconv: {finished:,} of {left:,} scans after {seconds:,.0f} s" + (rate and f", {rate}")
            try:
                sys.stderr.write(line + "\n")
                sys.stderr.flush()
            except (OSError, ValueError):
                # Nobody reads the log any more; the job is worth going on.
                return
