"""The implicit GEMM's gradients in Triton's interpreter, on CPU tensors. ``test_implicit_gemm`` starts these."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from pair_maps import random_map, strided_map, submanifold_map, swapped
from scans import random_sites
from tolerance import assert_close
from torch import Tensor

from sparseconv import SparseTensor, functional, nn, use_backend
from sparseconv.backends import cuda, reference
from sparseconv.backends.cuda import implicit_gemm
from sparseconv.backends.cuda.implicit_gemm_tiles import GradientTile, gradient_tile, pairs_per_task
from sparseconv.backends.cuda.implicit_gemm_tuning import tuned
from sparseconv.ops import conv, sum_rows

CHANNELS = [(1, 1, 1), (1, 33, 1), (3, 5, 1), (17, 3, 1), (33, 17, 1), (70, 66, 1), (12, 24, 3), (6, 2, 2)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture
def through_ops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers and their gradients run on the fused kernels."""
    for name in ("CONVOLVED_HALVES", "GRADIENT_HALVES"):
        monkeypatch.setattr(implicit_gemm, name, getattr(cuda, name), raising=False)
    monkeypatch.setattr(conv, "backend_for", lambda device: implicit_gemm)


def exact_gradient(x: Tensor, grad: Tensor, pairs: tuple[Tensor, Tensor, Tensor], groups: int) -> Tensor:
    return reference.weight_gradient(x.double(), grad.double(), *pairs, groups)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", CHANNELS, ids=str)
def test_weight_gradient(channels: tuple[int, int, int], dtype: torch.dtype) -> None:
    c_in, c_out, groups = channels
    pairs = submanifold_map(90, (3, 3, 3))
    x, grad = torch.randn(90, c_in).to(dtype), torch.randn(90, c_out).to(dtype)
    found = implicit_gemm.weight_gradient(x, grad, *pairs, groups)
    assert found.dtype == torch.float32
    assert_close(found, exact_gradient(x, grad, pairs, groups), 90)


@pytest.mark.parametrize(
    ("n_in", "n_out", "taps"), [(1, 1, 1), (40, 65, 2), (30, 17, 81), (20, 33, 125), (300, 5, 8)]
)
def test_random_maps(n_in: int, n_out: int, taps: int) -> None:
    pairs = random_map(n_in, n_out, taps, seed=taps)
    x, grad = torch.randn(n_in, 5), torch.randn(n_out, 3)
    found = implicit_gemm.weight_gradient(x, grad, *pairs, 1)
    assert_close(found, exact_gradient(x, grad, pairs, 1), n_out)
    counts = pairs[2].diff()
    assert ((found == 0).all(2).all(0) == (counts == 0)).all()


