"""Watches a model at work: which module runs which op, on how many rows and pairs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sparseconv.flops.counts import LayerCount
from sparseconv.flops.grids import Grid, dilated_pairs, first_grid
from sparseconv.geometry import ConvGeometry
from sparseconv.ops.flop_formulas import MULTIPLY_ADDS, present_pairs

_POOLS = ("sum_pool", "max_pool")
_WEIGHTED = ("weighted_sum", "pair_dots")


@dataclass(eq=False)
class _Row:
    """An op that was run, before its module has returned."""

    op: str
    macs: int
    c_in: int
    c_out: int
    n_in: int
    n_out: int
    pairs: int
    per_pair: int
    taps: int
    out: Tensor
    rows: tuple[Tensor, ...] = ()
    milliseconds: float = 0.0
    backward_macs: int = 0
    frame: _Frame | None = None


@dataclass(eq=False)
class _Frame:
    """One call of one module."""

    name: str
    module: nn.Module
    source: Grid | None
    mark: float
    result: Grid | None = None
    rows: list[_Row] = field(default_factory=list)


class Recorder(TorchDispatchMode):
    """Collects a row for every op that multiplies, and for every pooling, under the module that runs it.

    Args:
        model: its modules are watched between :meth:`watch` and the end of the ``with`` block.
        on_return: called with each module that returns.
    """

    def __init__(self, model: nn.Module, on_return: Callable[[nn.Module], None] | None = None) -> None:
        super().__init__()
        from torch.utils.flop_counter import flop_registry

        self._torch_formulas = flop_registry
        self._model = model
        self._on_return = on_return
        self._frames = [_Frame("", model, None, 0.0)]
        self._by_node: dict[int, _Row] = {}
        self._handles: list[Any] = []
        self.rows: list[_Row] = []
        self.backward = False

    def __enter__(self) -> Recorder:
        """Watch from here on."""
        for name, module in self._model.named_modules():
            self._handles.append(module.register_forward_pre_hook(self._enter(name), with_kwargs=True))
            self._handles.append(module.register_forward_hook(self._leave, with_kwargs=True, always_call=True))
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        """Take the hooks away."""
        super().__exit__(*exception)
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _enter(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, named: Any) -> None:
            if not self.backward:
                self._frames.append(_Frame(name, module, first_grid(inputs, named), time.perf_counter()))

        return hook

    def _leave(self, module: nn.Module, inputs: Any, named: Any, output: Any) -> None:
        if self.backward or len(self._frames) == 1:
            return
        now = time.perf_counter()
        frame = self._frames.pop()
        frame.result = first_grid(output)
        if frame.rows:
            frame.rows[-1].milliseconds += 1000 * (now - frame.mark)
        self._frames[-1].mark = now
        if self._on_return is not None:
            self._on_return(module)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the op, and note what it did."""
        out = func(*args, **(kwargs or {}))
        row = self._row(func, args, kwargs or {}, out)
        if row is not None:
            self._note(row)
        return out

    def _row(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> _Row | None:
        name = func._schema.name.split("::")[-1]
        if func.namespace == "sparseconv":
            if name in MULTIPLY_ADDS:
                return _engine_row(name, func, args, kwargs, out)
            if name in _POOLS and not self.backward:
                result = out[0] if isinstance(out, tuple) else out
                channels = args[0].shape[1]
                pairs = args[1].shape[0]
                shape = (args[0].shape[0], result.shape[0], pairs, 0, args[3].shape[0] - 1)
                return _Row(name, 0, channels, channels, *shape, result, tuple(args[1:3]))
            return None
        formula = self._torch_formulas.get(func._overloadpacket)
        if formula is None or not isinstance(out, Tensor | tuple):
            return None
        return _torch_row(name, formula(*args, **kwargs, out_val=out) // 2, args, out)

    def _note(self, row: _Row) -> None:
        if self.backward:
            node = torch._C._current_autograd_node()
            owner = self._by_node.get(-1 if node is None else node._sequence_nr())
            if owner is None:
                # Recomputed under activation checkpointing, or by an autograd function of the user's.
                row.backward_macs, row.macs = row.macs, 0
                row.frame = self._frames[0]
                self.rows.append(row)
            else:
                owner.backward_macs += row.macs
            return
        now = time.perf_counter()
        frame = row.frame = self._frames[-1]
        row.milliseconds = 1000 * (now - frame.mark) if frame.mark else 0.0
        frame.mark = now
        frame.rows.append(row)
        self.rows.append(row)
        # An op's autograd node is made right before the op runs; its number names it in the backward pass. An op
        # without a node must not take the number of the one before it.
        self._by_node.setdefault(torch._C._autograd._get_sequence_nr() - 1, row)

    def layers(self) -> tuple[LayerCount, ...]:
        """The rows in order, with their dense and dilating twins."""
        return _Summary().layers(self.rows)


def _engine_row(name: str, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Tensor) -> _Row:
    macs = MULTIPLY_ADDS[name](*args, **kwargs)
    names = [argument.name for argument in func._schema.arguments]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    source = given["left" if name == "pair_dots" else "features"]
    columns = ("left_rows", "right_rows") if name == "pair_dots" else ("in_rows", "out_rows")
    rows = tuple(given[column] for column in columns)
    if name in _WEIGHTED:
        n_out = given["right"].shape[0] if name == "pair_dots" else out.shape[0]
        pairs, per_pair = present_pairs(*rows), source.shape[1]
        # No map: the twin on the whole grid has as many pairs a cell as the fullest table would.
        taps = -(-rows[0].shape[0] // n_out) if n_out else 0
    else:
        n_out, pairs, taps = out.shape[0], rows[0].shape[0], given["tap_offsets"].shape[0] - 1
        per_pair = macs // pairs if pairs else _per_pair(given)
    shape = (source.shape[0], n_out, pairs, per_pair, taps)
    return _Row(name, macs, source.shape[1], out.shape[-1], *shape, out, rows)


def _per_pair(given: dict[str, Any]) -> int:
    """Multiply-adds of one pair, where there is none to divide by."""
    weight = given.get("weight")
    return weight.shape[0] * weight.shape[-1] if weight is not None and weight.dim() == 3 else 0


def _torch_row(name: str, macs: int, args: Sequence[Any], out: Any) -> _Row | None:
    # A backward pass gives None in place of a gradient that nobody needs.
    results = out if isinstance(out, tuple) else (out,)
    result = next((value for value in results if isinstance(value, Tensor)), None)
    tensors = [value for value in args if isinstance(value, Tensor)]
    if result is None or not tensors:
        return None
    source = tensors[1] if name in ("addmm", "baddbmm") and len(tensors) > 2 else tensors[0]
    if name.startswith("convolution"):
        cells_in, cells_out = (t.numel() // max(t.shape[1], 1) for t in (source, result))
        channels = (source.shape[1], result.shape[1])
    else:
        channels = (source.shape[-1], result.shape[-1])
        cells_in, cells_out = (t.numel() // max(t.shape[-1], 1) for t in (source, result))
    per_cell = macs // cells_out if cells_out else 0
    return _Row(name, macs, *channels, cells_in, cells_out, cells_out, per_cell, 1, result)


class _Summary:
    """Turns rows into counts: twins, memory that is new, parameters that are new."""

    def __init__(self) -> None:
        self._held: dict[int, Tensor] = {}
        self._modules: set[int] = set()
        self._dilated: dict[tuple[int, ConvGeometry], tuple[int, int] | None] = {}
        self._latest: Grid | None = None

    def layers(self, rows: Sequence[_Row]) -> tuple[LayerCount, ...]:
        return tuple(self._layer(row) for row in rows)

    def _new_bytes(self, tensors: Sequence[Tensor]) -> int:
        total = 0
        for tensor in tensors:
            key = tensor.untyped_storage().data_ptr()
            if key and key not in self._held:
                self._held[key] = tensor
                total += tensor.numel() * tensor.element_size()
        return total

    def _layer(self, row: _Row) -> LayerCount:
        frame = row.frame
        assert frame is not None
        module = frame.module
        source, result = frame.source, frame.result
        for grid in (source, result):
            if grid is not None:
                self._latest = grid
        geometry = getattr(module, "geometry", None)
        geometry = geometry if isinstance(geometry, ConvGeometry) and row.rows else None
        family = _family(row, module, source, result, geometry)
        # A kernel of its own for each sample or region makes a map of so many times the taps; an output has one.
        is_whole = geometry is not None and row.taps % geometry.volume == 0
        if is_whole and geometry is not None:
            row.taps = geometry.volume
        dense_macs, out_cells = self._dense(row, family, source, result)
        dilated = (row.macs, row.n_out)
        if family == "submanifold" and is_whole and geometry is not None and source is not None:
            key = (id(source.indices), geometry)
            if key not in self._dilated:
                self._held[id(source.indices)] = source.indices
                self._dilated[key] = dilated_pairs(source, geometry)
            found = self._dilated[key]
            if found is not None:
                dilated = (found[0] * row.per_pair, found[1])
        first_use = id(module) not in self._modules
        self._modules.add(id(module))
        sites = [] if result is None else [result.indices]
        if source is not None:
            self._new_bytes([source.indices])
        item = row.out.element_size()
        return LayerCount(
            name=frame.name,
            kind=type(module).__name__,
            geometry="" if geometry is None else str(geometry),
            c_in=row.c_in,
            c_out=row.c_out,
            n_in=row.n_in,
            n_out=row.n_out,
            pairs=row.pairs,
            macs=row.macs,
            dense_macs=dense_macs,
            milliseconds=row.milliseconds,
            family=family,
            dilated_macs=dilated[0],
            dilated_n_out=dilated[1],
            parameters=sum(p.numel() for p in module.parameters(recurse=False)) if first_use else 0,
            feature_bytes=row.out.numel() * item,
            map_bytes=self._new_bytes([*row.rows, *sites]),
            dense_bytes=out_cells * row.c_out * item,
            backward_macs=row.backward_macs,
        )

    def _dense(self, row: _Row, family: str, source: Grid | None, result: Grid | None) -> tuple[int, int]:
        """Multiply-adds and output cells of the dense twin."""
        if row.rows and source is not None:
            cells_in = source.cells
            cells_out = result.cells if result is not None else row.n_out
            # A transposed or inverse layer visits every input cell with every tap, the others every output cell.
            driving = cells_in if family in ("transposed", "inverse") else cells_out
            return driving * row.taps * row.per_pair, cells_out
        if row.rows:
            return row.n_out * row.taps * row.per_pair, row.n_out
        # A linear layer on the features of the last sparse tensor acts on every cell of its grid.
        grid = self._latest
        if grid is not None and row.n_in == row.n_out == len(grid):
            return grid.cells * row.per_pair, grid.cells
        return row.macs, row.n_out


def _family(
    row: _Row, module: nn.Module, source: Grid | None, result: Grid | None, geometry: ConvGeometry | None
) -> str:
    if row.op in _POOLS:
        return "pooling"
    if row.op in _WEIGHTED:
        return "weighted"
    if not row.rows:
        return "dense" if row.op.startswith("convolution") else "linear"
    if getattr(module, "inverse", False):
        return "inverse"
    if getattr(module, "transposed", False):
        return "transposed"
    if geometry is not None and geometry.is_pointwise:
        return "pointwise"
    keeps = getattr(module, "subm", None)
    if keeps is None:
        keeps = source is not None and result is not None and source.same_sites(result)
    if keeps:
        return "submanifold"
    if geometry is None:
        return "dense" if source is None and result is None else "other"
    return "strided" if any(step != 1 for step in geometry.stride) else "dilating"
