"""Pooling, sums over columns and sums over weighted pairs."""

from __future__ import annotations

import pytest
import torch
from made_sites import make_sites
from tolerance import assert_close
from torch import Tensor

from sparseconv import ConvGeometry
from sparseconv.backends import cuda, reference
from sparseconv.backends.cuda import columns as cuda_columns

Map = tuple[Tensor, Tensor, Tensor]


def overlapping_map(count: int) -> tuple[Map, int]:
    index = reference.build_index(make_sites(count, True, (3, 12)))
    geometry = ConvGeometry.create(2, 3, 2, 1)
    coarse = reference.build_index(reference.coarse_sites(index, geometry, None))
    return reference.kernel_pairs(index, coarse, geometry), len(coarse.sites)


def long_map() -> tuple[Map, int]:
    """Two rows of 150 and 87 pairs, one row of none between them: global pooling."""
    first, last = torch.arange(150), torch.arange(150, 237)
    in_rows, out_rows, offsets = [], [], [0]
    for tap in range(150):
        for rows, target in ((first, 0), (last, 2)):
            if tap < len(rows):
                in_rows.append(int(rows[tap]))
                out_rows.append(target)
        offsets.append(len(in_rows))
    return (torch.tensor(in_rows).int(), torch.tensor(out_rows).int(), torch.tensor(offsets)), 3


MAPS = {
    "none": overlapping_map(0),
    "one": overlapping_map(1),
    "overlapping": overlapping_map(41),
    "long": long_map(),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", MAPS)
def test_pools(name: str, dtype: torch.dtype) -> None:
    (in_rows, out_rows, offsets), n_out = MAPS[name]
    n_in = int(in_rows.max()) + 1 if len(in_rows) else 0
    # Few values, so that maxima tie, and NaN among them.
    features = torch.randint(-3, 3, (n_in, 3)).to(dtype)
    if n_in > 5:
        features[4, 1] = float("nan")
    found, argmax = cuda.max_pool(features, in_rows, out_rows, offsets, n_out)
    expected, expected_argmax = reference.max_pool(features, in_rows, out_rows, offsets, n_out)
    assert torch.equal(argmax, expected_argmax)
    assert torch.equal(found.nan_to_num(99), expected.nan_to_num(99))
    grad = torch.randn(n_out, 3, dtype=dtype)
    assert_close(
        cuda.max_pool_gradient(grad, argmax, n_in), reference.max_pool_gradient(grad.double(), argmax, n_in), 9
    )
    values = torch.randn(n_in, 3, dtype=dtype)
    summed = cuda.sum_pool(values, in_rows, out_rows, offsets, n_out)
    assert_close(summed, reference.sum_pool(values.double(), in_rows, out_rows, offsets, n_out), 150)
    assert torch.equal(summed, cuda.sum_pool(values, in_rows, out_rows, offsets, n_out))


def test_long_rows_take_the_first_of_equal_maxima_and_the_first_nan() -> None:
    (in_rows, out_rows, offsets), n_out = MAPS["long"]
    features = torch.zeros(237, 2)
    features[[90, 11], 0] = 5
    features[[60, 30], 1] = float("nan")
    found, argmax = cuda.max_pool(features, in_rows, out_rows, offsets, n_out)
    assert argmax.tolist() == [[11, 30], [-1, -1], [150, 150]]
    assert found[:, 0].tolist() == [5, 0, 0] and bool(found[0, 1].isnan())


def test_gradient_of_shared_maxima_is_summed_in_order() -> None:
    argmax = torch.tensor([[2, -1], [2, 0], [0, 0], [2, -1]], dtype=torch.int32)
    grad = torch.tensor([[1e8, 5.0], [1.0, 2.0], [3.0, 4.0], [-1e8, 6.0]])
    found = cuda.max_pool_gradient(grad, argmax, 4)
    # 1e8 + 1 is 1e8 in float32: only this order gives 0.
    assert found.tolist() == [[3, 6], [0, 0], [0, 0], [0, 0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("rows", [1, 8, 27])
def test_columns(rows: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_columns, "_CHUNK", 8)
    values, grad = torch.randn(rows, 3, dtype=dtype) + 100, torch.randn(rows, 3, dtype=dtype)
    for found, expected in zip(cuda.column_moments(values), reference.column_moments(values), strict=True):
        assert found.dtype == dtype
        assert_close(found, expected, rows)
    for found, expected in zip(cuda.column_dots(grad, values), reference.column_dots(grad, values), strict=True):
        assert_close(found, expected, rows)
    scale, shift = torch.randn(3, dtype=dtype), torch.randn(3, dtype=dtype)
    assert_close(cuda.scale_shift(values, scale, shift), values.double() * scale + shift, 2)


def test_no_rows_have_no_dots() -> None:
    dots, sums = cuda.column_dots(torch.empty(0, 3), torch.empty(0, 3))
    assert dots.tolist() == sums.tolist() == [0, 0, 0]


@pytest.mark.parametrize("pairs", [0, 1, 30])
def test_weighted_pairs(pairs: int) -> None:
    features, other = torch.randn(7, 6), torch.randn(5, 6)
    in_rows = torch.randint(-1, 7, (pairs,)).int()
    out_rows = torch.randint(-1, 5, (pairs,)).int().sort().values
    for groups in (1, 3, 6):
        coefficients = torch.randn(pairs, groups)
        found = cuda.weighted_sum(features, coefficients, in_rows, out_rows, 5)
        expected = reference.weighted_sum(features.double(), coefficients.double(), in_rows, out_rows, 5)
        assert_close(found, expected, max(1, pairs))
        dots = cuda.pair_dots(features, other, in_rows, out_rows, groups)
        exact = reference.pair_dots(features.double(), other.double(), in_rows, out_rows, groups)
        assert_close(dots, exact, 6)


@pytest.mark.parametrize("in_rows, out_rows", [([0, 3], [0, 1]), ([-2, 0], [0, 1]), ([0, 0], [1, 0]), ([0], [5])])
def test_weighted_pairs_out_of_range_are_refused(in_rows: list[int], out_rows: list[int]) -> None:
    rows = torch.tensor(in_rows).int(), torch.tensor(out_rows).int()
    with pytest.raises(ValueError, match=r"must lie in -1 \.\. 2"):
        cuda.weighted_sum(torch.ones(3, 2), torch.ones(len(in_rows), 1), *rows, 2)
