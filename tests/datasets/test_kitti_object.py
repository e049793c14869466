"""KITTI's object benchmark: a tree written here, formulas of the devkit, and the real frames."""

from __future__ import annotations

import math
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from sample_data import DATA, sample

from sparseconv.datasets import DatasetFolderError, KittiObject, PointFileError, Sample, points_in_boxes

# The LiDAR's x y z become the camera's z -x -y, shifted; a projection by hand with f = 100, centre (60, 40).
CALIBRATION = """P0: 100 0 60 0 0 100 40 0 0 0 1 0
P1: 100 0 60 -50 0 100 40 0 0 0 1 0
P2: 100 0 60 5 0 100 40 2 0 0 1 0.01
P3: 100 0 60 -45 0 100 40 2 0 0 1 0.01
R0_rect: 1 0 0 0 1 0 0 0 1
Tr_velo_to_cam: 0 -1 0 0.1 0 0 -1 -0.2 1 0 0 -0.3
Tr_imu_to_velo: 1 0 0 -0.8 0 1 0 0.3 0 0 1 -0.8
"""
LABELS = """Car 0.10 1 -1.57 10 20 60 70.5 1.5 1.6 4.0 2.0 1.7 20.0 -1.5707963267948966
DontCare -1 -1 -10 1 2 3 4 -1 -1 -1 -1000 -1000 -1000 -10
Pedestrian 0.00 0 0.2 10 20 30 65 1.8 0.6 0.7 -1.0 1.6 10.0 0.3
Van 0.60 3 0.2 10 20 30 65 2.0 1.9 5.0 -4.0 1.6 30.0 0.0
"""


def write_kitti(root: Path, frames: tuple[str, ...] = ("000000", "000007")) -> Path:
    for folder in ("velodyne", "calib", "label_2"):
        (root / "training" / folder).mkdir(parents=True)
    for number, frame in enumerate(frames):
        rng = np.random.default_rng(number)
        points = rng.uniform([-30, -20, -2, 0], [60, 20, 2, 1], (500, 4)).astype("<f4")
        (root / "training/velodyne" / f"{frame}.bin").write_bytes(points.tobytes())
        (root / "training/calib" / f"{frame}.txt").write_text(CALIBRATION)
        (root / "training/label_2" / f"{frame}.txt").write_text(LABELS if number == 0 else "")
    return root


def write_png(path: Path, width: int, height: int) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    path.parent.mkdir(exist_ok=True)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IEND", b""))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_kitti(tmp_path / "kitti")


def test_boxes_by_hand(root: Path) -> None:
    frame = KittiObject(root, "training")[0]
    assert isinstance(frame, Sample) and frame.boxes is not None
    assert frame.box_names == ("Car", "Pedestrian", "Van")
    # Camera (2, 1.7, 20) is LiDAR x = 20.3, y = 0.1 - 2 = -1.9, z = -0.2 - 1.7 = -1.9, and half of 1.5 higher.
    np.testing.assert_allclose(frame.boxes[0], [20.3, -1.9, -1.15, 4.0, 1.6, 1.5, 0.0], atol=1e-5)
    heading = -0.3 - math.pi / 2
    np.testing.assert_allclose(frame.boxes[1], [10.3, 1.1, -0.9, 0.7, 0.6, 1.8, heading], atol=1e-5)
    assert frame.box_labels is not None and frame.box_labels.tolist() == [0, 3, 1]
    # Car: 50.5 pixels high, partly occluded: moderate. Pedestrian: easy. Van: occlusion unknown: none.
    assert frame.box_data["difficulty"].tolist() == [1, 0, -1]
    assert frame.box_data["image_boxes"][0].tolist() == [10, 20, 60, 70.5]
    assert frame.path == root / "training/velodyne/000000.bin" and frame.name == "000000"


def test_dont_care_and_empty_frames(root: Path) -> None:
    dataset = KittiObject(root, "training")
    assert dataset.dont_care(0).tolist() == [[1, 2, 3, 4]]
    empty = dataset[1]
    assert empty.boxes.shape == (0, 7) and empty.box_names == () and empty.box_labels.shape == (0,)


def test_classes_choose_and_number_the_boxes(root: Path) -> None:
    frame = KittiObject(root, "training", classes=("Pedestrian", "Car"))[0]
    assert frame.box_names == ("Car", "Pedestrian") and frame.box_labels.tolist() == [1, 0]
    assert len(frame.box_data["alpha"]) == 2
    with pytest.raises(ValueError, match="classes must be different names of Car"):
        KittiObject(root, "training", classes=("Bus",))
    with pytest.raises(TypeError, match="sequence of names"):
        KittiObject(root, "training", classes="Car")


