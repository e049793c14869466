"""Matrix tiles of bfloat16 (Intel AMX): 16 x 32 times 32 x 16 in one instruction, summed in float32.

The tile registers hold a product of up to 32 rows by 32 columns: sums in tiles 0 to 3, two row tiles of the left
factor in 4 and 5, two column tiles of the right one in 6 and 7. Addresses and byte strides are int64.
"""

from __future__ import annotations

import ctypes
import functools
import platform
import sys
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

_I8 = ir.IntType(8)
_I64 = ir.IntType(64)
_POINTER = _I8.as_pointer()

# Rows of a tile, and bytes of one: 32 bfloat16 or 16 float32.
TILE_ROWS = 16
TILE_BYTES = 64

# Linux on x86-64: the system call that lets this process use the tile registers (arch_prctl, ARCH_REQ_XCOMP_PERM,
# component 18).
_ARCH_PRCTL = 158
_REQUEST_PERMISSION = 0x1023
_TILE_DATA = 18


@functools.cache
def is_usable() -> bool:
    """Whether the processor has bfloat16 tiles and the system lets this process use them."""
    features = llvm.get_host_cpu_features()
    if not (features.get("amx-tile") and features.get("amx-bf16")):
        return False
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    call = ctypes.CDLL(None, use_errno=True).syscall
    return bool(call(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA) == 0)


@functools.cache
def configuration() -> NDArray[np.uint8]:
    """What ``load_configuration`` reads: eight full tiles."""
    config = np.zeros(64, np.uint8)
    config[0] = 1  # palette
    config[16:32:2] = TILE_BYTES
    config[48:56] = TILE_ROWS
    return config


def _instruction(builder: Any, name: str, *operands: ir.Value) -> None:
    signature = ir.FunctionType(ir.VoidType(), [operand.type for operand in operands])
    builder.call(cgutils.get_or_insert_function(builder.module, signature, f"llvm.x86.{name}"), operands)


@intrinsic
def load_configuration(typing_context: Any, address: Any) -> Any:
    """Set up the tiles of this thread from :func:`configuration`'s memory."""
    del typing_context, address

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        del signature
        _instruction(builder, "ldtilecfg", builder.inttoptr(args[0], _POINTER))
        return context.get_dummy_value()

    return types.void(types.int64), lower


@intrinsic
def release_tiles(typing_context: Any) -> Any:
    """Give the tiles up, so that switching threads need not save them."""
    del typing_context

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        del signature, args
        _instruction(builder, "tilerelease")
        return context.get_dummy_value()

    return types.void(), lower


def _emit_product(builder: Any, args: list[ir.Value], rows: int, columns: int) -> None:
    """``rows`` x ``columns`` tiles of sums over ``depth`` steps of 32 channels."""
    left, left_step, right, right_step, depth, out, out_step = args

    def tile(number: int) -> ir.Constant:
        return ir.Constant(_I8, number)

    def at(base: ir.Value, row: int, step: ir.Value, column: int) -> ir.Value:
        down = builder.mul(step, ir.Constant(_I64, row * TILE_ROWS))
        moved = builder.add(builder.add(base, down), ir.Constant(_I64, column * TILE_BYTES))
        return builder.inttoptr(moved, _POINTER)

    pairs = [(r, c) for r in range(rows) for c in range(columns)]
    for r, c in pairs:
        _instruction(builder, "tilezero", tile(2 * r + c))
    with cgutils.for_range(builder, depth) as loop:
        left_at = builder.add(left, builder.mul(loop.index, ir.Constant(_I64, TILE_BYTES)))
        rows_down = builder.mul(right_step, ir.Constant(_I64, TILE_ROWS))
        right_at = builder.add(right, builder.mul(loop.index, rows_down))
        for r in range(rows):
            _instruction(builder, "tileloadd64", tile(4 + r), at(left_at, r, left_step, 0), left_step)
        for c in range(columns):
            _instruction(builder, "tileloadd64", tile(6 + c), at(right_at, 0, right_step, c), right_step)
        for r, c in pairs:
            _instruction(builder, "tdpbf16ps", tile(2 * r + c), tile(4 + r), tile(6 + c))
    for r, c in pairs:
        _instruction(builder, "tilestored64", tile(2 * r + c), at(out, r, out_step, c), out_step)


@intrinsic
def multiply_tiles(
    typing_context: Any,
    rows: Any,
    columns: Any,
    left: Any,
    left_step: Any,
    right: Any,
    right_step: Any,
    depth: Any,
    out: Any,
    out_step: Any,
) -> Any:
    """``out = left @ right`` for 1 or 2 tiles of 16 ``rows`` and 1 or 2 of 16 ``columns``.

    ``left`` holds bfloat16 rows, ``right`` rows of channel pairs (the first in the low half of each int32),
    ``out`` float32 rows; the steps are bytes between rows, ``depth`` counts 32 channels.
    """
    del typing_context, rows, columns, left, left_step, right, right_step, depth, out, out_step

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        del signature
        rows, columns, *rest = args
        shape = builder.add(builder.mul(rows, ir.Constant(_I64, 2)), columns)
        done = builder.append_basic_block("tiles_done")
        switch = builder.switch(shape, done)
        for r in (1, 2):
            for c in (1, 2):
                case = builder.append_basic_block(f"tiles_{r}x{c}")
                switch.add_case(ir.Constant(_I64, 2 * r + c), case)
                with builder.goto_block(case):
                    _emit_product(builder, rest, r, c)
                    builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 9), lower


