"""nuScenes: tables written here, motion and boxes by hand and by quaternion products."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sample_data import sample

from sparseconv.datasets import DatasetFolderError, NuScenes, PointFileError, points_in_boxes, read_points
from sparseconv.datasets.nuscenes_classes import (
    DETECTION_CLASSES,
    DETECTION_OF_CATEGORY,
    LIDARSEG_CLASSES,
    LIDARSEG_OF_CATEGORY,
    MINI_TRAIN_SCENES,
    MINI_VAL_SCENES,
    TEST_SCENES,
    VAL_SCENES,
    scene_is_in,
)

Quaternion = tuple[float, float, float, float]


def multiply(a: Quaternion, b: Quaternion) -> Quaternion:
    (w, x, y, z), (v, i, j, k) = a, b
    return (
        w * v - x * i - y * j - z * k,
        w * i + x * v + y * k - z * j,
        w * j - x * k + y * v + z * i,
        w * k + x * j - y * i + z * v,
    )


def turn(q: Quaternion, p: Any) -> np.ndarray:
    """q p q*: a rotation without a matrix."""
    _, x, y, z = multiply(multiply(q, (0.0, *(float(v) for v in p))), (q[0], -q[1], -q[2], -q[3]))
    return np.array([x, y, z])


def about_z(angle: float) -> Quaternion:
    return (math.cos(angle / 2), 0.0, 0.0, math.sin(angle / 2))


SENSOR = {"translation": [0.9, 0.0, 1.8], "rotation": list(about_z(-math.pi / 2))}
EGO = [  # three sweeps: time (microseconds), position, heading
    (1_000_000, [400.0, 1100.0, 0.0], 0.3),
    (1_050_000, [400.5, 1100.1, 0.0], 0.35),
    (1_500_000, [404.0, 1101.0, 0.0], 0.5),
]
CATEGORIES = ("vehicle.car", "human.pedestrian.adult", "animal", "flat.driveable_surface", "noise")


def cloud(number: int) -> np.ndarray:
    rng = np.random.default_rng(number)
    points = rng.uniform([2, -30, -2, 0, 0], [30, 30, 2, 255, 31], (60, 5)).astype("<f4")
    points[:2, :2] = [[0.5, -0.5], [0.5, 5.0]]  # one on the car itself, one beside it
    return points


def write_nuscenes(root: Path) -> Path:
    """One scene of the mini training split: two key frames with one sweep between them, one car that drives."""
    tables: dict[str, list[dict[str, Any]]] = {
        "scene": [{"token": "s0", "name": "scene-0061"}, {"token": "s1", "name": "scene-0103"}],
        "sample": [
            {"token": "k0", "scene_token": "s0", "timestamp": EGO[0][0]},
            {"token": "k1", "scene_token": "s0", "timestamp": EGO[2][0]},
        ],
        "sensor": [{"token": "lidar", "channel": "LIDAR_TOP"}, {"token": "camera", "channel": "CAM_FRONT"}],
        "calibrated_sensor": [
            {"token": "c0", "sensor_token": "lidar", **SENSOR},
            {"token": "c1", "sensor_token": "camera", "translation": [1, 0, 1], "rotation": [1, 0, 0, 0]},
        ],
        "ego_pose": [
            {"token": f"e{n}", "timestamp": t, "translation": p, "rotation": list(about_z(h))}
            for n, (t, p, h) in enumerate(EGO)
        ],
        "sample_data": [
            {
                "token": f"d{n}",
                "sample_token": "k0" if n == 0 else "k1",
                "ego_pose_token": f"e{n}",
                "calibrated_sensor_token": "c0",
                "filename": f"{'samples' if n != 1 else 'sweeps'}/LIDAR_TOP/{n}.pcd.bin",
                "timestamp": EGO[n][0],
                "is_key_frame": n != 1,
                "prev": f"d{n - 1}" if n else "",
            }
            for n in range(3)
        ]
        + [
            {
                "token": "image",
                "sample_token": "k0",
                "ego_pose_token": "e0",
                "calibrated_sensor_token": "c1",
                "filename": "samples/CAM_FRONT/0.jpg",
                "timestamp": EGO[0][0],
                "is_key_frame": True,
                "prev": "",
            }
        ],
        "category": [{"token": f"cat{n}", "name": name, "index": n} for n, name in enumerate(CATEGORIES)],
        "instance": [
            {"token": "car", "category_token": "cat0"},
            {"token": "man", "category_token": "cat1"},
            {"token": "dog", "category_token": "cat2"},
        ],
        "sample_annotation": [
            annotation("a0", "k0", "car", [410.0, 1104.0, 1.0], [1.9, 4.5, 1.6], 0.4, after="a1"),
            annotation("a1", "k1", "car", [414.0, 1106.0, 1.0], [1.9, 4.5, 1.6], 0.5, before="a0"),
            annotation("a2", "k1", "man", [398.0, 1108.0, 1.0], [0.7, 0.8, 1.8], -2.0),
            annotation("a3", "k1", "dog", [399.0, 1108.0, 0.3], [0.3, 0.8, 0.5], 1.0),
        ],
        "lidarseg": [
            {"token": f"l{n}", "sample_data_token": f"d{n}", "filename": f"lidarseg/v1.0-mini/d{n}_lidarseg.bin"}
            for n in (0, 2)
        ],
    }
    (root / "v1.0-mini").mkdir(parents=True)
    for name, records in tables.items():
        (root / "v1.0-mini" / f"{name}.json").write_text(json.dumps(records))
    for n in range(3):
        path = root / f"{'samples' if n != 1 else 'sweeps'}/LIDAR_TOP/{n}.pcd.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cloud(n).tobytes())
    (root / "lidarseg/v1.0-mini").mkdir(parents=True)
    for n in (0, 2):
        labels = np.arange(60, dtype=np.uint8) % len(CATEGORIES)
        (root / f"lidarseg/v1.0-mini/d{n}_lidarseg.bin").write_bytes(labels.tobytes())
    return root


def annotation(
    token: str,
    key: str,
    instance: str,
    where: list[float],
    size: list[float],
    heading: float,
    before: str = "",
    after: str = "",
) -> dict[str, Any]:
    return {
        "token": token,
        "sample_token": key,
        "instance_token": instance,
        "translation": where,
        "size": size,
        "rotation": list(about_z(heading)),
        "prev": before,
        "next": after,
        "num_lidar_pts": 7,
        "num_radar_pts": 1,
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_nuscenes(tmp_path / "nuscenes")


def to_global(number: int, xyz: Any) -> np.ndarray:
    """Sensor to car to world, by quaternions."""
    _, position, heading = EGO[number]
    in_car = turn(tuple(SENSOR["rotation"]), xyz) + SENSOR["translation"]  # type: ignore[arg-type]
    return turn(about_z(heading), in_car) + position


def to_lidar(number: int, xyz: Any) -> np.ndarray:
    _, position, heading = EGO[number]
    in_car = turn(about_z(-heading), np.asarray(xyz, float) - position) - SENSOR["translation"]
    w, x, y, z = SENSOR["rotation"]
    return turn((w, -x, -y, -z), in_car)


def test_one_sweep(root: Path) -> None:
    dataset = NuScenes(root, "v1.0-mini")
    assert dataset.tokens == ("k0", "k1")
    frame = dataset[0]
    assert frame.fields == ("x", "y", "z", "intensity", "ring", "time_lag")
    assert (frame.points[:, :5] == cloud(0)).all() and (frame.points[:, 5] == 0).all()
    for xyz in ([0, 0, 0], [1, 2, 3]):
        np.testing.assert_allclose(frame.pose[:3, :3] @ xyz + frame.pose[:3, 3], to_global(0, xyz), atol=1e-9)
    assert frame.labels is None


def test_three_sweeps_in_the_key_frame(root: Path) -> None:
    dataset = NuScenes(root, "v1.0-mini", sweeps=10)
    assert len(dataset[0]) == 60  # the scene begins here
    frame = dataset[1]
    # Both earlier sweeps lose the point on the car itself; the key frame keeps it.
    assert len(frame) == 60 + 59 + 59
    expected = []
    for number in (2, 1, 0):
        kept = cloud(number) if number == 2 else np.delete(cloud(number), 0, axis=0)
        for row in kept:
            xyz = row[:3] if number == 2 else to_lidar(2, to_global(number, row[:3]))
            expected.append([*xyz, row[3], row[4], 1e-6 * (EGO[2][0] - EGO[number][0])])
    np.testing.assert_allclose(frame.points, expected, atol=1e-4)
    assert sorted(set(frame.points[:, 5].round(4).tolist())) == pytest.approx([0, 0.45, 0.5])
    assert len(NuScenes(root, "v1.0-mini", sweeps=2)[1]) == 60 + 59
    assert len(NuScenes(root, "v1.0-mini", sweeps=2, min_distance=0.0)[1]) == 120
    for bad in (0, True, 1.5):
        with pytest.raises(ValueError, match="sweeps must be"):
            NuScenes(root, "v1.0-mini", sweeps=bad)  # type: ignore[arg-type]


def test_boxes_in_the_lidar_frame(root: Path) -> None:
    frame = NuScenes(root, "v1.0-mini")[1]
    assert frame.box_names == ("car", "pedestrian")  # the dog is no detection class
    assert frame.box_labels.tolist() == [0, 5]
    car, man = frame.boxes
    np.testing.assert_allclose(car[:3], to_lidar(2, [414, 1106, 1]), atol=1e-4)
    assert car[3:6].tolist() == pytest.approx([4.5, 1.9, 1.6])  # length, width, height
    front = [414 + math.cos(0.5), 1106 + math.sin(0.5), 1]
    ahead = to_lidar(2, front) - to_lidar(2, [414, 1106, 1])
    np.testing.assert_allclose([math.cos(car[6]), math.sin(car[6])], ahead[:2], atol=1e-6)
    # It moved (4, 2) m in half a second, seen in the LiDAR's axes.
    velocity = to_lidar(2, [8.0, 4.0, 0.0]) - to_lidar(2, [0.0, 0.0, 0.0])
    np.testing.assert_allclose(car[7:], velocity[:2], atol=1e-4)
    assert np.isnan(man[7:]).all()
    assert frame.box_data["num_lidar_points"].tolist() == [7, 7]
    assert frame.box_data["category"].tolist() == ["vehicle.car", "human.pedestrian.adult"]
    assert frame.box_data["instance"].tolist() == ["car", "man"]
    # A point put into the middle of the car is found there.
    assert points_in_boxes(car[None, :3], frame.boxes)[0].tolist() == [True, False]
    only = NuScenes(root, "v1.0-mini", classes=("pedestrian",))[1]
    assert only.box_names == ("pedestrian",) and only.box_labels.tolist() == [0]
    assert NuScenes(root, "v1.0-mini", classes=("pedestrian",))[0].boxes.shape == (0, 9)


def test_velocities_across_long_gaps_are_unknown(root: Path) -> None:
    path = root / "v1.0-mini/sample.json"
    records = json.loads(path.read_text())
    records[1]["timestamp"] += 2_000_000
    path.write_text(json.dumps(records))
    assert np.isnan(NuScenes(root, "v1.0-mini")[0].boxes[0, 7:]).all()


def test_lidarseg(root: Path) -> None:
    dataset = NuScenes(root, "v1.0-mini", labels=True, sweeps=3)
    of_category = [4, 7, 0, 11, 0]
    assert dataset[0].labels.tolist() == [of_category[n % 5] for n in range(60)]
    labels = dataset[1].labels
    assert labels[:60].tolist() == [of_category[n % 5] for n in range(60)] and not labels[60:].any()
    assert dataset.classes[4] == "car" and dataset.classes[11] == "driveable_surface"
    path = root / "lidarseg/v1.0-mini/d0_lidarseg.bin"
    path.write_bytes(bytes(59))
    with pytest.raises(PointFileError, match="holds 59 labels for a scan of 60 points"):
        dataset[0]
    path.write_bytes(bytes(59) + b"\x20")
    with pytest.raises(PointFileError, match=r"does not define \(32\)"):
        dataset[0]


@pytest.mark.parametrize("index", [10**12, 256, -1, True, 1])
def test_categories_beyond_a_byte(root: Path, index: Any) -> None:
    damage = _rename("category", lambda records: records[0].update(index=index))
    damage(root)
    with pytest.raises(PointFileError, match=r"category\.json: has (an index twice|no 'index')"):
        NuScenes(root, "v1.0-mini", labels=True)[0]


def test_official_lists() -> None:
    assert len(VAL_SCENES) == len(TEST_SCENES) == 150 and not VAL_SCENES & TEST_SCENES
    assert len(MINI_TRAIN_SCENES) == 8 and len(MINI_VAL_SCENES) == 2
    assert {"scene-0003", "scene-0092", "scene-0802", "scene-1073"} <= VAL_SCENES
    assert not {"scene-0918", "scene-0628", "scene-0801", "scene-0970"} & VAL_SCENES
    assert scene_is_in("train", "scene-0001") and not scene_is_in("train", "scene-0003")
    assert not scene_is_in("train", "scene-1043") and scene_is_in("test", "scene-1043")
    with pytest.raises(ValueError, match="split must be 'train'"):
        scene_is_in("mini", "scene-0001")
    assert len(DETECTION_CLASSES) == 10 and DETECTION_CLASSES[:2] == ("car", "truck")
    assert set(DETECTION_OF_CATEGORY.values()) == set(DETECTION_CLASSES)
    assert len(LIDARSEG_CLASSES) == 17 and len(LIDARSEG_OF_CATEGORY) == 32
    assert set(LIDARSEG_OF_CATEGORY.values()) == set(range(17))
    assert LIDARSEG_OF_CATEGORY["vehicle.bus.bendy"] == 3 and LIDARSEG_OF_CATEGORY["static.vegetation"] == 16


def test_splits(root: Path) -> None:
    assert len(NuScenes(root, "v1.0-mini", "all")) == 2
    with pytest.raises(DatasetFolderError, match="no scene of the split 'val'"):
        NuScenes(root, "v1.0-mini", "val")
    with pytest.raises(
        DatasetFolderError, match=r"has no v1.0-trainval(.|\n)*sample_annotation(.|\n)*Download: nuScenes"
    ):
        NuScenes(root)


def test_without_annotations(root: Path) -> None:
    (root / "v1.0-mini/sample_annotation.json").unlink()
    assert NuScenes(root, "v1.0-mini")[0].boxes is None


def _rename(table: str, change: Callable[[list[dict[str, Any]]], Any]) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        path = root / f"v1.0-mini/{table}.json"
        records = json.loads(path.read_text())
        change(records)
        path.write_text(json.dumps(records))

    return apply


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (_rename("ego_pose", lambda r: r.pop()), "ego_pose.json: has no record 'e2'"),
        (_rename("ego_pose", lambda r: r[0].pop("rotation")), "lacks 'rotation' in record 0"),
        (_rename("ego_pose", lambda r: r[0].update(rotation=[0, 0, 0, 0])), "unusable pose in record 'e0'"),
        (_rename("ego_pose", lambda r: r[0].update(translation=[1, 2])), "unusable pose in record 'e0'"),
        (_rename("ego_pose", lambda r: r[0].update(translation=["a", 2, 3])), "unusable pose in record 'e0'"),
        (_rename("sample_data", lambda r: r.pop(0)), "has no LIDAR_TOP scan for sample 'k0'"),
        (_rename("sample_data", lambda r: r[0].update(filename="../../secret")), "outside the data set"),
        (_rename("sample_data", lambda r: r[0].update(filename="/etc/passwd")), "outside the data set"),
        (_rename("instance", lambda r: r.pop(0)), "instance.json: has no record 'car'"),
        (
            _rename("sample_annotation", lambda r: r[0].update(size=[0, 1, 1])),
            "unusable box .size must be positive",
        ),
        (
            _rename("sample_annotation", lambda r: r[0].update(rotation=[0, 0, 0, 0])),
            "unusable box .rotation must be",
        ),
        (_rename("sample_annotation", lambda r: r[0].update(translation=[1, 2])), "unusable box"),
        (_rename("sample_annotation", lambda r: r[0].update(size="big")), "unusable box"),
        (_rename("sample_annotation", lambda r: r[0].update(num_lidar_pts=None)), "unusable box"),
        (_rename("sample", lambda r: r[1].update(scene_token="s1")), "lie in different scenes"),
        (_rename("sample", lambda r: r[0].update(token=["k0"])), "unusable value"),
        (_rename("sample", lambda r: r[0].update(timestamp=None)), "unusable value"),
        (_rename("sample_data", lambda r: r[0].update(timestamp="soon")), "unusable value"),
        (_rename("sample_data", lambda r: r[0].update(calibrated_sensor_token={})), "unusable value"),
        (_rename("sample_data", lambda r: r[0].update(filename=7)), "7: no such file"),
        (_rename("scene", lambda r: r[0].update(name=[])), "unusable value"),
        (_rename("sample_annotation", lambda r: r[0].update(next="gone")), "has no record 'gone'"),
    ],
)
def test_damaged_tables(root: Path, damage: Callable[[Path], None], problem: str) -> None:
    damage(root)
    with pytest.raises(PointFileError, match=problem):
        NuScenes(root, "v1.0-mini")[0]


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", "{}", "[" * 100_000])
def test_files_that_are_no_tables(root: Path, content: str) -> None:
    (root / "v1.0-mini/sample.json").write_text(content)
    with pytest.raises(PointFileError, match=r"sample\.json"):
        NuScenes(root, "v1.0-mini")


def test_a_missing_sweep_and_pickling(root: Path) -> None:
    dataset = pickle.loads(pickle.dumps(NuScenes(root, "v1.0-mini", sweeps=2)))
    assert len(dataset[1]) == 119
    (root / "sweeps/LIDAR_TOP/1.pcd.bin").unlink()
    with pytest.raises(PointFileError, match="no such file"):
        dataset[1]


def test_a_real_sweep_in_a_tree(root: Path) -> None:
    real = sample("nuscenes/*.pcd.bin")
    (root / "samples/LIDAR_TOP/0.pcd.bin").write_bytes(real.read_bytes())
    frame = NuScenes(root, "v1.0-mini")[0]
    assert len(frame) == 34688
    assert (frame.points[:, :5] == read_points(real).points).all()
