"""What the processor multiplies with: it decides the shape of the register tiles, and so of the kept code."""

from __future__ import annotations

import llvmlite.binding as llvm
from llvmlite import ir


def _host_vector_unit() -> tuple[int, int]:
    """Bytes of one vector register, and the number of registers."""
    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return 64, 32
    if features.get("avx2") or features.get("avx"):
        return 32, 16
    if llvm.get_process_triple().startswith(("aarch64", "arm64")):
        return 16, 32
    return 16, 16


VECTOR_BYTES, REGISTERS = _host_vector_unit()

_FEATURES = llvm.get_host_cpu_features()
# Whether the processor multiplies pairs of bfloat16 and adds them to float32 in one instruction.
HAS_BFLOAT16_DOT = VECTOR_BYTES == 64 and bool(_FEATURES.get("avx512bf16"))
# Processors with AMX run that instruction slower than two float32 FMAs (121 against 192 GFLOP/s on one thread of
# a Xeon); what their matrix tiles do not take is widened. Others run it at the FMA's rate, which doubles the
# arithmetic.
PREFERS_BFLOAT16_DOT = HAS_BFLOAT16_DOT and not _FEATURES.get("amx-bf16")


def vector_function(module: ir.Module, name: str, signature: ir.FunctionType) -> tuple[ir.Function, bool]:
    """The function of that name, free to use whole vectors, and whether its body is still to be written."""
    function = module.globals.get(name)
    if function is not None:
        return function, False
    function = ir.Function(module, signature, name)
    function.linkage = "internal"
    # LLVM halves 512-bit vectors on processors that it believes to clock down unless told otherwise.
    # llvmlite's own add() knows no string attributes.
    set.add(function.attributes, f'"prefer-vector-width"="{8 * VECTOR_BYTES}"')
    set.add(function.attributes, f'"min-legal-vector-width"="{8 * VECTOR_BYTES}"')
    return function, True
