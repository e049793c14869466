"""The hard form of voxelization: padded blocks of points with caps, against the oracle."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from oracle import hard_voxelize as oracle_hard_voxelize
from oracle import voxelize as oracle_voxelize

import sparseconv
from sparseconv import HardVoxels, hard_voxelize, voxelize

Points = npt.NDArray[np.float32]

SIZE = (0.5, 0.7, 0.9)
RANGE = (-2.0, -2.1, -1.8, 2.0, 2.1, 1.8)
FIELDS = ("points", "indices", "num_points", "point_rows")


def cloud(count: int, seed: int, columns: int = 4) -> Points:
    return np.random.default_rng(seed).uniform(-2.6, 2.6, (count, columns)).astype(np.float32)


def check_rows(got: HardVoxels, points: Points, batch: list[int] | None = None) -> None:
    """Point rows: the kept voxel of each point, over-full ones included; the counts must add up."""
    all_rows = oracle_voxelize(points, SIZE, RANGE, batch_index=batch)
    site_of_point = [tuple(all_rows[1][row]) if row >= 0 else None for row in all_rows[3]]
    row_of_site = {tuple(site): row for row, site in enumerate(got.indices.tolist())}
    expected = [-1 if site is None else row_of_site.get(tuple(map(int, site)), -1) for site in site_of_point]
    assert got.point_rows.tolist() == expected
    inside = sum(site is not None for site in site_of_point)
    assert got.num_outside == len(points) - inside
    assert got.num_over_capacity == inside - int(got.num_points.sum())


@pytest.mark.parametrize("bounds", [RANGE, None])
@pytest.mark.parametrize(
    ("max_points", "max_voxels"), [(1, 1), (1, 1000), (3, 40), (2, 149), (64, 7), (64, 10_000)]
)
def test_against_the_oracle(
    backend: str, max_points: int, max_voxels: int, bounds: tuple[float, ...] | None
) -> None:
    points = cloud(500, 1)
    voxels, indices, counts = oracle_hard_voxelize(points, SIZE, bounds, max_points, max_voxels)
    got = hard_voxelize(points, SIZE, bounds, max_points=max_points, max_voxels=max_voxels)
    np.testing.assert_array_equal(got.indices.numpy(), indices)
    np.testing.assert_array_equal(got.num_points.numpy(), counts)
    np.testing.assert_array_equal(got.points.numpy(), voxels.astype(np.float32))
    assert (got.indices.dtype, got.num_points.dtype, got.point_rows.dtype) == (
        torch.int32,
        torch.int32,
        torch.int64,
    )
    if bounds is not None:
        check_rows(got, points)
    else:
        assert got.num_outside == 0
        assert got.num_over_capacity == 500 - int(counts.sum())


def test_by_hand() -> None:
    xs = [0.1, 1.1, 0.2, 2.1, 1.2, 0.3, 1.3, 9.0, 2.2]
    points = np.array([[x, 0.0, 0.0] for x in xs], np.float32)
    got = hard_voxelize(points, 1.0, (0, 0, 0, 4, 1, 1), max_points=2, max_voxels=2)
    assert got.indices[:, 3].tolist() == [0, 1]
    np.testing.assert_array_equal(got.points[:, :, 0].numpy(), np.array([[0.1, 0.2], [1.1, 1.2]], np.float32))
    # Points 5 and 6 find no slot and keep their voxel; 3 and 8 lost their voxel; 7 is outside.
    assert got.point_rows.tolist() == [0, 1, 0, -1, 1, 0, 1, -1, -1]
    assert (got.num_outside, got.num_nonfinite, got.num_over_capacity) == (1, 0, 4)
    assert got.spatial_shape == [1, 1, 4]


@pytest.mark.parametrize("max_voxels", [3, 20, 500])
def test_sorted_order_holds_the_same_voxels(backend: str, max_voxels: int) -> None:
    points = cloud(400, 2)
    first = hard_voxelize(points, SIZE, RANGE, max_points=3, max_voxels=max_voxels)
    ordered = hard_voxelize(points, SIZE, RANGE, max_points=3, max_voxels=max_voxels, order="sorted")
    order = np.lexsort(first.indices.numpy().T[::-1])
    for name in ("points", "indices", "num_points"):
        assert torch.equal(getattr(ordered, name), getattr(first, name)[order]), name
    check_rows(ordered, points)
    assert ordered.num_over_capacity == first.num_over_capacity


@pytest.mark.parametrize("order", ["first", "sorted"])
def test_caps_hold_for_each_cloud_of_a_batch(backend: str, order: str) -> None:
    clouds = [cloud(150, 3), cloud(0, 4), cloud(90, 5), cloud(1, 6) * 0, cloud(0, 7)]
    got = hard_voxelize(clouds, SIZE, RANGE, max_points=2, max_voxels=25, order=order)  # type: ignore[arg-type]
    assert got.batch_size == 5
    start = 0
    for number, points in enumerate(clouds):
        alone = hard_voxelize(points, SIZE, RANGE, max_points=2, max_voxels=25, order=order)  # type: ignore[arg-type]
        mine = got.indices[:, 0] == number
        assert torch.equal(got.indices[mine][:, 1:], alone.indices[:, 1:])
        assert torch.equal(got.points[mine], alone.points)
        assert torch.equal(got.num_points[mine], alone.num_points)
        assert int(mine.sum()) <= 25
        # Samples stand behind each other.
        assert mine[start : start + len(alone.indices)].all()
        start += len(alone.indices)
    assert start == len(got.indices)
    batch = [0] * 150 + [2] * 90 + [3]
    check_rows(got, np.concatenate(clouds), batch)


@pytest.mark.parametrize("order", ["first", "sorted"])
@pytest.mark.parametrize("points", [np.zeros((0, 4), np.float32), np.full((3, 4), 50, np.float32)])
def test_nothing_inside(backend: str, points: Points, order: str) -> None:
    got = hard_voxelize(points, SIZE, RANGE, max_points=3, max_voxels=5, order=order)  # type: ignore[arg-type]
    assert (got.points.shape, got.indices.shape, got.num_points.shape) == ((0, 3, 4), (0, 4), (0,))
    assert (got.point_rows.tolist(), got.num_outside, got.num_over_capacity) == (
        [-1] * len(points),
        len(points),
        0,
    )


def test_non_finite_points(backend: str) -> None:
    points = cloud(50, 8)
    points[[4, 9], [0, 2]] = np.nan, np.inf
    with pytest.raises(ValueError, match="2 of 50 points have a NaN or infinite coordinate, the first in row 4"):
        hard_voxelize(points, SIZE, RANGE, max_points=3, max_voxels=50)
    got = hard_voxelize(points, SIZE, RANGE, max_points=3, max_voxels=50, nonfinite="drop")
    voxels, indices, _ = oracle_hard_voxelize(np.delete(points, [4, 9], 0), SIZE, RANGE, 3, 50)
    np.testing.assert_array_equal(got.indices.numpy(), indices)
    np.testing.assert_array_equal(got.points.numpy(), voxels.astype(np.float32))
    assert got.num_nonfinite == 2
    assert got.point_rows[[4, 9]].tolist() == [-1, -1]


def test_runs_threads_and_backends_agree() -> None:
    points = np.random.default_rng(9).normal(0, 9, (100_000, 4)).astype(np.float32)

    def run() -> HardVoxels:
        return hard_voxelize(points, 0.4, (-16, -16, -4, 16, 16, 4), max_points=3, max_voxels=9000)

    with sparseconv.use_backend("reference"):
        expected = run()
    assert expected.num_over_capacity > 0
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 4, 4):
            torch.set_num_threads(threads)
            got = run()
            for name in FIELDS:
                assert torch.equal(getattr(got, name), getattr(expected, name)), (threads, name)
            assert got.num_over_capacity == expected.num_over_capacity
    finally:
        torch.set_num_threads(before)


def test_gradients_reach_the_kept_points_alone() -> None:
    points = torch.from_numpy(cloud(80, 10)).requires_grad_()
    got = hard_voxelize(points, SIZE, RANGE, max_points=2, max_voxels=20)
    weights = torch.randn(got.points.shape, generator=torch.Generator().manual_seed(0))
    (got.points * weights).sum().backward()
    expected = torch.zeros(80, 4)
    filled = [0] * len(got.indices)
    for point, row in enumerate(got.point_rows.tolist()):
        if row >= 0 and filled[row] < 2:
            expected[point] = weights[row, filled[row]]
            filled[row] += 1
    assert points.grad is not None
    assert torch.equal(points.grad, expected)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"max_points": 0}, "max_points must lie in 1 .. 2147483647, got 0"),
        ({"max_voxels": -3}, "max_voxels must lie in 1 .. 2147483647, got -3"),
        ({"max_points": 2.5}, "max_points"),
        ({"max_voxels": 2.5}, "max_voxels"),
        ({"max_points": "3"}, "max_points"),
        ({"max_points": True}, "max_points"),
        ({"order": "random"}, "order must be 'first' or 'sorted', got 'random'"),
        ({"nonfinite": "ignore"}, "nonfinite must be 'error' or 'drop', got 'ignore'"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises((TypeError, ValueError), match=text):
        hard_voxelize(cloud(9, 11), SIZE, RANGE, **{"max_points": 2, "max_voxels": 9, **arguments})


@pytest.mark.parametrize("columns", [3, 4, 9, 17])
@pytest.mark.parametrize("count", [0, 1, 127, 128, 129, 1000])
def test_sizes_around_a_block_of_points(backend: str, count: int, columns: int) -> None:
    points = cloud(count, count, columns)
    voxels, indices, counts = oracle_hard_voxelize(points, SIZE, RANGE, 2, 60)
    got = hard_voxelize(points, SIZE, RANGE, max_points=2, max_voxels=60)
    np.testing.assert_array_equal(got.indices.numpy(), indices)
    np.testing.assert_array_equal(got.num_points.numpy(), counts)
    np.testing.assert_array_equal(got.points.numpy(), voxels.astype(np.float32))
    check_rows(got, points)


def test_a_grid_of_more_cells_than_a_key_can_number(backend: str) -> None:
    """2^30 cells along each axis, 2^90 in all: only the box that the points occupy is numbered."""
    edge = float(1 << 30)
    bounds = (0.0, 0.0, 0.0, edge, edge, edge)
    points = cloud(300, 5) + np.float32(100)
    got = hard_voxelize(points, 1.0, bounds, max_points=3, max_voxels=40)
    near = hard_voxelize(points, 1.0, None, max_points=3, max_voxels=40)
    assert len(got.indices) == 40
    assert torch.equal(got.indices, near.indices)
    assert torch.equal(got.points, near.points)
    assert got.num_outside == 0
    far = np.float32([[0, 0, 0, 0], [edge - 64, edge - 64, edge - 64, 0]])
    with pytest.raises(ValueError, match="63 bits"):
        hard_voxelize(far, 1.0, bounds, max_points=3, max_voxels=40)


@pytest.mark.parametrize("order", ["first", "sorted"])
def test_working_memory_is_no_result(order: Any) -> None:
    """A thread keeps its working memory: later calls, larger and smaller ones, leave earlier results alone."""
    generator = torch.Generator().manual_seed(3)
    clouds = [torch.rand(count, 4, generator=generator) * 8 for count in (700, 50, 3000, 1, 700)]

    def voxels(cloud: torch.Tensor) -> list[torch.Tensor]:
        hard = hard_voxelize(cloud, 0.5, max_points=3, max_voxels=2000, order=order)
        mean = voxelize(cloud, 0.5)
        return [hard.points, hard.indices, hard.num_points, hard.point_rows, mean.features, mean.indices]

    found = [voxels(cloud) for cloud in clouds]
    with ThreadPoolExecutor(4) as pool:
        others = list(pool.map(voxels, clouds * 4))
    expected = [voxels(cloud) for cloud in clouds]
    for result, wanted in zip(found + others, expected * 5, strict=True):
        assert all(map(torch.equal, result, wanted))
