"""Seeded inputs: a real scan where the data folder is there, else a synthetic one, and random sites."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Points = npt.NDArray[np.float32]  # [N, 4]: x, y, z, intensity

# Grid of the KITTI detectors: (z, y, x) cells of 0.1 x 0.05 x 0.05 m from (-3, -40, 0) m on.
GRID = (41, 1600, 1408)
_ORIGIN = np.array([0.0, -40.0, -3.0], np.float32)
_VOXEL = np.array([0.05, 0.05, 0.1], np.float32)


def data_folder() -> Path | None:
    """``$SPARSECONV_DATA``, or ``shared/data`` beside the repository; None where neither exists."""
    named = os.environ.get("SPARSECONV_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    return folder if folder.is_dir() else None


def synthetic_scan(seed: int = 0, beams: int = 64, steps: int = 1900) -> Points:
    """A spinning scanner 1.7 m above a plane, with walls and boxes: as many points as a KITTI frame."""
    rng = np.random.default_rng(seed)
    pitch = np.deg2rad(np.linspace(2.0, -24.8, beams))[:, None]
    yaw = np.linspace(-np.pi, np.pi, steps, endpoint=False)[None]
    ground = np.where(pitch < -0.02, 1.7 / np.maximum(-np.tan(pitch), 1e-3), 120.0)
    walls = 12.0 / np.maximum(np.abs(np.sin(yaw)), 0.1) + rng.uniform(0, 3, (1, steps))
    boxes = np.where(np.sin(17 * yaw) > 0.8, 9.0 + 20 * np.cos(3 * yaw) ** 2, 120.0)
    distance = np.minimum(np.minimum(ground, walls), boxes) + rng.normal(0, 0.02, (beams, steps))
    x, y = distance * np.cos(yaw) * np.cos(pitch), distance * np.sin(yaw) * np.cos(pitch)
    z = distance * np.sin(pitch) + 0 * yaw
    points = np.stack([x, y, z, rng.uniform(0, 1, x.shape)], -1).reshape(-1, 4)
    return points[np.linalg.norm(points[:, :3], axis=1) < 100].astype(np.float32)


def scan() -> Points:
    """Points ``[N, 4]`` of KITTI frame 000000, or of :func:`synthetic_scan`."""
    folder = data_folder()
    if folder is not None:
        for path in sorted(folder.glob("kitti/training/velodyne/000000.bin")):
            return np.fromfile(path, np.float32).reshape(-1, 4)
    return synthetic_scan()


def scan_sites() -> Tensor:
    """Distinct voxels of :func:`scan` in :data:`GRID`, sorted: int32 ``[N, 4]``."""
    cells = np.floor((scan()[:, :3] - _ORIGIN) / _VOXEL).astype(np.int64)[:, ::-1]
    inside = ((cells >= 0) & (cells < np.array(GRID))).all(1)
    cells = np.unique(cells[inside], axis=0)
    sites = np.concatenate([np.zeros((len(cells), 1), np.int64), cells], 1)
    return torch.from_numpy(sites.astype(np.int32))


def random_sites(
    count: int,
    shape: Sequence[int],
    batches: Sequence[int] = (0,),
    seed: int = 0,
    low: Sequence[int] | None = None,
    shuffled: bool = False,
) -> Tensor:
    """Distinct sites, sorted unless shuffled: int32 ``[count, 1 + D]``.

    Args:
        count: number of sites.
        shape: size of the box that they fill.
        batches: batch indices in use; one that is left out is an empty sample.
        seed: of the choice.
        low: corner of the box, 0 where it is None.
        shuffled: rows in random order.
    """
    rng = np.random.default_rng(seed)
    cells = math.prod(shape)
    chosen = np.sort(rng.choice(cells * len(batches), size=count, replace=False))
    columns = np.unravel_index(chosen, (len(batches), *shape))
    sites = np.stack([np.asarray(batches)[columns[0]], *columns[1:]], 1)
    sites[:, 1:] += np.zeros(len(shape), np.int64) if low is None else np.asarray(low)
    if shuffled:
        rng.shuffle(sites)
    return torch.from_numpy(sites.astype(np.int32))
