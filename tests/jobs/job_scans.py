"""Folders of small scans, and a data set whose reader kills its process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sparseconv.scripts.jobs.settings import Settings

# A backbone that wants no large grid, on voxels that make a few hundred sites.
MODEL = "VoxelBackBone8x"


def settings(**changes: Any) -> Settings:
    return Settings.create(MODEL, **{"voxel_size": (0.5, 0.5, 0.1), **changes})


def write_scans(folder: Path, count: int, points: int = 600) -> list[Path]:
    """KITTI files in two subfolders, every one different."""
    paths = []
    for number in range(count):
        path = folder / ("first", "second")[number % 2] / f"{number:06d}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(number)
        cloud = rng.uniform([0, -40, -3, 0], [70, 40, 1, 1], (points + number, 4))
        cloud.astype(np.float32).tofile(path)
        paths.append(path)
    return paths


class Fragile:
    """Item i is 10 i; some items kill the process that loads them, always or the first time."""

    def __init__(self, length: int, always: set[int], once: set[int], notes: Path, started: Any = None) -> None:
        self.length, self.always, self.once, self.notes, self.started = length, always, once, notes, started

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        raise TypeError("a map-style data set")

    def __getitem__(self, index: int) -> int:
        from torch.utils.data import get_worker_info

        worker = get_worker_info()
        if worker is not None:
            self.started[worker.id] = index + 1
        note = self.notes / str(index)
        if index in self.always or (index in self.once and not note.exists()):
            note.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return 10 * index

    def watched(self, workers: int) -> Fragile:
        from ctypes import c_int64
        from multiprocessing.sharedctypes import RawArray

        return Fragile(self.length, self.always, self.once, self.notes, RawArray(c_int64, workers))
