"""Register tiles of the fused gather-GEMM-scatter, emitted as LLVM IR.

A tile multiplies a few gathered input rows with one to four vectors of output channels. Its accumulators stay
in registers over the whole inner loop and are then added to memory. LLVM lowers the generic vectors to
what the machine has. A tail of fewer rows gets a tile of exactly its size, so no lane of work is padded.

Numba sees two functions, :func:`gather_tiles` and :func:`outer_tiles`. Addresses and byte strides are int64;
row lists are int32.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from sparseconv.backends.cpu.vector_unit import REGISTERS, VECTOR_BYTES, vector_function

_I32 = ir.IntType(32)
_I64 = ir.IntType(64)


# Column kinds: (vectors, bytes of each). A run of output channels is cut into these; the two narrow ones
# serve layers of few channels and the tails of odd widths.
KINDS = (
    (1, VECTOR_BYTES // 4),
    (1, VECTOR_BYTES // 2),
    (1, VECTOR_BYTES),
    (2, VECTOR_BYTES),
    (3, VECTOR_BYTES),
    (4, VECTOR_BYTES),
)


def _full_rows(vectors: int) -> int:
    """Rows of a full tile: its accumulators, one row of weights and one broadcast fit the registers.

    More than 8 rows gain nothing: 8 independent chains hide the latency of two FMA units, 4 cycles each.
    """
    return max(1, min(8, (REGISTERS - 1 - vectors) // vectors))


def _constant(value: int) -> ir.Constant:
    return ir.Constant(_I64, value)


class _BFloat(ir.Type):
    """LLVM's bfloat, which llvmlite lacks."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


