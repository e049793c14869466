"""Single words that several threads read and write, by the address of an int64.

Everything written before ``store`` or ``add`` is seen by whoever reads the new value with ``load``.
"""

from __future__ import annotations

import platform
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from sparseconv.backends.cpu.jit import kernel

_WORD = ir.IntType(64)
_WORD_BYTES = 8
# Looks, about 10 us, while another thread passes the interpreter's lock: where two come to it at once, the second
# sleeps for 50 us.
_LINGER = 400
_IS_X86 = platform.machine().lower() in ("x86_64", "amd64")


def _pointer(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    return builder.inttoptr(address, _WORD.as_pointer())


@intrinsic
def load(typing_context: Any, address: Any) -> Any:
    """The word, read anew."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
        return builder.load_atomic(_pointer(builder, arguments[0]), "acquire", _WORD_BYTES)

    return types.int64(types.uint64), emit


@intrinsic
def store(typing_context: Any, address: Any, value: Any) -> Any:
    """Write the word."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
        builder.store_atomic(arguments[1], _pointer(builder, arguments[0]), "release", _WORD_BYTES)
        return context.get_dummy_value()

    return types.void(types.uint64, types.int64), emit


@intrinsic
def add(typing_context: Any, address: Any, value: Any) -> Any:
    """Add to the word; gives what it was."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
        return builder.atomic_rmw("add", _pointer(builder, arguments[0]), arguments[1], "acq_rel")

    return types.int64(types.uint64, types.int64), emit


@intrinsic
def exchange(typing_context: Any, address: Any, value: Any) -> Any:
    """Write the word; gives what it was."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
        return builder.atomic_rmw("xchg", _pointer(builder, arguments[0]), arguments[1], "acq_rel")

    return types.int64(types.uint64, types.int64), emit


@intrinsic
def pause(typing_context: Any) -> Any:
    """Between two looks of a waiting thread: leave the core to the thread that shares it."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
        if _IS_X86:
            function = ir.FunctionType(ir.VoidType(), [])
            builder.call(builder.module.declare_intrinsic("llvm.x86.sse2.pause", fnty=function), [])
        return context.get_dummy_value()

    return types.void(), emit


@kernel
def linger():
    """Let another thread leave the interpreter's lock."""
    for _ in range(_LINGER):
        pause()