@pytest.mark.parametrize("length", [1, 16, 50, 1024])
def test_many_pieces_of_a_tap(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    monkeypatch.setattr(implicit_gemm, "pairs_per_task", lambda problem: length)
    for taps in (1, 4):
        pairs = random_map(110, 120, taps, seed=3)
        x, grad = torch.randn(110, 20), torch.randn(120, 18)
        found = implicit_gemm.weight_gradient(x, grad, *pairs, 1)
        assert_close(found, exact_gradient(x, grad, pairs, 1), 120)


def test_every_tile_shape_computes_the_same() -> None:
    pairs = random_map(150, 140, 3, seed=1)
    x, grad = torch.randn(150, 40), torch.randn(140, 36)
    for shape in ((16, 16, 16, 4, 1), (64, 32, 32, 4, 2), (32, 64, 64, 2, 3), (128, 128, 16, 8, 2)):
        found = implicit_gemm.weight_gradient(x, grad, *pairs, 1, tile=GradientTile(*shape))
        assert_close(found, exact_gradient(x, grad, pairs, 1), 140)


def test_nothing_in_and_nothing_out() -> None:
    nothing, offsets = torch.empty(0, dtype=torch.int32), torch.zeros(28, dtype=torch.int64)
    found = implicit_gemm.weight_gradient(torch.empty(0, 3), torch.empty(0, 5), nothing, nothing, offsets, 1)
    assert torch.equal(found, torch.zeros(5, 27, 3))
    one = implicit_gemm.weight_gradient(torch.empty(0, 3), torch.empty(0, 5), nothing, nothing, offsets[:2], 1)
    assert torch.equal(one, torch.zeros(5, 1, 3))
    rows = torch.arange(4, dtype=torch.int32)
    for c_in, c_out in ((0, 5), (3, 0)):
        empty = implicit_gemm.weight_gradient(
            torch.ones(4, c_in), torch.ones(4, c_out), rows, rows, torch.tensor([0, 4]), 1
        )
        assert empty.shape == (c_out, 1, c_in)


def test_unused_rows_and_memory_around_views_are_never_read() -> None:
    pairs = random_map(49, 49, 9, seed=2)
    x = torch.full((110, 30), math.nan)[5:105:2, 3:12]
    grad = torch.full((20, 60), math.nan).t()[4:54, 2:19]
    # Neither the first nor the last rows are named by a pair.
    x[1:49].copy_(torch.randn(48, 9))
    grad[1:49].copy_(torch.randn(48, 17))
    pairs = pairs[0].clamp(min=1), pairs[1].clamp(min=1), pairs[2]
    found = implicit_gemm.weight_gradient(x, grad, *pairs, 1)
    assert_close(found, exact_gradient(x[:49], grad[:49], pairs, 1), 49)


def test_addresses_beyond_two_to_the_31() -> None:
    """Rows that lie more than 2**31 elements apart. Memory that is not touched is not allocated."""
    far = 2**30 + 16
    memory = torch.empty(2 * far + 64, dtype=torch.bfloat16)
    spread = memory.as_strided((3, 4), (far, 1))
    spread.copy_(torch.randn(3, 4))
    rows, order = torch.tensor([2, 0, 1], dtype=torch.int32), torch.arange(3, dtype=torch.int32)
    near, offsets = torch.randn(3, 4).bfloat16(), torch.tensor([0, 3])
    for x, grad in ((spread, near), (near, spread)):
        found = implicit_gemm.weight_gradient(x, grad, rows, order, offsets, 1)
        assert_close(found, exact_gradient(x, grad, (rows, order, offsets), 1), 3)


def test_the_order_of_other_taps_does_not_change_a_bit() -> None:
    pairs = random_map(80, 90, 6, seed=4)
    x, grad = torch.randn(80, 20), torch.randn(90, 30)
    whole = implicit_gemm.weight_gradient(x, grad, *pairs, 1)
    cuts = pairs[2].tolist()
    for tap in range(6):
        part = slice(cuts[tap], cuts[tap + 1])
        alone = torch.tensor([0, cuts[tap + 1] - cuts[tap]])
        found = implicit_gemm.weight_gradient(x, grad, pairs[0][part], pairs[1][part], alone, 1)
        assert torch.equal(found[:, 0], whole[:, tap])


def test_forward_and_backward_are_adjoint() -> None:
    pairs, n_out = strided_map(120, 3, 2)
    x, weight, grad = torch.randn(120, 7), torch.randn(9, 27, 7), torch.randn(n_out, 9)
    out = implicit_gemm.convolve(x, weight, None, *pairs, n_out, 1).double()
    back = implicit_gemm.convolve(grad, conv.transpose_weight(weight, 1), None, *swapped(pairs), 120, 1).double()
    by_weight = implicit_gemm.weight_gradient(x, grad, *pairs, 1).double()
    products = [(out * grad).sum(), (back * x).sum(), (by_weight * weight).sum()]
    for product in products[1:]:
        assert_close(product.float(), products[0], 27 * 7 * 9)


@pytest.mark.usefixtures("through_ops")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("groups", [1, 2])
def test_gradients_through_the_ops(dtype: torch.dtype, groups: int) -> None:
    sites = random_sites(70, (6, 5, 7), batches=(0, 2), shuffled=True)
    results = []
    x, weight, bias = torch.randn(70, 6), torch.randn(8, 3, 3, 3, 6 // groups), torch.randn(8)
    for kind in (dtype, torch.float64):
        leaves = [tensor.to(dtype).to(kind).requires_grad_() for tensor in (x, weight, bias)]
        # float64 is not for these kernels: the exact values come from the reference backend.
        with pytest.MonkeyPatch.context() as patch:
            if kind == torch.float64:
                patch.setattr(conv, "backend_for", lambda device: reference)
            out = functional.sparse_conv(
                SparseTensor(leaves[0], sites, [6, 5, 7], 3), *leaves[1:], stride=2, padding=1, groups=groups
            ).features
            cotangent = torch.linspace(-1, 1, out.numel()).reshape(out.shape).to(dtype).to(kind)
            results.append((out, *torch.autograd.grad(out, leaves, cotangent)))
    for found, exact, terms in zip(*results, (27 * 6, 27 * 8, 70, 70), strict=True):
        assert found.dtype == dtype
        assert_close(found.detach(), exact.detach(), terms)


@pytest.mark.usefixtures("through_ops")
def test_second_derivatives_through_the_ops() -> None:
    sites = random_sites(30, (4, 4, 4))
    x, weight = torch.randn(30, 3), torch.randn(2, 3, 3, 3, 3)
    results = []
    for kind in (torch.float32, torch.float64):
        leaves = [x.to(kind).requires_grad_(), weight.to(kind).requires_grad_()]
        with pytest.MonkeyPatch.context() as patch:
            if kind == torch.float64:
                patch.setattr(conv, "backend_for", lambda device: reference)
            out = functional.subm_conv(SparseTensor(leaves[0], sites, [4, 4, 4], 1), leaves[1]).features
            first = torch.autograd.grad(out.square().sum(), leaves, create_graph=True)
            results.append(torch.autograd.grad(sum(grad.square().sum() for grad in first), leaves))
    for found, exact in zip(*results, strict=True):
        assert_close(found, exact, 27 * 27 * 30 * 3)


@pytest.mark.usefixtures("through_ops")
def test_gradient_of_a_bias_keeps_no_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(implicit_gemm, "map_tables", None)
    grad = torch.randn(300, 5)
    assert_close(sum_rows(grad), grad.double().sum(0), 300)


@pytest.mark.usefixtures("through_ops")
def test_a_training_step_of_layers() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.SubMConv3d(4, 8, 3), nn.ReLU(), nn.SparseConv3d(8, 8, 3, stride=2), nn.ReLU())
    sites = random_sites(60, (6, 6, 6))
    x = torch.randn(60, 4)
    gradients = []
    for backend in (implicit_gemm, reference):
        with pytest.MonkeyPatch.context() as patch, use_backend("reference"):
            patch.setattr(conv, "backend_for", lambda device, backend=backend: backend)
            model.zero_grad()
            model(SparseTensor(x, sites, [6, 6, 6], 1)).features.square().sum().backward()
            gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for found, expected in zip(*gradients, strict=True):
        # Both are float32: twice the error of one.
        assert_close(found / 2, expected.double() / 2, 27 * 8 * 60)


def test_the_workspace_is_bounded() -> None:
    for rows in (10, 10**5, 10**8):
        for depth, width, groups in ((16, 16, 1), (512, 512, 1), (4, 8, 16), (1, 64, 1)):
            x = torch.empty(0, depth * groups)
            problem = implicit_gemm.problem_of(rows, x, width * groups, groups)
            length = pairs_per_task(problem)
            # Each tap adds at most one piece that is not full; those are as large as the gradient.
            assert rows // length * depth * width * groups * 4 <= 64 * 2**20
            assert gradient_tile(problem).pairs <= length


def test_autotuning_finds_records_and_is_read_again(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    from sparseconv.backends.cuda import implicit_gemm_autotune as autotune

    monkeypatch.setenv("SPARSECONV_CACHE_DIR", str(tmp_path))
    tuned.reload()
    pairs = submanifold_map(40, (3, 3, 3))
    x, weight, grad = torch.randn(40, 5), torch.randn(6, 27, 5), torch.randn(40, 6)
    times = iter([3.0, 1.0, 2.0] * 2)
    few = SimpleNamespace(convolution=autotune.convolution_candidates, gradient=autotune.gradient_candidates)
    monkeypatch.setattr(autotune, "convolution_candidates", lambda problem: few.convolution(problem)[:3])
    monkeypatch.setattr(autotune, "gradient_candidates", lambda problem: few.gradient(problem)[:3])
    problem = implicit_gemm.problem_of(40, x, 6, 1)
    of_pairs = implicit_gemm.problem_of(len(pairs[0]), x, 6, 1)
    try:
        with autotune.autotuning(lambda run: next(times)):
            for _ in range(2):
                # The second time asks no clock.
                implicit_gemm.convolve(x, weight, None, *pairs, 40, 1)
                implicit_gemm.weight_gradient(x, grad, *pairs, 1)
        assert next(times, None) is None
        tuned.reload()
        second = few.convolution(problem)[1], few.gradient(of_pairs)[1]
        nothing = torch.empty(0), torch.empty(0), torch.empty(0)
        assert tuned.convolution_tile(problem, x, weight, nothing, 40) == second[0]
        assert tuned.gradient_tile(of_pairs, x, grad, nothing) == second[1]
        found = implicit_gemm.convolve(x, weight, None, *pairs, 40, 1)
        assert_close(found, reference.convolve(x.double(), weight.double(), None, *pairs, 40, 1), 27 * 5)
    finally:
        tuned.reload()


def test_autotuning_rejects_wrong_and_failing_tiles(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    from sparseconv.backends.cuda import implicit_gemm_autotune as autotune

    def fails() -> Tensor:
        raise RuntimeError("out of resources")

    right = torch.ones(3)
    runs = [lambda: right, lambda: right + 1, fails, lambda: right * math.nan, lambda: right]
    times = iter([5.0, 4.0])
    assert autotune.TileSearch(lambda run: next(times))._fastest(runs) == 4