def _row(builder: Any, rows: ir.Value, position: ir.Value) -> ir.Value:
    """Entry of a list of int32 row numbers at an address."""
    address = builder.add(rows, builder.mul(position, ir.Constant(_I64, 4)))
    number = builder.load(builder.inttoptr(address, ir.IntType(32).as_pointer()), align=4)
    return builder.sext(number, _I64)


def _emit_gather(builder: Any, args: list[ir.Value]) -> None:
    source, source_step, rows, count, depth, target, target_step = args
    vector = ir.VectorType(ir.IntType(16), TILE_BYTES // 2)
    mask = ir.VectorType(ir.IntType(1), TILE_BYTES // 2)
    channels = ir.Constant(_I64, TILE_BYTES // 2)
    whole = builder.udiv(depth, channels)
    rest = builder.sub(depth, builder.mul(whole, channels))
    ones = builder.sub(builder.shl(ir.Constant(_I64, 1), rest), ir.Constant(_I64, 1))
    lanes = builder.bitcast(builder.trunc(ones, ir.IntType(32)), mask)
    pointer = vector.as_pointer()
    load = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(vector, [pointer, ir.IntType(32), mask, vector]),
        "llvm.masked.load.v32i16.p0",
    )
    with cgutils.for_range(builder, count) as loop:
        read = builder.add(source, builder.mul(_row(builder, rows, loop.index), source_step))
        write = builder.add(target, builder.mul(loop.index, target_step))
        with cgutils.for_range(builder, whole) as inner:
            moved = builder.mul(inner.index, ir.Constant(_I64, TILE_BYTES))
            value = builder.load(builder.inttoptr(builder.add(read, moved), pointer), align=2)
            builder.store(value, builder.inttoptr(builder.add(write, moved), pointer), align=2)
        with builder.if_then(builder.icmp_unsigned("!=", rest, ir.Constant(_I64, 0))):
            moved = builder.mul(whole, ir.Constant(_I64, TILE_BYTES))
            place = builder.inttoptr(builder.add(read, moved), pointer)
            zero = ir.Constant(vector, None)
            value = builder.call(load, [place, ir.Constant(ir.IntType(32), 2), lanes, zero])
            builder.store(value, builder.inttoptr(builder.add(write, moved), pointer), align=2)


def _emit_add(builder: Any, args: list[ir.Value], vectors: int) -> None:
    source, source_step, rows, row0, count, target, target_step = args
    vector = ir.VectorType(ir.FloatType(), TILE_BYTES // 4)
    with cgutils.for_range(builder, count) as loop:
        row = builder.sub(_row(builder, rows, loop.index), row0)
        read = builder.add(source, builder.mul(loop.index, source_step))
        write = builder.add(target, builder.mul(row, target_step))
        for v in range(vectors):
            moved = ir.Constant(_I64, v * TILE_BYTES)
            value = builder.load(builder.inttoptr(builder.add(read, moved), vector.as_pointer()), align=64)
            place = builder.inttoptr(builder.add(write, moved), vector.as_pointer())
            builder.store(builder.fadd(builder.load(place, align=64), value), place, align=64)


@intrinsic
def gather_rows(
    typing_context: Any,
    source: Any,
    source_step: Any,
    rows: Any,
    count: Any,
    depth: Any,
    target: Any,
    target_step: Any,
) -> Any:
    """Copy ``depth`` 16-bit channels of the ``count`` rows that ``rows`` lists, filled up with zeros to 32."""
    del typing_context, source, source_step, rows, count, depth, target, target_step

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        del signature
        _emit_gather(builder, args)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 7), lower


@intrinsic
def add_rows(
    typing_context: Any,
    tiles: Any,
    source: Any,
    source_step: Any,
    rows: Any,
    row0: Any,
    count: Any,
    target: Any,
    target_step: Any,
) -> Any:
    """Add rows of ``tiles`` (1 or 2) times 16 float32 to rows ``rows[i] - row0`` of ``target``; on cache lines."""
    del typing_context, tiles, source, source_step, rows, row0, count, target, target_step

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        del signature
        tiles, *rest = args
        with builder.if_else(builder.icmp_unsigned("==", tiles, ir.Constant(_I64, 2))) as (two, one):
            with two:
                _emit_add(builder, rest, 2)
            with one:
                _emit_add(builder, rest, 1)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 8), lower
