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
from typing import Any, TypeVar

import torch
from torch import Tensor

# Pairs handled at once while a table is built: temporaries of at most 160 MiB.
_PAIRS_AT_ONCE = 1 << 22

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


def _gray_rank(mask: Tensor, bits: int) -> Tensor:
    """Place of each bit mask in the Gray code's order."""
    shift = 1
    while shift < bits:
        mask = mask ^ (mask >> shift)
        shift *= 2
    return mask


def _any_row(masks: Tensor) -> Tensor:
    """Bitwise or over the last axis, a power of two long."""
    while masks.shape[1] > 1:
        half = masks.shape[1] // 2
        masks = masks[:, :half] | masks[:, half:]
    return masks[:, 0]


def build_step_table(
    in_rows: Tensor, out_rows: Tensor, tap_offsets: Tensor, *, n_out: int, first: int, last: int, block: int
) -> StepTable:
    """Table of the taps ``first .. last`` for tiles of ``block`` rows.

    Waits for the device once, to learn the number of steps. The table takes ``4 * S * block`` bytes, at most
    ``4 * n_out * (last - first)`` (rounded up to whole tiles), and less the more rows lack taps.

    Raises:
        ValueError: more than 31 taps.
    """
    n_taps = last - first
    if n_taps > 31:
        raise ValueError(f"one table serves at most 31 taps, got {n_taps}")
    device = in_rows.device
    counts = tap_offsets[first : last + 1].diff()
    # Bit 0 is the most frequent tap, so that the rarest decides first. Stable: equal maps give equal tables.
    bit_of_tap = torch.empty(n_taps, dtype=torch.int32, device="cpu")
    bit_of_tap[torch.argsort(counts, descending=True, stable=True)] = torch.arange(
        n_taps, dtype=torch.int32, device="cpu"
    )
    bit_of_tap = bit_of_tap.to(device)
    mask_of_tap = torch.ones_like(bit_of_tap) << bit_of_tap
    ends = (tap_offsets[first + 1 : last + 1]).to(device)
    begin, end = int(tap_offsets[first]), int(tap_offsets[last])
    chunks = [(at, min(end, at + _PAIRS_AT_ONCE)) for at in range(begin, end, _PAIRS_AT_ONCE)]

    def taps_between(start: int, stop: int) -> Tensor:
        return torch.searchsorted(ends, torch.arange(start, stop, device=device), right=True)

    mask = torch.zeros(n_out, dtype=torch.int32, device=device)
    for start, stop in chunks:
        # A row has a tap once, so adding bits sets them.
        mask.index_add_(0, out_rows[start:stop], mask_of_tap[taps_between(start, stop)])
    order = torch.sort(_gray_rank(mask, n_taps), stable=True).indices
    tiles = -(-n_out // block)
    overhang = tiles * block - n_out
    tile_masks = _any_row(torch.nn.functional.pad(mask[order], (0, overhang)).view(tiles, block))
    visits = (tile_masks[:, None] >> bit_of_tap) & 1
    steps = visits.sum(1)
    by_steps = torch.sort(steps, descending=True, stable=True).indices
    visits, steps = visits[by_steps], steps[by_steps]
    rows = torch.nn.functional.pad(order, (0, overhang), value=-1).view(tiles, block)[by_steps].view(-1)
    starts = torch.nn.functional.pad(steps.cumsum(0), (1, 0))
    step_of = visits.view(-1).cumsum(0) - 1
    taps = torch.nonzero(visits)[:, 1].int() + first

    lane_of_row = torch.empty(n_out + 1, dtype=torch.int64, device=device)
    lane_of_row[torch.where(rows < 0, n_out, rows)] = torch.arange(len(rows), device=device)
    sources = torch.full((len(taps), block), -1, dtype=torch.int32, device=device)
    for start, stop in chunks:
        lane = lane_of_row[out_rows[start:stop].long()]
        tile = torch.div(lane, block, rounding_mode="floor")
        step = step_of[tile * n_taps + taps_between(start, stop)]
        sources.view(-1)[step * block + lane - tile * block] = in_rows[start:stop]
    return StepTable(sources, taps, starts, rows.int(), Ready.now(device))


def build_step_tables(
    in_rows: Tensor, out_rows: Tensor, tap_offsets: Tensor, *, n_out: int, block: int, most_taps: int
) -> tuple[StepTable, ...]:
    """Tables of all taps, in order, each for about the same number of at most ``most_taps`` taps.

    Tables without a step are left out, but for one, which writes the rows that nothing reaches.
    """
    n_taps = len(tap_offsets) - 1
    parts = max(1, -(-n_taps // most_taps))
    cuts = [n_taps * part // parts for part in range(parts + 1)]
    tables = [
        build_step_table(in_rows, out_rows, tap_offsets, n_out=n_out, first=first, last=last, block=block)
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


def _part(rows: Tensor) -> tuple[int, int, int]:
    version = 0 if rows.is_inference() else rows._version
    return int(rows.storage_offset()), len(rows), version


map_tables = MapTables()
