"""Weighted sums over pairs of rows and their dot products: against loops, under gradcheck and opcheck."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tolerance import assert_close
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import sparseconv
from sparseconv.ops import pair_dots, weighted_sum


class Case(NamedTuple):
    """Pairs with repeats, absent rows on both sides, and output rows that no pair reaches."""

    features: Tensor
    coefficients: Tensor
    in_rows: Tensor
    out_rows: Tensor
    n_out: int


def case(
    pairs: int,
    n_in: int,
    n_out: int,
    channels: int,
    groups: int,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> Case:
    generator = torch.Generator().manual_seed(seed)

    def rows(limit: int) -> Tensor:
        return torch.randint(-1, max(limit, 0), (pairs,), generator=generator, dtype=torch.int32)

    return Case(
        torch.randn(n_in, channels, generator=generator).to(dtype),
        torch.randn(pairs, groups, generator=generator).to(dtype),
        rows(n_in),
        rows(n_out).sort().values,
        n_out,
    )


def summed_by_loops(x: Case) -> Tensor:
    """The definition, one product at a time."""
    channels, groups = x.features.shape[1], x.coefficients.shape[1]
    out = torch.zeros(x.n_out, channels, dtype=torch.float64)
    features, coefficients = x.features.double(), x.coefficients.double()
    for p, (i, o) in enumerate(zip(x.in_rows.tolist(), x.out_rows.tolist(), strict=True)):
        if i < 0 or o < 0:
            continue
        for c in range(channels):
            out[o, c] += coefficients[p, c // (channels // groups)] * features[i, c]
    return out


SIZES = [
    # pairs, n_in, n_out, channels, groups
    (0, 5, 4, 3, 1),
    (0, 0, 0, 3, 3),
    (1, 1, 1, 1, 1),
    (7, 3, 2, 5, 5),
    (60, 9, 11, 33, 1),
    (60, 9, 4, 33, 3),
    (41, 30, 3, 17, 17),
    (41, 2, 50, 64, 2),
    (33, 7, 8, 40, 2),
    (12, 6, 5, 0, 1),
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_both_ops_are_their_definitions(backend: str, size: tuple[int, ...], dtype: torch.dtype) -> None:
    x = case(*size, dtype=dtype)
    terms = max(1, len(x.in_rows))
    out = weighted_sum(x.features, x.coefficients, x.in_rows, x.out_rows, x.n_out)
    assert out.dtype == dtype
    assert_close(out, summed_by_loops(x), terms, "weighted_sum")
    right = torch.randn(x.n_out, x.features.shape[1], generator=torch.Generator().manual_seed(1)).to(dtype)
    dots = pair_dots(x.features, right, x.in_rows, x.out_rows, size[4])
    wanted = torch.zeros(len(x.in_rows), size[4], dtype=torch.float64)
    for p, (i, o) in enumerate(zip(x.in_rows.tolist(), x.out_rows.tolist(), strict=True)):
        if i >= 0 and o >= 0:
            wanted[p] = (x.features[i].double() * right[o].double()).reshape(size[4], -1).sum(1)
    assert dots.dtype == torch.promote_types(dtype, torch.float32)
    assert_close(dots, wanted, max(1, size[3]), "pair_dots")


def test_by_hand(backend: str) -> None:
    features = torch.tensor([[1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0]])
    coefficients = torch.tensor([[1.0, 0.0], [2.0, -1.0], [5.0, 5.0], [0.5, 0.25]])
    in_rows = torch.tensor([0, 1, -1, 1], dtype=torch.int32)
    out_rows = torch.tensor([-1, 0, 0, 2], dtype=torch.int32)
    out = weighted_sum(features, coefficients, in_rows, out_rows, 3)
    assert out.tolist() == [[20, 40, -30, -40], [0, 0, 0, 0], [5, 10, 7.5, 10]]
    dots = pair_dots(features, features, in_rows, torch.tensor([0, 1, 1, 0], dtype=torch.int32), 2)
    assert dots.tolist() == [[5, 25], [500, 2500], [0, 0], [50, 250]]


def test_coefficients_stay_wide_over_half_features(backend: str) -> None:
    """Bilinear weights in float32 must not be rounded to the storage type of the features."""
    features = torch.tensor([[256.0]], dtype=torch.bfloat16)
    rows = torch.zeros(2, dtype=torch.int32)
    coefficients = torch.tensor([[1.001], [-1.0]], requires_grad=True)
    out = weighted_sum(features, coefficients, rows, rows, 1)
    assert abs(float(out.detach()) - 0.256) < 0.01
    out.sum().backward()
    assert coefficients.grad is not None and coefficients.grad.dtype == torch.float32


@pytest.mark.parametrize("size", [(23, 6, 5, 6, 2), (9, 4, 7, 3, 3), (9, 4, 7, 5, 1)], ids=str)
@pytest.mark.parametrize("known_order", [False, True])
def test_gradients_of_every_order(backend: str, size: tuple[int, ...], known_order: bool) -> None:
    x = case(*size)
    order = x.in_rows.argsort(stable=True) if known_order else None
    leaves = (x.features.requires_grad_(), x.coefficients.requires_grad_())

    def total(features: Tensor, coefficients: Tensor) -> Tensor:
        return weighted_sum(features, coefficients, x.in_rows, x.out_rows, x.n_out, order)

    assert torch.autograd.gradcheck(total, leaves)
    assert torch.autograd.gradgradcheck(total, leaves)
    right = torch.randn(x.n_out, size[3], dtype=torch.float64, requires_grad=True)

    def dots(left: Tensor, right: Tensor) -> Tensor:
        return pair_dots(left, right, x.in_rows, x.out_rows, size[4])

    assert torch.autograd.gradcheck(dots, (x.features, right))
    assert torch.autograd.gradgradcheck(dots, (x.features, right))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("pairs", [0, 30])
def test_opcheck(dtype: torch.dtype, pairs: int) -> None:
    x = case(pairs, 6, 5, 4, 2, dtype)
    features = x.features.requires_grad_()
    coefficients = x.coefficients.requires_grad_()
    torch.library.opcheck(weighted_sum.overload, (features, coefficients, x.in_rows, x.out_rows, 5))
    order = x.in_rows.argsort(stable=True)
    torch.library.opcheck(weighted_sum.overload, (features, coefficients, x.in_rows, x.out_rows, 5, order))
    right = torch.randn(5, 4).to(dtype).requires_grad_()
    torch.library.opcheck(pair_dots.overload, (features, right, x.in_rows, x.out_rows, 2))


@given(st.integers(0, 2**31 - 1), st.integers(0, 50), st.integers(1, 9), st.integers(1, 9))
def test_sum_and_gradient_are_adjoint(seed: int, pairs: int, n_in: int, n_out: int) -> None:
    """``<sum(x), y> == <x, gradient(y)> == <coefficients, dots(x, y)>``, on unseen pairs."""
    x = case(pairs, n_in, n_out, 6, 3, seed=seed)
    y = torch.randn(n_out, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    leaf = x.features.requires_grad_()
    out = weighted_sum(leaf, x.coefficients, x.in_rows, x.out_rows, n_out)
    (back,) = torch.autograd.grad(out, leaf, y)
    product = (out.detach() * y).sum()
    assert_close((leaf.detach() * back).sum(), product, 6 * max(1, pairs), "gradient")
    dots = pair_dots(leaf.detach(), y, x.in_rows, x.out_rows, 3)
    assert_close((x.coefficients * dots).sum(), product, 6 * max(1, pairs), "dots")


def test_the_same_bits_on_any_number_of_threads() -> None:
    x = case(40_000, 900, 3000, 24, 2, torch.float32)

    def run() -> list[Tensor]:
        leaves = (x.features.clone().requires_grad_(), x.coefficients.clone().requires_grad_())
        out = weighted_sum(*leaves, x.in_rows, x.out_rows, x.n_out)
        return [out.detach(), *torch.autograd.grad(out, leaves, out.detach().cos())]

    torch.set_num_threads(1)
    alone = run()
    torch.set_num_threads(5)
    assert all(torch.equal(a, b) for a, b in zip(alone, run(), strict=True))


def test_not_finite_rows_reach_only_their_own_outputs(backend: str) -> None:
    """An absent row is skipped, not multiplied by zero."""
    features = torch.tensor([[float("nan")], [2.0]])
    in_rows = torch.tensor([-1, 1, 1, 1, 1, 0], dtype=torch.int32)
    out_rows = torch.tensor([0, 0, 0, 0, 0, 1], dtype=torch.int32)
    out = weighted_sum(features, torch.ones(6, 1), in_rows, out_rows, 2)
    assert float(out[0]) == 8 and out[1].isnan()


def test_bad_pairs_are_refused(backend: str) -> None:
    x = case(20, 6, 5, 4, 2)

    def run(**changes: object) -> None:
        weighted_sum(*x._replace(**changes))  # type: ignore[arg-type]

    run()
    with pytest.raises(TypeError, match="in_rows must be int32"):
        run(in_rows=x.in_rows.long())
    with pytest.raises(ValueError, match=r"out_rows must have shape \[20\]"):
        run(out_rows=x.out_rows[:19])
    with pytest.raises(ValueError, match=r"coefficients must have shape \[20, G\]"):
        run(coefficients=x.coefficients[:7])
    with pytest.raises(ValueError, match="4 channels cannot be cut into 3 groups"):
        run(coefficients=torch.ones(20, 3, dtype=torch.float64))
    ones = torch.ones(20, dtype=torch.int32)
    for name, rows in (
        ("in_rows", ones * 6),
        ("in_rows", ones * -2),
        ("out_rows", ones * 5),
        ("out_rows", ones * -2),
        ("out_rows", x.out_rows.flip(0)),
        ("out_rows", torch.cat([ones * 3, ones[:0]]).index_fill(0, torch.tensor([11]), 2)),
    ):
        with pytest.raises(ValueError, match=r"must lie in|must ascend"):
            run(**{name: rows})
    with pytest.raises(ValueError, match=r"must lie in"):
        run(n_out=0)
    right = torch.ones(5, 4, dtype=torch.float64)
    for rows in (ones * 6, ones * -2):
        with pytest.raises(ValueError, match="must lie in"):
            pair_dots(x.features, right, rows, ones, 2)
        with pytest.raises(ValueError, match="must lie in"):
            pair_dots(x.features, right, ones, rows, 2)
    with pytest.raises(TypeError, match="of one type"):
        pair_dots(x.features, right.float(), x.in_rows, x.out_rows, 2)
    with pytest.raises(ValueError, match="the same channels"):
        pair_dots(x.features, right[:, :2], x.in_rows, x.out_rows, 2)


def test_the_counter_sees_every_pair_that_is_there(backend: str) -> None:
    x = case(20, 6, 5, 4, 2)
    with FlopCounterMode(display=False) as counter:
        out = weighted_sum(x.features.requires_grad_(), x.coefficients.requires_grad_(), *x[2:])
        out.sum().backward()
    present = int(((x.in_rows >= 0) & (x.out_rows >= 0)).sum())
    assert 0 < present < 20
    # The sum, and one pass of the same size for each of the two gradients.
    assert counter.get_total_flops() == 3 * 2 * present * 4


def test_backends_agree_on_large_pairs() -> None:
    x = case(5000, 300, 700, 32, 4, torch.float32)
    with sparseconv.use_backend("reference"):
        wanted = weighted_sum(x.features.double(), x.coefficients.double(), *x[2:])
    assert_close(weighted_sum(*x), wanted, 60)
