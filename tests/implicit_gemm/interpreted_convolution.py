"""The implicit GEMM's convolution in Triton's interpreter, on CPU tensors. ``test_implicit_gemm`` starts these."""

from __future__ import annotations

import math

import pytest
import torch
from oracle import at_sites, dense_conv, to_dense
from pair_maps import PairMap, permuted_outputs, random_map, strided_map, submanifold_map, swapped
from scans import random_sites
from tolerance import assert_close, tolerance
from torch import Tensor

from sparseconv.backends import reference
from sparseconv.backends.cuda import implicit_gemm, implicit_gemm_kernels
from sparseconv.backends.cuda.implicit_gemm_tiles import ConvolutionTile, convolution_tile
from sparseconv.geometry import ConvGeometry
from sparseconv.ops.conv import transpose_weight

CHANNELS = [
    (1, 1, 1),
    (3, 5, 1),
    (5, 17, 1),
    (17, 33, 1),
    (33, 3, 1),
    (64, 80, 1),
    (12, 24, 3),
    (6, 2, 2),
    (70, 66, 2),
]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SMALL = ConvolutionTile(rows=16, columns=16, channels=16, warps=4, ahead=2, taps=31)


def inputs(n_in: int, c_in: int, c_out: int, taps: int, groups: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return torch.randn(n_in, c_in).to(dtype), torch.randn(c_out, taps, c_in // groups).to(dtype)


def check(
    pairs: PairMap,
    n_in: int,
    n_out: int,
    *,
    channels: tuple[int, int, int] = (3, 5, 1),
    dtype: torch.dtype = torch.float32,
    tile: ConvolutionTile | None = None,
) -> Tensor:
    c_in, c_out, groups = channels
    taps = len(pairs[2]) - 1
    x, weight = inputs(n_in, c_in, c_out, taps, groups, dtype)
    found = implicit_gemm.convolve(x, weight, None, *pairs, n_out, groups, tile=tile)
    assert found.dtype == torch.float32
    exact = reference.convolve(x.double(), weight.double(), None, *pairs, n_out, groups)
    assert_close(found, exact, taps * c_in)
    return found


def test_kernels_are_interpreted() -> None:
    assert implicit_gemm_kernels.INTERPRETED


@pytest.mark.parametrize(
    ("channels", "dtype"),
    # float16 takes the way of bfloat16, but for the conversion.
    [
        (channels, dtype)
        for channels in CHANNELS
        for dtype in DTYPES
        if dtype != torch.float16 or channels in CHANNELS[2:4]
    ],
    ids=str,
)
def test_channels(channels: tuple[int, int, int], dtype: torch.dtype) -> None:
    check(submanifold_map(100, (3, 3, 3)), 100, 100, channels=channels, dtype=dtype)


@pytest.mark.parametrize(
    "kernel", [(1, 1, 1), (3,), (3, 3), (3, 3, 3), (3, 3, 3, 3), (5, 5, 5), (1, 3, 5)], ids=str
)
def test_submanifold_kernels(kernel: tuple[int, ...]) -> None:
    check(submanifold_map(130, kernel), 130, 130)


@pytest.mark.parametrize(("kernel", "stride"), [(2, 2), (3, 2), (2, 1), (4, 3)])
def test_strided_and_transposed(kernel: int, stride: int) -> None:
    pairs, n_out = strided_map(110, kernel, stride)
    check(pairs, 110, n_out)
    check(swapped(pairs), n_out, 110)


def test_against_a_dense_convolution() -> None:
    sites = random_sites(200, (7, 6, 8), batches=(0, 1, 3))
    index = reference.build_index(sites)
    geometry = ConvGeometry((3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1))
    pairs = reference.kernel_pairs(index, index, geometry)
    x, weight = torch.randn(200, 4), torch.randn(6, 27, 4)
    found = implicit_gemm.convolve(x, weight, None, *pairs, 200, 1)
    grid = to_dense(x.double(), sites, (7, 6, 8), 4)
    dense = dense_conv(grid, weight.double().reshape(6, 3, 3, 3, 4), None, (1,) * 3, (1,) * 3, (1,) * 3)
    assert_close(found, at_sites(dense, sites), 27 * 4)


@pytest.mark.parametrize("seed", range(12))
def test_random_maps(seed: int) -> None:
    taps = (1, 2, 7, 31, 32, 33, 62, 63, 64, 90, 27, 125)[seed]
    n_in = (1, 1, 40, 90, 65, 17, 128, 20, 129, 64, 200, 30)[seed]
    n_out = (1, 5, 64, 65, 90, 40, 16, 127, 30, 1, 3, 70)[seed]
    check(random_map(n_in, n_out, taps, seed), n_in, n_out, tile=SMALL if seed % 2 else None)


@pytest.mark.parametrize(
    "tile",
    [
        SMALL,
        ConvolutionTile(rows=32, columns=64, channels=16, warps=2, ahead=1, taps=9),
        ConvolutionTile(rows=64, columns=32, channels=64, warps=4, ahead=3, taps=4),
        ConvolutionTile(rows=128, columns=128, channels=32, warps=8, ahead=2, taps=1),
    ],
    ids=str,
)
def test_every_tile_shape_computes_the_same(tile: ConvolutionTile) -> None:
    check(submanifold_map(90, (3, 3, 3)), 90, 90, channels=(20, 34, 1), tile=tile)


def test_more_taps_than_a_table_serves() -> None:
    pairs = submanifold_map(130, (5, 5, 5))
    found = check(pairs, 130, 130)
    assert torch.isfinite(found).all()
    empty = pairs[2].clone()
    # Only the taps of the last table have pairs, and then only those of the first.
    last = int(empty[120])
    check((pairs[0][last:], pairs[1][last:], (empty - last).clamp(min=0)), 130, 130)
    first = int(empty[3])
    check((pairs[0][:first], pairs[1][:first], empty.clamp(max=first)), 130, 130)


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("has_residual", [False, True])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("taps", [5, 40])
def test_epilogue(has_bias: bool, has_residual: bool, relu: bool, taps: int) -> None:
    pairs = random_map(60, 70, taps)
    x, weight = inputs(60, 8, 20, taps, 1, torch.float32)
    bias = torch.randn(20) if has_bias else None
    residual = torch.randn(70, 20) if has_residual else None
    found = implicit_gemm.convolve(x, weight, bias, *pairs, 70, 1, residual, relu)
    wide = [None if term is None else term.double() for term in (bias, residual)]
    exact = reference.convolve(x.double(), weight.double(), wide[0], *pairs, 70, 1, wide[1], relu)
    if relu:
        # Within rounding of zero, either side of the bend is right.
        found = torch.where((exact == 0) & (found < tolerance(torch.float32, taps * 8, 30.0)), 0.0, found)
    assert_close(found, exact, taps * 8 + 2)


def test_relu_keeps_nan() -> None:
    pairs = submanifold_map(20, (3, 3, 3))
    x, weight = inputs(20, 4, 4, 27, 1, torch.float32)
    residual = torch.zeros(20, 4)
    residual[7, 2] = math.nan
    found = implicit_gemm.convolve(x, weight, None, *pairs, 20, 1, residual, True)
    assert torch.isnan(found).nonzero().tolist() == [[7, 2]]
    assert (found[~torch.isnan(found)] >= 0).all()


@pytest.mark.parametrize("taps", [1, 8, 27, 125])
def test_rows_without_neighbours_hold_the_bias(taps: int) -> None:
    nothing = torch.empty(0, dtype=torch.int32)
    bias = torch.randn(5)
    x, weight = inputs(3, 4, 5, taps, 1, torch.float32)
    found = implicit_gemm.convolve(
        x, weight, bias, nothing, nothing, torch.zeros(taps + 1, dtype=torch.int64), 70, 1
    )
    assert torch.equal(found, bias.expand(70, 5))


def test_nothing_in_and_nothing_out() -> None:
    nothing, offsets = torch.empty(0, dtype=torch.int32), torch.zeros(28, dtype=torch.int64)
    x, weight = inputs(0, 4, 5, 27, 1, torch.float32)
    assert implicit_gemm.convolve(x, weight, None, nothing, nothing, offsets, 0, 1).shape == (0, 5)
    assert implicit_gemm.convolve(x, weight, None, nothing, nothing, offsets, 3, 1).tolist() == [[0.0] * 5] * 3
    assert implicit_gemm.convolve(x, weight[:0], None, nothing, nothing, offsets, 3, 1).shape == (3, 0)
    pairs = submanifold_map(9, (3, 3, 3))
    no_channels = implicit_gemm.convolve(torch.empty(9, 0), torch.empty(5, 27, 0), torch.ones(5), *pairs, 9, 1)
    assert torch.equal(no_channels, torch.ones(9, 5))


def test_unused_rows_and_memory_around_views_are_never_read() -> None:
    pairs = submanifold_map(50, (3, 3, 3))
    wide = torch.full((120, 30), math.nan)
    x = wide[10:110:2, 4:13]
    x.copy_(torch.randn(50, 9))
    kernel = torch.full((9, 40, 27), math.nan).permute(1, 2, 0)[:33]
    kernel.copy_(torch.randn(33, 27, 9))
    residual = torch.full((50, 70), math.nan)[:, 3:36]
    residual.copy_(torch.randn(50, 33))
    found = implicit_gemm.convolve(x, kernel, torch.ones(1).expand(33), *pairs, 50, 1, residual)
    exact = reference.convolve(
        x.double(), kernel.double(), torch.ones(33).double(), *pairs, 50, 1, residual.double()
    )
    assert_close(found, exact, 27 * 9)
    # A row that no pair names.
    used = random_map(49, 50, 27)
    poisoned = torch.cat([x[:49], torch.full((1, 9), math.nan)])
    assert torch.isfinite(implicit_gemm.convolve(poisoned, kernel, None, *used, 50, 1)).all()


@pytest.mark.parametrize("groups", [1, 3])
def test_input_gradient_takes_the_transposed_weight_as_a_view(groups: int) -> None:
    pairs, n_out = strided_map(100, 3, 2)
    weight, grad = torch.randn(21, 27, 12 // groups), torch.randn(n_out, 21)
    back = transpose_weight(weight, groups)
    found = implicit_gemm.convolve(grad, back, None, *swapped(pairs), 100, groups)
    x = torch.zeros(100, 12, dtype=torch.float64, requires_grad=True)
    out = reference.convolve(x, weight.double(), None, *pairs, n_out, groups)
    (exact,) = torch.autograd.grad(out, x, grad.double())
    assert_close(found, exact, 27 * 21)


def test_the_order_of_rows_does_not_change_a_bit() -> None:
    pairs = submanifold_map(140, (3, 3, 3))
    x, weight = inputs(140, 20, 24, 27, 1, torch.float32)
    expected = implicit_gemm.convolve(x, weight, None, *pairs, 140, 1)
    for seed in range(2):
        order = torch.randperm(140, generator=torch.Generator().manual_seed(seed))
        found = implicit_gemm.convolve(x, weight, None, *permuted_outputs(pairs, order), 140, 1)
        assert torch.equal(found, expected[order])


@pytest.mark.parametrize("taps", [31, 14, 9, 2])
def test_the_number_of_taps_of_a_table_does_not_change_a_bit(taps: int) -> None:
    pairs = submanifold_map(140, (3, 3, 3))
    x, weight = inputs(140, 20, 24, 27, 1, torch.float32)
    residual = torch.randn(140, 24)
    shape = {"rows": 64, "columns": 32, "channels": 16, "warps": 4, "ahead": 2}
    results = [
        implicit_gemm.convolve(
            x, weight, residual[0], *pairs, 140, 1, residual, True, tile=ConvolutionTile(**shape, taps=most)
        )
        for most in (27, taps)
    ]
    assert torch.equal(*results)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("taps", [5, 40])
def test_a_half_result_is_rounded_once(dtype: torch.dtype, taps: int) -> None:
    pairs = random_map(60, 70, taps)
    x, weight = inputs(60, 8, 20, taps, 1, dtype)
    bias, residual = torch.randn(20), torch.randn(70, 20).to(dtype)
    wide = implicit_gemm.convolve(x, weight, bias, *pairs, 70, 1, residual, True)
    found = implicit_gemm.convolve(x, weight, bias, *pairs, 70, 1, residual, True, dtype=dtype)
    assert found.dtype == dtype
    if dtype == torch.float16:
        assert torch.equal(found, wide.to(dtype))
    # The interpreter cuts bfloat16 off; that the machine code rounds is seen in test_implicit_gemm_compile.
    assert ((found.float() - wide).abs() <= torch.finfo(dtype).eps * wide.abs()).all()


def test_half_precisions_are_multiplied_exactly() -> None:
    """Products of integers up to 16 bits wide are exact in float32, and so are their few sums."""
    pairs = submanifold_map(60, (3, 3, 3))
    for dtype, most in ((torch.bfloat16, 128), (torch.float16, 1024)):
        x = torch.randint(-most, most + 1, (60, 2)).to(dtype)
        weight = torch.randint(-8, 9, (3, 27, 2)).to(dtype)
        found = implicit_gemm.convolve(x, weight, None, *pairs, 60, 1)
        assert torch.equal(found.double(), reference.convolve(x.double(), weight.double(), None, *pairs, 60, 1))


def test_addresses_beyond_two_to_the_31() -> None:
    """Rows and weights that lie more than 2**31 elements apart. Memory that is not touched is not allocated."""
    far = 2**30 + 16
    memory = torch.empty(2 * far + 64, dtype=torch.bfloat16)
    x = memory.as_strided((3, 4), (far, 1))
    x.copy_(torch.randn(3, 4))
    rows, offsets = torch.tensor([2, 0, 1], dtype=torch.int32), torch.tensor([0, 3])
    order = torch.arange(3, dtype=torch.int32)
    weight = torch.randn(5, 1, 4).bfloat16()
    found = implicit_gemm.convolve(x, weight, None, rows, order, offsets, 3, 1)
    exact = reference.convolve(x.double(), weight.double(), None, rows, order, offsets, 3, 1)
    assert_close(found, exact, 4)
    for strides in ((far, 4, 1), (4, far, 1), (4, 1, far)):
        shape = tuple(3 if stride == far else 2 for stride in strides)
        spread = memory.as_strided(shape, strides, 32)
        spread.copy_(torch.randn(shape))
        pairs = random_map(6, 6, shape[1])
        features = torch.randn(6, shape[2]).bfloat16()
        found = implicit_gemm.convolve(features, spread, None, *pairs, 6, 1)
        assert_close(found, reference.convolve(features.double(), spread.double(), None, *pairs, 6, 1), 9)


def test_what_it_does_not_take() -> None:
    x, weight = torch.randn(4, 6), torch.randn(6, 1, 6)
    assert implicit_gemm.usable(x, weight, 1)
    assert implicit_gemm.usable(x, torch.randn(4, 6), 2)
    assert not implicit_gemm.usable(x.double(), weight.double(), 1)
    assert not implicit_gemm.usable(x, weight.bfloat16(), 1)
    assert not implicit_gemm.usable(x, torch.randn(6, 1, 1), 6)
    assert implicit_gemm.usable(x, torch.randn(12, 1, 1), 6)
    rows = torch.arange(4, dtype=torch.int32)
    with pytest.raises(ValueError, match="float64"):
        implicit_gemm.convolve(x.double(), weight.double(), None, rows, rows, torch.tensor([0, 4]), 4, 1)


def test_the_usual_tile_covers_small_channels() -> None:
    problem = implicit_gemm.problem_of(10, torch.empty(0, 3), 5, 1)
    assert (convolution_tile(problem).columns, convolution_tile(problem).channels) == (16, 16)
