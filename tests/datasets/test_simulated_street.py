from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from sparseconv.datasets import PointCloud, Sample, SimulatedStreet, points_in_boxes
from sparseconv.datasets.solids import Rays, Solids
from sparseconv.datasets.street_layout import street_scene

SMALL = SimulatedStreet(beams=16, columns=450, caster="numpy")
CLASSES = SimulatedStreet.CLASSES

# Voxels that KITTI's training scan 000000 occupies, by voxel size in metres.
KITTI_VOXELS = {0.05: 79943, 0.1: 47769, 0.2: 22602}
# Pairs of a 3x3x3 submanifold layer a voxel, least and most of KITTI's scans 000000 to 000002.
KITTI_PAIRS = {0.05: (3.3, 7.4), 0.1: (5.2, 9.4), 0.2: (7.2, 9.2)}


@pytest.fixture(scope="module", params=[0, 1, 12345])
def frame(request: pytest.FixtureRequest) -> Sample:
    return SimulatedStreet(seed=request.param, caster="numpy").frame(5)


def share(sample: Sample, name: str) -> float:
    assert sample.labels is not None
    return float(np.mean(sample.labels == CLASSES.index(name)))


def cells(xyz: np.ndarray, size: float) -> np.ndarray:
    return np.unique(np.floor(xyz / np.float32(size)).astype(np.int64) @ np.array([1 << 40, 1 << 20, 1]))


def test_a_frame_is_a_clean_annotated_cloud(frame: Sample) -> None:
    assert frame.fields == ("x", "y", "z", "intensity")
    assert 90_000 <= len(frame) <= 115_200
    assert np.isfinite(frame.points).all()
    intensity = frame.points[:, 3]
    assert intensity.min() >= 0 and intensity.max() <= 0.99
    assert frame.labels is not None and frame.instances is not None and frame.boxes is not None
    assert frame.labels.min() >= 0 and frame.labels.max() < len(CLASSES)
    assert frame.boxes.shape == (len(frame.box_names), 9) and len(frame.boxes) > 30
    ring, time = frame.point_data["ring"], frame.point_data["time"]
    assert ring.min() == 0 and ring.max() == 63 and (np.diff(ring) >= 0).all()
    assert -0.05 <= time.min() < -0.045 and 0.045 < time.max() <= 0.05
    # Straight ahead is the middle of the turn.
    assert np.abs(time[np.abs(np.arctan2(frame.points[:, 1], frame.points[:, 0])) < 0.01]).max() < 1e-3


@pytest.mark.parametrize("size", KITTI_VOXELS)
def test_density_is_that_of_a_real_scan(frame: Sample, size: float) -> None:
    occupied = cells(frame.xyz, size)
    # Real scans of other streets differ by as much.
    assert 0.65 < len(occupied) / KITTI_VOXELS[size] < 1.35
    taps = [x * (1 << 40) + y * (1 << 20) + z for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1)]
    pairs = sum(np.isin(occupied + tap, occupied, assume_unique=True).sum() for tap in taps)
    low, high = KITTI_PAIRS[size]
    assert 0.8 * low < pairs / len(occupied) < 1.2 * high


def test_density_falls_with_range(frame: Sample) -> None:
    distance = np.linalg.norm(frame.xyz, axis=1)
    near, middle, far = (((distance > a) & (distance < a + 10)).sum() for a in (5, 20, 50))
    assert near > 3 * middle > 9 * far > 0
    assert distance.min() > 1.0 and distance.max() < 120.5


def test_classes_are_where_they_belong() -> None:
    frames = [SimulatedStreet(seed=seed, caster="numpy", columns=900).frame(2 * seed) for seed in range(6)]
    for name in CLASSES:
        assert max(share(sample, name) for sample in frames) > 0, name
    for sample in frames:
        assert sample.pose is not None
        assert 0.2 < share(sample, "road") < 0.6
        x, y, z = (sample.xyz.astype(np.float64) @ sample.pose[:3, :3].T + sample.pose[:3, 3]).T
        by_class = {name: sample.labels == i for i, name in enumerate(CLASSES)}
        np.testing.assert_allclose(z[by_class["road"]], 0, atol=0.06)
        assert y[by_class["road"]].min() > -4.1 and y[by_class["road"]].max() < 7.6
        kerb = z[by_class["sidewalk"]]
        assert kerb.min() > -0.1 and np.abs(np.median(kerb) - 0.12) < 0.01
        assert z[by_class["car"]].max() < 2.0
        away = np.abs(y[by_class["building"]] - 1.75)
        assert (away > 8).all()
        # Lane markings shine.
        painted = by_class["road"] & (np.abs(y - 1.75) < 0.05) & (x % 9 > 0.1) & (x % 9 < 2.9)
        assert painted.sum() > 5
        assert sample.points[painted, 3].mean() > 2 * sample.points[by_class["road"], 3].mean()


