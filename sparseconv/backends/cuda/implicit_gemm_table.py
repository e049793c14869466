"""What the implicit GEMM knows of a map: tables that are built once for it and kept for as long as it lives.

Rows with the same neighbours are put side by side, so that a tile of rows visits few taps that most of its rows
lack. The order is that of a Gray code of the taps present, the rarest tap first: on scans it leaves a tenth to a
sixth fewer steps than the order of the plain bit mask (``docs/cuda_gemm.md``).
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor

# Products are added without being rounded first, as everywhere in the engine; Triton 3.10 changes its default.
LAUNCH_OPTIONS = {"enable_fp_fusion": True}
# Pairs, or rows, of one program that builds a table: 4 for each thread of 4 warps.
_BLOCK = 512

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Ready:
    """When and where a table was filled, so that another stream waits for it.

    Attributes:
        stream: the stream that fills it; None on the CPU.
        event: what the stream passes when it is filled.
    """

    stream: Any = None
    event: Any = None

    @staticmethod
    def now(device: torch.device) -> Ready:
        """What has been asked of the current stream until now is the table."""
        if device.type != "cuda":
            return Ready()
        stream = torch.cuda.current_stream(device)
        event = torch.cuda.Event()
        event.record(stream)
        return Ready(stream, event)

    def wait(self, tensors: tuple[Tensor, ...]) -> None:
        """Make the current stream see ``tensors``. Costs nothing on the stream that filled them.

        A stream that is being captured must not wait for one that is not; a capture begins with a device that has
        finished all its work, this table with it.
        """
        if self.stream is None:
            return
        current = torch.cuda.current_stream(self.stream.device)
        if current != self.stream and not torch.cuda.is_current_stream_capturing():
            current.wait_event(self.event)
            for tensor in tensors:
                tensor.record_stream(current)


@dataclass(frozen=True, eq=False)
class StepTable:
    """The steps of each tile of output rows, for consecutive taps of a map.

    A step is a tap that at least one row of a tile has. Tiles with many steps come first, so that the last ones to
    run are short. The steps of a tile are in order of their taps.

    Attributes:
        sources: input row of each lane of each step, -1 where there is none: int32 ``[S, block]``.
        taps: tap of each step: int32 ``[S]``.
        starts: first step of each tile: int64 ``[tiles + 1]``.
        rows: output row of each lane, -1 beyond the last: int32 ``[tiles * block]``.
    """

    sources: Tensor
    taps: Tensor
    starts: Tensor
    rows: Tensor
    ready: Ready = field(default_factory=Ready)

    @property
    def tiles(self) -> int:
        """Number of tiles."""
        return len(self.starts) - 1

    def wait(self) -> None:
        """Make the current stream see the table."""
        self.ready.wait((self.sources, self.taps, self.starts, self.rows))


@dataclass(frozen=True, eq=False)
class Tasks:
    """Consecutive pairs of one tap each, for the partial sums of the weight gradient.

    Attributes:
        bounds: first pair of each task and the pair behind its last: int64 ``[tasks, 2]``.
        firsts: first task of each tap: int64 ``[K + 1]``.
    """

    bounds: Tensor
    firsts: Tensor
    ready: Ready = field(default_factory=Ready)

    def wait(self) -> None:
        """Make the current stream see the tasks."""
        self.ready.wait((self.bounds, self.firsts))


def build_step_table(
    kernels: ModuleType,
    in_rows: Tensor,
    out_rows: Tensor,
    tap_offsets: Tensor,
    *,
    n_out: int,
    first: int,
    last: int,
    block: int,
) -> StepTable:
    """Table of the taps ``first .. last`` for tiles of ``block`` rows.

    Waits for the device once, to learn the number of steps. The table takes ``4 * S * block`` bytes, at most
    ``4 * n_out * (last - first)`` (rounded up to whole tiles), and less the more rows lack taps; what is needed
    meanwhile grows with the rows, not with the pairs.

    Args:
        kernels: the module with the Triton kernels.
        in_rows: int32 ``[P]``.
        out_rows: int32 ``[P]``.
        tap_offsets: int64 ``[K + 1]`` on the CPU.
        n_out: number of output rows.
        first: first tap.
        last: the tap behind the last.
        block: rows of a tile, a power of two.

    Raises:
        ValueError: more than 31 taps.
    """
    n_taps = last - first
    if n_taps > 31:
        raise ValueError(f"one table serves at most 31 taps, got {n_taps}")
    device = in_rows.device
    # Bit 0 is the most frequent tap, so that the rarest decides first. Stable: equal maps give equal tables.
    by_count = torch.argsort(tap_offsets[first : last + 1].diff(), descending=True, stable=True)
    ends, bits = torch.stack([tap_offsets[first + 1 : last + 1], torch.argsort(by_count)]).to(device)
    begin = int(tap_offsets[first])
    count = int(tap_offsets[last]) - begin
    tiles = -(-n_out // block)
    pair_blocks, row_blocks = -(-count // _BLOCK), -(-n_out // _BLOCK)

    masks = torch.zeros(n_out, dtype=torch.int32, device=device)
    ranks = torch.empty_like(masks)
    steps, tile_masks, joined = torch.zeros((3, tiles), dtype=torch.int32, device=device)
    starts = torch.zeros(tiles + 1, dtype=torch.int64, device=device)
    rows = torch.empty(tiles * block, dtype=torch.int32, device=device)
    lanes = torch.empty(n_out, dtype=torch.int64, device=device)
    with torch.cuda.device_of(in_rows):
        if count:
            kernels.mark_taps[(pair_blocks,)](
                out_rows, ends, bits, masks, begin, count, n_taps, BLOCK=_BLOCK, **LAUNCH_OPTIONS
            )
        if n_out:
            kernels.rank_masks[(row_blocks,)](masks, ranks, n_out, BLOCK=_BLOCK, **LAUNCH_OPTIONS)
        order = torch.sort(ranks, stable=True).indices
        if n_out:
            kernels.join_masks[(tiles,)](
                masks, order, joined, steps, n_out, n_taps, BLOCK_M=block, **LAUNCH_OPTIONS
            )
        descending = torch.sort(steps, descending=True, stable=True)
        torch.cumsum(descending.values, 0, out=starts[1:])
        total = int(starts[-1])
        taps = torch.empty(total, dtype=torch.int32, device=device)
        sources = torch.full((total, block), -1, dtype=torch.int32, device=device)
        if n_out:
            kernels.write_tiles[(tiles,)](
                order,
                descending.indices,
                joined,
                starts,
                bits,
                tile_masks,
                rows,
                lanes,
                taps,
                n_out,
                first,
                n_taps,
                BLOCK_M=block,
                **LAUNCH_OPTIONS,
            )
        if count:
            kernels.place_pairs[(pair_blocks,)](
                in_rows,
                out_rows,
                ends,
                bits,
                lanes,
                tile_masks,
                starts,
                sources,
                begin,
                count,
                n_taps,
                BLOCK_M=block,
                BLOCK=_BLOCK,
                **LAUNCH_OPTIONS,
            )
    return StepTable(sources, taps, starts, rows, Ready.now(device))


def build_step_tables(
    kernels: ModuleType,
    in_rows: Tensor,
    out_rows: Tensor,
    tap_offsets: Tensor,
    *,
    n_out: int,
    block: int,
    most_taps: int,
) -> tuple[StepTable, ...]:
    """Tables of all taps, in order, each for about the same number of at most ``most_taps`` taps.

    Tables without a step are left out, but for one, which writes the rows that nothing reaches.
    """
    n_taps = len(tap_offsets) - 1
    parts = max(1, -(-n_taps // most_taps))
    cuts = [n_taps * part // parts for part in range(parts + 1)]
    tables = [
        build_step_table(kernels, in_rows, out_rows, tap_offsets, n_out=n_out, first=first, last=last, block=block)
        for first, last in itertools.pairwise(cuts)
    ]
    return tuple(table for table in tables if len(table.taps)) or (tables[0],)


def build_tasks(tap_offsets: Tensor, device: torch.device, length: int) -> Tasks:
    """Cut the pairs of each tap into tasks of ``length`` pairs; the last of a tap may be shorter."""
    counts = tap_offsets.diff()
    tasks_of_tap = (counts + length - 1).div(length, rounding_mode="floor")
    firsts = torch.nn.functional.pad(tasks_of_tap.cumsum(0), (1, 0))
    taps = torch.arange(len(counts), device="cpu").repeat_interleave(tasks_of_tap)
    begins = tap_offsets[taps] + (torch.arange(len(taps), device="cpu") - firsts[taps]) * length
    bounds = torch.stack([begins, torch.minimum(begins + length, tap_offsets[taps + 1])], 1)
    return Tasks(bounds.to(device), firsts.to(device), Ready.now(device))


def single_tap_tasks(n_pairs: int, device: torch.device, length: int) -> Tasks:
    """:func:`build_tasks` of one tap without a copy to the device.

    The gradient of a bias is such a map, over rows that are new each time, so there is nothing to keep.
    """
    begins = torch.arange(0, n_pairs, length, device=device)
    bounds = torch.stack([begins, (begins + length).clamp_(max=n_pairs)], 1)
    return Tasks(bounds, torch.arange(2, device=device) * len(begins))


class MapTables:
    """Values kept for maps, each for as long as both of the map's columns live.

    A map is known by the memory of its columns, which autograd and ``torch.compile`` hand on even where they make
    new tensor objects, and by its offsets. Columns written in place (seen by their version) are another map.
    """

    def __init__(self) -> None:
        self._of_columns: dict[tuple[int, int], tuple[Any, Any, dict[Any, Any]]] = {}

    def get(
        self, in_rows: Tensor, out_rows: Tensor, tap_offsets: Tensor, what: tuple[Any, ...], build: Callable[[], T]
    ) -> T:
        """The value named ``what`` of a map, built at its first use.

        Raises:
            RuntimeError: it is not built yet, and the current stream is being captured.
        """
        storages = in_rows.untyped_storage(), out_rows.untyped_storage()
        columns = (id(storages[0]), id(storages[1]))
        found = self._of_columns.get(columns)
        if found is None or found[0]() is not storages[0] or found[1]() is not storages[1]:

            def forget(reference: Any) -> None:
                kept = self._of_columns.get(columns)
                if kept is not None and (kept[0] is reference or kept[1] is reference):
                    del self._of_columns[columns]

            found = (weakref.ref(storages[0], forget), weakref.ref(storages[1], forget), {})
            self._of_columns[columns] = found
        key = (_part(in_rows), _part(out_rows), tap_offsets.numpy().tobytes(), what)
        if key not in found[2]:
            if in_rows.is_cuda and torch.cuda.is_current_stream_capturing():
                raise RuntimeError(
                    "the tables of a kernel map cannot be built while a CUDA graph is captured: run the same "
                    "convolution (forward and backward) once before the capture"
                )
            # Kept, so it must serve training after an evaluation in inference mode.
            with torch.inference_mode(False), torch.no_grad():
                found[2][key] = build()
        value: T = found[2][key]
        return value

    def __len__(self) -> int:
        """Number of pairs of columns with values."""
        return len(self._of_columns)


def _part(rows: Tensor) -> tuple[int, int, tuple[int, ...], int]:
    version = 0 if rows.is_inference() else rows._version
    return int(rows.storage_offset()), len(rows), rows.stride(), version


map_tables = MapTables()
