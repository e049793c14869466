"""Points to voxels: coordinates, rows and counts bit for bit, reductions, gradients, real scans."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import grid_shape
from oracle import voxelize as oracle_voxelize
from scans import data_folder, scan
from tolerance import tolerance

import sparseconv
from sparseconv import VoxelGrid, voxelize

Points = npt.NDArray[np.float32]

# A detector's grid, none of whose numbers is exact in binary.
SIZE = (0.16, 0.2, 0.3)
RANGE = (-1.6, -2.0, -0.9, 1.6, 2.0, 0.9)
SECOND_SIZE = (0.05, 0.05, 0.1)
SECOND_RANGE = (0.0, -40.0, -3.0, 70.4, 40.0, 1.0)
REDUCTIONS = ("mean", "sum", "max", "first")


def cloud(count: int, seed: int, columns: int = 5) -> Points:
    """Points in and around RANGE, a third of them on faces of voxels."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(-2.2, 2.2, (count, columns)).astype(np.float32)
    on_face = np.arange(count) % 3 == 0
    steps = rng.integers(-2, 24, (count, 3))
    faces = (np.array(RANGE[:3]) + steps * np.array(SIZE)).astype(np.float32)
    points[on_face, :3] = faces[on_face]
    return points


@pytest.mark.parametrize("bounds", [RANGE, None])
@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_against_the_oracle(backend: str, reduce: str, bounds: tuple[float, ...] | None) -> None:
    points = cloud(301, 1)
    features, indices, counts, rows = oracle_voxelize(points, SIZE, bounds, reduce)
    got = voxelize(points, SIZE, bounds, reduce)
    assert (got.indices.dtype, got.num_points.dtype, got.point_rows.dtype) == (
        torch.int32,
        torch.int32,
        torch.int64,
    )
    np.testing.assert_array_equal(got.indices.numpy(), indices)
    np.testing.assert_array_equal(got.num_points.numpy(), counts)
    np.testing.assert_array_equal(got.point_rows.numpy(), rows)
    assert got.point_batch.tolist() == [0] * 301
    assert (got.num_outside, got.num_nonfinite, got.batch_size) == (int((rows < 0).sum()), 0, 1)
    if reduce in ("max", "first"):
        np.testing.assert_array_equal(got.features.numpy(), features.astype(np.float32))
    else:
        atol = tolerance(torch.float32, int(counts.max()), 2.2)
        np.testing.assert_allclose(got.features.numpy(), features, rtol=0, atol=atol)


@pytest.mark.parametrize("reduce", ["mean", "sum"])
def test_sums_are_taken_in_the_order_of_the_points(backend: str, reduce: str) -> None:
    points = cloud(400, 2)
    got = voxelize(points, 1.5, None, reduce)
    expected = np.zeros(got.features.shape, np.float32)
    for row, point in zip(got.point_rows.tolist(), points, strict=True):
        expected[row] += point
    if reduce == "mean":
        expected /= got.num_points.numpy().astype(np.float32)[:, None]
    np.testing.assert_array_equal(got.features.numpy(), expected)


def test_faces_belong_to_the_upper_voxel_and_the_upper_face_of_the_range_to_none(backend: str) -> None:
    bounds = (-1.0, -1.0, -1.0, 1.0, 1.0, 1.0)
    below_one = 1 - 2.0**-23  # nearer ones are rounded to the face when the low corner is taken off
    below_low = float(np.nextafter(np.float32(-1), np.float32(-2)))
    xs = [-1.0, -0.5, 0.0, 0.5, below_one, 1.0, below_low]
    points = torch.tensor([[x, 0.0, 0.0] for x in xs])
    got = voxelize(points, 0.5, bounds)
    assert got.spatial_shape == [4, 4, 4]
    assert [int(got.indices[row, 3]) if row >= 0 else None for row in got.point_rows] == [
        0,
        1,
        2,
        3,
        3,
        None,
        None,
    ]
    assert got.num_outside == 2
    for axis in range(3):
        point = torch.zeros(1, 3)
        point[0, axis] = 1.0
        assert voxelize(point, 0.5, bounds).num_outside == 1


