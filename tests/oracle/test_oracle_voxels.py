"""The voxel oracle against hand-computed cases."""

import numpy as np
import pytest

from . import devoxelize_trilinear, grid_shape, hard_voxelize, trilinear_weights, voxelize

SIZE = (1.0, 2.0, 4.0)
RANGE = (0.0, -2.0, -4.0, 3.0, 2.0, 4.0)
# x, y, z and one more value; the voxels (z, y, x) within RANGE stand beside each point.
POINTS = np.array(
    [
        [2.5, 1.0, 3.0, 10.0],  # 1 1 2
        [0.5, -1.0, -1.0, 20.0],  # 0 0 0
        [2.0, 0.0, 0.0, 30.0],  # 1 1 2: lower faces belong to the voxel
        [3.0, 0.0, 0.0, 40.0],  # dropped: the upper face of the range does not
        [-0.1, 0.0, 0.0, 50.0],  # dropped
        [0.0, -2.0, -4.0, 60.0],  # 0 0 0
        [1.5, -1.0, 1.0, 70.0],  # 1 0 1
        [2.9, 1.9, 3.9, 80.0],  # 1 1 2
    ],
    dtype=np.float32,
)


def test_grid_shape_is_rounded_and_reversed() -> None:
    assert grid_shape(SIZE, RANGE) == (2, 2, 3)
    # 0.6 / 0.2 is 2.9999999999999996: cut off, it would lose the last voxel.
    assert grid_shape((0.2, 0.16, 4), (0, -39.68, -3, 0.6, 39.68, 1)) == (1, 496, 3)


@pytest.mark.parametrize(
    ("reduce", "last"),
    [
        ("mean", [40.0, 70.0, 40.0]),
        ("sum", [80.0, 70.0, 120.0]),
        ("max", [60.0, 70.0, 80.0]),
        ("min", [20.0, 70.0, 10.0]),
        ("first", [20.0, 70.0, 10.0]),
    ],
)
def test_voxelize_by_hand(reduce: str, last: list[float]) -> None:
    features, coords, counts, point_rows = voxelize(POINTS, SIZE, RANGE, reduce)
    assert coords.dtype == counts.dtype == point_rows.dtype == np.int32
    assert coords.tolist() == [[0, 0, 0, 0], [0, 1, 0, 1], [0, 1, 1, 2]]
    assert counts.tolist() == [2, 1, 3]
    assert point_rows.tolist() == [2, 0, 2, -1, -1, 0, 1, 2]
    np.testing.assert_allclose(features[:, 3], last)
    first = {
        "mean": [0.25, -1.5, -2.5],
        "sum": [0.5, -3.0, -5.0],
        "max": [0.5, -1.0, -1.0],
        "min": [0.0, -2.0, -4.0],
        "first": [0.5, -1.0, -1.0],
    }
    np.testing.assert_allclose(features[0, :3], first[reduce])


def test_first_is_the_first_point_and_not_an_extreme() -> None:
    points = np.array([[0.5, 0.5, 0.5, 2.0], [0.1, 0.9, 0.1, 1.0], [0.9, 0.1, 0.9, 3.0]], dtype=np.float32)
    features, _, counts, _ = voxelize(points, SIZE, None, "first")
    assert counts.tolist() == [3]
    assert features.tolist() == [[0.5, 0.5, 0.5, 2.0]]


def test_without_a_range_coordinates_may_be_negative() -> None:
    points = np.array([[-0.5, 3.0, -4.5], [0.0, 0.0, 0.0]], dtype=np.float32)
    _, coords, _, point_rows = voxelize(points, SIZE, None)
    assert coords.tolist() == [[0, -2, 1, -1], [0, 0, 0, 0]]
    assert point_rows.tolist() == [0, 1]


def test_batches_do_not_mix() -> None:
    points = np.zeros((3, 3), dtype=np.float32)
    _, coords, counts, point_rows = voxelize(points, SIZE, None, batch_index=[1, 0, 1])
    assert coords.tolist() == [[0, 0, 0, 0], [1, 0, 0, 0]]
    assert counts.tolist() == [1, 2]
    assert point_rows.tolist() == [1, 0, 1]


def test_coordinates_are_rounded_to_float32_at_each_step() -> None:
    # In float32 0.3 / 0.1 rounds to 3 exactly; in float64 it lies below 3.
    points = np.array([[0.3, 0.0, 0.0]], dtype=np.float32)
    assert np.floor(0.3 / 0.1) == 2
    _, coords, _, _ = voxelize(points, (0.1, 1.0, 1.0), None)
    assert coords.tolist() == [[0, 0, 0, 3]]
    # The largest float32 below hi = 10 keeps its distance from lo = -1e6 only up to 1 / 16.
    below = np.nextafter(np.float32(10), np.float32(0))
    points = np.array([[below, 0.0, 0.0]], dtype=np.float32)
    cloud_range = (-1e6, 0, 0, 10, 1, 1)
    assert voxelize(points, (1, 1, 1), cloud_range)[3].tolist() == [-1]


