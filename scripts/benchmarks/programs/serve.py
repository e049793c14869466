"""A worker process: waits for commands on standard input, one JSON a line, and answers each with one.

Started as ``python serve.py PROGRAM.py``. Commands: ``hello`` (versions), ``prepare`` (build a case, settle its
threads, save its output), ``run`` (seconds of some repeats), ``peak`` (of memory), ``free``.
"""

from __future__ import annotations

import gc
import importlib.metadata
import importlib.util
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

# One thread setting is dropped for another after this many runs each.
_SETTLING_RUNS = 3


class Server:
    """The state of a worker: its program, and the case at hand."""

    def __init__(self, path: str) -> None:
        spec = importlib.util.spec_from_file_location("program", path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} is not a Python file")
        self.program = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.program)
        self.step: Callable[[], Any] | None = None

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
        self.step = step
        return {"threads": self._settle(request["threads"])}

    def _settle(self, settings: list[int]) -> int:
        """The fastest of the thread settings, by the best of some runs."""
        best = {}
        for threads in settings if len(settings) > 1 else []:
            torch.set_num_threads(threads)
            best[threads] = min(self._seconds() for _ in range(_SETTLING_RUNS))
        chosen = min(best, key=lambda threads: best[threads]) if best else settings[0]
        torch.set_num_threads(chosen)
        return chosen

    def run(self, request: dict[str, Any]) -> dict[str, Any]:
        """Seconds of repeated runs: at least one, until the time or the number is reached.

        The run before the first one is not counted: it brings the data back into the caches that the other
        processes have used.
        """
        gc.collect()
        gc.disable()
        self._seconds()
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

    def peak(self, request: dict[str, Any]) -> dict[str, Any]:
        """Highest resident memory so far, in bytes."""
        return {"bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}

    def free(self, request: dict[str, Any]) -> dict[str, Any]:
        """Drop the case."""
        self.step = None
        gc.collect()
        return {}


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
