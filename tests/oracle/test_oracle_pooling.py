"""The pooling oracle against hand-computed cases, and against dense torch."""

import ast
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from . import (
    Pairs,
    at_sites,
    avg_pool,
    avg_pool_grad,
    coarse_sites,
    conv_output_shape,
    conv_pairs,
    dense_conv,
    max_pool,
    max_pool_grad,
    sum_pool,
    sum_pool_grad,
    to_dense,
)

NAN = float("nan")
# Output 0 takes inputs 0, 2, 1 in tap order; output 1 takes input 2; output 2 takes nothing.
PAIRS: Pairs = [[(0, 0)], [(2, 0)], [(1, 0), (2, 1)]]
GRAD = np.array([[6.0], [10.0], [100.0]])


def column(*values: float) -> np.ndarray:
    return np.array(values)[:, None]


def test_the_oracle_imports_nothing_that_it_judges() -> None:
    allowed = {*sys.stdlib_module_names, "numpy"}
    for path in Path(__file__).parent.glob("*.py"):
        if path.name.startswith("test_"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [str(node.module)]
            extra = {"torch"} if path.name == "dense.py" else set()
            assert {name.split(".")[0] for name in names} <= allowed | extra, path.name


@pytest.mark.parametrize(
    ("x", "out", "grad"),
    [
        (column(1, 2, 3), [3, 3, 0], [0, 0, 16]),
        (column(-4, -2, -3), [-2, -3, 0], [0, 6, 10]),
        (column(5, 5, 5), [5, 5, 0], [6, 0, 10]),
        (column(1, 5, 5), [5, 5, 0], [0, 0, 16]),
        (column(9, NAN, 3), [NAN, 3, 0], [0, 6, 10]),
        (column(9, NAN, NAN), [NAN, NAN, 0], [0, 0, 16]),
        (column(-np.inf, -np.inf, -np.inf), [-np.inf, -np.inf, 0], [6, 0, 10]),
        (column(-0.0, 0.0, 0.0), [0, 0, 0], [6, 0, 10]),
    ],
    ids=["plain", "negative", "tie", "tie-in-tap-order", "nan", "two-nans", "minus-inf", "zeros"],
)
def test_max_by_hand(x: np.ndarray, out: list[float], grad: list[float]) -> None:
    np.testing.assert_array_equal(max_pool(x, PAIRS, 3), column(*out))
    np.testing.assert_array_equal(max_pool_grad(GRAD, x, PAIRS), column(*grad))


def test_sum_and_average_by_hand() -> None:
    x = column(1, 2, 6)
    np.testing.assert_array_equal(sum_pool(x, PAIRS, 3), column(9, 6, 0))
    np.testing.assert_array_equal(sum_pool_grad(GRAD, PAIRS, 3), column(6, 6, 16))
    np.testing.assert_array_equal(avg_pool(x, PAIRS, 3), column(3, 6, 0))
    np.testing.assert_array_equal(avg_pool_grad(GRAD, PAIRS, 3), column(2, 2, 12))


def test_channels_are_independent() -> None:
    x = np.array([[1.0, 9.0], [2.0, 8.0]])
    pairs: Pairs = [[(0, 0)], [(1, 0)]]
    assert max_pool(x, pairs, 1).tolist() == [[2.0, 9.0]]
    grad = max_pool_grad(np.array([[3.0, 5.0]]), x, pairs)
    assert grad.tolist() == [[0.0, 5.0], [3.0, 0.0]]


GEOMETRIES = {
    "1d": ((14,), (3,), (2,), (1,), (1,)),
    "1d-even-dilated": ((15,), (2,), (1,), (1,), (3,)),
    "2d": ((8, 7), (3, 2), (2, 1), (1, 0), (1, 2)),
    "3d": ((5, 6, 7), (3, 3, 3), (2, 2, 2), (1, 1, 1), (1, 1, 1)),
    "3d-disjoint": ((6, 4, 6), (2, 2, 3), (2, 2, 3), (0, 0, 0), (1, 1, 1)),
    "4d": ((4, 5, 4, 5), (3, 2, 3, 2), (2, 2, 1, 3), (1, 0, 1, 1), (1, 1, 1, 1)),
}


@pytest.mark.parametrize("name", GEOMETRIES)
def test_pooling_equals_dense(name: str) -> None:
    shape, *geometry = GEOMETRIES[name]
    kernel, stride, padding, dilation = geometry
    rng = np.random.default_rng(0)
    every = np.argwhere(np.ones((2, *shape), dtype=bool)).astype(np.int32)
    fine = rng.permutation(every)[: len(every) // 4]
    out_shape = conv_output_shape(shape, kernel, stride, padding, dilation)
    coarse = coarse_sites(fine, kernel, stride, padding, dilation, out_shape)
    pairs = conv_pairs(fine, coarse, kernel, stride, padding, dilation)
    # Far from zero, so that a zero taken for an absent input would show.
    x = rng.standard_normal((len(fine), 3)) - 10.0
    grad_y = rng.standard_normal((len(coarse), 3))

    leaf = torch.from_numpy(x).requires_grad_()
    dense = to_dense(leaf, fine, shape, 2)
    mask = to_dense(torch.ones(len(fine), 1, dtype=torch.float64), fine, shape, 2)
    options = stride, padding, dilation
    window = torch.ones(3, *kernel, 1, dtype=torch.float64)
    total = dense_conv(dense, window, None, *options, 3)
    count = dense_conv(mask, window[:1], None, *options)
    n_in, n_out = len(fine), len(coarse)

    def check(expected: torch.Tensor, y: np.ndarray, grad_x: np.ndarray) -> None:
        values = at_sites(expected, coarse)
        (grad,) = torch.autograd.grad((values * torch.from_numpy(grad_y)).sum(), leaf, retain_graph=True)
        np.testing.assert_allclose(y, values.detach().numpy(), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(grad_x, grad.numpy(), rtol=1e-12, atol=1e-12)

    check(total, sum_pool(x, pairs, n_out), sum_pool_grad(grad_y, pairs, n_in))
    check(total / count.clamp(min=1), avg_pool(x, pairs, n_out), avg_pool_grad(grad_y, pairs, n_in))
    if len(shape) < 4:
        torch_max: Callable[..., torch.Tensor] = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(shape) - 1]
        expected = torch_max(dense.masked_fill(mask == 0, -np.inf), kernel, *options)
        check(expected, max_pool(x, pairs, n_out), max_pool_grad(grad_y, x, pairs))