class _Emitter:
    """An LLVM function under construction, with the address arithmetic that the tiles share.

    ``element`` is the type of one step of the inner loop: float, double, or int32 for a pair of bfloat16 whose two
    products are added to a float.
    """

    def __init__(self, function: ir.Function, element: ir.Type, vector_bytes: int) -> None:
        self.function = function
        self.builder = ir.IRBuilder(function.append_basic_block("entry"))
        self.element = element
        self.is_pair = element == _I32
        self.size = 8 if isinstance(element, ir.DoubleType) else 4
        self.lanes = max(1, vector_bytes // self.size)
        self.vector = ir.VectorType(element, self.lanes)
        self.sum = ir.VectorType(ir.FloatType(), self.lanes) if self.is_pair else self.vector
        self.halves = ir.VectorType(_BFloat(), 2 * self.lanes)
        if self.is_pair:
            name = f"llvm.x86.avx512bf16.dpbf16ps.{8 * vector_bytes}"
            signature = ir.FunctionType(self.sum, [self.sum, self.halves, self.halves])
        else:
            name = f"llvm.fma.v{self.lanes}f{8 * self.size}"
            signature = ir.FunctionType(self.sum, [self.vector] * 3)
        self.instruction = cgutils.get_or_insert_function(function.module, signature, name)

    def multiply_add(self, value: ir.Value, factor: ir.Value, total: ir.Value) -> ir.Value:
        """``total + value * factor`` in each lane; of both halves of a pair."""
        if self.is_pair:
            pairs = [self.builder.bitcast(operand, self.halves) for operand in (value, factor)]
            return self.builder.call(self.instruction, [total, *pairs])
        return self.builder.call(self.instruction, [value, factor, total])

    def load(self, address: ir.Value, kind: ir.Type) -> ir.Value:
        pointer = self.builder.inttoptr(address, kind.as_pointer())
        return self.builder.load(pointer, align=4 if kind is _I32 else self.size)

    def at(self, base: ir.Value, count: ir.Value, step: ir.Value | int) -> ir.Value:
        scale = _constant(step) if isinstance(step, int) else step
        return self.builder.add(base, self.builder.mul(count, scale))

    def row(self, rows: ir.Value, position: ir.Value) -> ir.Value:
        return self.builder.sext(self.load(self.at(rows, position, 4), _I32), _I64)

    def vectors_at(self, address: ir.Value, count: int) -> list[ir.Value]:
        step = self.lanes * self.size
        return [self.load(self.builder.add(address, _constant(v * step)), self.vector) for v in range(count)]

    def splat_at(self, address: ir.Value) -> ir.Value:
        undefined = ir.Constant(self.vector, ir.Undefined)
        scalar = self.load(address, self.element)
        first = self.builder.insert_element(undefined, scalar, ir.Constant(_I32, 0))
        zeros = ir.Constant(ir.VectorType(_I32, self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(first, undefined, zeros)

    def multiply_loop(
        self,
        count: ir.Value,
        rows: int,
        vectors: int,
        operands: Callable[[ir.Value], tuple[list[ir.Value], list[ir.Value]]],
    ) -> list[list[ir.Value]]:
        """Sum of outer products over ``count >= 1`` steps, in registers: ``[rows][vectors]``.

        ``operands(step)`` emits the step's ``rows`` addresses of scalars and its ``vectors`` vectors.
        """
        builder = self.builder
        entry = builder.block
        loop = self.function.append_basic_block("multiply")
        done = self.function.append_basic_block("multiplied")
        builder.branch(loop)
        builder.position_at_end(loop)
        step = builder.phi(_I64)
        step.add_incoming(_constant(0), entry)
        sums = [[builder.phi(self.sum) for _ in range(vectors)] for _ in range(rows)]
        addresses, factors = operands(step)
        zero = ir.Constant(self.sum, [0.0] * self.lanes)
        totals = []
        for r in range(rows):
            value = self.splat_at(addresses[r])
            totals.append([self.multiply_add(value, factors[v], sums[r][v]) for v in range(vectors)])
        for phi, total in zip(chain(*sums), chain(*totals), strict=True):
            phi.add_incoming(zero, entry)
            phi.add_incoming(total, loop)
        following = builder.add(step, _constant(1))
        step.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed("<", following, count), loop, done)
        builder.position_at_end(done)
        return totals

    def add_to_memory(self, values: list[ir.Value], address: ir.Value) -> None:
        step = self.lanes * self.size
        for v, value in enumerate(values):
            place = self.builder.add(address, _constant(v * step))
            pointer = self.builder.inttoptr(place, self.sum.as_pointer())
            old = self.builder.load(pointer, align=self.size)
            self.builder.store(self.builder.fadd(old, value), pointer, align=self.size)

    def in_tiles(self, total: ir.Value, full: int, tile: Callable[[ir.Value, int], None]) -> None:
        """``tile(first, rows)`` over ``0 .. total``: full tiles, then one of exactly the rest; return."""
        builder = self.builder
        head = self.function.append_basic_block("head")
        body = self.function.append_basic_block("full")
        tail = self.function.append_basic_block("tail")
        done = self.function.append_basic_block("done")
        entry = builder.block
        builder.branch(head)
        builder.position_at_end(head)
        first = builder.phi(_I64)
        first.add_incoming(_constant(0), entry)
        stop = builder.add(first, _constant(full))
        builder.cbranch(builder.icmp_signed("<=", stop, total), body, tail)
        builder.position_at_end(body)
        tile(first, full)
        first.add_incoming(stop, builder.block)
        builder.branch(head)
        builder.position_at_end(tail)
        switch = builder.switch(builder.sub(total, first), done)
        for rows in range(1, full):
            case = self.function.append_basic_block(f"tail{rows}")
            switch.add_case(_constant(rows), case)
            builder.position_at_end(case)
            tile(first, rows)
            builder.branch(done)
        builder.position_at_end(done)
        builder.ret_void()


def _emit_gather(emit: _Emitter, vectors: int) -> None:
    """``acc[out_rows[p] - row0] += x[in_rows[p]] @ weight`` for all pairs ``p``."""
    x, x_step, in_rows, weight, weight_step, depth, acc, acc_step, out_rows, row0, pairs = emit.function.args

    def tile(first: ir.Value, rows: int) -> None:
        builder = emit.builder
        positions = [builder.add(first, _constant(r)) for r in range(rows)]
        sources = [emit.at(x, emit.row(in_rows, position), x_step) for position in positions]
        totals = emit.multiply_loop(
            depth,
            rows,
            vectors,
            lambda channel: (
                [emit.at(source, channel, emit.size) for source in sources],
                emit.vectors_at(emit.at(weight, channel, weight_step), vectors),
            ),
        )
        for position, total in zip(positions, totals, strict=True):
            row = builder.sub(emit.row(out_rows, position), row0)
            emit.add_to_memory(total, emit.at(acc, row, acc_step))

    emit.in_tiles(pairs, _full_rows(vectors), tile)


def _emit_outer(emit: _Emitter, vectors: int) -> None:
    """``acc[c] += sum over pairs of x[in_rows[p], c] * grad[out_rows[p]]`` for all channels ``c``."""
    x, x_step, in_rows, grad, grad_step, out_rows, pairs, acc, acc_step, depth = emit.function.args

    def tile(first: ir.Value, rows: int) -> None:
        builder = emit.builder

        def operands(pair: ir.Value) -> tuple[list[ir.Value], list[ir.Value]]:
            source = emit.at(x, emit.row(in_rows, pair), x_step)
            corner = emit.at(source, first, emit.size)
            addresses = [builder.add(corner, _constant(r * emit.size)) for r in range(rows)]
            target = emit.at(grad, emit.row(out_rows, pair), grad_step)
            return addresses, emit.vectors_at(target, vectors)

        totals = emit.multiply_loop(pairs, rows, vectors, operands)
        for r, total in enumerate(totals):
            row = builder.add(first, _constant(r))
            emit.add_to_memory(total, emit.at(acc, row, acc_step))

    emit.in_tiles(depth, _full_rows(vectors), tile)


def _tile_function(
    module: ir.Module,
    name: str,
    emitter: Callable[[_Emitter, int], None],
    argument_count: int,
    element: ir.Type,
    kind: tuple[int, int],
) -> ir.Function:
    """The module's function for one column kind, emitted once."""
    vectors, vector_bytes = kind
    full_name = f"sparseconv.{name}.{element}.{vectors}x{vector_bytes}"
    signature = ir.FunctionType(ir.VoidType(), [_I64] * argument_count)
    function, is_new = vector_function(module, full_name, signature)
    if is_new:
        function.attributes.add("noinline")
        emitter(_Emitter(function, element, vector_bytes), vectors)
    return function


def _lower(
    name: str,
    emitter: Callable[[_Emitter, int], None],
    context: Any,
    builder: Any,
    args: Any,
    element: ir.Type,
) -> Any:
    """Call the function of the run-time column kind ``args[0]``."""
    kind, *rest = args
    done = builder.append_basic_block("tiles_done")
    switch = builder.switch(kind, done)
    for number, shape in enumerate(KINDS):
        function = _tile_function(builder.module, name, emitter, len(rest), element, shape)
        case = builder.append_basic_block(f"tiles_{number}")
        switch.add_case(_constant(number), case)
        with builder.goto_block(case):
            builder.call(function, rest)
            builder.branch(done)
    builder.position_at_end(done)
    return context.get_dummy_value()


def _element(array: Any) -> ir.Type:
    return {types.float64: ir.DoubleType(), types.float32: ir.FloatType(), types.int16: _I32}[array.dtype]


@intrinsic
def gather_tiles(
    typing_context: Any,
    like: Any,
    kind: Any,
    x: Any,
    x_step: Any,
    in_rows: Any,
    weight: Any,
    weight_step: Any,
    depth: Any,
    acc: Any,
    acc_step: Any,
    out_rows: Any,
    row0: Any,
    pairs: Any,
) -> Any:
    """``acc[out_rows[p] - row0] += x[in_rows[p]] @ weight`` for ``pairs`` pairs and one column kind.

    ``like`` is an array of the features' type: float32, float64, or int16 for bfloat16; then ``depth`` counts
    pairs of channels, ``weight`` holds such pairs as int32, and ``acc`` is float32. ``weight`` is the
    ``[depth, columns]`` corner of one tap, its rows ``weight_step`` bytes apart; no output row may repeat.
    ``depth >= 1``.
    """
    del typing_context, kind, x, x_step, in_rows, weight, weight_step, depth, acc, acc_step
    del out_rows, row0, pairs

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        element = _element(signature.args[0])
        return _lower("gather", _emit_gather, context, builder, args[1:], element)

    return types.void(like, *(types.int64,) * 12), lower


@intrinsic
def outer_tiles(
    typing_context: Any,
    like: Any,
    kind: Any,
    x: Any,
    x_step: Any,
    in_rows: Any,
    grad: Any,
    grad_step: Any,
    out_rows: Any,
    pairs: Any,
    acc: Any,
    acc_step: Any,
    depth: Any,
) -> Any:
    """``acc[c] += sum over pairs of x[in_rows[p], c] * grad[out_rows[p]]`` for ``depth`` channels ``c``.

    ``like`` is an array of the element type; whole vectors of ``grad`` are read. ``pairs >= 1``.
    """
    del typing_context, kind, x, x_step, in_rows, grad, grad_step, out_rows, pairs, acc, acc_step
    del depth

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        element = _element(signature.args[0])
        return _lower("outer", _emit_outer, context, builder, args[1:], element)

    return types.void(like, *(types.int64,) * 11), lower
