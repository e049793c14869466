"""A worker process: waits for commands on standard input, one JSON a line, and answers each with one.

Started as ``python serve.py PROGRAM.py``. Commands: ``hello`` (versions), ``prepare`` (build a case, settle its
threads, save its output), ``run`` (seconds of some repeats), ``memory`` (of one run), ``free``.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

# One thread setting is dropped for another after this many seconds and runs each, or one long run. Three runs of a
# millisecond chose by chance.
_SETTLING_SECONDS = 0.03
_SETTLING_RUNS = 3
# A run of this length fills the caches by itself.
_LONG_SECONDS = 0.5


class Server:
    """The state of a worker: its program, and the case at hand."""

    def __init__(self, path: str) -> None:
        spec = importlib.util.spec_from_file_location("program", path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} is not a Python file")
        self.program = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.program)
        self.step: Callable[[], Any] | None = None
        self._needs_warming = True

    def hello(self, request: dict[str, Any]) -> dict[str, Any]:
        """Versions, and the kinds of steps that the program has."""
        versions = {name: importlib.metadata.version(name) for name in self.program.PACKAGES}
        return {"python": platform.python_version(), "versions": versions, "steps": list(self.program.STEPS)}

    def prepare(self, request: dict[str, Any]) -> dict[str, Any]:
        """Build the case, keep the fastest thread setting, save what a run gives."""
        torch.set_num_threads(request["threads"][-1])
        with np.load(request["data"]) as arrays:
            step, collect = self.program.STEPS[request["step"]]({**arrays}, request["options"])
        np.savez(request["output"], **collect(step()))
        self.step, self._needs_warming = step, True
        return {"threads": self._settle(request["threads"])}

    def _settle(self, settings: list[int]) -> int:
        """The fastest of the thread settings, by the best of some runs."""
        best = {}
        for threads in settings if len(settings) > 1 else []:
            torch.set_num_threads(threads)
            seconds = [self._seconds()]
            while seconds[0] < _LONG_SECONDS and (
                len(seconds) < _SETTLING_RUNS or sum(seconds) < _SETTLING_SECONDS
            ):
                seconds.append(self._seconds())
            best[threads] = min(seconds)
        chosen = min(best, key=lambda threads: best[threads]) if best else settings[0]
        torch.set_num_threads(chosen)
        return chosen

    def run(self, request: dict[str, Any]) -> dict[str, Any]:
        """Seconds of repeated runs: at least one, until the time or the number is reached.

        A short run before the first one is not counted: it brings the data back into the caches that the other
        processes have used.
        """
        gc.collect()
        gc.disable()
        if self._needs_warming:
            self._needs_warming = self._seconds() < _LONG_SECONDS
        seconds: list[float] = []
        while not seconds or (sum(seconds) < request["seconds"] and len(seconds) < request["repeats"]):
            seconds.append(self._seconds())
        gc.enable()
        return {"seconds": seconds}

    def _seconds(self) -> float:
        if self.step is None:
            raise RuntimeError("no case was prepared")
        start = time.perf_counter()
        self.step()
        return time.perf_counter() - start

    def memory(self, request: dict[str, Any]) -> dict[str, Any]:
        """Bytes of resident memory that one run takes at its peak beyond what is there before it."""
        gc.collect()
        # What earlier runs have freed must not hide what this one takes.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = _status_bytes("VmRSS")
        self._seconds()
        return {"bytes": _status_bytes("VmHWM") - before}

    def free(self, request: dict[str, Any]) -> dict[str, Any]:
        """Drop the case."""
        self.step = None
        gc.collect()
        return {}


def _status_bytes(name: str) -> int:
    """A figure of Linux about this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


def main() -> None:
    """Answer until standard input ends."""
    # The answers have a channel of their own: what libraries print goes to the log.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    server = Server(sys.argv[1])
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(server, request["do"])(request)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
