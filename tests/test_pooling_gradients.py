"""Pooling ops under gradcheck and opcheck, adjointness, global pooling, unpooling and upsampling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from oracle import avg_pool as oracle_avg_pool
from oracle import coarse_sites, conv_pairs, swap_pairs
from tolerance import tolerance
from torch import Tensor

import sparseconv
from sparseconv import (
    ConvGeometry,
    SparseConv2d,
    SparseGlobalAvgPool,
    SparseGlobalMaxPool,
    SparseGlobalSumPool,
    SparseInverseConv2d,
    SparseMaxPool2d,
    SparseTensor,
    SparseUnpool,
    SparseUpsample,
    ops,
)
from sparseconv import functional as F


def sample(seed: int, dtype: torch.dtype = torch.float64, channels: int = 3) -> SparseTensor:
    """Unsorted sites of [9, 8] in a batch of 3 whose middle sample is empty."""
    rng = np.random.default_rng(seed)
    cells = np.argwhere(rng.random((3, 9, 8)) < 0.35)
    cells = rng.permutation(cells[cells[:, 0] != 1])
    features = torch.from_numpy(rng.normal(size=(len(cells), channels))).to(dtype)
    return SparseTensor(features, torch.from_numpy(cells), [9, 8], 3)


POOLS: list[Callable[[SparseTensor], Any]] = [
    lambda x: F.max_pool(x, 3, 2, 1).features,
    lambda x: F.avg_pool(x, 3, 2, 1).features,
    lambda x: F.sum_pool(x, 3, 2, 1).features,
    lambda x: F.max_pool(x, 3, subm=True).features,
    lambda x: F.avg_pool(x, 3, subm=True).features,
    F.global_max_pool,
    F.global_avg_pool,
    F.global_sum_pool,
    lambda x: F.upsample(x, 2).features,
    lambda x: F.unpool(F.max_pool(x, 3, 2, 1, indice_key="p"), "p").features,
]


@pytest.mark.parametrize("number", range(len(POOLS)))
def test_gradcheck_twice(backend: str, number: int) -> None:
    x = sample(1, channels=2)

    def run(features: Tensor) -> Tensor:
        return POOLS[number](x.replace_feature(features))

    leaf = x.features.clone().requires_grad_()
    assert torch.autograd.gradcheck(run, (leaf,), fast_mode=True)
    assert torch.autograd.gradgradcheck(run, (leaf,), fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("rows", [0, 1, 40])
def test_opcheck_of_every_op(dtype: torch.dtype, rows: int) -> None:
    x = sample(2, channels=4)
    x = SparseTensor(x.features[:rows].to(dtype), x.indices[:rows], [9, 8], 3)
    coarse, kernel_map = x.coordinates.downsample(ConvGeometry.create(2, 3, 2, 1))
    back = kernel_map.transposed()
    forward_map = (kernel_map.in_rows, kernel_map.out_rows, kernel_map.tap_offsets)
    backward_map = (back.in_rows, back.out_rows)
    features = x.features.clone().requires_grad_()
    weight = torch.randn(6, 9, 2).to(dtype).requires_grad_()
    bias = torch.randn(6).to(dtype).requires_grad_()
    grad = torch.randn(len(coarse), 6).to(dtype).requires_grad_()
    n_out = kernel_map.n_out
    assert set(ops.__all__) == {
        "column_dots",
        "column_moments",
        "convolve",
        "convolve_epilogue",
        "convolve_weight_gradient",
        "max_pool",
        "pair_dots",
        "scale_shift",
        "sum_pool",
        "sum_rows",
        "weighted_sum",
    }
    wide = torch.randn(4).requires_grad_().to(torch.promote_types(dtype, torch.float32))
    torch.library.opcheck(ops.scale_shift.overload, (features, wide.detach(), wide.detach()))
    torch.library.opcheck(ops.column_dots.overload, (features, features))
    if rows:
        torch.library.opcheck(ops.column_moments.overload, (features,))
    inference = (features.detach(), weight.detach(), bias.detach(), grad.detach(), True)
    torch.library.opcheck(ops.convolve_epilogue.overload, (*inference, *forward_map, n_out, 2))
    # opcheck's own comparison of eager and traced gradients is exact arithmetic on both sides.
    torch.library.opcheck(ops.max_pool.overload, (features, *forward_map, n_out))
    torch.library.opcheck(ops.sum_pool.overload, (features, *forward_map, *backward_map, n_out))
    torch.library.opcheck(ops.convolve.overload, (features, weight, bias, *forward_map, *backward_map, n_out, 2))
    torch.library.opcheck(ops.convolve.overload, (features, weight, None, *forward_map, *backward_map, n_out, 2))
    torch.library.opcheck(ops.convolve_weight_gradient.overload, (features, grad, *forward_map, *backward_map, 2))
    from sparseconv.ops.pool import max_pool_gradient

    argmax = ops.max_pool(features.detach(), *forward_map, n_out)[1]
    cotangent = torch.randn(n_out, 4).to(dtype).requires_grad_()
    torch.library.opcheck(max_pool_gradient.overload, (cotangent, argmax, rows))


def test_sum_pool_and_its_gradient_are_adjoint(backend: str) -> None:
    x = sample(3)
    for window in ((2, 2, 0, 1), (3, 1, 1, 1), (3, 2, 1, 2)):
        leaf = x.features.clone().requires_grad_()
        out = F.sum_pool(x.replace_feature(leaf), *window).features
        y = torch.randn(out.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
        (back,) = torch.autograd.grad(out, leaf, y)
        left, right = float((out.detach() * y).sum()), float((x.features * back).sum())
        assert abs(left - right) <= tolerance(torch.float64, out.numel() * 9, 100.0)
        assert left != 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_global_pooling_with_an_empty_sample(backend: str, dtype: torch.dtype) -> None:
    x = sample(5, dtype)
    x = x.replace_feature(x.features - 6)  # all maxima are negative
    maxima, means, sums = SparseGlobalMaxPool()(x), SparseGlobalAvgPool()(x), SparseGlobalSumPool()(x)
    assert maxima.shape == means.shape == sums.shape == (3, 3)
    assert maxima.dtype == means.dtype == sums.dtype == dtype
    for number in range(3):
        rows = x.features[x.indices[:, 0] == number].double()
        if len(rows) == 0:
            assert not maxima[number].any() and not means[number].any() and not sums[number].any()
            continue
        assert torch.equal(maxima[number].double(), rows.max(0).values)
        for got, expected in ((means[number], rows.mean(0)), (sums[number], rows.sum(0))):
            atol = tolerance(dtype, len(rows), float(expected.abs().max()))
            torch.testing.assert_close(got.double(), expected, rtol=0, atol=atol)


@pytest.mark.parametrize(
    ("dtype", "rows"), [(torch.float16, 70_000), (torch.float16, 3001), (torch.bfloat16, 1001)]
)
def test_the_mean_of_many_half_precision_rows(dtype: torch.dtype, rows: int) -> None:
    """Neither the sum nor the number of rows need fit the type of the features."""
    indices = torch.stack([torch.zeros(rows, dtype=torch.int32), torch.arange(rows, dtype=torch.int32)], 1)
    x = SparseTensor(torch.full((rows, 1), 48.0, dtype=dtype), indices, [rows], 1)
    assert F.global_avg_pool(x).item() == 48.0
    if rows < 4000:
        assert F.avg_pool(x, 1001, 1000).features.unique().tolist() == [48.0]


def test_global_pooling_of_nothing(backend: str) -> None:
    features = torch.zeros(0, 3, requires_grad=True)
    x = SparseTensor(features, torch.zeros(0, 3, dtype=torch.int32), [9, 8], 2)
    for pool in (F.global_max_pool, F.global_avg_pool, F.global_sum_pool):
        got = pool(x)
        assert got.tolist() == [[0.0] * 3] * 2
        got.sum().backward()
        assert features.grad is not None


def test_unpool_gives_back_the_sites_and_copies_the_parent(backend: str) -> None:
    x = sample(6, torch.float32)
    pooled = SparseMaxPool2d(2, indice_key="down")(x)
    got = SparseUnpool("down")(pooled)
    # The last row of [9, 8] has no window of its own: a floor-sized output drops it.
    parents = {tuple(site): row for row, site in enumerate(pooled.indices.tolist())}
    for site, value in zip(x.indices.tolist(), got.features, strict=True):
        row = parents.get((site[0], site[1] // 2, site[2] // 2))
        expected = torch.zeros(3) if row is None else pooled.features[row]
        assert torch.equal(value, expected)
    assert torch.equal(got.indices, x.indices)


def test_unpool_of_overlapping_windows_is_the_mean_of_the_parents(backend: str) -> None:
    x = sample(7)
    each = [[3, 3], [2, 2], [1, 1], [1, 1]]
    pooled = F.sum_pool(x, *each, indice_key="down")
    sites = coarse_sites(x.indices.numpy(), *each, [5, 4])
    pairs = swap_pairs(conv_pairs(x.indices.numpy(), sites, *each))
    got = F.unpool(pooled, "down")
    expected = oracle_avg_pool(pooled.features.numpy(), pairs, len(x))
    np.testing.assert_allclose(got.features.numpy(), expected, rtol=0, atol=tolerance(torch.float64, 9, 20.0))


def test_an_inverse_convolution_undoes_a_pooling(backend: str) -> None:
    x = sample(8, torch.float32)
    pooled = SparseMaxPool2d(3, 2, 1, indice_key="pool")(x)
    inverse = SparseInverseConv2d(3, 4, 3, "pool")
    got = inverse(pooled)
    assert torch.equal(got.indices, x.indices)
    convolved = SparseConv2d(3, 3, 3, 2, 1, indice_key="conv")(x)
    same = SparseInverseConv2d(3, 4, 3, "conv")
    same.load_state_dict(inverse.state_dict())
    assert torch.equal(same(convolved.replace_feature(pooled.features)).features, got.features)
    with pytest.raises(ValueError, match=r"needs its kernel_size \(3, 3\), got \(2, 2\)"):
        SparseInverseConv2d(3, 4, 2, "pool")(pooled)
    with pytest.raises(ValueError, match="no layer that led to this tensor has indice_key 'other'"):
        SparseUnpool("other")(pooled)
    with pytest.raises(ValueError, match="changes no sites"):
        SparseUnpool("s")(F.max_pool(x, 3, subm=True, indice_key="s"))


@pytest.mark.parametrize("scale", [1, 2, (3, 1)])
def test_upsampling_is_the_nearest_neighbour(backend: str, scale: int | tuple[int, int]) -> None:
    x = sample(9, torch.float32)
    steps = (scale, scale) if isinstance(scale, int) else scale
    got = SparseUpsample(scale)(x)
    expected = x.dense()
    for axis, step in enumerate(steps):
        expected = expected.repeat_interleave(step, 2 + axis)
    assert got.spatial_shape == list(expected.shape[2:])
    assert len(got) == len(x) * steps[0] * steps[1]
    assert torch.equal(got.dense(), expected)


@pytest.mark.parametrize("scale", [0, -1, True, 2.0, (2, 0)])
def test_bad_scales_are_refused_at_construction(scale: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="scale must"):
        SparseUpsample(scale)


def test_a_scale_may_be_a_numpy_integer() -> None:
    x = sample(10, torch.float32)
    assert torch.equal(SparseUpsample(np.int64(2))(x).features, SparseUpsample(2)(x).features)  # type: ignore[arg-type]


@pytest.mark.parametrize("number", range(len(POOLS)))
def test_threads_and_backends_agree_bit_for_bit(number: int) -> None:
    rng = np.random.default_rng(11)
    cells = np.unique(rng.integers(0, 90, (6000, 3)) % (2, 90, 90), axis=0)
    x = SparseTensor(
        torch.from_numpy(rng.normal(size=(len(cells), 20))).float(), torch.from_numpy(cells), [90, 90]
    )

    def run() -> tuple[Tensor, Tensor]:
        leaf = x.features.clone().requires_grad_()
        out = POOLS[number](x.replace_feature(leaf))
        out.backward(torch.arange(out.numel()).reshape(out.shape).float() % 7)
        assert leaf.grad is not None
        return out.detach(), leaf.grad

    with sparseconv.use_backend("reference"):
        x.clear_maps()
        expected = run()
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            for got, wanted in zip(run(), expected, strict=True):
                assert torch.equal(got, wanted)
    finally:
        torch.set_num_threads(before)