def _project(calibration: str, xyz: np.ndarray, camera: int) -> tuple[np.ndarray, np.ndarray]:
    """The devkit's projection, P * R0_rect * Tr_velo_to_cam, point by point."""
    rows = {
        line.split(":")[0]: [float(v) for v in line.split(":")[1].split()]
        for line in calibration.splitlines()
        if line
    }
    p = np.reshape(rows[f"P{camera}"], (3, 4))
    r = np.eye(4)
    r[:3, :3] = np.reshape(rows["R0_rect"], (3, 3))
    t = np.vstack([np.reshape(rows["Tr_velo_to_cam"], (3, 4)), [0, 0, 0, 1]])
    homogeneous = np.array([p @ r @ t @ [*point, 1.0] for point in xyz.astype(float)])
    return homogeneous[:, :2] / homogeneous[:, 2:], homogeneous[:, 2]


@pytest.mark.parametrize("camera", range(4))
def test_projection_as_the_devkit(root: Path, camera: int) -> None:
    dataset = KittiObject(root, "training")
    frame = dataset[0]
    xyz = frame.points[frame.points[:, 0] > 2][:50, :3]
    pixels, depth = frame.calibration.lidar_to_image(xyz, camera)
    expected, distance = _project(CALIBRATION, xyz, camera)
    np.testing.assert_allclose(pixels, expected, rtol=1e-12)
    np.testing.assert_allclose(depth, distance, rtol=1e-12)
    back = frame.calibration.rect_to_lidar(frame.calibration.lidar_to_rect(xyz))
    np.testing.assert_allclose(back, xyz, atol=1e-9)


def test_camera_view(root: Path) -> None:
    whole = KittiObject(root, "training")[0]
    pixels, depth = _project(CALIBRATION, whole.points[:, :3], 2)
    inside = (depth > 0) & (pixels >= 0).all(1) & (pixels[:, 0] < 120) & (pixels[:, 1] < 80)
    assert 0 < inside.sum() < len(whole)
    cropped = KittiObject(root, "training", camera_view=True, image_shape=(80, 120))[0]
    assert (cropped.points == whole.points[inside]).all()
    # The image's own size counts where there is one.
    write_png(root / "training/image_2/000000.png", 90, 70)
    small = (depth > 0) & (pixels >= 0).all(1) & (pixels[:, 0] < 90) & (pixels[:, 1] < 70)
    assert len(KittiObject(root, "training", camera_view=True)[0]) == small.sum() != inside.sum()
    (root / "training/image_2/000000.png").write_bytes(b"JFIF")
    with pytest.raises(PointFileError, match="is not a PNG image"):
        KittiObject(root, "training", camera_view=True)[0]


def test_splits(root: Path) -> None:
    with pytest.raises(
        DatasetFolderError,
        match=r"ImageSets/val.txt does not exist(.|\n)*ROOT\n├── ImageSets(.|\n)*Download: The KITTI",
    ):
        KittiObject(root, "val")
    (root / "ImageSets").mkdir()
    (root / "ImageSets/val.txt").write_text("000007\n")
    dataset = KittiObject(root, "val")
    assert len(dataset) == 1 and dataset[0].name == dataset[-1].name == "000007"
    (root / "ImageSets/train.txt").write_text("../../etc/passwd\n")
    with pytest.raises(PointFileError, match="expected frame numbers"):
        KittiObject(root, "train")
    (root / "ImageSets/trainval.txt").write_text("\n")
    with pytest.raises(PointFileError, match="lists no frames"):
        KittiObject(root, "trainval")
    with pytest.raises(ValueError, match="split must be one of train"):
        KittiObject(root, "all")
    for index in (1, -2):
        with pytest.raises(IndexError):
            dataset[index]


def test_testing_has_no_boxes(root: Path) -> None:
    for folder in ("velodyne", "calib"):
        (root / "testing" / folder).mkdir(parents=True)
        for source in (root / "training" / folder).iterdir():
            (root / "testing" / folder / source.name).write_bytes(source.read_bytes())
    frame = KittiObject(root, "testing")[1]
    assert frame.boxes is None and len(frame) == 500


@pytest.mark.parametrize("missing", ["training", "training/calib", "training/velodyne", "training/label_2"])
def test_a_missing_folder_draws_the_tree(root: Path, missing: str) -> None:
    (root / missing).rename(root.parent / "elsewhere")
    with pytest.raises(DatasetFolderError) as caught:
        KittiObject(root, "training")
    message = str(caught.value)
    assert (
        str(root) in message and "velodyne/000000.bin" in message and "3D Object Detection Evaluation" in message
    )


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("P2: 100", "P2: x", "line 3 holds something that is not a number"),
        ("P2: 100", "P2: nan", "line 3 holds a number that is not finite"),
        ("P2: 100 0", "P2: 100", "has 11 numbers for P2"),
        ("R0_rect", "R_rect", "has no R0_rect"),
        ("P2:", "P2", "line 3 has no 'NAME:'"),
        ("0 -1 0 0.1 0 0 -1 -0.2 1 0 0 -0.3", "0 0 0 0 0 0 0 0 0 0 0 0", "cannot be inverted"),
    ],
)
def test_damaged_calibrations(root: Path, old: str, new: str, problem: str) -> None:
    path = root / "training/calib/000000.txt"
    assert old in CALIBRATION
    path.write_text(CALIBRATION.replace(old, new, 1))
    with pytest.raises(PointFileError, match=problem):
        KittiObject(root, "training")[0]