def test_the_difference_is_rounded_before_the_division() -> None:
    # A detector's grid: with the difference in float64 these would be voxels 453 and 457.
    points = np.array([[32.8, 0.0, 0.0], [33.599995, 0.0, 0.0]], dtype=np.float32)
    cloud_range = (-39.68, 0.0, 0.0, 39.68, 1.0, 1.0)
    _, coords, _, _ = voxelize(points, (0.16, 1.0, 1.0), cloud_range)
    assert coords[:, 3].tolist() == [452, 458]


def test_bad_points_and_reductions_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        voxelize(np.array([[0.0, np.nan, 0.0]]), SIZE, None)
    with pytest.raises(ValueError, match="got 'median'"):
        voxelize(POINTS, SIZE, RANGE, "median")


@pytest.mark.parametrize("cloud_range", [None, RANGE])
def test_no_points(cloud_range: tuple[float, ...] | None) -> None:
    points = np.zeros((0, 5), dtype=np.float32)
    features, coords, counts, point_rows = voxelize(points, SIZE, cloud_range)
    assert (features.shape, coords.shape) == ((0, 5), (0, 4))
    assert (counts.shape, point_rows.shape) == ((0,), (0,))
    voxels, coords, counts = hard_voxelize(points, SIZE, cloud_range, 3, 4)
    assert (voxels.shape, coords.shape, counts.shape) == ((0, 3, 5), (0, 4), (0,))


def test_hard_voxelize_keeps_what_comes_first() -> None:
    voxels, coords, counts = hard_voxelize(POINTS, SIZE, RANGE, 2, 2)
    # The third voxel (1, 0, 1) finds no room; point 7 finds no slot.
    assert coords.tolist() == [[0, 1, 1, 2], [0, 0, 0, 0]]
    assert counts.tolist() == [2, 2]
    np.testing.assert_array_equal(voxels, POINTS[[[0, 2], [1, 5]]])


def test_hard_voxelize_pads_with_zeros_and_fills_voxels_after_the_limit() -> None:
    voxels, coords, counts = hard_voxelize(POINTS, SIZE, RANGE, 4, 1)
    assert coords.tolist() == [[0, 1, 1, 2]]
    assert counts.tolist() == [3]
    np.testing.assert_array_equal(voxels[0, :3], POINTS[[0, 2, 7]])
    assert not voxels[0, 3].any()


def test_trilinear_by_hand() -> None:
    # Two neighbours along x, with centres x = 0.5 and 1.5, y = 1, z = 2.
    coords = np.array([[0, 0, 0, 0], [0, 0, 0, 1]], dtype=np.int32)
    points = np.array(
        [
            [0.5, 1.0, 2.0],  # on the first centre
            [0.75, 1.0, 2.0],  # a quarter of the way
            [0.75, 1.5, 3.0],  # the same after renormalisation
            [0.0, 1.0, 2.0],  # beyond the first centre: the first alone
            [1.75, 1.0, 2.0],  # beyond the second: the second alone
            [2.5, 1.0, 2.0],  # on the centre of an absent voxel: the second has weight 0
            [9.0, 1.0, 2.0],  # far away
        ]
    )
    weights = trilinear_weights(coords, points, SIZE, (0, 0, 0))
    expected = np.array([[1, 0], [0.75, 0.25], [0.75, 0.25], [1, 0], [0, 1], [0, 0], [0, 0]], dtype=np.float64)
    np.testing.assert_allclose(weights, expected, rtol=1e-15)
    features = np.array([[4.0], [8.0]])
    out = devoxelize_trilinear(features, coords, points, SIZE, (0, 0, 0))
    np.testing.assert_allclose(out.ravel(), [4, 5, 5, 4, 8, 0, 0])


def test_trilinear_sees_its_own_batch_and_the_corner() -> None:
    coords = np.array([[0, 0, 0, 0], [1, 0, 0, 0]], dtype=np.int32)
    point = np.array([[10.5, 21.0, 32.0]])
    weights = trilinear_weights(coords, point, SIZE, (10, 20, 30), batch_index=[1])
    assert weights.tolist() == [[0, 1]]


def test_trilinear_reproduces_a_linear_field() -> None:
    rng = np.random.default_rng(0)
    lo = np.array([-1.0, 2.0, -8.0])
    coords = np.argwhere(np.ones((1, 5, 6, 4), dtype=bool)).astype(np.int32)
    centres = (coords[:, :0:-1] + 0.5) * SIZE + lo
    slope = np.array([2.0, -3.0, 0.5])
    # Inside the hull of the centres every corner exists.
    points = rng.uniform(centres.min(axis=0), centres.max(axis=0), (50, 3))
    out = devoxelize_trilinear((centres @ slope)[:, None], coords, points, SIZE, lo.tolist())
    np.testing.assert_allclose(out[:, 0], points @ slope, atol=1e-4)
