"""Points to voxels."""

from __future__ import annotations

import pytest
import torch
from tolerance import assert_close

from sparseconv.backends import cuda, reference


@pytest.mark.parametrize(("max_voxels", "in_order"), [(None, True), (None, False), (7, False), (7, True)])
@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize("count", [0, 1, 53])
@pytest.mark.filterwarnings("ignore:overflow encountered")  # the simulator computes as numpy does
def test_group_points(count: int, bounded: bool, max_voxels: int | None, in_order: bool) -> None:
    points = torch.randn(count, 4) * 3
    if count > 8:
        points[2, 1], points[3, 2], points[4, 0] = float("nan"), float("inf"), -float("inf")
        points[5] = torch.tensor([3e38, -3e38, 1e10, 0])
        points[6, :3] = torch.tensor([0.3, 0.1, -0.2])  # on the faces of voxels
        points[7, 3] = float("nan")  # no coordinate
        points[20:30] = points[10:20]
    low, size = (-2.0, -3.0, -1.0), (0.1, 0.2, 0.3)
    grid = (40, 30, 10) if bounded else None
    sizes = [count // 3, 0, count - count // 3]
    arguments = (points, sizes, low, size, grid, max_voxels, in_order)
    found, expected = cuda.group_points(*arguments), reference.group_points(*arguments)
    for name, value, wanted in zip(found._fields, found, expected, strict=True):
        if isinstance(wanted, torch.Tensor):
            assert torch.equal(value, wanted) and value.dtype == wanted.dtype, name
        else:
            assert value == wanted, name
    if count > 8:
        assert found.num_outside > 0 and found.num_nonfinite == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("count", [0, 1, 61])
def test_reduce_points(count: int, dtype: torch.dtype) -> None:
    values = torch.randn(count, 3, dtype=dtype)
    n_rows = count // 3
    rows = torch.randint(-1, max(1, n_rows), (count,)) if n_rows else torch.full((count,), -1)
    # Every row has a point, as voxels do.
    rows[:n_rows] = torch.randperm(n_rows)
    for reduce in ("sum", "mean", "max", "first"):
        found, counts = cuda.reduce_points(values, rows, n_rows, reduce)
        expected, expected_counts = reference.reduce_points(values.double(), rows, n_rows, reduce)
        assert torch.equal(counts, expected_counts) and counts.dtype == torch.int32
        assert_close(found, expected, 61, reduce)


def test_reduce_points_in_their_order() -> None:
    values = torch.tensor([[1e8], [1.0], [-1e8], [7.0]])
    rows = torch.tensor([0, 0, 0, -1])
    assert cuda.reduce_points(values, rows, 2, "sum")[0].tolist() == [[0.0], [0.0]]
    nan = torch.tensor([[1.0, 2.0], [float("nan"), 3.0], [5.0, -4.0], [9.0, 9.0]])
    largest = cuda.reduce_points(nan, rows, 1, "max")[0]
    assert bool(largest[0, 0].isnan()) and float(largest[0, 1]) == 3
    found, counts = cuda.reduce_points(torch.empty(4, 0), rows, 2, "mean")
    assert found.shape == (2, 0) and counts.tolist() == [3, 0]