def test_cells_are_computed_in_float32_step_by_step(backend: str) -> None:
    # In float64 the first would be cell 2, the others 453 and 457 (see the oracle's own tests).
    assert voxelize(np.array([[0.3, 0.0, 0.0]]), (0.1, 1.0, 1.0)).indices.tolist() == [[0, 0, 0, 3]]
    points = np.array([[32.8, 0.0, 0.0], [33.599995, 0.0, 0.0]], np.float32)
    got = voxelize(points, (0.16, 1.0, 1.0), (-39.68, 0.0, 0.0, 39.68, 1.0, 1.0))
    assert got.indices[:, 3].tolist() == [452, 458]


@pytest.mark.parametrize(
    "kind",
    ["numpy64", "numpy32", "numpy16", "torch64", "torch16", "bfloat16", "fortran", "step", "columns", "readonly"],
)
def test_every_form_of_input_is_the_same_cloud(kind: str) -> None:
    base = (np.random.default_rng(3).integers(-64, 64, (90, 5)) / 32).astype(np.float32)  # exact in bfloat16 too
    wide = np.zeros((180, 9), np.float32)
    wide[::2, 2:7] = base
    read_only = base.copy()
    read_only.flags.writeable = False
    forms: dict[str, np.ndarray | torch.Tensor] = {
        "numpy64": base.astype(np.float64),
        "numpy32": base.astype(">f4"),
        "numpy16": base.astype(np.float16),
        "torch64": torch.from_numpy(base).double(),
        "torch16": torch.from_numpy(base).half(),
        "bfloat16": torch.from_numpy(base).bfloat16(),
        "fortran": np.asfortranarray(base),
        "step": torch.from_numpy(wide)[::2, 2:7],
        "columns": wide[::2, 2:7][::-1][::-1],
        "readonly": read_only,  # what numpy.frombuffer gives
    }
    got, expected = voxelize(forms[kind], 0.5), voxelize(base, 0.5)
    assert torch.equal(got.indices, expected.indices)
    assert torch.equal(got.point_rows, expected.point_rows)
    assert torch.equal(got.features, expected.features)
    assert got.features.dtype == torch.float32


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8])
def test_integer_points(dtype: npt.DTypeLike) -> None:
    points = np.random.default_rng(4).integers(0, 7, (50, 3)).astype(dtype)
    expected = oracle_voxelize(points.astype(np.float32), (2.0, 2.0, 2.0), None)[1]
    np.testing.assert_array_equal(voxelize(points, 2).indices.numpy(), expected)
    np.testing.assert_array_equal(voxelize(torch.from_numpy(points), 2).indices.numpy(), expected)


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_batch_with_an_empty_cloud_in_the_middle(backend: str, reduce: str) -> None:
    clouds = [cloud(60, 5), np.zeros((0, 5), np.float32), cloud(45, 6), np.zeros((0, 5), np.float32)]
    batch = [0] * 60 + [2] * 45
    features, indices, counts, rows = oracle_voxelize(np.concatenate(clouds), SIZE, RANGE, reduce, batch)
    got = voxelize([clouds[0], clouds[1], torch.from_numpy(clouds[2]), clouds[3]], SIZE, RANGE, reduce)
    np.testing.assert_array_equal(got.indices.numpy(), indices)
    np.testing.assert_array_equal(got.num_points.numpy(), counts)
    np.testing.assert_array_equal(got.point_rows.numpy(), rows)
    assert got.point_batch.tolist() == batch
    assert got.batch_size == 4
    atol = tolerance(torch.float32, int(counts.max()), 2.2)
    np.testing.assert_allclose(got.features.numpy(), features, rtol=0, atol=atol)
    tensor = got.to_sparse()
    assert (tensor.batch_size, tensor.spatial_shape) == (4, list(grid_shape(SIZE, RANGE)))
    assert torch.equal(tensor.indices, got.indices) and torch.equal(tensor.features, got.features)
    assert got.to_sparse(torch.ones(len(indices), 7)).features.shape == (len(indices), 7)


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_no_points_one_point_and_all_outside(backend: str, reduce: str) -> None:
    for points, outside in ((torch.zeros(0, 6), 0), (torch.full((4, 6), 99.0), 4)):
        got = voxelize(points, SIZE, RANGE, reduce)
        assert (got.features.shape, got.indices.shape, got.num_points.shape) == ((0, 6), (0, 4), (0,))
        assert (got.point_rows.tolist(), got.num_outside) == ([-1] * outside, outside)
        assert len(got.to_sparse()) == 0
    point = torch.tensor([[0.1, -0.3, 0.2, 7.0]])
    got = voxelize(point, 0.25, None, reduce)
    assert got.indices.tolist() == [[0, 0, -2, 0]]
    assert torch.equal(got.features, point)
    assert (got.num_points.tolist(), got.point_rows.tolist()) == ([1], [0])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_non_finite_points(backend: str, value: float, axis: int) -> None:
    points = cloud(40, 7)
    points[[11, 30], axis] = value
    points[11, (axis + 1) % 3] = 1e9
    with pytest.raises(ValueError, match=r"2 of 40 points have a NaN or infinite coordinate, the first in row 11"):
        voxelize(points, SIZE, RANGE)
    got = voxelize(points, SIZE, RANGE, nonfinite="drop")
    assert got.num_nonfinite == 2
    assert got.point_rows[[11, 30]].tolist() == [-1, -1]
    kept = np.delete(points, [11, 30], 0)
    expected = oracle_voxelize(kept, SIZE, RANGE)
    np.testing.assert_array_equal(got.indices.numpy(), expected[1])
    np.testing.assert_array_equal(np.delete(got.point_rows.numpy(), [11, 30]), expected[3])
    assert got.num_outside == int((expected[3] < 0).sum())


