from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sparseconv.datasets import Sample, SimulatedRoom, points_in_boxes
from sparseconv.datasets.room_layout import room_scene

CLASSES = SimulatedRoom.CLASSES


def room(seed: int = 0, **changes: Any) -> SimulatedRoom:
    return SimulatedRoom(seed, **{"resolution": (240, 100), "caster": "numpy", **changes})


@pytest.fixture(scope="module", params=["tripod", "camera"])
def sample(request: pytest.FixtureRequest) -> Sample:
    views, resolution = (2, (240, 100)) if request.param == "tripod" else (12, (64, 48))
    return room(3, sensor=request.param, views=views, resolution=resolution).scan()


def test_a_room_is_a_coloured_annotated_cloud(sample: Sample) -> None:
    assert sample.fields == ("x", "y", "z", "r", "g", "b")
    colours = sample.points[:, 3:]
    assert colours.min() >= 0 and colours.max() <= 255 and (colours == np.round(colours)).all()
    assert np.isfinite(sample.points).all() and len(sample) > 20_000
    size = np.array(room(3).size)
    assert (sample.xyz > -0.15).all() and (sample.xyz < size + 0.15).all()
    assert sample.labels is not None and sample.instances is not None and sample.boxes is not None
    for name in ("floor", "wall", "ceiling", "table", "chair", "bookcase"):
        assert (sample.labels == CLASSES.index(name)).sum() > 10, name
    shell = np.isin(
        sample.labels, [CLASSES.index(name) for name in ("floor", "wall", "ceiling", "beam", "column")]
    )
    np.testing.assert_array_equal(shell, sample.instances == 0)
    for name, height in (("floor", 0.0), ("ceiling", size[2])):
        z = sample.points[sample.labels == CLASSES.index(name), 2]
        assert abs(np.median(z) - height) < 0.02
    assert len(np.unique(colours[sample.labels == CLASSES.index("bookcase")], axis=0)) > 30


def test_points_lie_in_the_boxes_of_their_objects() -> None:
    for seed in range(4):
        sample = room(seed, noise=0.0, views=2).scan()
        assert sample.boxes is not None and sample.instances is not None and sample.labels is not None
        numbers = sample.box_data["instance"]
        assert set(np.unique(sample.instances)) - {0} <= set(numbers.tolist())
        for row, instance in enumerate(numbers):
            mine = sample.instances == instance
            assert mine.sum() == sample.box_data["num_points"][row]
            if mine.any():
                box = sample.boxes[row : row + 1].copy()
                box[:, 3:6] += 1e-3
                assert points_in_boxes(sample.points[mine], box).all(), sample.box_names[row]
                assert {CLASSES[label] for label in sample.labels[mine]} == {sample.box_names[row]}


@pytest.mark.parametrize("seed", range(12))
def test_furniture_stands_in_the_room_and_no_sensor_in_furniture(seed: int) -> None:
    scene, plan = room_scene(seed)
    size = np.array(plan.size)
    for item in scene.objects:
        assert (np.array(item.box[:2]) > 0).all() and (np.array(item.box[:2]) < size[:2]).all(), item
        assert item.box[2] - item.box[5] / 2 > -1e-6 and item.box[2] + item.box[5] / 2 < size[2]
    # Big things do not stand in each other.
    big = [item for item in scene.objects if item.kind in ("table", "sofa", "bookcase")]
    for number, one in enumerate(big):
        for other in big[:number]:
            gap = np.hypot(one.box[0] - other.box[0], one.box[1] - other.box[1])
            assert gap > (min(one.box[3:5]) + min(other.box[3:5])) / 2 - 0.05
    for sensor in ("tripod", "camera"):
        for place in SimulatedRoom(seed, sensor=sensor).poses()[:, :3, 3]:
            solids = scene.solids.shifted(-place)
            cos, sin = np.cos(solids.yaws), np.sin(solids.yaws)
            x, y, z = solids.centers.T
            outside = np.abs(cos * x + sin * y) > solids.sizes[:, 0] / 2 + 0.05
            outside |= np.abs(cos * y - sin * x) > solids.sizes[:, 1] / 2 + 0.05
            outside |= np.abs(z) > solids.sizes[:, 2] / 2 + 0.05
            assert outside.all(), (sensor, place)


