"""The inputs: KITTI frame 000000 where the data folder has it, else a simulated street; voxels of both."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sparseconv.datasets import SimulatedStreet
from sparseconv.scripts.benchmarks.cases import COARSE, DETECTOR, FINE, TINY, UNSORTED
from sparseconv.scripts.scan import SECOND_RANGE, SECOND_VOXEL
from sparseconv.voxelization import hard_voxelize, voxelize

# Networks with four halvings lose no cell of a grid whose axes are multiples of this.
_DIVISOR = 16
# Horizontal half field of view of KITTI's camera 2, in radians: what stands in for the cropped scan.
_HALF_VIEW = 0.72


@dataclass(frozen=True)
class Scene:
    """Distinct sites on a bounded grid, and the features that voxelization gave them."""

    indices: Tensor
    shape: tuple[int, ...]
    features: Tensor


@dataclass(frozen=True)
class Scans:
    """The whole scan, and what of it lies in the camera's view."""

    source: str
    whole: np.ndarray
    camera: np.ndarray


def data_folder() -> Path:
    """``$SPARSECONV_DATA``, or ``shared/data`` beside the repository."""
    named = os.environ.get("SPARSECONV_DATA")
    return Path(named) if named else Path(__file__).resolve().parents[3] / "shared" / "data"


def read_scans() -> Scans:
    """KITTI's frame, or a simulated street of as many beams."""
    training = data_folder() / "kitti" / "training"
    paths = [training / folder / "000000.bin" for folder in ("velodyne", "velodyne_reduced")]
    if all(path.is_file() for path in paths):
        whole, camera = (np.fromfile(path, np.float32).reshape(-1, 4) for path in paths)
        return Scans("KITTI 000000", whole, camera)
    points = np.ascontiguousarray(SimulatedStreet(seed=0).scan().points, np.float32)
    in_view = np.abs(np.arctan2(points[:, 1], points[:, 0])) < _HALF_VIEW
    return Scans("simulated street, seed 0", points, points[in_view])


def _unbounded(points: np.ndarray, size: float) -> Scene:
    """All of a cloud's voxels, shifted so that the grid starts at 0 with a free cell around them."""
    voxels = voxelize(points, size)
    cells = voxels.indices[:, 1:]
    low = cells.amin(0) - 1
    indices = voxels.indices.clone()
    indices[:, 1:] = cells - low
    extent = (cells.amax(0) - low + 2).tolist()
    shape = tuple(-(-cell // _DIVISOR) * _DIVISOR for cell in extent)
    return Scene(indices, shape, voxels.features)


def build_scene(name: str, scans: Scans) -> Scene:
    """A scene of :mod:`sparseconv.scripts.benchmarks.cases` by name."""
    if name == DETECTOR:
        voxels = voxelize(scans.camera, SECOND_VOXEL, SECOND_RANGE)
        return Scene(voxels.indices, (41, 1600, 1408), voxels.features)
    if name == UNSORTED:
        found = hard_voxelize(scans.camera, SECOND_VOXEL, SECOND_RANGE, max_points=1, max_voxels=len(scans.camera))
        return Scene(found.indices, (41, 1600, 1408), found.points[:, 0])
    if name in (FINE, COARSE):
        return _unbounded(scans.whole, 0.05 if name == FINE else 0.1)
    if name == TINY:
        indices = torch.zeros(10, 4, dtype=torch.int32)
        indices[:, 3] = torch.arange(10)
        return Scene(indices, (4, 4, 16), torch.ones(10, 4))
    raise ValueError(f"no scene {name!r}")
