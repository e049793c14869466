"""What a worker process does: read one file and voxelize it. Whatever is wrong with the file is a result too."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from ctypes import c_int64
from dataclasses import dataclass
from multiprocessing.sharedctypes import RawArray
from typing import Any

import numpy as np
from torch.utils.data import Dataset, get_worker_info

from sparseconv.datasets import PointFileError
from sparseconv.scripts.jobs.search import ScanFile
from sparseconv.scripts.jobs.settings import Settings
from sparseconv.scripts.network import wants_bounded_grid
from sparseconv.scripts.scan import file_origin, load_scan
from sparseconv.scripts.scan_grid import grid_for
from sparseconv.voxel_grid import VoxelGrid
from sparseconv.voxelization import voxelize


@dataclass(frozen=True)
class VoxelizedScan:
    """One scan as it is handed to the backbone, in arrays that travel through a pipe.

    Shared memory would save a copy of a millisecond, and containers have 64 MB of it.

    Attributes:
        index: place in the job's list.
        features: float32 ``[M, C]``.
        indices: int32 ``[M, 4]``.
        grid: where the voxels lie, in the coordinates of the points as they were read.
        origin: float64 ``[3]``: where voxel 0 begins, in the file's coordinates.
        counts: points, points outside the range and points that are not finite; whether they are of a mesh; why
            the voxels are this large; milliseconds; size and time of the file.
    """

    index: int
    features: np.ndarray
    indices: np.ndarray
    grid: VoxelGrid
    origin: np.ndarray
    counts: dict[str, Any]


@dataclass(frozen=True)
class Failure:
    """One scan that could not be used.

    Attributes:
        index: place in the job's list.
        reason: one line.
    """

    index: int
    reason: str


ReadResult = VoxelizedScan | Failure


@functools.cache
def _load_kernels() -> None:
    """Once a process, so that the first scan's time is that of its voxels."""
    voxelize(np.zeros((1, 3), np.float32), 1.0)


def one_line(error: BaseException) -> str:
    """An error as one line that says what kind it is, unless it is one of ours."""
    text = " ".join(str(error).split())
    if isinstance(error, PointFileError | ValueError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def read_scan(index: int, scan: ScanFile, settings: Settings) -> ReadResult:
    """Read and voxelize one file; every error becomes a :class:`Failure`."""
    _load_kernels()
    try:
        start = time.perf_counter()
        cloud = load_scan(scan.path, settings.seed, settings.mesh_points)
        status = scan.path.stat()
        read = time.perf_counter()
        bounded = wants_bounded_grid(settings.model)
        chosen = grid_for(cloud, bounded, settings.voxel_size, settings.point_range)
        voxels = voxelize(cloud.points, chosen.grid.voxel_size, chosen.point_cloud_range, nonfinite="drop")
        if len(voxels.indices) == 0:
            return Failure(index, cloud.outside(chosen.point_cloud_range))
        counts = {
            "points": len(cloud.points),
            "outside": voxels.num_outside,
            "not_finite": voxels.num_nonfinite,
            "from_mesh": cloud.from_mesh,
            "voxel_size_reason": chosen.reason,
            "bytes": status.st_size,
            "modified_ns": status.st_mtime_ns,
            "read_ms": 1000 * (read - start),
            "voxelize_ms": 1000 * (time.perf_counter() - read),
        }
        origin = file_origin(voxels.grid, cloud.origin)
        return VoxelizedScan(index, voxels.features.numpy(), voxels.indices.numpy(), voxels.grid, origin, counts)
    except Exception as error:
        return Failure(index, one_line(error).removeprefix(f"{scan.path}: "))


class ScanFiles(Dataset[ReadResult]):
    """The files of a job, read in whichever process asks for them.

    Args:
        scans: the job's list.
        settings: of the job.
        started: for each worker the number of the file that it began last, from 1 on; survives the worker.
    """

    def __init__(self, scans: Sequence[ScanFile], settings: Settings, started: Any = None) -> None:
        self.scans = scans
        self.settings = settings
        self.started = started

    def __len__(self) -> int:
        return len(self.scans)

    def __getitem__(self, index: int) -> ReadResult:
        worker = get_worker_info()
        if worker is not None and self.started is not None:
            self.started[worker.id] = index + 1
        return read_scan(index, self.scans[index], self.settings)

    def watched(self, workers: int) -> ScanFiles:
        """The same files with a fresh place for each of so many workers to say what it began."""
        return ScanFiles(self.scans, self.settings, RawArray(c_int64, workers))
