"""Points to voxels, grouped by a hash table in the order of points.

Three steps: keys and runs of a piece of the points; the voxel of each run, piece after piece, since voxels are
numbered in the order in which points meet them; rows, sites and padded blocks. The first and the last run on
several threads, and the second beside the first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparseconv.backends import PointBlocks, PointGroups
from sparseconv.backends.cpu.meeting import Meeting
from sparseconv.backends.cpu.radix import argsort_keys
from sparseconv.backends.cpu.scratch import Scratch
from sparseconv.backends.cpu.voxel_cells import CellKeys, grid_constants
from sparseconv.backends.cpu.voxel_runs import RESERVED
from sparseconv.backends.cpu.voxel_steps import HAS_OUTPUTS, POINTS_KEPT, group_runs, spread_voxels, words_of
from sparseconv.backends.site_keys import EXACT_CELLS

# Points of a task at least: about 90 us of work in all three steps. Fewer points than two tasks take longer on two
# threads than on one (29,000: 0.36 and 0.49 ms).
_SMALLEST_TASK = 16384
# Tasks per thread: the first is not yet beside another step, nor the last.
_TASKS_PER_THREAD = 4
# Points of a task at most: its runs begin at int32 distances from its start.
_LARGEST_TASK = 1 << 30
# Points with more columns than this are cut to their coordinates first: the block's pass runs over whole rows.
_MOST_COLUMNS = 8


class _Pieces:
    """Points cut at the bounds of tasks and samples: piece p holds ``starts[p] .. starts[p + 1]``, of one sample.

    Attributes:
        starts: int64 ``[count + 1]``.
        samples: int64 ``[count]``, the sample of each piece.
        count: number of pieces.
        tasks: number of tasks.
        of_tasks: int64 ``[tasks + 1]``, task t has the pieces ``of_tasks[t] .. of_tasks[t + 1]``.
    """

    def __init__(self, sizes: Sequence[int], total: int) -> None:
        threads = torch.get_num_threads()
        wanted = 1 if threads == 1 else min(threads * _TASKS_PER_THREAD, total // _SMALLEST_TASK)
        self.tasks = max(1, wanted, -(-total // _LARGEST_TASK))
        bounds = [total * task // self.tasks for task in range(self.tasks + 1)]
        if len(sizes) == 1:
            self.starts = np.array(bounds, np.int64)
            self.samples = np.zeros(self.tasks, np.int64)
            self.of_tasks = np.arange(self.tasks + 1)
        else:
            sample_starts = np.cumsum(sizes) - sizes
            self.starts = np.unique(np.concatenate([np.array(bounds, np.int64), sample_starts]))
            # An empty sample begins where the next one does, and has no piece.
            self.samples = np.searchsorted(sample_starts, self.starts[:-1], "right") - 1
            self.of_tasks = np.searchsorted(self.starts, bounds)
        self.count = len(self.samples)


class _Grouping:
    """The steps over the points of one call, and what they hand to each other."""

    def __init__(
        self,
        values: NDArray[np.float32],
        sizes: Sequence[int],
        low: tuple[float, ...],
        size: tuple[float, ...],
        grid: tuple[int, ...] | None,
        max_voxels: int | None,
        in_order: bool,
        max_points: int | None,
    ) -> None:
        ndim = len(low)
        self._values = values
        self._placed = values if values.shape[1] <= _MOST_COLUMNS else np.ascontiguousarray(values[:, :ndim])
        self._samples = len(sizes)
        self._max_voxels, self._in_order, self._max_points = max_voxels, in_order, max_points
        self._constants = grid_constants(self._placed.shape[1], low, size, grid)
        cell_keys = None if grid is None else CellKeys.of_grid(len(sizes), grid)
        self._cell_keys = cell_keys or CellKeys.of_points(self._placed, sizes, self._constants, ndim)
        total = len(values)
        self._pieces = pieces = _Pieces(sizes, total)
        # At most half full.
        bits = max(4, (2 * total + RESERVED).bit_length())
        self._scratch = scratch = Scratch()
        self._table = scratch.array("voxel table", 1 << bits, np.uint32)
        # Each entry is the first of eight slots.
        self._shift = np.uint64(64 - bits + 3)
        self._keys = scratch.array("point keys", total, np.int64)
        self._voxel_keys = scratch.array("voxel keys", total + RESERVED, np.int64)
        self._voxel_counts = scratch.array("voxel counts", total + RESERVED, np.int32)
        self._run_starts = scratch.array("run starts", total + pieces.count, np.int32)
        self._run_ranks = scratch.array("run ranks", total + pieces.count, np.int32)
        self._run_rows = scratch.array("run rows", total + pieces.count, np.int64)
        self._meeting = Meeting(words_of(pieces.tasks))
        self._run_counts = np.empty(pieces.count, np.int64)
        self._voxels = np.zeros(pieces.count + 1, np.int64)
        self.dropped = np.empty((pieces.count, 2), np.int64)
        self.rows = np.empty(total, np.int64)
        # Blocks hold what ranks are for.
        self.ranks = np.empty(total if max_points is None else 0, np.int32)

    def run(self) -> None:
        """Take all steps, with helpers."""
        steps = (lambda: self._group(is_helper=True), lambda: self._spread(is_helper=True))
        with self._meeting.helpers(steps) as helpers:
            helpers.call(min(torch.get_num_threads(), self._pieces.tasks) - 1)
            self._meeting.lead(lambda: self._group(is_helper=False), helpers)
            self._make_outputs()
            self._meeting.words[HAS_OUTPUTS] = 1
            self._meeting.lead(lambda: self._spread(is_helper=False, leaves_last=helpers.are_there), helpers)
        self._scratch.keep()

    def points_kept(self) -> int:
        """Points in all blocks."""
        return int(self._meeting.words[POINTS_KEPT])

    def _group(self, is_helper: bool) -> bool:
        return group_runs(
            self._meeting.place,
            self._pieces.tasks,
            is_helper,
            self._placed,
            self._pieces.starts,
            self._pieces.samples,
            self._pieces.of_tasks,
            self._constants,
            self._cell_keys.low,
            self._cell_keys.strides,
            self._keys,
            self._run_starts,
            self._run_counts,
            self.dropped,
            self._table,
            self._shift,
            self._voxels,
            self._voxel_keys,
            self._voxel_counts,
            self._run_rows,
            self._run_ranks,
        )

    def _make_outputs(self) -> None:
        """Choose the rows that stay, and make room for what is said of them."""
        found = int(self._voxels[-1])
        keys, counts = (values[RESERVED : RESERVED + found] for values in (self._voxel_keys, self._voxel_counts))
        kept = self._kept_rows(keys)
        self._new_rows = np.empty(0, np.int64)
        if kept is not None:
            self._new_rows = np.full(found + 1, -1, np.int64)
            self._new_rows[kept + 1] = np.arange(len(kept))
            keys, counts = keys[kept], counts[kept]
        self._kept_keys = keys
        self.counts = counts.copy()
        self.sites = np.empty((len(keys), len(self._cell_keys.strides)), np.int32)
        room = self._max_points or 0
        self.blocks = np.empty((len(keys), room, self._values.shape[1]), np.float32)
        self.block_counts = np.empty(0 if self._max_points is None else len(keys), np.int32)

    def _spread(self, is_helper: bool, leaves_last: bool = False) -> bool:
        return spread_voxels(
            self._meeting.place,
            self._pieces.tasks,
            self._pieces.starts,
            self._pieces.of_tasks,
            self._run_counts,
            self._keys,
            self._run_starts,
            self._run_rows,
            self._run_ranks,
            self._new_rows,
            self.rows,
            self.ranks,
            self._kept_keys,
            self._cell_keys.cells <= EXACT_CELLS,
            self._cell_keys.low,
            self._cell_keys.strides,
            self.sites,
            self._max_points is not None,
            self._values,
            self.counts,
            self.blocks,
            self.block_counts,
            is_helper,
            leaves_last,
        )

    def _kept_rows(self, keys: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """The rows to keep, in their new order; None where all stay as they are."""
        kept = None
        if self._max_voxels is not None and len(keys) > self._max_voxels:
            of_sample = np.zeros(self._samples, np.int64)
            np.add.at(of_sample, self._pieces.samples, np.diff(self._voxels))
            firsts = np.cumsum(of_sample) - of_sample
            stops = firsts + np.minimum(of_sample, self._max_voxels)
            kept = np.concatenate([np.arange(first, stop) for first, stop in zip(firsts, stops, strict=True)])
            keys = keys[kept]
        if self._in_order:
            _, order = argsort_keys(keys.copy(), self._cell_keys.cells)
            kept = order if kept is None else kept[order]
        return kept


def group_points(
    points: Tensor,
    sizes: Sequence[int],
    low: Sequence[float],
    size: Sequence[float],
    grid: Sequence[int] | None,
    max_voxels: int | None,
    in_order: bool,
    max_points: int | None = None,
) -> PointGroups:
    """See :meth:`sparseconv.backends.Backend.group_points`."""
    cells = None if grid is None else tuple(grid)
    grouping = _Grouping(
        points.detach().numpy(), sizes, tuple(low), tuple(size), cells, max_voxels, in_order, max_points
    )
    grouping.run()
    blocks = None
    if max_points is not None:
        counts, kept = torch.from_numpy(grouping.block_counts), grouping.points_kept()
        blocks = PointBlocks(torch.from_numpy(grouping.blocks), counts, kept)
    outside, nonfinite = grouping.dropped.sum(0).tolist()
    return PointGroups(
        torch.from_numpy(grouping.sites),
        torch.from_numpy(grouping.counts),
        torch.from_numpy(grouping.rows),
        None if blocks else torch.from_numpy(grouping.ranks),
        outside,
        nonfinite,
        blocks,
    )