def test_chairs_face_tables_and_shelves_face_the_room() -> None:
    for seed in range(6):
        scene, plan = room_scene(seed)
        tables = np.array([item.box[:2] for item in scene.objects if item.kind == "table"]).reshape(-1, 2)
        for item in scene.objects:
            place, ahead = np.array(item.box[:2]), np.array([np.cos(item.box[6]), np.sin(item.box[6])])
            if item.kind == "chair":
                nearest = tables[np.linalg.norm(tables - place, axis=1).argmin()]
                assert ahead @ (nearest - place) > 0, item
            elif item.kind in ("bookcase", "sofa", "board", "door", "window"):
                reached = place + 2 * ahead
                assert (reached > 0).all() and (reached < np.array(plan.size[:2])).all(), item


def test_all_classes_occur() -> None:
    kinds = {int(kind) for seed in range(12) for kind in np.unique(room_scene(seed)[0].classes)}
    assert kinds == set(range(len(CLASSES)))


def test_the_seed_decides_everything() -> None:
    first, again, other = room(1, views=1).scan(), room(1, views=1).scan(), room(2, views=1).scan()
    np.testing.assert_array_equal(first.points, again.points)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert other.points.shape != first.points.shape or (other.points != first.points).any()


@pytest.mark.parametrize("sensor", ["tripod", "camera"])
def test_views_lie_in_the_room_by_their_poses(sensor: str) -> None:
    scanner = room(5, sensor=sensor, views=3, resolution=(60, 40))
    whole = scanner.scan()
    frames = list(scanner.frames())
    assert len(frames) == len(scanner) == 3
    for number, frame in enumerate(frames):
        assert frame.pose is not None
        np.testing.assert_allclose(frame.pose[:3, :3] @ frame.pose[:3, :3].T, np.eye(3), atol=1e-12)
        assert np.linalg.det(frame.pose[:3, :3]) == pytest.approx(1)
        world = frame.xyz.astype(np.float64) @ frame.pose[:3, :3].T + frame.pose[:3, 3]
        mine = whole.point_data["view"] == number
        np.testing.assert_allclose(world, whole.xyz[mine], atol=1e-5)
        if sensor == "camera":
            assert frame.boxes is None
            depth, aside = frame.points[:, 0], np.abs(frame.points[:, 1:3])
            assert depth.min() > 0.35 and depth.max() < 6.2
            assert (aside[:, 0] / depth < np.tan(np.deg2rad(29.3))).all()
        else:
            assert frame.boxes is not None and whole.boxes is not None
            np.testing.assert_allclose(frame.boxes[:, :3] + frame.pose[:3, 3], whole.boxes[:, :3], atol=1e-5)


def test_depth_noise_grows_with_the_square_of_depth() -> None:
    exact, noisy = (room(4, sensor="camera", views=8, resolution=(64, 48), noise=n).scan() for n in (0.0, 1.0))
    camera = SimulatedRoom(4, sensor="camera", views=8).poses()
    offset = exact.xyz - camera[exact.point_data["view"], :3, 3]
    depth = (offset * camera[exact.point_data["view"], :3, 0]).sum(axis=1)
    error = ((noisy.xyz - exact.xyz) * camera[exact.point_data["view"], :3, 0]).sum(axis=1)
    for low, high in ((0.8, 1.4), (2.0, 2.4), (3.0, 3.4)):
        rows = (depth > low) & (depth < high)
        expected = np.sqrt(np.mean((0.0012 + 0.0019 * (depth[rows] - 0.4) ** 2) ** 2))
        assert rows.sum() > 200 and 0.85 < np.std(error[rows]) / expected < 1.15


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "sensor": ({"sensor": "sonar"}, "sensor must be one of tripod, camera, got 'sonar'"),
    "seed": ({"seed": -1}, "seed must be a whole number >= 0, got -1"),
    "views": ({"views": 0}, "views must be at least 1 and whole, got 0"),
    "broken views": ({"views": 2.5}, "views must be at least 1 and whole, got 2.5"),
    "broken resolution": ({"resolution": (10.5, 4)}, "resolution must be columns and rows"),
    "one number": ({"resolution": 10}, "resolution must be columns and rows"),
    "resolution": ({"resolution": (10, 0)}, "resolution must be columns and rows"),
    "noise": ({"noise": -1.0}, "noise must be a multiple >= 0"),
    "caster": ({"caster": "cuda"}, "caster must be"),
}


@pytest.mark.parametrize("case", WRONG)
def test_impossible_rooms_are_refused(case: str) -> None:
    arguments, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        SimulatedRoom(**arguments)
    with pytest.raises(IndexError):
        room(0, views=2).frame(2)
