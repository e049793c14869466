"""Output sites and map of strided convolutions in one go: what a site reaches is a site, so nothing is looked up.

Coarse lines are kept as words of 64 cells, so only lines are sorted, never sites.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sparseconv.backends import CoarseMap
from sparseconv.backends.cpu.coarse_lines import Hits, steps_of
from sparseconv.backends.cpu.coarse_steps import (
    ARE_SPARE,
    HAS_LINES,
    HAS_OUTPUTS,
    IDLE_LINES,
    MEMBERS,
    WORDS,
    fill,
    reach,
    unite,
)
from sparseconv.backends.cpu.coarse_words import LONGEST_STRETCH, cut_runs, find_lines, place_chunks
from sparseconv.backends.cpu.hash import SiteIndex, build_index
from sparseconv.backends.cpu.meeting import Meeting
from sparseconv.backends.cpu.radix import bits_below
from sparseconv.backends.cpu.scratch import Scratch
from sparseconv.backends.cpu.sites import no_sites
from sparseconv.backends.site_keys import SiteKeys, check_site_count, coarse_box
from sparseconv.geometry import ConvGeometry

# Sites from which on a helper is woken, for 60 us; all steps take 60 ns a site.
_WORTH_A_THREAD = 4096
# Tasks of a step per thread: enough to even out.
_TASKS_PER_THREAD = 4
# Fine lines of a task at least; one costs about 30 ns.
_SMALLEST_TASK = 512
# Members of a chunk of coarse lines at least; one costs about 40 ns.
_MEMBERS_A_CHUNK = 1024


class _Finding:
    """The steps of one strided map, and what they hand to each other."""

    def __init__(self, index: SiteIndex, geometry: ConvGeometry, box: SiteKeys, with_pairs: bool) -> None:
        self._index, self._geometry, self._box, self._with_pairs = index, geometry, box, with_pairs
        self._steps = steps = steps_of(geometry)
        lines, sites = len(index.line_keys), len(index.sites)
        self._scratch = scratch = Scratch()
        self._hits = Hits.within(scratch, sites, lines, steps.most[-1])
        # As many for each line as may be written, whether reached or not.
        room = math.prod(steps.most[:-2]) * steps.steps.shape[2] if geometry.ndim > 1 else 1
        self._keys, self._members, self._spare_keys, self._spare_members = (
            scratch.array(name, lines * room, np.int64)
            for name in ("coarse keys", "members", "spare coarse keys", "spare members")
        )
        self._order = np.empty(0, np.int32) if index.order is None else index.order
        self._line_strides = np.array(box.strides[:-1], np.int64) // box.extent[-1]
        self._low, self._extent = np.array(box.low, np.int64), np.array(box.extent, np.int64)
        self._table_length = min(LONGEST_STRETCH, (box.extent[-1] + 63) >> 6)
        self._threads = torch.get_num_threads() if sites >= _WORTH_A_THREAD else 1
        self._tasks = max(1, min(_TASKS_PER_THREAD * self._threads, lines // _SMALLEST_TASK))
        self._meeting = Meeting(WORDS)

    def run(self) -> CoarseMap:
        """Take all steps, with helpers."""
        steps = (
            lambda: self._reach(is_helper=True),
            lambda: self._unite(is_helper=True),
            lambda: self._fill(is_helper=True),
        )
        with self._meeting.helpers(steps) as helpers:
            helpers.call(self._threads - 1)
            self._meeting.lead(lambda: self._reach(is_helper=False), helpers)
            if not self._find_lines():
                self._meeting.dismiss()
                return _nothing(self._index, self._geometry)
            self._meeting.words[HAS_LINES] = 1
            self._meeting.lead(lambda: self._unite(is_helper=False), helpers)
            self._place()
            self._meeting.words[HAS_OUTPUTS] = 1
            self._meeting.lead(lambda: self._fill(is_helper=False, leaves_last=helpers.are_there), helpers)
        self._scratch.keep()
        return CoarseMap(
            torch.from_numpy(self._sites),
            SiteIndex(self._box, self._sites, None, self._line_keys, self._line_starts),
            torch.from_numpy(self._fine_rows),
            torch.from_numpy(self._coarse_rows),
            torch.from_numpy(self._tap_offsets),
        )

    def _reach(self, is_helper: bool) -> bool:
        hits = self._hits
        return reach(
            self._meeting.place,
            self._tasks,
            is_helper,
            self._index.sites,
            self._order,
            self._index.line_keys,
            self._index.line_starts,
            self._index.box.extent[-2] if self._geometry.ndim > 1 else 1,
            # On one axis the column before is the batch, of which this makes no use.
            self._index.box.low[-2],
            *self._steps.axes,
            self._steps.steps,
            self._steps.taps,
            self._steps.counts,
            self._low,
            self._extent,
            hits.cells,
            hits.taps,
            hits.rows,
            hits.starts,
            hits.stops,
            hits.spans,
            self._line_strides,
            bits_below(self._box.cells // self._box.extent[-1]),
            self._keys,
            self._members,
            self._spare_keys,
            self._spare_members,
        )

    def _find_lines(self) -> bool:
        """Part the members of the coarse lines and make room for their words; returns whether any line is left."""
        hits, words, scratch = self._hits, self._meeting.words, self._scratch
        count = int(words[MEMBERS]) - 1
        keys, members = self._keys[:count], self._members[:count]
        if words[ARE_SPARE]:
            keys, members = self._spare_keys[:count], self._spare_members[:count]
        if words[IDLE_LINES]:
            lines = members >> 32
            has_hits = hits.starts[lines] != hits.stops[lines]
            keys, members = keys[has_hits], members[has_hits]
        run_starts = scratch.array("line runs", len(keys) + 1, np.int64)
        room = scratch.array("line room", len(keys) + 1, np.uint64)
        runs = find_lines(keys, members, hits.starts, hits.stops, run_starts, room)
        if runs == 0:
            return False
        self._members, self._room, self._run_starts = members, room, run_starts[: runs + 1]
        self._line_keys = keys[self._run_starts[:-1]]
        words_room = int(room[runs])
        self._words = scratch.array("words", words_room, np.uint32)
        self._masks = scratch.array("masks", words_room, np.uint64)
        self._word_starts, self._word_stops, self._row_counts = (
            scratch.array(name, runs, np.int64) for name in ("word starts", "word stops", "row counts")
        )
        pieces = max(1, min(_TASKS_PER_THREAD * self._threads, len(members) // _MEMBERS_A_CHUNK))
        bounds = np.empty(pieces + 1, np.int64)
        self._bounds = bounds[: cut_runs(self._run_starts, pieces, bounds) + 1]
        self._counts = np.zeros((len(self._bounds) - 1, self._geometry.volume), np.int64)
        return True

    def _unite(self, is_helper: bool) -> bool:
        hits = self._hits
        return unite(
            self._meeting.place,
            is_helper,
            self._bounds,
            self._run_starts,
            self._room,
            self._members,
            hits.starts,
            hits.stops,
            hits.cells,
            hits.taps,
            hits.spans,
            self._geometry.kernel_size[-1],
            self._table_length,
            self._words,
            self._masks,
            self._word_starts,
            self._word_stops,
            self._row_counts,
            self._counts,
        )

    def _place(self) -> None:
        """Where the sites and pairs of each chunk begin, and room for them."""
        chunks, taps = self._counts.shape
        self._first_rows, self._tap_offsets = np.empty(chunks, np.int64), np.empty(taps + 1, np.int64)
        self._cursors = np.empty((chunks, taps), np.uint64)
        rows = place_chunks(
            self._bounds, self._row_counts, self._counts, self._first_rows, self._tap_offsets, self._cursors
        )
        check_site_count(rows)
        self._sites = np.empty((rows, len(self._low)), np.int32)
        self._line_starts = np.full(len(self._line_keys) + 1, rows, np.int32)
        pairs = int(self._tap_offsets[-1]) if self._with_pairs else 0
        self._fine_rows, self._coarse_rows = np.empty(pairs, np.int32), np.empty(pairs, np.int32)

    def _fill(self, is_helper: bool, leaves_last: bool = False) -> bool:
        hits = self._hits
        return fill(
            self._meeting.place,
            is_helper,
            leaves_last,
            self._bounds,
            self._first_rows,
            self._line_keys,
            self._run_starts,
            self._words,
            self._masks,
            self._word_starts,
            self._word_stops,
            self._members,
            hits.starts,
            hits.stops,
            hits.cells,
            hits.taps,
            hits.rows,
            self._geometry.kernel_size[-1],
            self._low,
            self._line_strides,
            self._table_length,
            self._sites,
            self._line_starts,
            self._cursors,
            self._fine_rows,
            self._coarse_rows,
        )


def coarse_map(index: SiteIndex, geometry: ConvGeometry, shape: Sequence[int] | None) -> CoarseMap:
    """See :meth:`sparseconv.backends.Backend.coarse_map`."""
    box = coarse_box(index.box, geometry, shape) if len(index.sites) else None
    return _nothing(index, geometry) if box is None else _Finding(index, geometry, box, with_pairs=True).run()


def coarse_sites(index: SiteIndex, geometry: ConvGeometry, shape: Sequence[int] | None) -> Tensor:
    """See :meth:`sparseconv.backends.Backend.coarse_sites`."""
    box = coarse_box(index.box, geometry, shape) if len(index.sites) else None
    return (
        no_sites(index.sites.shape[1])
        if box is None
        else _Finding(index, geometry, box, with_pairs=False).run().sites
    )


def _nothing(index: SiteIndex, geometry: ConvGeometry) -> CoarseMap:
    sites = no_sites(index.sites.shape[1])
    rows = torch.empty(0, dtype=torch.int32, device="cpu")
    offsets = torch.zeros(geometry.volume + 1, dtype=torch.int64, device="cpu")
    return CoarseMap(sites, build_index(sites), rows, rows.clone(), offsets)
