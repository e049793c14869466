"""The implicit GEMM compiled for cards that are not here: every tile shape, and what the machine code holds."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="Triton has no wheel for this system")
sys.path.insert(0, str(Path(__file__).parent / "implicit_gemm"))

from cross_compile import TABLE_KERNELS, Compiled, Found, compiling_for

from sparseconv.backends.cuda import implicit_gemm
from sparseconv.backends.cuda.implicit_gemm_tiles import (
    ConvolutionTile,
    GradientTile,
    Precision,
    Problem,
    convolution_tile,
    gradient_tile,
)
from sparseconv.ops.conv import transpose_weight

A100, H100 = 80, 90
N = 40
ROWS = torch.arange(N, dtype=torch.int32)
OFFSETS = torch.tensor([0, N // 2, N])
# Registers that do not fit go to the stack. A scalar or two are put there before a loop and cost nothing; more
# would be traffic in the loop.
STACK_BYTES = 16
KINDS: list[tuple[torch.dtype, Precision]] = [
    (torch.bfloat16, "ieee"),
    (torch.float32, "tf32"),
    (torch.float32, "ieee"),
]


@pytest.fixture(autouse=True)
def _precision_of_torch() -> object:
    before = torch.backends.cuda.matmul.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


def channels_of(kind: tuple[torch.dtype, Precision]) -> dict[ConvolutionTile | GradientTile, tuple[int, int]]:
    """Every shape that the tables give for whole tiles of channels, and channels that it is given for."""
    found: dict[ConvolutionTile | GradientTile, tuple[int, int]] = {}
    for depth in (16, 32, 64, 256):
        for width in (16, 32, 64, 256):
            for rows in (1000, 30000, 10**6):
                problem = Problem(rows, depth, width, 1, *kind)
                # How many taps share a table is the host's business: the machine code is the same.
                found.setdefault(dataclasses.replace(convolution_tile(problem), taps=31), (depth, width))
                found.setdefault(gradient_tile(problem), (depth, width))
    return found


def compile_tile(
    tile: ConvolutionTile | GradientTile, c_in: int, c_out: int, dtype: torch.dtype, found: Found
) -> Compiled:
    """Compile one launch with the given tile; the weight is contiguous, as a layer has it."""
    found.clear()
    x = torch.zeros(N, c_in, dtype=dtype)
    if isinstance(tile, ConvolutionTile):
        weight = torch.zeros(c_out, 2, c_in, dtype=dtype)
        implicit_gemm.convolve(x, weight, torch.zeros(c_out), ROWS, ROWS, OFFSETS, N, 1, tile=tile)
    else:
        implicit_gemm.weight_gradient(x, torch.zeros(N, c_out, dtype=dtype), ROWS, ROWS, OFFSETS, 1, tile=tile)
    return found.of("convolve_tile" if isinstance(tile, ConvolutionTile) else "outer_tile")[0]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("arch", [A100, H100])
def test_every_tile_of_the_tables(arch: int, kind: tuple[torch.dtype, Precision], tmp_path: Path) -> None:
    dtype, precision = kind
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    shapes = channels_of(kind)
    assert len(shapes) > 8
    with compiling_for(arch, tmp_path) as found:
        for tile, (c_in, c_out) in shapes.items():
            code = compile_tile(tile, c_in, c_out, dtype, found)
            assert code.stack_bytes <= STACK_BYTES and code.local_bytes == 0, tile
            # More than 255 cannot be named, and these leave at least 8 warps on a multiprocessor.
            assert code.registers * 32 * tile.warps <= 65536, tile
            assert code.shared_bytes <= 99 * 1024, tile
            if dtype == torch.float32 and precision == "ieee":
                assert code.count("fma.rn.f32") > 0, tile
                assert code.count("mma") == 0, tile
            elif arch == A100:
                assert code.count("mma.sync") > 0, tile
            elif not isinstance(tile, GradientTile) or tile.outputs >= 64:
                assert code.count("wgmma.mma_async") > 0, tile
            else:
                # Fewer than 64 output channels: the older instruction, which every later card has too.
                assert code.count("mma.sync") > 0, tile
            # Copies that are in flight while earlier ones are multiplied.
            assert code.count("cp.async.c") > 0, tile
            pending = [int(number) for number in re.findall(r"async_wait [^\n]*num = (\d+)", code.ttgir)]
            assert max(pending) > 0, tile


@pytest.mark.parametrize("arch", [86, 89, 100, 120])
def test_other_cards(arch: int, tmp_path: Path) -> None:
    """The largest tiles on the small cards of two generations, and on those that came after the H100."""
    problem = Problem(10**6, 128, 128, 1, torch.bfloat16, "ieee")
    with compiling_for(arch, tmp_path) as found:
        for tile in (convolution_tile(problem), gradient_tile(problem)):
            code = compile_tile(tile, 128, 128, torch.bfloat16, found)
            assert code.stack_bytes <= STACK_BYTES and code.local_bytes == 0
            assert code.shared_bytes <= 99 * 1024
            assert code.count("mma") > 0


@pytest.mark.parametrize("arch", [A100, H100])
def test_float16_and_groups_and_tails(arch: int, tmp_path: Path) -> None:
    """Launches beside the whole tiles: odd channels, groups, an epilogue, views, one of everything."""
    with compiling_for(arch, tmp_path) as found:
        for dtype, c_in, c_out, groups in (
            (torch.float16, 64, 64, 1),
            (torch.bfloat16, 17, 33, 1),
            (torch.bfloat16, 12, 24, 3),
            (torch.float32, 17, 33, 1),
            (torch.float32, 4, 64, 1),
        ):
            x = torch.zeros(N, c_in, dtype=dtype)
            weight = torch.zeros(c_out, 2, c_in // groups, dtype=dtype)
            grad, residual = torch.zeros(N, c_out, dtype=dtype), torch.zeros(N, c_out)
            implicit_gemm.convolve(x, weight, residual[0], ROWS, ROWS, OFFSETS, N, groups, residual, True)
            implicit_gemm.convolve(grad, transpose_weight(weight, groups), None, ROWS, ROWS, OFFSETS, N, groups)
            implicit_gemm.weight_gradient(x, grad, ROWS, ROWS, OFFSETS, groups)
        one = torch.zeros(1, 1)
        implicit_gemm.convolve(one, one[None], None, ROWS[:1], ROWS[:1], torch.tensor([0, 1]), 1, 1)
        implicit_gemm.weight_gradient(one, one, ROWS[:1], ROWS[:1], torch.tensor([0, 1]), 1)
        assert [len(found.of(name)) for name in ("convolve_tile", "outer_tile", "sum_tasks")] == [11, 6, 6]
        assert all(code.stack_bytes <= STACK_BYTES and code.local_bytes == 0 for code in found)


@pytest.mark.parametrize("arch", [A100, H100])
def test_half_results_are_rounded_to_the_nearest(arch: int, tmp_path: Path) -> None:
    with compiling_for(arch, tmp_path) as found:
        for dtype in (torch.bfloat16, torch.float16):
            x, weight = torch.zeros(N, 16, dtype=dtype), torch.zeros(16, 2, 16, dtype=dtype)
            implicit_gemm.convolve(x, weight, None, ROWS, ROWS, OFFSETS, N, 1, dtype=dtype)
    for code, kind in zip(found.of("convolve_tile"), ("bf16", "f16"), strict=True):
        assert re.search(rf"cvt\.rn\.{kind}(x2)?\.f32", code.ptx)


@pytest.mark.parametrize("arch", [A100, H100])
def test_kernels_of_the_tables(arch: int, tmp_path: Path) -> None:
    """Few registers: these wait for memory, and many programs at once hide it."""
    x, weight = torch.zeros(N, 16), torch.zeros(16, 2, 16)
    with compiling_for(arch, tmp_path) as found:
        implicit_gemm.convolve(x, weight, None, ROWS, ROWS, OFFSETS, N, 1)
    for name in TABLE_KERNELS:
        (code,) = found.of(name)
        assert code.registers <= 64 and code.stack_bytes == code.local_bytes == 0, name


def test_later_tables_continue_the_sums(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Nothing runs here, so a table has no steps; that two of them would have some is pretended.
    build = implicit_gemm.build_step_tables
    monkeypatch.setattr(implicit_gemm, "build_step_tables", lambda *args, **kwargs: build(*args, **kwargs) * 2)
    residual = torch.zeros(N, 16)
    with compiling_for(H100, tmp_path) as found:
        x, weight = torch.zeros(N, 16), torch.zeros(16, 2, 16)
        implicit_gemm.convolve(x, weight, residual[0], ROWS, ROWS, OFFSETS, N, 1, residual, True)
    codes = found.of("convolve_tile")
    assert ["sums" in code.ttir for code in codes] == [False, True]
    assert [code.constants["RELU"] for code in codes] == [False, True]


def test_addresses_are_computed_in_64_bits(tmp_path: Path) -> None:
    """Every row number is widened before a stride multiplies it: no 32-bit product of a tensor is left."""

    def tensor_products(code: Compiled, width: str) -> list[str]:
        return re.findall(rf"arith\.muli [^:\n]*: (tensor<[^>]*x{width}>)", code.ttir)

    strided: Tensor = torch.zeros(N, 64)[:, :33]
    with compiling_for(H100, tmp_path) as found:
        implicit_gemm.convolve(
            strided, torch.zeros(17, 2, 33), None, ROWS, ROWS, OFFSETS, N, 1, torch.zeros(N, 17), True
        )
        implicit_gemm.weight_gradient(strided, torch.zeros(N, 20)[:, :17], ROWS, ROWS, OFFSETS, 1)
    assert {code.kernel for code in found} == {"convolve_tile", "outer_tile", "sum_tasks", *TABLE_KERNELS}
    for code in found:
        assert tensor_products(code, "i32") == [], code.kernel
        offsets = re.findall(r"tt\.addptr [^:\n]*: tensor<[^>]*!tt\.ptr<\w+>>, tensor<([^>]*)>", code.ttir)
        assert offsets, code.kernel
        # Offsets of 32 bits only along the lanes of a tile.
        assert all(kind.endswith("i64") or kind.count("x") == 1 for kind in offsets), code.kernel
    (convolve,), (outer,) = found.of("convolve_tile"), found.of("outer_tile")
    # The rows of the input and of the output, and the columns of the weight; its taps are scalars.
    assert len(tensor_products(convolve, "i64")) >= 3
    assert re.search(r"arith\.muli %tap\w*, [^:\n]*: i64", convolve.ttir)
    # The rows of both inputs, and of the partial sums.
    assert len(tensor_products(outer, "i64")) >= 3


@pytest.mark.parametrize("ahead", [1, 2, 3])
def test_stages_are_divided_between_the_two_dependent_loads(ahead: int, tmp_path: Path) -> None:
    """Features wait for row numbers: with ``2 * ahead + 1`` stages both are fetched ``ahead`` iterations early."""
    tile = ConvolutionTile(rows=64, columns=32, channels=32, warps=4, ahead=ahead, taps=31)
    with compiling_for(A100, tmp_path) as found:
        code = compile_tile(tile, 32, 32, torch.bfloat16, found)
    buffers = re.findall(r"ttg\.local_alloc[^\n]*memdesc<(\d+)x(\w+)x(?:bf16|i32)", code.ttgir)
    depths = {shape: int(count) for count, shape in buffers}
    assert depths["64x32"] == depths["32x32"] == ahead
    assert depths["64"] == depths["1"] == ahead
