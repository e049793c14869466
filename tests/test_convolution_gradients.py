"""Derivatives of every order, tracing, autocast, and the same bits on every number of threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numba
import numpy as np
import pytest
import torch
from oracle import conv_pairs, convolve, convolve_grads, dense_conv, swap_pairs, to_dense
from scans import GRID, random_sites, scan_sites
from tolerance import assert_close, assert_same_zeros, tolerance
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

import sparseconv as sc
import sparseconv.functional as F
from sparseconv import ConvGeometry, KernelMap, SparseTensor, ops
from sparseconv.backends.cpu import conv
from sparseconv.functional.conv import convolve_features
from sparseconv.ops.operator import Operator

SITES = random_sites(9, (5, 6), (0, 2), shuffled=True)
create = ConvGeometry.create


def tensor(features: Tensor, sites: Tensor = SITES, shape: tuple[int, ...] = (5, 6)) -> SparseTensor:
    return SparseTensor(features, sites, shape, 3)


def double(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def forms(groups: int) -> Iterator[tuple[str, Callable[[Tensor, Tensor, Tensor], Tensor]]]:
    """Each kind of convolution as a function of features, weight ``[4, 3, 3, 4 / groups]`` and bias."""
    yield "subm", lambda x, w, b: F.subm_conv(tensor(x), w, b, 1, groups).features
    yield "strided", lambda x, w, b: F.sparse_conv(tensor(x), w, b, 2, 1, 1, groups).features
    yield "transposed", lambda x, w, b: F.sparse_conv_transpose(tensor(x), w, b, 2, 1, 1, 1, groups).features
    target = sc.Coordinates(random_sites(7, (5, 6), (0, 1, 2), 3, shuffled=True), (5, 6), 3)
    yield "onto", lambda x, w, b: F.conv_onto(tensor(x), target, w, b, 1, 1, 1, groups).features
    fine = SparseTensor(torch.zeros(9, 1), random_sites(9, (9, 12), (0, 2), 4, shuffled=True), (9, 12), 3)
    down = F.sparse_conv(fine, torch.zeros(1, 3, 3, 1), None, 2, 1, indice_key="down")
    places = torch.arange(len(down)) % 9  # every coarse row takes one of the nine feature rows
    yield "inverse", lambda x, w, b: F.inverse_conv(down.replace_feature(x[places]), w, b, "down", groups).features


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_gradcheck_of_both_orders(backend: str, groups: int) -> None:
    values = (double(9, 4), double(4, 3, 3, 4 // groups), double(4))
    # Every entry of the Jacobian once, random projections of it elsewhere: two hundred times fewer calls.
    projected = (backend, groups) != ("cpu", 2)
    for name, form in forms(groups):
        assert gradcheck(form, values, fast_mode=projected), name
        assert gradgradcheck(form, values, fast_mode=True), name


def test_gradcheck_of_the_weight_gradient(backend: str) -> None:
    kernel_map = sc.Coordinates(SITES, (5, 6), 3).downsample(create(2, 3, 2, 1))[1]
    rows = map_arguments(kernel_map)
    for groups in (1, 2):
        values = (double(9, 4), double(kernel_map.n_out, 6))
        form = lambda x, g, n=groups: ops.convolve_weight_gradient(x, g, *rows, n)  # noqa: E731
        assert gradcheck(form, values), f"groups {groups}"
        assert gradgradcheck(form, values, fast_mode=True), f"groups {groups}"


def map_arguments(kernel_map: KernelMap) -> tuple[Tensor, ...]:
    back = kernel_map.transposed()
    return kernel_map.in_rows, kernel_map.out_rows, kernel_map.tap_offsets, back.in_rows, back.out_rows


@pytest.mark.parametrize(
    "op",
    [
        "convolve",
        "convolve_epilogue",
        "convolve_weight_gradient",
        "sum_rows",
        "max_pool",
        "sum_pool",
        "max_pool_gradient",
    ],
)
def test_opcheck(op: str) -> None:
    kernel_map = sc.Coordinates(SITES, (5, 6), 3).downsample(create(2, 3, 2, 1))[1]
    rows, n_out = map_arguments(kernel_map), kernel_map.n_out
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        x = torch.randn(9, 4).to(dtype).requires_grad_()
        grad = torch.randn(n_out, 4).to(dtype).requires_grad_()
        weight, bias = torch.randn(4, 9, 2).to(dtype).requires_grad_(), torch.randn(4).to(dtype).requires_grad_()
        calls: dict[str, list[tuple[Any, ...]]] = {
            "convolve": [(x, weight, bias, *rows, n_out, 2), (x.detach(), weight, None, *rows, n_out, 2)],
            "convolve_epilogue": [
                (x.detach(), weight.detach(), bias.detach(), grad.detach(), True, *rows[:3], n_out, 2)
            ],
            "convolve_weight_gradient": [(x, grad, *rows, 1), (x, grad, *rows, 4)],
            "sum_rows": [(grad,)],
            "max_pool": [(x, *rows[:3], n_out)],
            "sum_pool": [(x, *rows, n_out)],
            "max_pool_gradient": [(grad, ops.max_pool(x.detach(), *rows[:3], n_out)[1], 9)],
        }
        for arguments in calls[op]:
            overload = getattr(torch.ops.sparseconv, op).default
            results = torch.library.opcheck(overload, arguments)
            assert set(results.values()) == {"SUCCESS"}, f"{dtype}: {results}"


def test_no_op_is_left_out_of_opcheck() -> None:
    from sparseconv.ops import conv, pool

    defined = {
        value.qualified_name
        for module in (conv, pool)
        for value in vars(module).values()
        if isinstance(value, Operator)
    }
    checked = {
        "convolve",
        "convolve_epilogue",
        "convolve_weight_gradient",
        "sum_rows",
        "max_pool",
        "sum_pool",
        "max_pool_gradient",
    }
    assert defined == {f"sparseconv::{name}" for name in checked}


@pytest.mark.parametrize(
    "geometry", [create(3, 3, 2, 1), create(3, 2, 2), create(3, (1, 3, 2), 1, (0, 2, 1))], ids=str
)
def test_convolution_and_its_transposed_are_adjoint(geometry: ConvGeometry) -> None:
    """``<conv x, y> = <x, conv_T y>`` for the same weight read from the other side."""
    sites = sc.Coordinates(random_sites(700, (9, 20, 20), (0, 1), shuffled=True), (9, 20, 20))
    coarse, _ = sites.downsample(geometry)
    x = SparseTensor.from_coordinates(torch.randn(700, 5, dtype=torch.float64), sites)
    y = SparseTensor.from_coordinates(torch.randn(len(coarse), 7, dtype=torch.float64), coarse)
    w = torch.randn(7, *geometry.kernel_size, 5, dtype=torch.float64)
    s, p, d = geometry.stride, geometry.padding, geometry.dilation
    left = (F.conv_onto(x, coarse, w, None, s, p, d).features * y.features).sum()
    right = (F.conv_onto(y, sites, w.transpose(0, -1), None, s, p, d, transposed=True).features * x.features).sum()
    terms = geometry.volume * 35 * 700
    assert abs(float(left - right)) <= tolerance(torch.float64, terms, max(1.0, abs(float(left)))), (
        f"{left} {right}"
    )


def test_gradients_are_zero_exactly_where_they_must_be(backend: str) -> None:
    """An isolated site, a dead channel and an unused tap have no gradient; everything else has one."""
    sites = torch.tensor([[0, 0, 0], [0, 0, 1], [0, 4, 5], [1, 2, 2]], dtype=torch.int32)
    x = torch.randn(4, 6)
    x[:, 2] = 0
    x.requires_grad_()
    w = torch.randn(4, 3, 3, 3, requires_grad=True)
    output = F.subm_conv(tensor(x, sites), w, None, 1, 2).features
    cotangent = torch.randn(4, 4)
    cotangent[2] = 0
    grads = torch.autograd.grad(output, (x, w), cotangent)
    pairs = conv_pairs(sites.numpy(), sites.numpy(), (3, 3), (1, 1), (1, 1), (1, 1))
    expected = convolve_grads(cotangent.numpy(), x.detach().numpy(), w.detach().numpy(), pairs, 2)
    for name, grad, exact in zip(("features", "weight"), grads, map(torch.from_numpy, expected[:2]), strict=True):
        assert 0 < int((exact == 0).sum()) < exact.numel(), f"{name}: the case has zeros and others"
        assert_same_zeros(grad, exact, name)
        assert_close(grad, exact, 9 * 4, name)


def test_a_gradient_for_some_inputs_only(backend: str) -> None:
    values = [torch.randn(9, 4), torch.randn(4, 3, 3, 4), torch.randn(4)]
    cotangent = torch.randn(9, 4)
    leaves = [value.clone().requires_grad_() for value in values]
    full = torch.autograd.grad(F.subm_conv(tensor(leaves[0]), *leaves[1:]).features, leaves, cotangent)
    for number in range(3):
        inputs = [value.clone().requires_grad_(number == i) for i, value in enumerate(values)]
        output = F.subm_conv(tensor(inputs[0]), *inputs[1:]).features
        (grad,) = torch.autograd.grad(output, inputs[number], cotangent)
        assert torch.equal(grad, full[number]), f"input {number}"
    with torch.no_grad():
        assert not F.subm_conv(tensor(leaves[0]), *leaves[1:]).features.requires_grad


def test_against_the_loop_oracle_on_mixed_rows(backend: str) -> None:
    """The second judge: sums over pairs in Python, for a transposed convolution of shuffled rows and groups."""
    geometry = create(2, (2, 3), (2, 1), (0, 1), (1, 2))
    x, w, b = double(9, 4), double(6, 2, 3, 2), double(6)
    output = F.sparse_conv_transpose(tensor(x), w, b, (2, 1), (0, 1), 0, (1, 2), 2)
    arguments = (geometry.kernel_size, geometry.stride, geometry.padding, geometry.dilation)
    pairs = swap_pairs(conv_pairs(output.indices.numpy(), SITES.numpy(), *arguments))
    cotangent = torch.randn(output.features.shape, dtype=torch.float64)
    exact = convolve(x.detach().numpy(), w.detach().numpy(), b.detach().numpy(), pairs, len(output), 2)
    assert_close(output.features, torch.from_numpy(exact), 13)
    expected = convolve_grads(cotangent.numpy(), x.detach().numpy(), w.detach().numpy(), pairs, 2)
    for grad, target in zip(torch.autograd.grad(output.features, (x, w, b), cotangent), expected, strict=True):
        assert_close(grad, torch.from_numpy(target), 100)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(backend: str, dtype: torch.dtype) -> None:
    x, w, b = torch.randn(9, 4).requires_grad_(), torch.randn(5, 3, 3, 4).requires_grad_(), torch.randn(5)
    with torch.autocast("cpu", dtype):
        output = F.subm_conv(tensor(x), w, b)
    assert output.dtype == dtype
    rounded = [value.detach().to(dtype).double().requires_grad_() for value in (x, w, b)]
    grid = to_dense(rounded[0], SITES, (5, 6), 3)
    exact = dense_conv(grid, *rounded[1:], (1, 1), (1, 1), (1, 1)).movedim(1, -1)[tuple(SITES.long().T)]
    assert_close(output.features, exact, 37)
    cotangent = torch.randn(9, 5).to(dtype)
    grads = torch.autograd.grad(output.features, (x, w), cotangent)
    for grad, target in zip(grads, torch.autograd.grad(exact, rounded[:2], cotangent.double()), strict=True):
        assert grad.dtype == torch.float32
        assert_close(grad.to(dtype), target, 45)
    with torch.autocast("cpu", dtype):
        assert F.subm_conv(tensor(x.double()), w.double()).dtype == torch.float64


def heavy(groups: int) -> list[Tensor]:
    """Results and gradients of two layers on a whole scan, large enough for several threads."""
    torch.manual_seed(3)
    sites = scan_sites()
    sites = sites[torch.randperm(len(sites))]
    width = 24 if groups == 1 else 16
    values = [
        torch.randn(len(sites), 16, requires_grad=True),
        torch.randn(width, 3, 3, 3, 16 // groups, requires_grad=True),
        torch.randn(16, 3, 3, 3, width // groups, requires_grad=True),
        torch.randn(width, requires_grad=True),
    ]
    y = F.subm_conv(SparseTensor(values[0], sites, GRID), values[1], values[3], 1, groups)
    z = F.sparse_conv(y, values[2], None, 2, 1, 1, groups)
    grads = torch.autograd.grad(z.features, values, torch.randn(z.features.shape))
    return [y.features.detach(), z.features.detach(), *grads]


@pytest.mark.parametrize("groups", [1, 16])
def test_bits_do_not_depend_on_threads_or_on_the_run(groups: int) -> None:
    known: list[Tensor] = []
    for threads in (1, 2, 4, 4):
        torch.set_num_threads(threads)
        found = heavy(groups)
        known = known or found
        for number, (a, b) in enumerate(zip(found, known, strict=True)):
            assert torch.equal(a, b), f"tensor {number} on {threads} threads"


# Dynamo looks at the grad attribute of every input, leaf or not, and warns of it itself.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
def test_compiled_networks_equal_eager_ones(compiler: str) -> None:
    torch.compiler.reset()
    model = sc.Sequential(sc.SubMConv2d(4, 8, 3), nn.ReLU(), sc.SparseConv2d(8, 6, 3, 2, 1), nn.Linear(6, 5))
    compiled = torch.compile(model, backend=compiler)
    for count in (9, 12):
        sites = random_sites(count, (5, 6), (0, 2), count, shuffled=True)
        x = torch.randn(count, 4)
        grads = []
        for network in (model, compiled):
            leaf = x.clone().requires_grad_()
            model.zero_grad()
            output = network(tensor(leaf, sites))
            output.features.square().sum().backward()
            grads.append([output.features, leaf.grad, *(parameter.grad for parameter in model.parameters())])
        for number, (a, b) in enumerate(zip(*grads, strict=True)):
            assert torch.equal(a, b), f"{count} sites, tensor {number}"


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_a_whole_graph_of_features_compiles() -> None:
    """With the map built outside, the op itself traces without a break, its gradient included."""
    torch.compiler.reset()
    kernel_map = sc.Coordinates(SITES, (5, 6), 3).submanifold_map(ConvGeometry.submanifold(2, 3))
    rows = map_arguments(kernel_map)

    def step(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return ops.convolve(x, w, b, *rows, 9, 2).relu()

    values = [torch.randn(9, 4, requires_grad=True), torch.randn(6, 9, 2, requires_grad=True)]
    values.append(torch.randn(6, requires_grad=True))
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    expected, found = step(*values), compiled(*values)
    assert torch.equal(expected, found)
    cotangent = torch.randn(9, 6)
    for a, b in zip(
        torch.autograd.grad(expected, values, cotangent),
        torch.autograd.grad(found, values, cotangent),
        strict=True,
    ):
        assert torch.equal(a, b)


def test_a_map_made_without_gradients_serves_them(backend: str) -> None:
    """A memoised map of shuffled rows, first used under no_grad and in evaluation, gives right gradients."""
    x, w = torch.randn(9, 4, requires_grad=True), torch.randn(5, 3, 3, 4, requires_grad=True)
    shared = sc.Coordinates(SITES, (5, 6), 3)
    with torch.no_grad():
        F.sparse_conv(SparseTensor.from_coordinates(x, shared), w, None, 2, 1)
    fresh = F.sparse_conv(tensor(x), w, None, 2, 1).features
    used = F.sparse_conv(SparseTensor.from_coordinates(x, shared), w, None, 2, 1).features
    cotangent = torch.randn(fresh.shape)
    for a, b in zip(
        torch.autograd.grad(fresh, (x, w), cotangent), torch.autograd.grad(used, (x, w), cotangent), strict=True
    ):
        assert torch.equal(a, b)
    kernel_map = sc.Coordinates(SITES, (5, 6), 3).submanifold_map(ConvGeometry.submanifold(2, 3))
    direct = convolve_features(x, w, None, kernel_map)
    assert torch.equal(direct, F.subm_conv(tensor(x), w).features)


def test_memory_that_the_engine_does_not_initialise_is_poisoned() -> None:
    """What every test here relies on: a forgotten cell would show."""
    asked = """
import numpy as np, torch
floats, ints, like = np.empty(3, np.float32), np.empty(2, np.int32), np.empty_like(np.zeros(2))
tensor = torch.empty(2)
rows = tensor.new_empty(2, dtype=torch.int32)
"""
    engine: dict[str, Any] = {"__name__": "sparseconv.backends.any"}
    exec(asked, engine)
    assert all(bool(np.isnan(engine[name]).all()) for name in ("floats", "like"))
    assert bool(engine["tensor"].isnan().all())
    assert all(int(engine[name][0]) > 1 << 30 for name in ("ints", "rows"))
    kernels = [conv._convolve, conv._pack_weight]
    assert all(kernel.py_func.__globals__["np"].empty is np.empty for kernel in kernels)
    compiled = numba.njit(lambda n: np.empty(n).shape[0])
    assert compiled(3) == 3
