from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from sparseconv.datasets import PointCloud, SimulatedStreet
from sparseconv.datasets.ray_casting import Float64
from sparseconv.datasets.street_layout import street_layout

SMALL = SimulatedStreet(beams=16, columns=450, caster="numpy")

# Voxels that KITTI's training scan 000000 occupies, by voxel size in metres.
KITTI_VOXELS = {0.05: 79943, 0.1: 47769, 0.2: 22602}


@pytest.fixture(scope="module", params=[0, 1, 12345])
def scan(request: pytest.FixtureRequest) -> PointCloud:
    return SimulatedStreet(seed=request.param, caster="numpy").scan()


def _share(cloud: PointCloud, name: str) -> float:
    return float(np.mean(cloud.labels == SimulatedStreet.CLASSES.index(name)))


def test_a_scan_is_a_clean_labelled_cloud(scan: PointCloud) -> None:
    assert scan.fields == ("x", "y", "z", "intensity")
    assert 90_000 <= len(scan) <= 115_200
    assert np.isfinite(scan.points).all()
    intensity = scan.column("intensity")
    assert intensity.min() >= 0
    assert intensity.max() <= 0.99
    assert scan.labels is not None
    assert scan.labels.min() >= 0
    assert scan.labels.max() < len(SimulatedStreet.CLASSES)


@pytest.mark.parametrize("size", KITTI_VOXELS)
def test_density_resembles_a_real_scan(scan: PointCloud, size: float) -> None:
    cells = np.floor(scan.xyz / np.float32(size)).astype(np.int64)
    occupied = len(np.unique(cells @ np.array([1 << 40, 1 << 20, 1])))
    assert 0.6 < occupied / KITTI_VOXELS[size] < 1.4


def test_classes_are_where_they_belong(scan: PointCloud) -> None:
    for name in SimulatedStreet.CLASSES:
        assert _share(scan, name) > 0, name
    assert 0.2 < _share(scan, "road") < 0.6
    z = scan.column("z")
    by_class = {name: scan.labels == i for i, name in enumerate(SimulatedStreet.CLASSES)}
    np.testing.assert_allclose(z[by_class["road"]], -1.73, atol=0.06)
    y = scan.column("y")[by_class["road"]]
    assert y.min() > -4.1
    assert y.max() < 7.6
    assert z[by_class["car"]].max() < 0.3
    assert (np.abs(scan.column("y")[by_class["building"]]) > 5).all()
    distance = np.linalg.norm(scan.xyz, axis=1)
    assert distance.min() > 1.0
    assert distance.max() < 120.5


def test_the_seed_decides_everything() -> None:
    first, again = SMALL.scan(), SMALL.scan()
    np.testing.assert_array_equal(first.points, again.points)
    np.testing.assert_array_equal(first.labels, again.labels)
    other = SimulatedStreet(seed=1, beams=16, columns=450, caster="numpy").scan()
    assert other.points.shape != first.points.shape or (other.points != first.points).any()


def test_noise_belongs_to_the_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    from sparseconv.datasets import simulated_street

    real = simulated_street.first_box

    def miss_the_first_hit(directions: Float64, *rest: Any) -> np.ndarray:
        box = real(directions, *rest)
        box[np.flatnonzero(box >= 0)[1000]] = -1
        return box

    expected = {row.tobytes() for row in SMALL.scan().points}
    monkeypatch.setattr(simulated_street, "first_box", miss_the_first_hit)
    changed = {row.tobytes() for row in SMALL.scan().points}
    assert len(expected ^ changed) <= 2


def test_the_range_noise_is_the_one_asked_for() -> None:
    road = SimulatedStreet.CLASSES.index("road")
    scan = SMALL.scan()
    near = (scan.labels == road) & (np.linalg.norm(scan.xyz, axis=1) < 12)
    measured = np.linalg.norm(scan.xyz[near].astype(np.float64), axis=1)
    # A road point errs along its ray, so its height errs by the sine of the ray's elevation.
    true = 1.73 * measured / -scan.column("z")[near].astype(np.float64)
    assert 0.017 < np.std(measured - true) < 0.023
    silent = SimulatedStreet(beams=16, columns=450, range_noise=0.0, caster="numpy").scan()
    on_road = silent.column("z")[silent.labels == road]
    np.testing.assert_allclose(on_road, -1.73, atol=1e-5)


@pytest.mark.parametrize("seed", range(20))
def test_the_sensor_stands_clear_of_every_box(seed: int) -> None:
    boxes, classes = street_layout(np.random.default_rng(seed))
    assert len(boxes) == len(classes)
    cos, sin = np.cos(boxes.yaws), np.sin(boxes.yaws)
    x, y = boxes.centers[:, 0], boxes.centers[:, 1]
    outside_x = np.abs(cos * x + sin * y) > boxes.sizes[:, 0] / 2 + 0.5
    outside_y = np.abs(cos * y - sin * x) > boxes.sizes[:, 1] / 2 + 0.5
    assert (outside_x | outside_y).all()
    assert 200 < len(boxes) < 900


def test_a_scan_stays_within_300_megabytes() -> None:
    tracemalloc.start()
    try:
        SimulatedStreet(caster="numpy").scan()
        assert tracemalloc.get_traced_memory()[1] < 300e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "sensor",
    [
        {"beams": 1, "columns": 1},
        {"beams": 1, "columns": 7},
        {"beams": 3, "columns": 5, "max_range": 0.1},
    ],
)
def test_tiny_sensors(sensor: dict[str, Any]) -> None:
    scan = SimulatedStreet(caster="numpy", **sensor).scan()
    assert scan.labels is not None
    assert len(scan) == len(scan.labels) <= sensor["beams"] * sensor["columns"]


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "negative seed": ({"seed": -1}, "seed must be a whole number >= 0, got -1"),
    "no beams": ({"beams": 0}, "beams must be a whole number >= 1, got 0"),
    "half a column": ({"columns": 1.5}, "columns must be a whole number >= 1, got 1.5"),
    "no range": ({"max_range": 0.0}, "max_range must be positive metres, got 0.0"),
    "NaN noise": ({"range_noise": float("nan")}, "range_noise must be metres >= 0, got nan"),
    "unknown caster": (
        {"caster": "cuda"},
        "caster must be 'auto', 'open3d' or 'numpy', got 'cuda'",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_impossible_sensors_are_refused(case: str) -> None:
    arguments, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        SimulatedStreet(**arguments)