def test_a_feature_that_is_not_finite_is_no_position(backend: str) -> None:
    points = torch.tensor([[0.1, 0.1, 0.1, float("nan")], [0.2, 0.2, 0.2, 1.0], [5.0, 5.0, 5.0, 2.0]])
    for reduce in ("max", "mean", "sum"):
        got = voxelize(points, 1.0, None, reduce)
        assert got.num_nonfinite == 0
        assert got.features[:, 3].isnan().tolist() == [True, False]


@pytest.mark.parametrize(
    ("size", "bounds", "text"),
    [
        (0, None, "voxel_size must be positive and finite, got 0"),
        (-0.1, None, "voxel_size must be positive and finite, got -0.1"),
        ((0.1, 0.0, 0.1), None, "voxel_size must be positive"),
        (float("nan"), None, "voxel_size must be positive and finite"),
        (float("inf"), None, "voxel_size must be positive and finite"),
        (1e-50, None, "voxel_size must be positive"),  # 0 in float32, in which cells are computed
        ((0.1, 0.1), None, "voxel_size must be one number or three"),
        (1, (0, 0, 0, 1, 1), "point_cloud_range must be 6 finite numbers"),
        (1, (0, 0, 0, 1, 1, float("inf")), "point_cloud_range must be 6 finite numbers"),
        (1, (0, 0, 0, 1, 0, 1), "run from low to high on each axis"),
        (1, (0, 0, 1, 1, 1, 0), "run from low to high on each axis"),
        (4, (0, 0, 0, 1, 9, 9), "smaller than half a voxel"),
        # A grid of more cells than int32 coordinates can name on one axis.
        (1e-9, (0, 0, 0, 100, 100, 100), "voxel"),
    ],
)
def test_bad_grids(size: float | Sequence[float], bounds: Sequence[float] | None, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        VoxelGrid.create(size, bounds)
    with pytest.raises(ValueError, match=text):
        voxelize(torch.zeros(1, 3), size, bounds)


@pytest.mark.parametrize("size", [0.5, np.float32(0.5), np.float64(0.5), np.array([0.5, 0.5, 0.5]), [0.5] * 3])
def test_voxel_sizes_of_every_type(size: float) -> None:
    assert VoxelGrid.create(size).voxel_size == (0.5, 0.5, 0.5)


def test_the_number_of_voxels_is_rounded() -> None:
    # 0.6 / 0.2 is 2.9999999999999996.
    grid = VoxelGrid.create((0.2, 0.16, 4), (0, -39.68, -3, 0.6, 39.68, 1))
    assert (grid.shape, grid.spatial_shape) == ((3, 496, 1), [1, 496, 3])
    assert VoxelGrid.create(SECOND_SIZE, SECOND_RANGE).spatial_shape == [40, 1600, 1408]
    assert VoxelGrid.create(0.1).spatial_shape is None


@pytest.mark.parametrize(("reduce", "expected"), [("mean", 2.0), ("sum", 4.0), ("max", 3.0), ("first", 1.0)])
def test_a_voxel_without_points_is_zero(backend: str, reduce: str, expected: float) -> None:
    values, rows = torch.tensor([[1.0], [3.0], [9.0]]), torch.tensor([1, 1, -1])
    features, counts = sparseconv.reduce_points(values, rows, 3, reduce)
    assert features.tolist() == [[0.0], [expected], [0.0]] and counts.tolist() == [0, 2, 0]


@pytest.mark.parametrize("reduce", ["mean", "sum"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_to_points(backend: str, reduce: str, dtype: torch.dtype) -> None:
    points = torch.from_numpy(cloud(120, 8)).to(dtype).requires_grad_()
    got = voxelize(points, SIZE, RANGE, reduce)
    plain = voxelize(points.detach(), SIZE, RANGE, reduce)
    assert torch.equal(got.features.detach(), plain.features)
    assert torch.equal(got.num_points, plain.num_points)
    weights = torch.randn(got.features.shape, generator=torch.Generator().manual_seed(0))
    (got.features * weights).sum().backward()
    expected = torch.zeros(points.shape, dtype=torch.float32)
    for point, row in enumerate(got.point_rows.tolist()):
        if row >= 0:
            share = 1 if reduce == "sum" else got.num_points[row].float()
            expected[point] = weights[row] / share
    assert points.grad is not None and points.grad.dtype == dtype
    torch.testing.assert_close(points.grad.float(), expected, rtol=1e-6, atol=0)
    assert int((points.grad == 0).all(1).sum()) == got.num_outside > 0


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_both_backends_and_every_number_of_threads_agree_bit_for_bit(reduce: str) -> None:
    rng = np.random.default_rng(9)
    points = rng.normal(0, 20, (150_000, 4)).astype(np.float32)
    with sparseconv.use_backend("reference"):
        expected = voxelize(points, SECOND_SIZE, SECOND_RANGE, reduce)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            got = voxelize(points, SECOND_SIZE, SECOND_RANGE, reduce)
            for name in ("features", "indices", "num_points", "point_rows", "point_batch"):
                assert torch.equal(getattr(got, name), getattr(expected, name)), (threads, name)
            assert (got.num_outside, got.num_nonfinite) == (expected.num_outside, 0)
    finally:
        torch.set_num_threads(before)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_permutation_of_the_points_permutes_their_rows_only(data: st.DataObject) -> None:
    number = st.integers(-40, 40).map(lambda n: n / 8)
    rows = data.draw(st.lists(st.tuples(number, number, number), min_size=1, max_size=40))
    order = data.draw(st.permutations(range(len(rows))))
    points = torch.tensor(rows)
    bounds = data.draw(st.sampled_from([None, (-2.0, -3.0, -4.0, 4.0, 3.0, 2.0)]))
    first = voxelize(points, 0.7, bounds, "sum")
    second = voxelize(points[order], 0.7, bounds, "sum")
    assert torch.equal(first.indices, second.indices)
    assert torch.equal(first.num_points, second.num_points)
    assert torch.equal(first.point_rows[order], second.point_rows)
    assert torch.equal(first.features, second.features)  # sums of eighths are exact
    assert int(first.num_points.sum()) + first.num_outside == len(rows)


def test_far_cells_of_an_unbounded_grid_are_outside_and_never_wrapped(backend: str) -> None:
    limit = 2147483520.0  # the largest float32 below 2**31
    far = [limit, -limit, 2.0**31, -(2.0**31), 2.0**32, 2.0**32 + 1024, -(2.0**33), 3e38, -3e38]
    for axis in range(3):
        points = torch.zeros(len(far) + 1, 3)
        points[1:, axis] = torch.tensor(far)
        got = voxelize(points, 1.0)
        column = 3 - axis
        assert got.indices[:, column].tolist() == [-2147483520, 0, 2147483520]
        assert got.point_rows.tolist() == [1, 2, 0] + [-1] * (len(far) - 2)
        assert got.num_outside == len(far) - 2
    corners = torch.tensor([[limit, limit, limit], [-limit, -limit, -limit]])
    with pytest.raises(ValueError, match=r"63 bits.*larger voxels"):
        voxelize(corners, 1.0)
    assert voxelize(corners[:1], 1.0).indices.tolist() == [[0, 2147483520, 2147483520, 2147483520]]


def test_far_points_leave_a_bounded_grid(backend: str) -> None:
    points = torch.tensor([[0.5, 0.5, 0.5], [2.0**32 + 512, 0.5, 0.5], [-(2.0**32), 0.5, 0.5], [3e38, -3e38, 0.5]])
    got = voxelize(points, 1.0, (0, 0, 0, 4, 4, 4))
    assert (got.point_rows.tolist(), got.num_outside) == ([0, -1, -1, -1], 3)


def is_kitti(points: Points) -> bool:
    """Whether these are KITTI's frame 000000 and not the simulated scan that stands in for it."""
    folder = data_folder()
    path = None if folder is None else folder / "kitti/training/velodyne/000000.bin"
    return path is not None and path.exists() and len(points) == 115384


@pytest.mark.parametrize(("size", "known"), [(0.05, 79943), (0.1, 47769), (0.2, 22602)])
def test_a_whole_scan(size: float, known: int) -> None:
    points = scan()
    cells = np.floor(points[:, 2::-1] / np.float32(size)).astype(np.int32)
    expected, rows, counts = np.unique(cells, axis=0, return_inverse=True, return_counts=True)
    got = voxelize(points, size)
    assert len(got.indices) == (known if is_kitti(points) else len(expected))
    np.testing.assert_array_equal(got.indices[:, 1:].numpy(), expected)
    np.testing.assert_array_equal(got.point_rows.numpy(), rows.reshape(-1))
    np.testing.assert_array_equal(got.num_points.numpy(), counts)


def test_a_whole_scan_in_a_detectors_grid() -> None:
    points = scan()
    low, size = np.array(SECOND_RANGE[:3], np.float32), np.array(SECOND_SIZE, np.float32)
    cells = np.floor((points[:, :3] - low) / size)
    inside = ((cells >= 0) & (cells < (1408, 1600, 40))).all(1)
    expected, rows = np.unique(cells[inside][:, ::-1].astype(np.int32), axis=0, return_inverse=True)
    got = voxelize(points, SECOND_SIZE, SECOND_RANGE)
    np.testing.assert_array_equal(got.indices[:, 1:].numpy(), expected)
    np.testing.assert_array_equal(got.point_rows.numpy()[inside], rows.reshape(-1))
    assert got.num_outside == int((~inside).sum()) == int((got.point_rows < 0).sum())
    means = np.zeros((len(expected), 4))
    np.add.at(means, rows.reshape(-1), points[inside])
    means /= np.bincount(rows.reshape(-1))[:, None]
    atol = tolerance(torch.float32, int(got.num_points.max()), 71.0)
    np.testing.assert_allclose(got.features.numpy(), means, rtol=0, atol=atol)
