"""Every Numba kernel of the CUDA backend, compiled for real devices without one: ``docs/cuda_kernels.md``."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

import pytest
from cuda_kernel_table import ARCHITECTURES, TABLE, Launch, assemble, compile_ptx, integer_results, recorded, tools

import sparseconv

FOLDER = Path(sparseconv.__file__).parent / "backends" / "cuda"

pytestmark = [
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("numba_cuda", "cuda")),
        reason='the compiler for NVIDIA devices is not installed: pip install "sparseconv[cuda]"',
    ),
]

# A block of 256 threads with 128 registers each takes half of a multiprocessor's 65,536, so that two share one and
# hide each other's waits for memory; gathers do little else than wait.
MOST_REGISTERS = 128
# Every value of these kernels fits in registers. A spilled one, or an array on the stack, would be a memory access
# in an inner loop, and the sign that a loop over axes was not unrolled.
MOST_SPILLED = 0
LAUNCHES = sorted(recorded())
KERNELS = sorted({name for name, _ in LAUNCHES})


def defined_kernels() -> set[str]:
    """Functions under ``@kernel`` in the sources, whether or not anything imports them."""
    found = set()
    for path in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and any(
                isinstance(mark, ast.Name) and mark.id == "kernel" for mark in node.decorator_list
            ):
                found.add(f"{path.stem}.{node.name}")
    return found


def test_no_kernel_is_forgotten() -> None:
    assert len(defined_kernels()) > 15
    assert defined_kernels() == set(KERNELS), "run tests/cuda_kernel_table.py"


def test_only_one_module_knows_numba() -> None:
    for path in FOLDER.glob("*.py"):
        if path.name != "launch.py":
            assert not re.search(r"^\s*(from|import) numba", path.read_text(), re.MULTILINE), path
        assert not re.search(r"cuda\.jit\(\s*[\"']|to_device|device_array", path.read_text()), path


@pytest.mark.parametrize("name", KERNELS)
def test_kernel_compiles_without_spilling(name: str) -> None:
    same_tools = tools() in TABLE.read_text()
    for launch in (launch for launch in LAUNCHES if launch[0] == name):
        for number, architecture in enumerate(ARCHITECTURES):
            ptx = compile_ptx(launch, architecture)
            assert f".target sm_{architecture[0]}{architecture[1]}" in ptx and ".entry" in ptx
            usage = assemble(ptx, architecture)
            assert usage.spilled <= MOST_SPILLED and usage.stack == 0, (launch, usage)
            assert usage.registers <= MOST_REGISTERS, (launch, usage)
            if same_tools:
                assert usage == recorded()[launch][number], f"{launch}: run tests/cuda_kernel_table.py"


@pytest.mark.parametrize("launch", LAUNCHES, ids=lambda launch: f"{launch[0]}: {launch[1]}")
def test_whole_numbers_are_computed_in_64_bits(launch: Launch) -> None:
    """A row number times a stride passes 2**31: no sum or product may have a narrower type."""
    narrow = [(text, bits) for text, bits in integer_results(launch) if bits < 64]
    assert not narrow


def test_voxels_are_divided_as_rounded() -> None:
    """``floor((p - low) / size)`` in float32: no multiplication by a reciprocal, nothing contracted."""
    (launch,) = [launch for launch in LAUNCHES if launch[0] == "voxelize._place"]
    ptx = compile_ptx(launch, (9, 0))
    assert "div.rn.f32" in ptx and "sub.f32" in ptx
    assert "fma" not in ptx and "div.approx" not in ptx and "div.full" not in ptx and ".ftz" not in ptx


def test_blocks_are_entered_by_a_64_bit_compare_and_swap() -> None:
    (launch,) = [launch for launch in LAUNCHES if launch[0] == "hash._fill_table"]
    assert "atom.global.cas.b64" in (ptx := compile_ptx(launch, (8, 0))) or "atom.cas.b64" in ptx
    for other in LAUNCHES:
        if other[0] != "hash._fill_table" and other[0].split(".")[0] in ("conv", "depthwise", "pool", "weighted"):
            assert "atom." not in compile_ptx(other, (8, 0)), other
