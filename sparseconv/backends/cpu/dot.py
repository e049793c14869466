"""The dot product of two stretches of memory, in vector registers and in one fixed order, emitted as LLVM IR.

A plain loop would add one product after the other, since a compiler may not change the order of a sum.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from sparseconv.backends.cpu.vector_unit import VECTOR_BYTES, vector_function

_I64 = ir.IntType(64)
_I32 = ir.IntType(32)

# Vectors summed side by side: two hide most of an addition's latency, and rows of 16 to 64 channels have no more.
_CHAINS = 2


class _Sums:
    """A function ``(a, b, count) -> sum of a[i] * b[i]`` under construction."""

    def __init__(self, function: ir.Function, element: ir.Type) -> None:
        self.function = function
        self.builder = ir.IRBuilder(function.append_basic_block("entry"))
        self.element = element
        self.size = 8 if isinstance(element, ir.DoubleType) else 4
        self.lanes = max(1, VECTOR_BYTES // self.size)

    def _load(self, base: ir.Value, index: ir.Value, kind: ir.Type) -> ir.Value:
        address = self.builder.add(base, self.builder.mul(index, ir.Constant(_I64, self.size)))
        return self.builder.load(self.builder.inttoptr(address, kind.as_pointer()), align=self.size)

    def _multiply_add(self, index: ir.Value, total: ir.Value) -> ir.Value:
        a, b, _ = self.function.args
        kind = total.type
        lanes = kind.count if isinstance(kind, ir.VectorType) else 0
        name = f"llvm.fma.v{lanes}f{8 * self.size}" if lanes else f"llvm.fma.f{8 * self.size}"
        fma = cgutils.get_or_insert_function(self.function.module, ir.FunctionType(kind, [kind] * 3), name)
        return self.builder.call(fma, [self._load(a, index, kind), self._load(b, index, kind), total])

    def loop(self, start: ir.Value, step: int, zeros: list[ir.Value]) -> tuple[ir.Value, list[ir.Value]]:
        """Take ``step`` elements at a time while they fit; the position behind them, and one total a chain."""
        builder, count = self.builder, self.function.args[2]
        entry = builder.block
        head, body, done = (self.function.append_basic_block(name) for name in ("head", "body", "done"))
        builder.branch(head)
        builder.position_at_end(head)
        index = builder.phi(_I64)
        index.add_incoming(start, entry)
        totals = [builder.phi(zero.type) for zero in zeros]
        for total, zero in zip(totals, zeros, strict=True):
            total.add_incoming(zero, entry)
        following = builder.add(index, ir.Constant(_I64, step))
        builder.cbranch(builder.icmp_signed("<=", following, count), body, done)
        builder.position_at_end(body)
        width = step // len(zeros)
        for chain, total in enumerate(totals):
            place = builder.add(index, ir.Constant(_I64, chain * width))
            total.add_incoming(self._multiply_add(place, total), body)
        index.add_incoming(following, body)
        builder.branch(head)
        builder.position_at_end(done)
        return index, list(totals)

    def across(self, vector: ir.Value) -> ir.Value:
        """Sum of a vector's lanes, half onto half."""
        lanes = self.lanes
        while lanes > 1:
            lanes //= 2
            undefined = ir.Constant(vector.type, ir.Undefined)
            halves = [
                self.builder.shuffle_vector(
                    vector, undefined, ir.Constant(ir.VectorType(_I32, lanes), list(range(first, first + lanes)))
                )
                for first in (0, lanes)
            ]
            vector = self.builder.fadd(*halves)
        return self.builder.extract_element(vector, ir.Constant(_I32, 0))

    def emit(self) -> None:
        vector = ir.VectorType(self.element, self.lanes)
        zero = ir.Constant(vector, [0.0] * self.lanes)
        start: ir.Value = ir.Constant(_I64, 0)
        start, chains = self.loop(start, _CHAINS * self.lanes, [zero] * _CHAINS)
        total = chains[0]
        for other in chains[1:]:
            total = self.builder.fadd(total, other)
        start, (total,) = self.loop(start, self.lanes, [total])
        _, (total,) = self.loop(start, 1, [self.across(total)])
        self.builder.ret(total)


def _function(module: ir.Module, element: ir.Type) -> ir.Function:
    signature = ir.FunctionType(element, [_I64] * 3)
    function, is_new = vector_function(module, f"sparseconv.dot.{element}", signature)
    if is_new:
        _Sums(function, element).emit()
    return function


@intrinsic
def dot_product(typing_context: Any, like: Any, a: Any, b: Any, count: Any) -> Any:
    """Sum of ``a[i] * b[i]`` over ``count`` elements at the addresses ``a`` and ``b``, of the type of ``like``."""
    del typing_context, a, b, count

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        element = {types.float64: ir.DoubleType(), types.float32: ir.FloatType()}[signature.args[0].dtype]
        return builder.call(_function(builder.module, element), list(args[1:]))

    return like.dtype(like, *(types.int64,) * 3), lower
