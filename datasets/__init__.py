"""Point clouds from files, data sets of them, and simulated ones where there is no file.

`read_points` reads one file. The data sets (`KittiObject`, `SemanticKitti`, `NuScenes`, `Waymo`, `ScanNet`,
`S3DIS`, `ModelNet40`, `ShapeNetPart`) are `torch.utils.data.Dataset`s of `Sample`s; `collate` makes a batch with
a sparse tensor of several, and `augmentations` change them.

Importing this package loads NumPy and nothing heavier: what needs torch is imported when it is named; Open3D,
laspy and pyarrow by the one function that needs them.
"""

import importlib
from typing import TYPE_CHECKING, Any

from . import augmentations
from .boxes import box_corners, overlap_bev, points_in_boxes, transform_boxes
from .files import SUPPORTED_SUFFIXES, read_points
from .folders import DatasetFolderError
from .mesh import TriangleMesh, sample_surface
from .mesh_files import read_mesh
from .point_cloud import PointCloud
from .point_file import PointFileError
from .sample import Sample
from .simulated_room import SimulatedRoom
from .simulated_street import SimulatedStreet

if TYPE_CHECKING:
    from .batching import Batch, collate, label_voxels
    from .cached_dataset import CachedDataset
    from .kitti_object import KittiObject
    from .modelnet40 import ModelNet40
    from .nuscenes import NuScenes
    from .point_dataset import PointDataset
    from .s3dis import S3DIS
    from .scannet import ScanNet
    from .semantic_kitti import SemanticKitti
    from .shapenet_part import ShapeNetPart
    from .simulated_datasets import SimulatedRoomDataset, SimulatedStreetDataset
    from .waymo import Waymo

_LAZY = {
    "Batch": "batching",
    "collate": "batching",
    "label_voxels": "batching",
    "CachedDataset": "cached_dataset",
    "KittiObject": "kitti_object",
    "ModelNet40": "modelnet40",
    "NuScenes": "nuscenes",
    "PointDataset": "point_dataset",
    "S3DIS": "s3dis",
    "ScanNet": "scannet",
    "SemanticKitti": "semantic_kitti",
    "ShapeNetPart": "shapenet_part",
    "SimulatedRoomDataset": "simulated_datasets",
    "SimulatedStreetDataset": "simulated_datasets",
    "Waymo": "waymo",
}


def __getattr__(name: str) -> Any:
    """What needs torch, imported when it is named."""
    if name in _LAZY:
        return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "Batch",
    "CachedDataset",
    "DatasetFolderError",
    "KittiObject",
    "ModelNet40",
    "NuScenes",
    "PointCloud",
    "PointDataset",
    "PointFileError",
    "S3DIS",
    "SUPPORTED_SUFFIXES",
    "Sample",
    "ScanNet",
    "SemanticKitti",
    "ShapeNetPart",
    "SimulatedRoom",
    "SimulatedRoomDataset",
    "SimulatedStreet",
    "SimulatedStreetDataset",
    "TriangleMesh",
    "Waymo",
    "augmentations",
    "box_corners",
    "collate",
    "label_voxels",
    "overlap_bev",
    "points_in_boxes",
    "read_mesh",
    "read_points",
    "sample_surface",
    "transform_boxes",
]