def test_scan_is_the_frames_cloud() -> None:
    cloud, sample = SMALL.scan(2), SMALL.frame(2)
    assert isinstance(cloud, PointCloud)
    np.testing.assert_array_equal(cloud.points, sample.points)
    np.testing.assert_array_equal(cloud.labels, sample.labels)


def test_the_seed_decides_everything() -> None:
    first, again = SMALL.frame(4), SMALL.frame(4)
    for name in ("points", "labels", "instances", "boxes"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    for other in (SMALL.frame(5), SimulatedStreet(seed=1, beams=16, columns=450, caster="numpy").frame(4)):
        assert other.points.shape != first.points.shape or (other.points != first.points).any()


@pytest.mark.parametrize("moving", [False, True])
def test_every_point_of_an_object_lies_in_its_box(moving: bool) -> None:
    """Exactly, without noise: where its box was when the ray met it."""
    street = SimulatedStreet(seed=3, caster="numpy", range_noise=0.0, columns=900)
    found = 0
    for index in (0, 30):
        sample = street.frame(index)
        assert sample.boxes is not None and sample.instances is not None
        for row, instance in enumerate(sample.box_data["instance"]):
            mine = sample.instances == instance
            assert mine.sum() == sample.box_data["num_points"][row]
            velocity = sample.boxes[row, 7:9]
            if not mine.any() or bool(np.abs(velocity).max() > 0.1) is not moving:
                continue
            points = sample.xyz[mine].astype(np.float64)
            points[:, :2] -= sample.point_data["time"][mine, None] * velocity
            box = sample.boxes[row : row + 1].astype(np.float64).copy()
            box[:, 3:6] += 2e-3
            assert points_in_boxes(points, box).all(), sample.box_names[row]
            kinds = {CLASSES[label] for label in np.unique(sample.labels[mine])}
            assert kinds == {sample.box_names[row]}
            found += 1
    assert found > 8
    # And nothing else does: not one point of another object.
    sample = street.frame(0)
    assert sample.boxes is not None and sample.instances is not None and sample.labels is not None
    inside = points_in_boxes(sample.points, sample.boxes)
    still = np.abs(sample.boxes[:, 7:9]).max(axis=1) == 0
    for row in np.flatnonzero(still):
        others = inside[:, row] & (sample.instances != sample.box_data["instance"][row])
        assert {CLASSES[label] for label in sample.labels[others]} <= {"road", "sidewalk"}


def test_boxes_are_tight() -> None:
    sample = SimulatedStreet(seed=2, caster="numpy", range_noise=0.0).frame(0)
    assert sample.boxes is not None and sample.instances is not None
    row = int(np.argmax(np.where(sample.box_labels == 0, sample.box_data["num_points"], 0)))
    box = sample.boxes[row].astype(np.float64)
    points = sample.xyz[sample.instances == sample.box_data["instance"][row]].astype(np.float64) - box[:3]
    along = points[:, 0] * np.cos(box[6]) + points[:, 1] * np.sin(box[6])
    assert np.abs(along).max() > 0.9 * box[3] / 2
    assert 3.5 < box[3] < 5 and 1.6 < box[4] < 1.9 and 1.3 < box[5] < 1.8
    assert points[:, 2].max() > 0.4 * box[5] and points[:, 2].min() < -0.4 * box[5]


def test_objects_keep_their_numbers_and_move_as_they_say() -> None:
    frames = list(SMALL.frames(3, start=7))
    tracks: dict[int, list[np.ndarray]] = {}
    for sample in frames:
        assert sample.boxes is not None and sample.pose is not None
        for box, instance in zip(sample.boxes, sample.box_data["instance"], strict=True):
            center = sample.pose[:3, :3] @ box[:3] + sample.pose[:3, 3]
            velocity = sample.pose[:2, :2] @ box[7:9]
            tracks.setdefault(int(instance), []).append(np.concatenate([center, velocity, box[3:6]]))
    whole = [np.stack(track) for track in tracks.values() if len(track) == 3]
    assert len(whole) > 50
    speeds = []
    for track in whole:
        speeds.append(np.linalg.norm(track[0, 3:5]))
        if np.allclose(track[0, 3:5], track[1, 3:5], atol=1e-3):
            np.testing.assert_allclose(track[1, :2] - track[0, :2], track[0, 3:5] / 10, atol=2e-3)
        np.testing.assert_allclose(track[1, 5:], track[0, 5:], atol=1e-5)
    assert np.sum(np.array(speeds) > 3) > 5 and np.sum(np.array(speeds) == 0) > 5


def test_a_far_frame_needs_none_before_it() -> None:
    late = SMALL.frame(20_000)
    assert late.pose is not None and late.pose[0, 3] == pytest.approx(16_000)
    assert 3000 < len(late) < 7200 and np.abs(late.xyz).max() < 121


def test_standing_things_stay_where_they_are() -> None:
    """In the world, over frames and within a turn: a sensor that moves, and noise that is off."""
    street = SimulatedStreet(seed=5, caster="numpy", range_noise=0.0, columns=900, speed=20.0)
    for sample in street.frames(2, start=3):
        assert sample.pose is not None and sample.labels is not None
        world = sample.xyz.astype(np.float64) @ sample.pose[:3, :3].T + sample.pose[:3, 3]
        road = sample.labels == CLASSES.index("road")
        np.testing.assert_allclose(world[road, 2], 0, atol=1e-4)
        curb = np.abs(world[:, 1] + 3.95) < 0.002
        side = curb & (sample.labels == CLASSES.index("sidewalk")) & (world[:, 2] < 0.11)
        assert side.sum() > 20, "the kerb's face is one line"
    raw = SimulatedStreet(
        seed=5, caster="numpy", range_noise=0.0, columns=900, speed=20.0, motion_compensated=False
    )
    ours, theirs = street.frame(3), raw.frame(3)
    np.testing.assert_array_equal(ours.labels, theirs.labels)
    moved = np.linalg.norm(ours.xyz - theirs.xyz, axis=1)
    np.testing.assert_allclose(moved, np.abs(20.0 * ours.point_data["time"]), atol=0.02 * 60)
    ahead = np.abs(ours.point_data["time"]) < 5e-4
    assert moved[ahead].max() < 0.02 < 0.9 < moved.max()


def test_sweeps_lie_on_each_other() -> None:
    street = SimulatedStreet(seed=2, caster="numpy", range_noise=0.0, beams=32, columns=900)
    one, many = street.frame(6), street.sweeps(6, 4)
    assert many.fields == ("x", "y", "z", "intensity", "time_lag")
    np.testing.assert_array_equal(many.points[: len(one), :4], one.points)
    lag = many.points[:, 4]
    assert lag[: len(one)].min() < -0.045 and 0.34 < lag.max() < 0.3501
    assert many.labels is not None and many.instances is not None and many.pose is not None
    assert len(many) > 3 * len(one) and len(many.labels) == len(many.point_data["ring"]) == len(many)
    # A parked car of all sweeps is in the one box of it.
    assert many.boxes is not None
    row = int(np.argmax(np.where(many.boxes[:, 7] == 0, many.box_data["num_points"], 0)))
    mine = many.instances == many.box_data["instance"][row]
    box = many.boxes[row : row + 1].copy()
    box[:, 3:6] += 2e-3
    assert mine.sum() > 2 * many.box_data["num_points"][row]
    assert points_in_boxes(many.points[mine], box).all()
    assert len(street.sweeps(0, 4)) == len(street.frame(0))


def test_noise_belongs_to_the_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    from sparseconv.datasets import simulated_street

    real = simulated_street.cast_rays

    def miss_one_hit(rays: Rays, solids: Solids, caster: str) -> Any:
        solid, distance, cosine = real(rays, solids, caster)
        missed = np.flatnonzero(solid >= 0)[1000]
        solid[missed], distance[missed] = -1, np.inf
        return solid, distance, cosine

    expected = {row.tobytes() for row in SMALL.scan().points}
    monkeypatch.setattr(simulated_street, "cast_rays", miss_one_hit)
    changed = {row.tobytes() for row in SMALL.scan().points}
    assert len(expected ^ changed) <= 2


def test_the_range_noise_is_the_one_asked_for() -> None:
    road = CLASSES.index("road")
    still = SimulatedStreet(beams=16, columns=450, caster="numpy", speed=0.0)
    scan = still.scan()
    near = (scan.labels == road) & (np.linalg.norm(scan.xyz, axis=1) < 12)
    measured = np.linalg.norm(scan.xyz[near].astype(np.float64), axis=1)
    # A road point errs along its ray, so its height errs by the sine of the ray's elevation.
    true = 1.73 * measured / -scan.column("z")[near].astype(np.float64)
    assert 0.017 < np.std(measured - true) < 0.023
    silent = SimulatedStreet(beams=16, columns=450, range_noise=0.0, caster="numpy").scan()
    on_road = silent.column("z")[silent.labels == road]
    np.testing.assert_allclose(on_road, -1.73, atol=1e-4)


@pytest.mark.parametrize("seed", range(20))
def test_the_sensor_stands_clear_of_every_solid(seed: int) -> None:
    street = SimulatedStreet(seed=seed)
    for time in (0.0, 3.7, 60.0):
        scene = street_scene(seed, time, 8.0 * time, reach=120.0, speed=8.0)
        solids = scene.solids.shifted(-street._place(time)[0])
        cos, sin = np.cos(solids.yaws), np.sin(solids.yaws)
        x, y = solids.centers[:, 0], solids.centers[:, 1]
        outside_x = np.abs(cos * x + sin * y) > solids.sizes[:, 0] / 2 + 0.5
        outside_y = np.abs(cos * y - sin * x) > solids.sizes[:, 1] / 2 + 0.5
        assert (outside_x | outside_y).all()
        assert len(np.unique(scene.instances)) > 50
        assert 400 < len(solids) < 6000


def test_a_scan_stays_within_300_megabytes() -> None:
    tracemalloc.start()
    try:
        SimulatedStreet(caster="numpy").scan()
        assert tracemalloc.get_traced_memory()[1] < 300e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "sensor",
    [{"beams": 1, "columns": 1}, {"beams": 1, "columns": 7}, {"beams": 3, "columns": 5, "max_range": 0.1}],
)
def test_tiny_sensors(sensor: dict[str, Any]) -> None:
    sample = SimulatedStreet(caster="numpy", **sensor).frame()
    assert sample.labels is not None
    assert len(sample) == len(sample.labels) <= sensor["beams"] * sensor["columns"]


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "negative seed": ({"seed": -1}, "seed must be a whole number >= 0, got -1"),
    "no beams": ({"beams": 0}, "beams must be a whole number >= 1, got 0"),
    "half a column": ({"columns": 1.5}, "columns must be a whole number >= 1, got 1.5"),
    "no range": ({"max_range": 0.0}, "max_range must be positive metres, at most 1000, got 0.0"),
    "NaN noise": ({"range_noise": float("nan")}, "range_noise must be metres >= 0, got nan"),
    "reversing": ({"speed": -1.0}, "speed must be 0 to 60 metres a second, got -1.0"),
    "standing drum": ({"rate": 0.0}, "rate must be turns a second > 0, got 0.0"),
    "unknown caster": ({"caster": "cuda"}, "caster must be 'auto', 'open3d' or 'numpy', got 'cuda'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_impossible_sensors_are_refused(case: str) -> None:
    arguments, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        SimulatedStreet(**arguments)


def test_impossible_frames_are_refused() -> None:
    for call in (lambda: SMALL.frame(-1), lambda: SMALL.frame(True), lambda: SMALL.sweeps(3, 0)):
        with pytest.raises(ValueError, match=r"index must be|count must be"):
            call()
