"""Sparse convolution on voxels: from a point cloud to features, on the voxels that exist and nothing else."""

import importlib
from types import ModuleType

from sparseconv import functional, nn
from sparseconv.backends import DuplicateSiteError, use_backend
from sparseconv.coordinates import CoordinateHash, Coordinates
from sparseconv.devoxelization import devoxelize
from sparseconv.geometry import ConvGeometry
from sparseconv.kernel_map import KernelMap
from sparseconv.nn import *  # noqa: F403 - every layer, as spconv spells them
from sparseconv.nn import __all__ as _layers
from sparseconv.tensor import SparseTensor
from sparseconv.voxel_grid import VoxelGrid
from sparseconv.voxelization import HardVoxels, Voxels, hard_voxelize, reduce_points, voxelize
from sparseconv.warm_up import warm_up

__version__ = "0.1.0"

_SUBPACKAGES = ("checkpoints", "compat", "datasets", "dense_ops", "flops", "models", "visualize")


def __getattr__(name: str) -> ModuleType:
    """Subpackages that most programs never need, imported when they are named."""
    if name in _SUBPACKAGES:
        return importlib.import_module(f"sparseconv.{name}")
    raise AttributeError(f"module 'sparseconv' has no attribute {name!r}")


__all__ = [
    "ConvGeometry",
    "CoordinateHash",
    "Coordinates",
    "DuplicateSiteError",
    "HardVoxels",
    "KernelMap",
    "SparseTensor",
    "VoxelGrid",
    "Voxels",
    "devoxelize",
    "functional",
    "hard_voxelize",
    "nn",
    "reduce_points",
    "use_backend",
    "voxelize",
    "warm_up",
    *_layers,
]
