"""SemanticKITTI: label files packed here, poses by hand, the official maps as they are published."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from sample_data import DATA, sample

from sparseconv.datasets import DatasetFolderError, PointFileError, SemanticKitti
from sparseconv.datasets.semantic_kitti_classes import (
    CLASSES,
    CLASSES_MULTI,
    LEARNING_MAP,
    LEARNING_MAP_INVERSE,
    LEARNING_MAP_INVERSE_MULTI,
    LEARNING_MAP_MULTI,
    SPLITS,
)

# learning_map of semantic-kitti.yaml, class by class: original labels of 0, 1, 2, ...
PUBLISHED = (
    (0, 1, 52, 99),
    (10, 252),
    (11,),
    (15,),
    (18, 258),
    (13, 16, 20, 256, 257, 259),
    (30, 254),
    (31, 253),
    (32, 255),
    (40, 60),
    (44,),
    (48,),
    (49,),
    (50,),
    (51,),
    (70,),
    (71,),
    (72,),
    (80,),
    (81,),
)
# What semantic-kitti-all.yaml changes.
MOVING = {252: 20, 253: 21, 254: 22, 255: 23, 256: 24, 257: 24, 258: 25, 259: 24}
INVERSE = (0, 10, 11, 15, 18, 20, 30, 31, 32, 40, 44, 48, 49, 50, 51, 70, 71, 72, 80, 81)


def test_official_maps() -> None:
    expected = {original: label for label, originals in enumerate(PUBLISHED) for original in originals}
    assert expected == LEARNING_MAP and len(LEARNING_MAP) == 34
    assert expected | MOVING == LEARNING_MAP_MULTI
    assert tuple(LEARNING_MAP_INVERSE.values()) == INVERSE
    assert tuple(LEARNING_MAP_INVERSE_MULTI.values()) == (*INVERSE, 252, 253, 254, 255, 259, 258)
    assert len(CLASSES) == 20 and CLASSES[0] == "unlabeled" and CLASSES[8:10] == ("motorcyclist", "road")
    assert len(CLASSES_MULTI) == 26 and CLASSES_MULTI[24] == "moving-other-vehicle"
    assert SPLITS["valid"] == (8,) and 8 not in SPLITS["train"] and len(SPLITS["train"]) == 10
    assert SPLITS["test"] == (11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21)


SEMANTIC = (0, 1, 10, 13, 40, 60, 99, 252, 257, 81)
INSTANCE = (0, 0, 5, 65535, 0, 0, 1, 7, 300, 0)


def write_semantic_kitti(root: Path) -> Path:
    """Sequence 08 with two scans, the camera's axes, and a camera that moves 2 m ahead and turns left."""
    folder = root / "sequences" / "08"
    for name in ("velodyne", "labels"):
        (folder / name).mkdir(parents=True)
    for number in range(2):
        points = np.random.default_rng(number).uniform(-20, 20, (10, 4)).astype("<f4")
        (folder / "velodyne" / f"{number:06d}.bin").write_bytes(points.tobytes())
        packed = [instance << 16 | semantic for semantic, instance in zip(SEMANTIC, INSTANCE, strict=True)]
        (folder / "labels" / f"{number:06d}.label").write_bytes(struct.pack("<10I", *packed))
    (folder / "calib.txt").write_text("P0: 1 0 0 0 0 1 0 0 0 0 1 0\nTr: 0 -1 0 0 0 0 -1 0 1 0 0 -0.5\n")
    # Camera: x right, y down, z ahead. A left turn by 90 degrees brings z to -x and x to z.
    (folder / "poses.txt").write_text("1 0 0 0 0 1 0 0 0 0 1 0\n0 0 -1 0 0 1 0 0 1 0 0 2\n")
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_semantic_kitti(tmp_path / "kitti")


def test_labels_instances_and_poses(root: Path) -> None:
    dataset = SemanticKitti(root, "val")
    assert len(dataset) == 2 and dataset.frames == (("08", "000000"), ("08", "000001"))
    first, second = dataset[0], dataset[1]
    assert first.labels is not None and first.labels.tolist() == [0, 0, 1, 5, 9, 9, 0, 1, 5, 19]
    assert first.instances is not None and first.instances.tolist() == list(INSTANCE)
    assert first.name == "08/000000" and first.fields == ("x", "y", "z", "intensity")
    assert dataset.classes[19] == "traffic-sign" and dataset.IGNORE_LABEL == 0
    np.testing.assert_allclose(first.pose, np.eye(4), atol=1e-12)
    # Camera z = LiDAR x - 0.5: the LiDAR stands half a metre behind the camera. The camera drove from x = 0.5 to
    # x = 2.5 and looks along the first LiDAR's y now, so the LiDAR is at (2.5, -0.5).
    expected = [[0, -1, 0, 2.5], [1, 0, 0, -0.5], [0, 0, 1, 0], [0, 0, 0, 1]]
    np.testing.assert_allclose(second.pose, expected, atol=1e-12)