def test_no_imu_is_fine(root: Path) -> None:
    path = root / "training/calib/000000.txt"
    path.write_text("\n".join(CALIBRATION.splitlines()[:-1]))
    assert KittiObject(root, "training")[0].calibration.imu_to_lidar is None


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("Car 0 0 0 1 2 3 4 1.5 1.6 4.0 2.0 1.7 20.0", "line 1 holds 14 values where 15"),
        ("Lorry 0 0 0 1 2 3 4 1.5 1.6 4.0 2.0 1.7 20.0 0", "unknown type 'Lorry'"),
        ("Car 0 0 0 1 2 3 4 1.5 1.6 4.0 2.0 1.7 x 0", "not a number"),
        ("Car 0 0 0 1 2 3 4 1.5 1.6 4.0 2.0 inf 20.0 0", "not finite"),
        ("Car 0 0 0 1 2 3 4 1.5 0 4.0 2.0 1.7 20.0 0", "size that is not positive"),
    ],
)
def test_damaged_labels(root: Path, line: str, problem: str) -> None:
    (root / "training/label_2/000000.txt").write_text(line)
    with pytest.raises(PointFileError, match=problem):
        KittiObject(root, "training")[0]


def test_a_detector_s_score_is_ignored(root: Path) -> None:
    (root / "training/label_2/000000.txt").write_text("Car 0 0 0 1 2 3 4 1.5 1.6 4.0 2.0 1.7 20.0 0 0.98")
    assert KittiObject(root, "training")[0].box_names == ("Car",)


def test_a_cut_scan(root: Path) -> None:
    path = root / "training/velodyne/000000.bin"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(PointFileError, match="not a multiple of the 16 bytes"):
        KittiObject(root, "training")[0]


def test_transform_and_pickling(root: Path) -> None:
    dataset = KittiObject(root, "training", transform=len)
    assert dataset[0] == 500
    again = pickle.loads(pickle.dumps(dataset))
    assert again[1] == 500 and again.frames == dataset.frames
    with pytest.raises(TypeError, match="transform must be a function"):
        KittiObject(root, "training", transform=3)  # type: ignore[arg-type]


# The real frames.


def _real(**options: object) -> KittiObject:
    sample("kitti/training/velodyne/000000.bin")
    return KittiObject(DATA / "kitti", "training", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("scans", ["velodyne", "velodyne_reduced"])
def test_every_real_box_holds_points(scans: str) -> None:
    dataset = _real(scans=scans)
    assert dataset.frames == ("000000", "000001", "000002", "000003")[: len(dataset)]
    counts = {}
    for frame in dataset:
        inside = points_in_boxes(frame.points, frame.boxes).sum(0)
        counts[frame.name] = dict(zip(frame.box_names, inside.tolist(), strict=True))
        assert (inside > 0).all(), counts
        # Turned the other way, or with length and width exchanged, the long ones hold fewer.
        flipped = frame.boxes.copy()
        flipped[:, 6] += np.pi / 2
        assert (points_in_boxes(frame.points, flipped).sum(0) <= inside).all()
    assert counts["000000"] == {"Pedestrian": 377}
    assert counts["000001"] == {"Truck": 71, "Car": 9, "Cyclist": 18}
    assert counts["000002"] == {"Misc": 1349, "Car": 67}


@pytest.mark.parametrize("index", [0, 1, 2])
def test_the_camera_view_is_the_reduced_scan(index: int) -> None:
    # The images' sizes; frame 000000 is of the smaller kind.
    shape = (370, 1224) if index == 0 else (375, 1242)
    cropped = _real(camera_view=True, image_shape=shape)[index]
    reduced = _real(scans="velodyne_reduced")[index]
    assert len(cropped) == len(reduced)
    assert {row.tobytes() for row in cropped.points} == {row.tobytes() for row in reduced.points}


def test_real_boxes_project_onto_their_image_boxes() -> None:
    from sparseconv.datasets import box_corners

    for frame in _real():
        for box, image_box, truncated in zip(
            frame.boxes, frame.box_data["image_boxes"], frame.box_data["truncated"], strict=True
        ):
            pixels, depth = frame.calibration.lidar_to_image(box_corners(box[None])[0])
            assert (depth > 0).all()
            if truncated == 0:
                low, high = pixels.min(0), pixels.max(0)
                # The annotators' image boxes hug the object, not the corners of its box.
                scale = max(image_box[2] - image_box[0], image_box[3] - image_box[1])
                assert np.abs(np.concatenate([low, high]) - image_box).max() < 0.25 * scale + 6
