"""Waymo, version 2: Parquet files written here, points by the published formula, pixel by pixel."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparseconv.datasets import DatasetFolderError, PointFileError, Waymo, points_in_boxes
from sparseconv.datasets.range_image import rotation_of_angles
from sparseconv.datasets.waymo import LASERS, SEGMENTATION_CLASSES

pa = pytest.importorskip("pyarrow", reason="the Waymo extra is not installed")
pq = pytest.importorskip("pyarrow.parquet", reason="the Waymo extra is not installed")

SEGMENT = "10017090168044687777_6380_000_6400_000"
TIMES = (1_550_083_467_346_370, 1_550_083_467_446_370)
TOP_INCLINATIONS = [-0.30, -0.12, -0.05, 0.04]  # ascending, one a row from below
TOP, FRONT = 1, 2
SHAPES = {TOP: (4, 6), FRONT: (3, 5)}
FRONT_RANGE = (-1.5, 0.5)


def rotation(roll: float, pitch: float, yaw: float) -> np.ndarray:
    """Rz Ry Rx, as matrix products."""
    c, s = math.cos, math.sin
    rx = np.array([[1, 0, 0], [0, c(roll), -s(roll)], [0, s(roll), c(roll)]])
    ry = np.array([[c(pitch), 0, s(pitch)], [0, 1, 0], [-s(pitch), 0, c(pitch)]])
    rz = np.array([[c(yaw), -s(yaw), 0], [s(yaw), c(yaw), 0], [0, 0, 1]])
    return rz @ ry @ rx


def pose(roll: float, pitch: float, yaw: float, *shift: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = rotation(roll, pitch, yaw)
    matrix[:3, 3] = shift
    return matrix


EXTRINSIC = {TOP: pose(0.01, -0.02, 2.6, 1.4, 0.0, 2.2), FRONT: pose(0.0, 0.03, 0.1, 4.0, 0.1, 0.7)}
VEHICLE = {time: pose(0.002, 0.01, 0.7 + n, -25_000.0 + n, 3_000.0, 40.0) for n, time in enumerate(TIMES)}


def image(laser: int, time: int, number: int) -> np.ndarray:
    rng = np.random.default_rng([laser, number, time % 1000, TIMES.index(time)])
    values = rng.uniform([5, 0, 0, -1], [70, 3, 1, 1], (*SHAPES[laser], 4)).astype(np.float32)
    values[..., 3] = np.sign(values[..., 3])
    values[rng.random(SHAPES[laser]) < (0.2 if number == 1 else 0.7)] = -1  # no return
    return values


def pixel_poses(time: int) -> np.ndarray:
    rng = np.random.default_rng(TIMES.index(time))
    base = [0.002, 0.01, 0.7 + TIMES.index(time), -25_000.0 + TIMES.index(time), 3_000.0, 40.0]
    return (base + rng.normal(size=(*SHAPES[TOP], 6)) * [1e-3, 1e-3, 1e-2, 0.5, 0.5, 0.01]).astype(np.float32)


def classes(time: int, number: int) -> np.ndarray:
    rng = np.random.default_rng([number, 99])
    return rng.integers([0, 0], [50, 23], (*SHAPES[TOP], 2)).astype(np.int32)


def expected_points(laser: int, time: int, number: int) -> list[list[float]]:
    """Range image to Cartesian, pixel by pixel."""
    values, (height, width) = image(laser, time, number), SHAPES[laser]
    matrix = EXTRINSIC[laser]
    found = []
    for row in range(height):
        for column in range(width):
            distance, intensity, elongation, _ = (float(v) for v in values[row, column])
            if distance <= 0:
                continue
            if laser == TOP:
                inclination = TOP_INCLINATIONS[height - 1 - row]
            else:
                low, high = FRONT_RANGE
                inclination = low + (high - low) * (height - 1 - row + 0.5) / height
            azimuth = ((width - column - 0.5) / width * 2 - 1) * math.pi - math.atan2(matrix[1, 0], matrix[0, 0])
            local = [
                distance * math.cos(inclination) * math.cos(azimuth),
                distance * math.cos(inclination) * math.sin(azimuth),
                distance * math.sin(inclination),
                1.0,
            ]
            here = matrix @ local
            if laser == TOP:
                moving = pose(*(float(v) for v in pixel_poses(time)[row, column]))
                here = np.linalg.inv(VEHICLE[time]) @ moving @ here
            found.append([*here[:3], intensity, elongation])
    return found


def range_columns(component: str, number: int, images: list[np.ndarray | None], kind: Any) -> dict[str, Any]:
    prefix = f"[{component}].range_image_return{number}"
    return {
        f"{prefix}.values": pa.array(
            [None if i is None else i.reshape(-1).tolist() for i in images], pa.list_(kind)
        ),
        f"{prefix}.shape": pa.array(
            [None if i is None else list(i.shape) for i in images], pa.list_(pa.int32(), 3)
        ),
    }


def keys(times: list[int] | None, lasers: list[int] | None, count: int) -> dict[str, Any]:
    columns: dict[str, Any] = {"key.segment_context_name": pa.array([SEGMENT] * count)}
    if times is not None:
        columns["key.frame_timestamp_micros"] = pa.array(times, pa.int64())
    if lasers is not None:
        columns["key.laser_name"] = pa.array(lasers, pa.int8())
    return columns


def box_table() -> dict[str, Any]:
    rows = [
        # time, id, type, x, y, z, dx, dy, dz, heading
        (TIMES[0], "a", 1, 10.0, 2.0, 1.0, 4.5, 2.0, 1.6, 0.3),
        (TIMES[0], "b", 2, -5.0, 1.0, 1.0, 0.8, 0.7, 1.8, -3.0),
        (TIMES[1], "c", 4, 6.0, 6.0, 1.0, 1.8, 0.7, 1.7, 3.5),
        (TIMES[1], "d", 3, 6.0, -6.0, 2.0, 0.1, 0.7, 0.7, 1.0),
    ]
    columns = keys([row[0] for row in rows], None, len(rows))
    columns["key.laser_object_id"] = pa.array([row[1] for row in rows])
    columns["[LiDARBoxComponent].type"] = pa.array([row[2] for row in rows], pa.int8())
    names = [*(f"box.center.{a}" for a in "xyz"), *(f"box.size.{a}" for a in "xyz"), "box.heading"]
    for place, name in enumerate(names, 3):
        columns[f"[LiDARBoxComponent].{name}"] = pa.array([row[place] for row in rows], pa.float64())
    columns["[LiDARBoxComponent].num_lidar_points_in_box"] = pa.array([11, 22, 33, None], pa.int64())
    columns["[LiDARBoxComponent].speed.x"] = pa.array([1.5, None, 0.0, 0.0], pa.float64())
    return columns


def write_waymo(root: Path) -> Path:
    pairs = [(time, laser) for time in TIMES for laser in (TOP, FRONT)]
    times, lasers = [time for time, _ in pairs], [laser for _, laser in pairs]
    lidar = keys(times, lasers, 4)
    for number in (1, 2):
        lidar |= range_columns("LiDARComponent", number, [image(l, t, number) for t, l in pairs], pa.float32())
    calibration = keys(None, [TOP, FRONT], 2)
    prefix = "[LiDARCalibrationComponent]"
    calibration[f"{prefix}.extrinsic.transform"] = pa.array(
        [EXTRINSIC[laser].reshape(-1).tolist() for laser in (TOP, FRONT)], pa.list_(pa.float64(), 16)
    )
    calibration[f"{prefix}.beam_inclination.min"] = pa.array([-0.3, FRONT_RANGE[0]], pa.float64())
    calibration[f"{prefix}.beam_inclination.max"] = pa.array([0.04, FRONT_RANGE[1]], pa.float64())
    calibration[f"{prefix}.beam_inclination.values"] = pa.array([TOP_INCLINATIONS, None], pa.list_(pa.float64()))
    vehicle = keys(list(TIMES), None, 2)
    vehicle["[VehiclePoseComponent].world_from_vehicle.transform"] = pa.array(
        [VEHICLE[time].reshape(-1).tolist() for time in TIMES], pa.list_(pa.float64(), 16)
    )
    poses = keys(list(TIMES), [TOP, TOP], 2)
    poses |= range_columns("LiDARPoseComponent", 1, [pixel_poses(time) for time in TIMES], pa.float32())
    segmentation = keys([TIMES[1]], [TOP], 1)
    for number in (1, 2):
        name = "LiDARSegmentationLabelComponent"
        segmentation |= range_columns(name, number, [classes(TIMES[1], number)], pa.int32())
    tables = {
        "lidar": lidar,
        "lidar_calibration": calibration,
        "lidar_pose": poses,
        "vehicle_pose": vehicle,
        "lidar_box": box_table(),
        "lidar_segmentation": segmentation,
    }
    for name, columns in tables.items():
        (root / "training" / name).mkdir(parents=True)
        # One row a group, as a big file has several.
        pq.write_table(pa.table(columns), root / "training" / name / f"{SEGMENT}.parquet", row_group_size=1)
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_waymo(tmp_path_factory.mktemp("waymo"))


def test_rotations_as_products() -> None:
    for angles in ([0.1, 0.2, 0.3], [-2.0, 1.0, 3.0]):
        np.testing.assert_allclose(rotation_of_angles(*angles), rotation(*angles), atol=1e-12)


@pytest.mark.parametrize("returns", [(1,), (2,), (1, 2)])
@pytest.mark.parametrize("index", [0, 1])
def test_points_of_all_lasers(root: Path, index: int, returns: tuple[int, ...]) -> None:
    dataset = Waymo(root, returns=returns)
    assert len(dataset) == 2 and dataset.frames[index] == (SEGMENT, TIMES[index])
    frame = dataset[index]
    expected = [
        point
        for laser in (TOP, FRONT)
        for number in returns
        for point in expected_points(laser, TIMES[index], number)
    ]
    assert len(expected) > 3
    # Poses are 25 km from the world's origin and float32 in the files, 2 mm apart.
    np.testing.assert_allclose(frame.points, expected, atol=2e-4)
    lasers = [laser for laser in (TOP, FRONT) for n in returns for _ in expected_points(laser, TIMES[index], n)]
    assert frame.point_data["laser"].tolist() == lasers
    assert set(frame.point_data["return"].tolist()) <= set(returns)
    np.testing.assert_allclose(frame.pose, VEHICLE[TIMES[index]])
    zones = [
        bool(pixel[3] > 0)
        for laser in (TOP, FRONT)
        for n in returns
        for pixel in image(laser, TIMES[index], n).reshape(-1, 4)
        if pixel[0] > 0
    ]
    assert frame.point_data["no_label_zone"].tolist() == zones


def test_one_laser(root: Path) -> None:
    frame = Waymo(root, lasers=("FRONT",), returns=(1,))[0]
    np.testing.assert_allclose(frame.points, expected_points(FRONT, TIMES[0], 1), rtol=1e-5, atol=1e-5)
    with pytest.raises(PointFileError, match="has no range image of REAR"):
        Waymo(root, lasers=("REAR",))[0]
    with pytest.raises(ValueError, match="classes must be different names of TOP"):
        Waymo(root, lasers=("ROOF",))
    with pytest.raises(ValueError, match="returns must be"):
        Waymo(root, returns=(0,))
    assert list(LASERS) == ["TOP", "FRONT", "SIDE_LEFT", "SIDE_RIGHT", "REAR"]


def test_boxes(root: Path) -> None:
    frames = list(Waymo(root))
    np.testing.assert_allclose(frames[0].boxes[0], [10, 2, 1, 4.5, 2, 1.6, 0.3], rtol=1e-6)
    assert frames[0].box_names == ("vehicle", "pedestrian") and frames[0].box_labels.tolist() == [0, 1]
    assert frames[0].box_data["num_lidar_points_in_box"].tolist() == [11, 22]
    assert frames[0].box_data["id"].tolist() == ["a", "b"]
    assert frames[0].box_data["speed"][0, 0] == 1.5 and np.isnan(frames[0].box_data["speed"][1]).all()
    assert frames[1].box_names == ("cyclist", "sign") and frames[1].box_labels.tolist() == [3, 2]
    assert frames[1].boxes[0, 6] == pytest.approx(3.5 - 2 * math.pi)
    assert points_in_boxes(np.array([[10, 2, 1.0]]), frames[0].boxes).tolist() == [[True, False]]
    chosen = Waymo(root, classes=("cyclist",))
    assert chosen[0].boxes.shape == (0, 7) and chosen[1].box_labels.tolist() == [0]
    assert Waymo(root, boxes=False)[0].boxes is None


def test_segmentation(root: Path) -> None:
    dataset = Waymo(root, segmentation=True)
    assert dataset.frames == ((SEGMENT, TIMES[1]),)
    frame = dataset[0]
    expected, instances = [], []
    for number in (1, 2):
        seen = image(TOP, TIMES[1], number)[..., 0] > 0
        expected += classes(TIMES[1], number)[seen][:, 1].tolist()
        instances += classes(TIMES[1], number)[seen][:, 0].tolist()
    top = frame.point_data["laser"] == TOP
    assert frame.labels[top].tolist() == expected and frame.instances[top].tolist() == instances
    assert not frame.labels[~top].any() and (~top).any()
    assert len(SEGMENTATION_CLASSES) == 23 and SEGMENTATION_CLASSES[18] == "road"


def test_without_pixel_poses_the_vehicle_stands_still(root: Path, tmp_path: Path) -> None:
    write_waymo(tmp_path)
    path = tmp_path / f"training/lidar_pose/{SEGMENT}.parquet"
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    still = Waymo(tmp_path, lasers=("TOP",), returns=(1,))[0]
    moving = Waymo(root, lasers=("TOP",), returns=(1,))[0]
    distance = np.linalg.norm(still.xyz - moving.xyz, axis=1)
    assert 0.01 < distance.max() < 5
    values = image(TOP, TIMES[0], 1)
    ranges = values[..., 0][values[..., 0] > 0]
    away = np.linalg.norm(still.xyz - EXTRINSIC[TOP][:3, 3], axis=1)
    np.testing.assert_allclose(away, ranges, rtol=1e-5)


def test_one_large_row_group_reads_the_same(root: Path, tmp_path: Path) -> None:
    write_waymo(tmp_path)
    for path in tmp_path.rglob("*.parquet"):
        table = pq.read_table(path)
        if path.parent.name in ("lidar", "lidar_box"):
            # Frames of other times before and behind, more than are decoded at once.
            name = "key.frame_timestamp_micros"
            others = table.set_column(table.column_names.index(name), name, pa.array([7] * len(table), pa.int64()))
            table = pa.concat_tables([others] * 5 + [table] + [others] * 3)
        pq.write_table(table, path, write_statistics=False)
    for one, other in zip(Waymo(root), Waymo(tmp_path), strict=True):
        assert (one.points == other.points).all() and (one.boxes == other.boxes).all()
        assert one.box_data["id"].tolist() == other.box_data["id"].tolist()


def test_missing_components(tmp_path: Path) -> None:
    with pytest.raises(DatasetFolderError, match="does not exist"):
        Waymo(tmp_path / "none")
    write_waymo(tmp_path)
    with pytest.raises(
        DatasetFolderError,
        match=r"has no validation/lidar(.|\n)*lidar_calibration/SEGMENT.parquet(.|\n)*Waymo Open Dataset",
    ):
        Waymo(tmp_path, "validation")
    (tmp_path / "training/lidar_segmentation").rename(tmp_path / "gone")
    with pytest.raises(DatasetFolderError, match="has no training/lidar_segmentation"):
        Waymo(tmp_path, segmentation=True)
    (tmp_path / "training/lidar_box").rename(tmp_path / "gone too")
    assert Waymo(tmp_path)[0].boxes is None
    with pytest.raises(DatasetFolderError, match="has no training/lidar_box"):
        Waymo(tmp_path, boxes=True)
    with pytest.raises(PointFileError, match="no such file"):
        Waymo(tmp_path, segments=["other"])


def change(root: Path, component: str, **columns: Any) -> None:
    path = root / "training" / component / f"{SEGMENT}.parquet"
    table = pq.read_table(path)
    for name, values in columns.items():
        full = next(column for column in table.column_names if column.endswith(name.replace("__", ".")))
        place = table.column_names.index(full)
        table = table.set_column(place, full, values(table[full]))
    pq.write_table(table, path)


def _shapes(shape: list[int], count: int) -> Any:
    return pa.array([shape] * count, pa.list_(pa.int32(), 3))


def test_damaged_components(tmp_path: Path) -> None:
    def fails(problem: str, **options: Any) -> None:
        with pytest.raises(PointFileError, match=problem):
            Waymo(tmp_path / "w", **options)[0]
        import shutil

        shutil.rmtree(tmp_path / "w")
        write_waymo(tmp_path / "w")

    write_waymo(tmp_path / "w")
    change(tmp_path / "w", "lidar", range_image_return1__shape=lambda old: _shapes([4, 6, 5], len(old)))
    fails("values for .* of shape")
    change(tmp_path / "w", "lidar", range_image_return1__shape=lambda old: _shapes([2**30, 2**30, 4], len(old)))
    fails("values for .* of shape")
    change(tmp_path / "w", "vehicle_pose", transform=lambda old: pa.array([[0.0] * 16] * 2))
    fails("cannot be inverted")
    change(tmp_path / "w", "lidar_calibration", transform=lambda old: pa.array([[1.0] * 15] * 2))
    fails("no 16 finite numbers")
    change(tmp_path / "w", "lidar_calibration", laser_name=lambda old: pa.array([2, 3], pa.int8()))
    fails("has no laser TOP")
    change(tmp_path / "w", "lidar_calibration", inclination__values=lambda old: pa.array([[0.1], None]))
    fails("range image of TOP that does not fit")
    change(tmp_path / "w", "lidar", laser_name=lambda old: pa.array([9] * 4, pa.int8()))
    fails("unknown laser 9")
    change(tmp_path / "w", "lidar_box", type=lambda old: pa.array([7] * 4, pa.int8()))
    fails("unknown type 7")
    change(tmp_path / "w", "lidar_box", size__x=lambda old: pa.array([0.0] * 4))
    fails("size that is not positive")
    change(
        tmp_path / "w",
        "lidar_segmentation",
        return1__values=lambda old: pa.array([[40] * 48], pa.list_(pa.int32())),
    )
    fails("class that the data set does not define", segmentation=True)
    path = tmp_path / "w" / f"training/lidar/{SEGMENT}.parquet"
    path.write_bytes(path.read_bytes()[:-40])
    fails("no readable Parquet file")
    pq.write_table(pa.table({"a": [1]}), path)
    fails("has no column key.frame_timestamp_micros")


def test_damaged_bytes_never_pass_unnoticed_as_other_errors(tmp_path: Path) -> None:
    write_waymo(tmp_path)
    path = tmp_path / f"training/lidar/{SEGMENT}.parquet"
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(40):
        bad = bytearray(good)
        for place in rng.integers(0, len(bad), 4):
            bad[place] = int(rng.integers(256))
        path.write_bytes(bytes(bad))
        try:
            Waymo(tmp_path)[0]
        except PointFileError as error:
            assert str(error).isprintable()


def test_without_pyarrow(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(PointFileError, match=r'pip install "sparseconv\[waymo\]"'):
        Waymo(root)


def test_pickling(root: Path) -> None:
    dataset = pickle.loads(pickle.dumps(Waymo(root)))
    assert (dataset[1].points == Waymo(root)[1].points).all()
