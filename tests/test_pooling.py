"""Windowed pooling against dense torch (1d to 3d) and the oracle (4d): only inputs that exist count."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as dense
from oracle import (
    avg_pool,
    avg_pool_grad,
    coarse_sites,
    conv_output_shape,
    conv_pairs,
    max_pool,
    max_pool_grad,
    sum_pool,
    sum_pool_grad,
    to_dense,
)
from tolerance import tolerance
from torch import Tensor

from sparseconv import SparseTensor
from sparseconv import functional as F

DENSE_MAX = {1: dense.max_pool1d, 2: dense.max_pool2d, 3: dense.max_pool3d}
DENSE_CONV = {1: dense.conv1d, 2: dense.conv2d, 3: dense.conv3d}
SHAPES = {1: [23], 2: [11, 9], 3: [7, 6, 8], 4: [4, 5, 3, 4]}
# kernel, stride, padding, dilation
WINDOWS = [(2, 2, 0, 1), (3, 2, 1, 1), (3, 1, 1, 1), (2, 3, 0, 1), (3, 1, 0, 2), (2, 1, 1, 2), (1, 2, 0, 1)]
Pool = Callable[..., SparseTensor]


def sample(
    ndim: int, seed: int, dtype: torch.dtype = torch.float64, shift: float = 0.0, share: float = 0.3
) -> SparseTensor:
    """Unsorted sites in a batch of 3 whose middle sample is empty."""
    rng = np.random.default_rng(seed)
    shape = SHAPES[ndim]
    cells = np.argwhere(rng.random((3, *shape)) < share)
    cells = rng.permutation(cells[cells[:, 0] != 1])
    features = torch.from_numpy(rng.normal(shift, 1.0, (len(cells), 5))).to(dtype)
    return SparseTensor(features, torch.from_numpy(cells), shape, 3)


def oracle_map(
    x: SparseTensor, kernel: int, stride: int, padding: int, dilation: int
) -> tuple[np.ndarray, list[list[tuple[int, int]]], list[int]]:
    each = [[value] * x.ndim for value in (kernel, stride, padding, dilation)]
    assert x.spatial_shape is not None
    shape = conv_output_shape(x.spatial_shape, *each)
    sites = coarse_sites(x.indices.numpy(), *each, shape)
    return sites, conv_pairs(x.indices.numpy(), sites, *each), list(shape)


def dense_pooled(x: SparseTensor, features: Tensor, name: str, window: tuple[int, ...]) -> Tensor:
    """Pooling over the dense grid with -inf (max) or counted zeros (sum, avg) where nothing is."""
    kernel, stride, padding, dilation = window
    assert x.spatial_shape is not None
    grid = to_dense(features, x.indices, x.spatial_shape, x.batch_size)
    present = to_dense(torch.ones_like(features), x.indices, x.spatial_shape, x.batch_size)
    pads = [padding] * (2 * x.ndim)
    if name == "max":
        holes = torch.where(present > 0, grid, -torch.inf)
        # Padded here: torch's own padding may not pass half a window.
        return DENSE_MAX[x.ndim](dense.pad(holes, pads, value=-torch.inf), kernel, stride, 0, dilation)
    weight = torch.ones(1, 1, *[kernel] * x.ndim, dtype=features.dtype).repeat(5, *[1] * (x.ndim + 1))

    def summed(values: Tensor) -> Tensor:
        return DENSE_CONV[x.ndim](values, weight, None, stride, padding, dilation, 5)

    total = summed(grid)
    return total if name == "sum" else total / summed(present).clamp(min=1)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("name", ["max", "avg", "sum"])
def test_against_dense_torch_with_gradients(backend: str, name: str, ndim: int, window: tuple[int, ...]) -> None:
    x = sample(ndim, 10 * ndim)
    features = x.features.clone().requires_grad_()
    pool: Pool = {"max": F.max_pool, "avg": F.avg_pool, "sum": F.sum_pool}[name]
    got = pool(x.replace_feature(features), *window)
    sites, _, shape = oracle_map(x, *window)
    np.testing.assert_array_equal(got.indices.numpy(), sites)
    assert (got.spatial_shape, got.batch_size) == (shape, 3)

    leaf = x.features.clone().requires_grad_()
    grid = dense_pooled(x, leaf, name, window)
    expected = grid.movedim(1, -1)[tuple(got.indices.long().T)]
    torch.testing.assert_close(got.features, expected, rtol=0, atol=tolerance(torch.float64, 27, 4.0))
    cotangent = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (got.features * cotangent).sum().backward()
    (expected * cotangent).sum().backward()
    assert features.grad is not None and leaf.grad is not None
    torch.testing.assert_close(features.grad, leaf.grad, rtol=0, atol=tolerance(torch.float64, 27, 4.0))


@pytest.mark.parametrize("window", [(2, 2, 0, 1), (3, 2, 1, 1), (2, 1, 1, 2), (2, 1, 0, 3)], ids=str)
def test_against_the_oracle_in_4d(backend: str, window: tuple[int, ...]) -> None:
    x = sample(4, 40, share=0.25)
    if window[3] == 3:
        with pytest.raises(ValueError, match="larger than the grid"):
            F.max_pool(x, *window)
        return
    sites, pairs, _ = oracle_map(x, *window)
    n_in, n_out = len(x), len(sites)
    values = x.features.numpy()
    cotangent = np.random.default_rng(2).normal(size=(n_out, 5))
    cases: list[tuple[Pool, np.ndarray, np.ndarray]] = [
        (F.max_pool, max_pool(values, pairs, n_out), max_pool_grad(cotangent, values, pairs)),
        (F.avg_pool, avg_pool(values, pairs, n_out), avg_pool_grad(cotangent, pairs, n_in)),
        (F.sum_pool, sum_pool(values, pairs, n_out), sum_pool_grad(cotangent, pairs, n_in)),
    ]
    atol = tolerance(torch.float64, 81, 4.0)
    for pool, expected, expected_grad in cases:
        features = x.features.clone().requires_grad_()
        got = pool(x.replace_feature(features), *window)
        np.testing.assert_array_equal(got.indices.numpy(), sites)
        np.testing.assert_allclose(got.features.detach().numpy(), expected, rtol=0, atol=atol)
        got.features.backward(torch.from_numpy(cotangent))
        assert features.grad is not None
        np.testing.assert_allclose(features.grad.numpy(), expected_grad, rtol=0, atol=atol)


@pytest.mark.parametrize("window", [((3, 2), (2, 1), (1, 0), (1, 3)), ((1, 4), (1, 4), (0, 2), (2, 1))], ids=str)
def test_windows_that_differ_by_axis(window: tuple[tuple[int, int], ...]) -> None:
    x = sample(2, 3)
    shape = conv_output_shape([11, 9], *window)
    sites = coarse_sites(x.indices.numpy(), *window, shape)
    pairs = conv_pairs(x.indices.numpy(), sites, *window)
    got = F.max_pool(x, *window)
    np.testing.assert_array_equal(got.indices.numpy(), sites)
    np.testing.assert_array_equal(got.features.numpy(), max_pool(x.features.numpy(), pairs, len(sites)))
    assert got.spatial_shape == list(shape)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_negative_windows_have_true_maxima(backend: str, dtype: torch.dtype) -> None:
    x = sample(3, 5, dtype, shift=-20.0)
    assert bool((x.features < 0).all())
    got = F.max_pool(x, 3, 2, 1)
    _, pairs, _ = oracle_map(x, 3, 2, 1, 1)
    assert got.dtype == dtype
    np.testing.assert_array_equal(
        got.features.double().numpy(), max_pool(x.features.double().numpy(), pairs, len(got))
    )
    assert bool((got.features < 0).all())


def test_nan_and_infinity_in_max(backend: str) -> None:
    nan, inf = float("nan"), float("inf")
    indices = torch.tensor([[0, 0], [0, 1], [0, 2], [0, 4], [0, 5], [0, 6], [0, 8], [0, 9]])
    values = torch.tensor([[1.0], [nan], [9.0], [nan], [nan], [3.0], [-inf], [-inf]], requires_grad=True)
    x = SparseTensor(values, indices, [12], 1)
    got = F.max_pool(x, 4)
    assert got.features.flatten().isnan().tolist() == [True, True, False]
    assert got.features.flatten()[2] == -inf
    got.features.sum().backward()
    assert values.grad is not None
    assert values.grad.flatten().tolist() == [0, 1, 0, 1, 0, 0, 1, 0]


def test_ties_go_to_the_first_in_tap_order_whatever_the_row_order(backend: str) -> None:
    cells = torch.tensor([[0, 1, 1], [0, 0, 1], [0, 1, 0], [0, 0, 0], [0, 2, 3], [0, 3, 2]])
    features = torch.zeros(6, 2, requires_grad=True)
    F.max_pool(SparseTensor(features, cells, [4, 4], 1), 2).features.sum().backward()
    assert features.grad is not None
    # (0, 0) and, in the other window, (2, 3) before (3, 2).
    assert features.grad[:, 0].tolist() == [0, 0, 0, 1, 1, 0]
    overlap = torch.zeros(6, 1, requires_grad=True)
    sparse = SparseTensor(overlap, cells, [4, 4], 1)
    sites, pairs, _ = oracle_map(sparse, 3, 1, 1, 1)
    cotangent = np.arange(1.0, len(sites) + 1)[:, None]
    F.max_pool(sparse, 3, 1, 1).features.backward(torch.from_numpy(cotangent).float())
    assert overlap.grad is not None
    np.testing.assert_array_equal(overlap.grad.numpy(), max_pool_grad(cotangent, np.zeros((6, 1)), pairs))


@pytest.mark.parametrize("name", ["max", "avg", "sum"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precisions_sum_in_float32(backend: str, name: str, dtype: torch.dtype) -> None:
    x = sample(2, 6, dtype)
    pool: Pool = {"max": F.max_pool, "avg": F.avg_pool, "sum": F.sum_pool}[name]
    got = pool(x, 4, 2, 1)
    wide = pool(x.float(), 4, 2, 1)
    assert got.dtype == dtype
    atol = tolerance(dtype, 1, float(wide.features.abs().max()))
    torch.testing.assert_close(got.features.float(), wide.features, rtol=0, atol=atol)
    if name == "sum":
        assert torch.equal(got.features, wide.features.to(dtype))


@pytest.mark.parametrize("name", ["max", "avg", "sum"])
@pytest.mark.parametrize("dilation", [1, 2])
def test_submanifold_pooling_keeps_the_rows(backend: str, name: str, dilation: int) -> None:
    x = sample(2, 7)
    pool: Pool = {"max": F.max_pool, "avg": F.avg_pool, "sum": F.sum_pool}[name]
    got = pool(x, 3, dilation=dilation, subm=True)
    assert torch.equal(got.indices, x.indices)
    each = [[value] * 2 for value in (3, 1, dilation, dilation)]
    pairs = conv_pairs(x.indices.numpy(), x.indices.numpy(), *each)
    oracle = {"max": max_pool, "avg": avg_pool, "sum": sum_pool}[name]
    expected = oracle(x.features.numpy(), pairs, len(x))
    np.testing.assert_allclose(got.features.numpy(), expected, rtol=0, atol=tolerance(torch.float64, 9, 4.0))
    with pytest.raises(ValueError, match="odd kernel_size on every axis, got \\(2, 2\\)"):
        pool(x, 2, subm=True)


@pytest.mark.parametrize("name", ["max", "avg", "sum"])
def test_empty_and_single(backend: str, name: str) -> None:
    pool: Pool = {"max": F.max_pool, "avg": F.avg_pool, "sum": F.sum_pool}[name]
    features = torch.zeros(0, 3, requires_grad=True)
    empty = pool(SparseTensor(features, torch.zeros(0, 3, dtype=torch.int32), [8, 8], 2), 3, 2, 1)
    assert (empty.features.shape, empty.spatial_shape, empty.batch_size) == ((0, 3), [4, 4], 2)
    empty.features.sum().backward()
    assert features.grad is not None and features.grad.shape == (0, 3)
    one = SparseTensor(torch.tensor([[-4.0, 2.0]]), torch.tensor([[1, 5, 7]]), [8, 8], 2)
    got = pool(one, 2)
    assert (got.indices.tolist(), got.features.tolist()) == ([[1, 2, 3]], [[-4.0, 2.0]])
    # A stride larger than the window leaves the site out.
    skipped = pool(one, 1, 2)
    assert (skipped.features.shape, skipped.indices.shape) == ((0, 2), (0, 3))


def test_unsorted_rows_give_the_same_result(backend: str) -> None:
    x = sample(3, 8)
    order = torch.from_numpy(np.lexsort(x.indices.numpy().T[::-1]).copy())
    ordered = SparseTensor(x.features[order], x.indices[order], x.spatial_shape, 3)
    for pool in (F.max_pool, F.avg_pool, F.sum_pool):
        first, second = pool(x, 3, 2, 1), pool(ordered, 3, 2, 1)
        assert torch.equal(first.indices, second.indices)
        assert torch.equal(first.features, second.features)


def test_rows_of_an_unbounded_grid_may_be_negative(backend: str) -> None:
    cells = torch.tensor([[0, -3], [0, -2], [0, -1], [0, 0], [0, 3]])
    x = SparseTensor(torch.arange(-5.0, 0.0)[:, None], cells, None, 1)
    got = F.max_pool(x, 2)
    assert got.spatial_shape is None
    assert got.indices[:, 1].tolist() == [-2, -1, 0, 1]
    assert got.features.flatten().tolist() == [-5, -3, -2, -1]
