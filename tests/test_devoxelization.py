"""Voxel features back to points: nearest and trilinear, against the oracle."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from oracle import devoxelize_trilinear, trilinear_weights
from tolerance import tolerance

from sparseconv import devoxelize, voxelize

Points = npt.NDArray[np.float32]

SIZE = (0.3, 0.4, 0.5)
RANGE = (-1.5, -1.6, -1.5, 1.5, 1.6, 1.5)


def cloud(count: int, seed: int, reach: float = 1.7) -> Points:
    return np.random.default_rng(seed).uniform(-reach, reach, (count, 4)).astype(np.float32)


def features_for(count: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("bounds", [RANGE, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_nearest_gives_each_point_its_voxel(
    backend: str, bounds: tuple[float, ...] | None, dtype: torch.dtype
) -> None:
    voxels = voxelize(cloud(200, 1), SIZE, bounds)
    features = features_for(len(voxels.indices), 2, dtype)
    got = devoxelize(features, voxels)
    assert got.dtype == dtype
    for point, row in enumerate(voxels.point_rows.tolist()):
        expected = features[row] if row >= 0 else torch.zeros(3, dtype=dtype)
        assert torch.equal(got[point], expected)
    assert (voxels.num_outside > 0) == (bounds is not None)


def test_nearest_gradient_sums_the_points_of_a_voxel(backend: str) -> None:
    voxels = voxelize(cloud(200, 3), SIZE, RANGE)
    features = features_for(len(voxels.indices), 4, torch.float64).requires_grad_()
    weights = features_for(200, 5, torch.float64)
    (devoxelize(features, voxels) * weights).sum().backward()
    expected = torch.zeros_like(features)
    for point, row in enumerate(voxels.point_rows.tolist()):
        if row >= 0:
            expected[row] += weights[point]
    torch.testing.assert_close(features.grad, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bounds", [RANGE, None])
def test_trilinear_against_the_oracle(backend: str, bounds: tuple[float, ...] | None) -> None:
    voxels = voxelize(cloud(150, 6), SIZE, bounds)
    features = features_for(len(voxels.indices), 7)
    low = (0.0, 0.0, 0.0) if bounds is None else bounds[:3]
    others = np.concatenate([cloud(120, 8), cloud(30, 9, 4.0), cloud(150, 6)[:20]])
    expected = devoxelize_trilinear(features.numpy(), voxels.indices.numpy(), others, SIZE, low)
    got = devoxelize(features, voxels, others, mode="trilinear")
    atol = tolerance(torch.float32, 24, float(features.abs().max()))
    np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=atol)
    far = np.abs(others[:, :3]).max(1) > 3
    assert far.any() and not got[torch.from_numpy(far)].any()


def test_trilinear_reproduces_a_linear_field_and_the_centres(backend: str) -> None:
    corners = np.stack(np.meshgrid(*[np.arange(n) for n in (6, 5, 4)], indexing="ij"), -1).reshape(-1, 3)
    low = np.array([-3.0, 2.0, 1.0])
    centres = (low + (corners + 0.5) * 0.5).astype(np.float32)
    voxels = voxelize(centres, 0.5, (-3, 2, 1, 0, 4.5, 3))
    assert len(voxels.indices) == len(centres)
    slope = torch.tensor([1.0, -2.0, 3.0])
    field = torch.zeros(len(centres), 1)
    field[voxels.point_rows] = (torch.from_numpy(centres) @ slope)[:, None]
    at_centres = devoxelize(field, voxels, centres, mode="trilinear")
    torch.testing.assert_close(at_centres, field[voxels.point_rows], rtol=1e-6, atol=1e-6)
    inner = np.random.default_rng(10).uniform(centres.min(0), centres.max(0), (60, 3)).astype(np.float32)
    got = devoxelize(field, voxels, inner, mode="trilinear")
    torch.testing.assert_close(got[:, 0], torch.from_numpy(inner) @ slope, rtol=0, atol=2e-5)


def test_trilinear_batches_do_not_mix(backend: str) -> None:
    clouds = [cloud(60, 11), np.zeros((0, 4), np.float32), cloud(40, 12)]
    voxels = voxelize(clouds, SIZE, RANGE)
    features = features_for(len(voxels.indices), 13)
    targets = [cloud(20, 14), cloud(10, 15), cloud(30, 16)]
    batch = [0] * 20 + [1] * 10 + [2] * 30
    expected = devoxelize_trilinear(
        features.numpy(), voxels.indices.numpy(), np.concatenate(targets), SIZE, RANGE[:3], batch
    )
    got = devoxelize(features, voxels, targets, mode="trilinear")
    atol = tolerance(torch.float32, 24, float(features.abs().max()))
    np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=atol)
    assert not got[20:30].any()


def test_trilinear_gradient_is_the_transposed_weights(backend: str) -> None:
    points = cloud(80, 17)
    voxels = voxelize(points, SIZE, RANGE)
    weights = trilinear_weights(voxels.indices.numpy(), points, SIZE, RANGE[:3])
    features = features_for(len(voxels.indices), 18, torch.float64).requires_grad_()
    cotangent = features_for(80, 19, torch.float64)
    got = devoxelize(features, voxels, points, mode="trilinear")
    assert got.dtype == torch.float64
    (got * cotangent).sum().backward()
    assert features.grad is not None
    # The weights are float32 numbers, so float32 rounding bounds the difference.
    atol = tolerance(torch.float32, 24 * 80, float(cotangent.abs().max()))
    np.testing.assert_allclose(features.grad.numpy(), weights.T @ cotangent.numpy(), rtol=0, atol=atol)


def test_a_bad_row_stays_where_it_is(backend: str) -> None:
    """Voxel row 0 is what an absent corner falls back to: its NaN must not reach other points."""
    points = torch.tensor([[-2.0, 0.1, 0.1], [1.1, 0.2, 0.3], [1.9, 0.7, 0.8]])
    voxels = voxelize(points, 1.0)
    assert voxels.indices[:, 3].tolist() == [-2, 1]
    for bad in (float("nan"), float("inf")):
        features = torch.tensor([[bad], [5.0]])
        got = devoxelize(features, voxels, points, mode="trilinear")
        assert got[1:].flatten().tolist() == [5.0, 5.0]
        assert not bool(got[0].isfinite())
        nearest = devoxelize(features, voxels)
        assert nearest[1:].flatten().tolist() == [5.0, 5.0]


def test_far_and_non_finite_points_get_zero(backend: str) -> None:
    voxels = voxelize(cloud(30, 20), SIZE)
    features = features_for(len(voxels.indices), 21)
    far = [2.0**31, -(2.0**31), 2.0**32, 3e38, float("nan"), float("inf"), -float("inf")]
    points = torch.tensor([[value, 0.1, 0.1] for value in far])
    assert not devoxelize(features, voxels, points, mode="trilinear").any()
    edge = voxelize(torch.tensor([[2147483520.0, 0.0, 0.0], [0.0, 0.0, 0.0]]), 1.0)
    got = devoxelize(
        torch.ones(2, 1), edge, torch.tensor([[-2147483520.0, 0.5, 0.5], [0.5, 0.5, 0.5]]), "trilinear"
    )
    assert got.flatten().tolist() == [0.0, 1.0]


@pytest.mark.parametrize("mode", ["nearest", "trilinear"])
def test_empty_inputs_keep_the_graph(backend: str, mode: str) -> None:
    """An empty sample in a training step must not cut the loss off."""
    none, some = np.zeros((0, 4), np.float32), cloud(5, 22)
    for made_of, filled in ((none, none), (none, some), (some, none)):
        voxels = voxelize(made_of, SIZE)
        features = features_for(len(voxels.indices), 23).requires_grad_()
        got = devoxelize(features, voxels, filled, mode=mode)  # type: ignore[arg-type]
        expected = len(made_of) if mode == "nearest" else len(filled)
        assert got.shape == (expected, 3)
        assert got.requires_grad
        got.sum().backward()
        assert features.grad is not None and features.grad.shape == features.shape


def test_all_points_dropped() -> None:
    voxels = voxelize(torch.full((4, 3), 50.0), SIZE, RANGE)
    assert devoxelize(torch.zeros(0, 3), voxels).tolist() == [[0.0] * 3] * 4


def test_errors() -> None:
    points = cloud(20, 24)
    voxels = voxelize(points, SIZE)
    features = torch.zeros(len(voxels.indices), 2)
    with pytest.raises(ValueError, match=rf"features must have shape \[{len(features)}, C\].*got \[1, 2\]"):
        devoxelize(features[:1], voxels)
    with pytest.raises(ValueError, match="features must have shape"):
        devoxelize(features[:, 0], voxels)
    with pytest.raises(ValueError, match="mode must be 'nearest' or 'trilinear', got 'cubic'"):
        devoxelize(features, voxels, points, mode="cubic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="pass points="):
        devoxelize(features, voxels, mode="trilinear")
    with pytest.raises(ValueError, match="points hold 2 clouds and the voxels were made of 1"):
        devoxelize(features, voxels, [points, points], mode="trilinear")
