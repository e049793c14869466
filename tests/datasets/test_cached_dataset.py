"""What was read once comes back the same, and nothing stale or damaged does."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from test_indoor_rooms import write_s3dis
from test_kitti_object import write_kitti
from test_shapes import write_modelnet40

from sparseconv.datasets import S3DIS, CachedDataset, KittiObject, ModelNet40, PointDataset, Sample


def same(a: Sample, b: Sample) -> None:
    assert (a.name, a.fields, a.path, a.class_id) == (b.name, b.fields, b.path, b.class_id)
    for name in ("points", "labels", "instances", "pose"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        if getattr(a, name) is not None:
            assert getattr(a, name).dtype == getattr(b, name).dtype
    assert a.point_data.keys() == b.point_data.keys()


def test_the_second_reading_needs_no_source(tmp_path: Path) -> None:
    root = write_s3dis(tmp_path / "s3dis")
    cached = CachedDataset(S3DIS(root, [1, 5]), tmp_path / "cache" / "s3dis")
    first = list(cached)
    for direct, kept in zip(S3DIS(root, [1, 5]), first, strict=True):
        same(direct, kept)
    root.rename(tmp_path / "gone")
    for again, kept in zip(pickle.loads(pickle.dumps(cached)), first, strict=True):
        same(again, kept)
    files = sorted(path.name for path in (tmp_path / "cache/s3dis").iterdir())
    assert files == ["000000.npz", "000001.npz"]


def test_other_options_are_read_anew(tmp_path: Path) -> None:
    root = write_modelnet40(tmp_path / "modelnet")
    for points, seed in ((10, 0), (20, 0), (20, 1), (10, 0)):
        direct = ModelNet40(root, points=points, seed=seed)
        same(CachedDataset(direct, tmp_path / "cache")[0], direct[0])
        same(CachedDataset(direct, tmp_path / "cache")[0], direct[0])


def test_damaged_files_are_read_anew(tmp_path: Path) -> None:
    direct = ModelNet40(write_modelnet40(tmp_path / "modelnet"), points=10)
    cached = CachedDataset(direct, tmp_path / "cache")
    cached[0]
    path = tmp_path / "cache/000000.npz"
    good = path.read_bytes()
    for content in (b"", good[:-30], good[: len(good) // 2], b"\0" * len(good)):
        path.write_bytes(content)
        same(cached[0], direct[0])
        assert path.read_bytes() != content


class Stamped(PointDataset):
    def __len__(self) -> int:
        return 1

    def read(self, index: int) -> Sample:
        data = {"time": np.arange(2.0), "beam": np.array([3, 4], np.int8)}
        return Sample(np.ones((2, 3), np.float32), ("x", "y", "z"), "ä/b", pose=np.eye(4), point_data=data)


def test_poses_and_point_data(tmp_path: Path) -> None:
    cached = CachedDataset(Stamped(), tmp_path)
    same(cached[0], Stamped()[0])
    again = cached[0]
    same(again, Stamped()[0])
    assert again.point_data["beam"].dtype == np.int8 and again.point_data["time"].tolist() == [0, 1]


def test_what_is_not_kept(tmp_path: Path) -> None:
    root = write_kitti(tmp_path / "kitti")
    with pytest.raises(ValueError, match="has boxes, a calibration or an augmentation"):
        CachedDataset(KittiObject(root, "training"), tmp_path / "cache")[0]
    with pytest.raises(ValueError, match="give the transform to CachedDataset"):
        CachedDataset(KittiObject(root, "training", transform=len), tmp_path / "cache")
    assert CachedDataset(Stamped(), tmp_path / "other", transform=len)[0] == 2
    assert list((tmp_path / "cache").iterdir()) == []
