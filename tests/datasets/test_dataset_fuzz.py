"""Whatever happens to a file of a data set, reading gives samples, or an error that names a file or the tree."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from test_indoor_rooms import write_s3dis, write_scannet
from test_kitti_object import write_kitti
from test_nuscenes import write_nuscenes
from test_semantic_kitti import write_semantic_kitti
from test_shapes import write_modelnet40, write_shapenet_part

from sparseconv.datasets import (
    S3DIS,
    DatasetFolderError,
    KittiObject,
    ModelNet40,
    NuScenes,
    PointDataset,
    PointFileError,
    Sample,
    ScanNet,
    SemanticKitti,
    ShapeNetPart,
)

SETS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], PointDataset]]] = {
    "kitti": (write_kitti, lambda root: KittiObject(root, "training", camera_view=True)),
    "semantic_kitti": (write_semantic_kitti, lambda root: SemanticKitti(root, "val")),
    "nuscenes": (write_nuscenes, lambda root: NuScenes(root, "v1.0-mini", sweeps=3, labels=True)),
    "scannet": (write_scannet, lambda root: ScanNet(root, "train")),
    "s3dis": (write_s3dis, lambda root: S3DIS(root, [1, 5])),
    "modelnet40": (write_modelnet40, lambda root: ModelNet40(root, points=20)),
    "shapenet_part": (write_shapenet_part, lambda root: ShapeNetPart(root, "train")),
}
PIECES = [
    b"",
    b"\0",
    b"-1",
    b"nan",
    b"1e999",
    b"99999999999999999999",
    b"\xff\xfe",
    b"\n",
    b" ",
    b'"',
    b"[",
    b"null",
]


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    if rng.random() < 0.2:
        return content[: int(rng.integers(len(content) + 1))]
    for _ in range(int(rng.integers(1, 4))):
        place = int(rng.integers(len(content) + 1))
        removed = int(rng.integers(0, 6))
        content = content[:place] + PIECES[rng.integers(len(PIECES))] + content[place + removed :]
    return content


@pytest.mark.parametrize("name", SETS)
def test_damaged_trees(name: str, tmp_path: Path) -> None:
    write, read = SETS[name]
    root = write(tmp_path / "good")
    files = sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        bad = tmp_path / "bad"
        shutil.copytree(root, bad)
        path = bad / files[rng.integers(len(files))]
        path.write_bytes(damaged(path.read_bytes(), rng))
        try:
            with warnings.catch_warnings():
                # S3DIS repairs aloud.
                warnings.simplefilter("ignore", UserWarning)
                for sample in read(bad):
                    assert isinstance(sample, Sample) and np.isfinite(sample.xyz).all()
        except (PointFileError, DatasetFolderError) as error:
            refused += 1
            assert str(bad) in str(error)
        shutil.rmtree(bad)
    assert refused > 20