def test_tasks_and_the_way_back(root: Path) -> None:
    multi = SemanticKitti(root, "valid", task="multi")
    assert multi[0].labels.tolist() == [0, 0, 1, 5, 9, 9, 0, 20, 24, 19]
    assert multi.to_original(np.array([20, 24, 25])).tolist() == [252, 259, 258]
    original = SemanticKitti(root, "valid", task="original")
    assert original[0].labels.tolist() == list(SEMANTIC)
    single = SemanticKitti(root, "valid")
    back = single.to_original(single[0].labels)
    assert back.tolist() == [0, 0, 10, 20, 40, 40, 0, 10, 20, 81]
    # Going forth again changes nothing more.
    assert [LEARNING_MAP[number] for number in back.tolist()] == single[0].labels.tolist()
    with pytest.raises(ValueError, match=r"labels must lie in 0 .. 19"):
        single.to_original(np.array([20]))
    with pytest.raises(ValueError, match="task must be"):
        SemanticKitti(root, "valid", task="both")  # type: ignore[arg-type]


def test_damaged_labels(root: Path) -> None:
    path = root / "sequences/08/labels/000000.label"
    good = path.read_bytes()
    for content, problem in (
        (good[:-2], "not a multiple of 4"),
        (good[:-4], "holds 9 labels for a scan of 10 points"),
        (good[:-4] + struct.pack("<I", 77), r"1 labels that the data set does not define \(77\)"),
        (b"", "is empty"),
    ):
        path.write_bytes(content)
        with pytest.raises(PointFileError, match=problem):
            SemanticKitti(root, "valid")[0]
    path.unlink()
    with pytest.raises(PointFileError, match="no such file"):
        SemanticKitti(root, "valid")[0]
    assert SemanticKitti(root, "valid", labels=False)[0].labels is None


def test_damaged_poses(root: Path) -> None:
    folder = root / "sequences/08"
    (folder / "poses.txt").write_text("1 0 0 0 0 1 0 0 0 0 1 0\n")
    dataset = SemanticKitti(root, "valid")
    assert dataset[0].pose is not None
    with pytest.raises(PointFileError, match="holds 1 poses and none for scan 000001"):
        dataset[1]
    (folder / "poses.txt").write_text("1 0 0 0 0 1 0 0 0 0 1\n")
    with pytest.raises(PointFileError, match="line 1 holds 11 values where 12"):
        SemanticKitti(root, "valid")
    (folder / "poses.txt").write_text("1 0 0 0 0 1 0 0 0 0 1 nan\n")
    with pytest.raises(PointFileError, match="not finite"):
        SemanticKitti(root, "valid")
    (folder / "calib.txt").write_text("Tr: 1 0 0 0\n")
    with pytest.raises(PointFileError, match="no 'Tr:' with 12 numbers"):
        SemanticKitti(root, "valid")
    (folder / "calib.txt").unlink()
    assert SemanticKitti(root, "valid")[1].pose is None


def test_missing_folders(root: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DatasetFolderError, match=r"has no 00/velodyne(.|\n)*labels/000000.label(.|\n)*Download: SemanticKITTI"
    ):
        SemanticKitti(root, "train")
    with pytest.raises(DatasetFolderError, match="does not exist"):
        SemanticKitti(tmp_path / "nowhere", "train")
    (root / "sequences/08/labels").rename(tmp_path / "labels")
    with pytest.raises(DatasetFolderError, match="has no 08/labels"):
        SemanticKitti(root, "valid")
    (root / "sequences/11/velodyne").mkdir(parents=True)
    with pytest.raises(DatasetFolderError, match=r"holds no \.bin file"):
        SemanticKitti(root, [11], labels=False)
    with pytest.raises(ValueError, match="split must be one of train, valid, test"):
        SemanticKitti(root, "trainval")


def test_the_archive_s_own_folder_name(root: Path, tmp_path: Path) -> None:
    (tmp_path / "outer").mkdir()
    root.rename(tmp_path / "outer" / "dataset")
    assert len(SemanticKitti(tmp_path / "outer", "valid")) == 2


def test_real_scans() -> None:
    sample("semantic_kitti/sequences/00/velodyne/000000.bin")
    dataset = SemanticKitti(DATA / "semantic_kitti", [0], labels=False)
    assert [frame.name for frame in dataset] == ["00/000000", "00/000001"]
    for frame in dataset:
        assert 120_000 < len(frame) < 130_000 and frame.labels is None and frame.pose is None
