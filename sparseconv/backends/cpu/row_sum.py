"""The weighted sum of some rows of a matrix, its sums kept in vector registers, emitted as LLVM IR."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from sparseconv.backends.cpu.vector_unit import VECTOR_BYTES, vector_function

_I64 = ir.IntType(64)
_I32 = ir.IntType(32)

# Vectors of one row side by side: as many chains of additions hide their latency, and a row of 64 channels is one
# pass on AVX-512.
_VECTORS = 4


def _constant(value: int) -> ir.Constant:
    return ir.Constant(_I64, value)


class _RowSum:
    """A function ``(x, x_step, rows, coefficients, coefficient_step, count, out, width)`` under construction.

    ``out[c] = sum over count pairs of coefficient * x[row, c]`` for ``width`` columns; a row of -1 counts nothing.
    Addresses and steps are bytes.
    """

    def __init__(self, function: ir.Function, element: ir.Type) -> None:
        self.function = function
        self.builder = ir.IRBuilder(function.append_basic_block("entry"))
        self.element = element
        self.size = 8 if isinstance(element, ir.DoubleType) else 4
        self.lanes = max(1, VECTOR_BYTES // self.size)

    def _at(self, base: ir.Value, index: ir.Value, step: ir.Value | int) -> ir.Value:
        scale = _constant(step) if isinstance(step, int) else step
        return self.builder.add(base, self.builder.mul(index, scale))

    def _pointer(self, address: ir.Value, kind: ir.Type) -> ir.Value:
        return self.builder.inttoptr(address, kind.as_pointer())

    def _splat(self, scalar: ir.Value, kind: ir.Type) -> ir.Value:
        if not isinstance(kind, ir.VectorType):
            return scalar
        undefined = ir.Constant(kind, ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, ir.Constant(_I32, 0))
        zeros = ir.Constant(ir.VectorType(_I32, kind.count), [0] * kind.count)
        return self.builder.shuffle_vector(first, undefined, zeros)

    def _sums(self, column: ir.Value, kind: ir.Type, vectors: int, step: int) -> None:
        """All pairs for ``vectors`` pieces of ``step`` columns each, from ``column`` on."""
        builder, function = self.builder, self.function
        x, x_step, rows, coefficients, coefficient_step, count, out, _ = function.args
        lanes = kind.count if isinstance(kind, ir.VectorType) else 0
        name = f"llvm.fma.v{lanes}f{8 * self.size}" if lanes else f"llvm.fma.f{8 * self.size}"
        fma = cgutils.get_or_insert_function(function.module, ir.FunctionType(kind, [kind] * 3), name)
        zero = ir.Constant(kind, [0.0] * lanes) if lanes else ir.Constant(kind, 0.0)
        head, body, add, following, done = (
            function.append_basic_block(block) for block in ("pairs", "row", "add", "next", "summed")
        )
        entry = builder.block
        builder.branch(head)
        builder.position_at_end(head)
        pair = builder.phi(_I64)
        pair.add_incoming(_constant(0), entry)
        totals = [builder.phi(kind) for _ in range(vectors)]
        for total in totals:
            total.add_incoming(zero, entry)
        builder.cbranch(builder.icmp_signed("<", pair, count), body, done)
        builder.position_at_end(body)
        row = builder.sext(builder.load(self._pointer(self._at(rows, pair, 4), _I32), align=4), _I64)
        builder.cbranch(builder.icmp_signed(">=", row, _constant(0)), add, following)
        builder.position_at_end(add)
        place = self._pointer(self._at(coefficients, pair, coefficient_step), self.element)
        share = self._splat(builder.load(place, align=self.size), kind)
        corner = self._at(self._at(x, row, x_step), column, self.size)
        sums = []
        for vector, total in enumerate(totals):
            address = builder.add(corner, _constant(vector * step * self.size))
            value = builder.load(self._pointer(address, kind), align=self.size)
            sums.append(builder.call(fma, [value, share, total]))
        builder.branch(following)
        builder.position_at_end(following)
        for total, total_with_row in zip(totals, sums, strict=True):
            carried = builder.phi(kind)
            carried.add_incoming(total, body)
            carried.add_incoming(total_with_row, add)
            total.add_incoming(carried, following)
        pair.add_incoming(builder.add(pair, _constant(1)), following)
        builder.branch(head)
        builder.position_at_end(done)
        target = self._at(out, column, self.size)
        for vector, total in enumerate(totals):
            address = builder.add(target, _constant(vector * step * self.size))
            builder.store(total, self._pointer(address, kind), align=self.size)

    def _blocks(self, start: ir.Value, kind: ir.Type, vectors: int, step: int) -> ir.Value:
        """Blocks of ``vectors * step`` columns while they fit; the column behind them."""
        builder = self.builder
        head, block, done = (
            self.function.append_basic_block(name) for name in ("columns", "block", "blocks_done")
        )
        entry = builder.block
        builder.branch(head)
        builder.position_at_end(head)
        column = builder.phi(_I64)
        column.add_incoming(start, entry)
        behind = builder.add(column, _constant(vectors * step))
        builder.cbranch(builder.icmp_signed("<=", behind, self.function.args[7]), block, done)
        builder.position_at_end(block)
        self._sums(column, kind, vectors, step)
        column.add_incoming(behind, builder.block)
        builder.branch(head)
        builder.position_at_end(done)
        return column

    def emit(self) -> None:
        vector = ir.VectorType(self.element, self.lanes)
        column = self._blocks(_constant(0), vector, _VECTORS, self.lanes)
        column = self._blocks(column, vector, 1, self.lanes)
        if self.lanes > 4:
            column = self._blocks(column, ir.VectorType(self.element, 4), 1, 4)
        self._blocks(column, self.element, 1, 1)
        self.builder.ret_void()


def _function(module: ir.Module, element: ir.Type) -> ir.Function:
    signature = ir.FunctionType(ir.VoidType(), [_I64] * 8)
    function, is_new = vector_function(module, f"sparseconv.row_sum.{element}", signature)
    if is_new:
        function.attributes.add("noinline")
        _RowSum(function, element).emit()
    return function


@intrinsic
def row_sum(
    typing_context: Any,
    like: Any,
    x: Any,
    x_step: Any,
    rows: Any,
    coefficients: Any,
    coefficient_step: Any,
    count: Any,
    out: Any,
    width: Any,
) -> Any:
    """``out[c] = sum over count pairs of coefficient * x[row, c]`` for ``width`` columns; a row of -1 is left out.

    ``like`` is an array of the elements' type, ``rows`` the address of int32 row numbers; the others are addresses
    of elements and steps in bytes.
    """
    del typing_context, x, x_step, rows, coefficients, coefficient_step, count, out, width

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        element = {types.float64: ir.DoubleType(), types.float32: ir.FloatType()}[signature.args[0].dtype]
        builder.call(_function(builder.module, element), list(args[1:]))
        return context.get_dummy_value()

    return types.void(like, *(types.int64,) * 8), lower
