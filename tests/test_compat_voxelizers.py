"""spconv's voxelizers: against a loop over the points that keeps spconv's rules."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from compat_scan import RANGE, points

import sparseconv
import sparseconv.compat.spconv.pytorch as spconv
from sparseconv.compat.cumm import tensorview as tv
from sparseconv.compat.spconv import utils

Array = npt.NDArray[np.float32]


def by_loop(
    cloud: Array, size: list[float], bounds: list[float], max_voxels: int, max_points: int
) -> tuple[list[Array], list[list[int]], list[int], list[int]]:
    """Voxels in the order in which points meet them, each with its first points."""
    ndim = len(size)
    low, step = np.array(bounds[:ndim], np.float32), np.array(size, np.float32)
    cells = [round((h - l) / s) for l, h, s in zip(bounds[:ndim], bounds[ndim:], size, strict=True)]
    numbers: dict[tuple[int, ...], int] = {}
    voxels: list[list[Array]] = []
    ids = []
    for point in cloud:
        place = np.floor((point[:ndim] - low) / step)
        if not (np.isfinite(place).all() and (place >= 0).all() and (place < cells).all()):
            ids.append(-1)
            continue
        key = tuple(int(c) for c in place[::-1])
        if key not in numbers:
            if len(numbers) == max_voxels:
                ids.append(-1)
                continue
            numbers[key] = len(numbers)
            voxels.append([])
        row = numbers[key]
        ids.append(row)
        if len(voxels[row]) < max_points:
            voxels[row].append(point)
    return [np.array(v) for v in voxels], [list(k) for k in numbers], [len(v) for v in voxels], ids


def check(
    voxels: Array,
    indices: Array,
    counts: Array,
    expected: tuple[list[Array], list[list[int]], list[int], list[int]],
) -> None:
    filled, places, numbers, _ = expected
    assert indices.tolist() == places and counts.tolist() == numbers
    assert indices.dtype == counts.dtype == np.int32 and voxels.dtype == np.float32
    for found, wanted in zip(voxels, filled, strict=True):
        assert np.array_equal(found[: len(wanted)], wanted)
        assert not found[len(wanted) :].any()


@pytest.fixture(scope="module")
def cloud() -> Array:
    some = points()[::40].copy()
    some[5, 1] = np.nan
    some[6, 0] = np.inf
    return some


SIZE = [0.4, 0.4, 0.4]


@pytest.mark.parametrize(("max_voxels", "max_points"), [(20000, 5), (50, 3)])
def test_three_axes_in_every_spelling(cloud: Array, max_voxels: int, max_points: int) -> None:
    expected = by_loop(cloud, SIZE, RANGE, max_voxels, max_points)
    made = utils.Point2VoxelCPU3d(
        vsize_xyz=SIZE,
        coors_range_xyz=RANGE,
        num_point_features=4,
        max_num_points_per_voxel=max_points,
        max_num_voxels=max_voxels,
    )
    tv_voxels, tv_coordinates, tv_num_points = made.point_to_voxel(tv.from_numpy(cloud))
    check(tv_voxels.numpy(), tv_coordinates.numpy(), tv_num_points.numpy(), expected)
    assert made.grid_size == [10, 32, 32]
    gpu = utils.Point2VoxelGPU3d(SIZE, RANGE, 4, max_voxels, max_points)
    check(*(part.cpu().numpy() for part in gpu.point_to_voxel_hash(tv.from_numpy(cloud))), expected)

    module = spconv.utils.PointToVoxel(SIZE, RANGE, 4, max_voxels, max_points, device=torch.device("cpu:0"))
    pc = torch.from_numpy(cloud)
    check(*(part.numpy() for part in module(pc)), expected)
    *_, ids = module.generate_voxel_with_id(pc)
    assert ids.dtype == torch.int64 and ids.tolist() == expected[3]

    old = utils.VoxelGenerator(SIZE, RANGE, max_points, max_voxels)
    check(*old.generate(cloud), expected)
    assert old.grid_size.tolist() == [32, 32, 10] and old.max_num_points_per_voxel == max_points
    assert np.allclose(old.voxel_size, SIZE) and np.allclose(old.point_cloud_range, RANGE)
    found = utils.VoxelGeneratorV2(SIZE, RANGE, max_points).generate(cloud, max_voxels)
    check(found["voxels"], found["coordinates"], found["num_points_per_voxel"], expected)
    assert found["voxel_point_mask"].sum() == sum(expected[2])


@pytest.mark.parametrize("ndim", [1, 2, 4])
def test_other_numbers_of_axes(ndim: int) -> None:
    rng = np.random.default_rng(ndim)
    some = rng.uniform(-1.2, 1.2, (300, 5)).astype(np.float32)
    size, bounds = [0.25, 0.5, 0.4, 0.5][:ndim], [-1.0] * ndim + [1.0] * ndim
    made = getattr(utils, f"Point2VoxelCPU{ndim}d")(size, bounds, 5, 40, 4)
    check(*(part.numpy() for part in made.point_to_voxel(tv.from_numpy(some))), by_loop(some, size, bounds, 40, 4))
    with pytest.raises(ValueError, match=f"takes {ndim} voxel sizes"):
        getattr(utils, f"Point2VoxelCPU{ndim}d")([0.1] * 3, [0.0] * 3 + [1.0] * 3, 5, 40, 4)


def test_empty_places_take_the_mean(cloud: Array) -> None:
    made = utils.Point2VoxelCPU3d(SIZE, RANGE, 4, 20000, 4)
    plain, _, counts = (part.numpy() for part in made.point_to_voxel(tv.from_numpy(cloud)))
    filled = made.point_to_voxel_empty_mean(tv.from_numpy(cloud))[0].numpy()
    old = utils.VoxelGenerator(SIZE, RANGE, 4, full_mean=True).generate(cloud)[0]
    assert np.array_equal(filled, old)
    for before, after, count in zip(plain, filled, counts, strict=True):
        assert np.array_equal(after[:count], before[:count])
        assert np.allclose(after[count:], before[:count].mean(0), rtol=1e-5, atol=1e-6)


def test_equal_to_the_engines_own_voxelizer(cloud: Array) -> None:
    finite = cloud[np.isfinite(cloud).all(1)]
    own = sparseconv.hard_voxelize(finite, SIZE, RANGE, max_points=5, max_voxels=60)
    made = spconv.utils.PointToVoxel(SIZE, RANGE, 4, 60, 5)
    voxels, indices, counts, ids = made.generate_voxel_with_id(torch.from_numpy(finite))
    assert torch.equal(voxels, own.points) and torch.equal(indices, own.indices[:, 1:])
    assert torch.equal(counts, own.num_points) and torch.equal(ids, own.point_rows)


def test_no_points() -> None:
    made = utils.Point2VoxelCPU3d(SIZE, RANGE, 4, 100, 5)
    for some in (np.zeros((0, 4), np.float32), np.full((3, 4), 500, np.float32)):
        shapes = [part.numpy().shape for part in made.point_to_voxel(tv.from_numpy(some))]
        assert shapes == [(0, 5, 4), (0, 3), (0,)]


def test_results_return_to_the_points(cloud: Array) -> None:
    made = spconv.utils.PointToVoxel(SIZE, RANGE, 4, 50, 3)
    voxels, *_, ids = made.generate_voxel_with_id(torch.from_numpy(cloud))
    scores = torch.randn(len(voxels), 7, requires_grad=True)
    found = spconv.utils.gather_features_by_pc_voxel_id(scores, ids, invalid_value=-1)
    assert torch.equal(found[ids >= 0], scores[ids[ids >= 0]]) and (found[ids < 0] == -1).all()
    found[ids >= 0].sum().backward()
    assert scores.grad is not None and torch.equal(scores.grad[:, 0], torch.bincount(ids[ids >= 0]).float())


def test_wrong_use_is_refused(cloud: Array) -> None:
    with pytest.raises(ValueError, match=r"points must have shape \[N, 3\]"):
        utils.Point2VoxelCPU3d(SIZE, RANGE, 3, 100, 5).point_to_voxel(tv.from_numpy(cloud))
    with pytest.raises(ValueError, match="coors_range_xyz must hold 6 numbers"):
        utils.Point2VoxelCPU3d(SIZE, RANGE[:4], 4, 100, 5)
    with pytest.raises(ValueError, match="both must be positive"):
        utils.Point2VoxelCPU3d([0.1, 0.0, 0.1], RANGE, 4, 100, 5)
    with pytest.raises(NotImplementedError, match="block_filtering"):
        utils.VoxelGeneratorV2(SIZE, RANGE, 5, block_filtering=True)


def test_tensorview_stands_in() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    tensor = tv.from_numpy(array)
    assert tensor.numpy() is array and tensor.numpy_view() is array and tensor.cpu() is tensor
    assert (tensor.shape, tensor.ndim, tensor.size, tensor.dim(1), len(tensor)) == ([2, 3], 2, 6, 3, 2)
    assert tensor.dtype == tv.float32 and not tensor.empty() and tv.Tensor().empty()
    assert tensor[1].numpy().tolist() == [3, 4, 5] and np.asarray(tensor) is array
    assert tv.zeros([2], tv.int32).numpy().tolist() == [0, 0] and tv.full([2], 3).numpy().tolist() == [3, 3]
    copied = tensor.clone()
    array[0, 0] = 9
    assert copied.numpy()[0, 0] == 0 and np.array(tensor, np.float64)[0, 0] == 9


def test_a_grid_or_a_capacity_that_cannot_be_counted_is_refused() -> None:
    with pytest.raises(ValueError, match="beyond the int32 limit"):
        utils.Point2VoxelCPU3d([1e-9] * 3, [0, 0, 0, 3, 3, 3], 4, 10, 5)
    with pytest.raises(ValueError, match="max_num_voxels"):
        utils.Point2VoxelCPU3d([0.1] * 3, [0, 0, 0, 3, 3, 3], 4, -1, 5)
