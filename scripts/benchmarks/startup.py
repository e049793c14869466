"""How long a new process takes to a backbone's first output, with and without compiled kernels on disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sparseconv.scripts.benchmarks.scenes import Scene
from sparseconv.scripts.benchmarks.workers import PROGRAMS

_ROUNDS = 3


@dataclass
class StartUp:
    """Seconds of new processes of one kind, one entry a process.

    Attributes:
        name: which cache they met.
        seconds: ``whole`` process, ``import``, and the ``first`` and ``second`` forward pass.
    """

    name: str
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def median(self, part: str) -> float:
        """Median seconds of a part."""
        return float(np.median(self.seconds[part]))


def measure_startup(scene: Scene, threads: int) -> list[StartUp]:
    """New processes, in turn with the cache as it is and with an empty one."""
    warm, empty = StartUp("compiled kernels on disk"), StartUp("empty cache")
    with tempfile.TemporaryDirectory(prefix="sparseconv-bench-") as folder:
        data, kept = Path(folder) / "scene.npz", Path(folder) / "kept"
        np.savez(data, indices=scene.indices.numpy(), features=scene.features.numpy(), shape=np.array(scene.shape))
        _start(data, threads, kept, None)
        for number in range(_ROUNDS):
            _start(data, threads, kept, warm)
            _start(data, threads, Path(folder) / f"empty-{number}", empty)
    return [warm, empty]


def _start(data: Path, threads: int, cache: Path, result: StartUp | None) -> None:
    """One process; without a result it only fills the cache."""
    command = [sys.executable, str(PROGRAMS / "first_output.py"), str(data), str(threads)]
    environment = os.environ | {"SPARSECONV_CACHE_DIR": str(cache)}
    start = time.perf_counter()
    process = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    whole = time.perf_counter() - start
    if process.returncode:
        raise ValueError(f"first_output.py failed: {(process.stderr.strip().splitlines() or ['no message'])[-1]}")
    if result is not None:
        for part, seconds in {"whole": whole, **json.loads(process.stdout)}.items():
            result.seconds.setdefault(part, []).append(seconds)
