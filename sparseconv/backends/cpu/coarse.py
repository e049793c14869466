"""Output sites of strided convolutions, a line at a time.

A line is a run of sites that differ in the last axis only. Each fine line is spread along the last axis once; a
coarse line is the union of the fine lines that its leading axes reach. So only lines are sorted, never sites.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparseconv.backends.cpu.hash import SiteIndex, argsort_keys, pack_sites, popcount
from sparseconv.backends.cpu.jit import kernel
from sparseconv.backends.cpu.sites import distinct_sorted, drop_repeats, no_sites, sites_of
from sparseconv.backends.cpu.threads import run_ranges
from sparseconv.backends.site_keys import SiteKeys, coarse_box
from sparseconv.geometry import ConvGeometry

# Lines that are reached at once: 16 MB of keys, a bound on the extra memory of kernels with many leading taps.
_REACHED_AT_ONCE = 1 << 20
# Lines in a range; spreading or uniting one costs 20 to 50 ns, waking a thread about 20 us.
_SMALLEST_RANGE = 1024
# A union is read from a bit mask of the line where it costs at most this many words a member, else sorted.
_WORDS_A_MEMBER = 8
_LONGEST_MASK = 4096  # words: 32 KB, a first-level cache


@kernel
def _power_of_two(divisor):
    """The exponent of a power of two, -1 for other numbers."""
    if divisor & (divisor - 1):
        return -1
    exponent = 0
    while divisor >> (exponent + 1):
        exponent += 1
    return exponent


@kernel
def _divide(value, divisor, exponent):
    """Floor division; by a shift where the divisor is ``2 ** exponent``, which saves a third of the time here."""
    return value >> exponent if exponent >= 0 else value // divisor


@kernel
def _spread_lines(
    positions, line_starts, start, stop, stride, padding, taps, dilation, low, extent, spread, counts
):
    """Coarse positions, from ``low`` on, that each of the fine lines ``start .. stop`` reaches on the last axis.

    Line ``l`` writes from ``line_starts[l] * most`` on, where ``most`` is what one site reaches at most. Without
    dilation they ascend and are distinct.
    """
    most = spread.shape[1]
    exponent = _power_of_two(stride)
    flat = spread.reshape(-1)
    for line in range(np.uint64(start), np.uint64(stop)):
        first = np.uint64(line_starts[line])
        end = np.uint64(line_starts[line + np.uint64(1)])
        place = first * np.uint64(most)
        begin = place
        if dilation == 1:
            # What one site reaches is an interval, and both its ends ascend with the site.
            following = np.int64(0)
            for row in range(first, end):
                highest = np.int64(positions[row]) + padding
                nearest = -_divide(taps - 1 - highest, stride, exponent) - low
                farthest = min(_divide(highest, stride, exponent) - low, extent - 1)
                nearest = max(nearest, following)
                for position in range(nearest, farthest + 1):
                    flat[place] = position
                    place += np.uint64(1)
                following = max(following, farthest + 1)
        else:
            for row in range(first, end):
                for t in range(taps):
                    distance = np.int64(positions[row]) + padding - dilation * t
                    quotient = _divide(distance, stride, exponent)
                    position = quotient - low
                    if quotient * stride == distance and 0 <= position < extent:
                        flat[place] = position
                        place += np.uint64(1)
        counts[line] = place - begin


@kernel
def _reach_lines(
    sites, line_starts, start, stop, stride, padding, steps, step_starts, low, extent, strides, keys, lines
):
    """Keys of the coarse lines that the fine lines ``start .. stop`` reach, and who does; returns how many.

    ``steps`` and ``step_starts`` are :func:`_reach_tables`: for a remainder of ``(fine + padding) / stride``, what
    taps add to the quotient.
    """
    leads = stride.shape[0] - 1
    reach = np.empty(steps.shape[1], np.int64)
    exponents = np.empty(leads, np.int64)
    for a in range(leads):
        exponents[a] = _power_of_two(stride[a])
    count = np.uint64(0)
    for line in range(start, stop):
        row = line_starts[line]
        keys[count] = (np.int64(sites[row, 0]) - low[0]) * strides[0]
        found = 1
        for a in range(leads):
            fine = np.int64(sites[row, a + 1]) + padding[a]
            quotient = _divide(fine, stride[a], exponents[a])
            remainder = fine - quotient * stride[a]
            reached = 0
            for i in range(step_starts[a, remainder], step_starts[a, remainder + 1]):
                distance = quotient + steps[a, i] - low[a + 1]
                if 0 <= distance < extent[a + 1]:
                    reach[reached] = distance * strides[a + 1]
                    reached += 1
            # From the back, so that no part of a key is overwritten before it is used.
            for old in range(found - 1, -1, -1):
                part = keys[count + np.uint64(old)]
                for new in range(reached):
                    keys[count + np.uint64(old * reached + new)] = part + reach[new]
            found *= reached
        for _ in range(found):
            lines[count] = line
            count += np.uint64(1)
    return np.int64(count)


@kernel
def _run_starts(keys, starts):
    """Where the runs of equal keys begin, and the end; returns their number."""
    runs = 0
    previous = np.int64(-1)
    for i in range(keys.shape[0]):
        if keys[i] != previous:
            previous = keys[i]
            starts[runs] = i
            runs += 1
    starts[runs] = keys.shape[0]
    return runs


@kernel
def _mark(spread, begin, end, first_word, mask):
    one = np.uint64(1)
    for i in range(begin, end):
        position = np.uint64(spread[i])
        mask[(position >> np.uint64(6)) - first_word] |= one << (position & np.uint64(63))


@kernel
def _read_marks(mask, words, first, positions, count):
    """Write the positions of all marks, counted from ``first``, and clear them; returns the new count."""
    for w in range(words):
        word = mask[w]
        mask[w] = np.uint64(0)
        while word != np.uint64(0):
            lowest = word & (~word + np.uint64(1))
            positions[count] = first + 64 * w + popcount(lowest - np.uint64(1))
            count += np.uint64(1)
            word ^= lowest
    return count


@kernel
def _unite(run_starts, start, stop, lines, spread_starts, spread, counts, ascend, mask, positions, run_counts):
    """Positions of the coarse sites of the runs ``start .. stop`` (coarse lines), ascending in each; how many.

    ``lines`` names the fine lines of each run; fine line ``l`` reaches ``counts[l]`` positions of ``spread``.
    """
    one = np.uint64(1)
    count = np.uint64(0)
    for run in range(np.uint64(start), np.uint64(stop)):
        first_member = np.uint64(run_starts[run])
        end_member = np.uint64(run_starts[run + one])
        begin_run = count
        lowest = np.int64(1) << 62
        highest = np.int64(-1)
        for member in range(first_member, end_member):
            line = np.uint64(lines[member])
            begin = np.uint64(spread_starts[line])
            end = begin + np.uint64(counts[line])
            # Of an ascending stretch only the ends matter.
            step = max(one, end - begin - one) if ascend else one
            for i in range(begin, end, step):
                lowest = min(lowest, np.int64(spread[i]))
                highest = max(highest, np.int64(spread[i]))
        words = (highest >> 6) - (lowest >> 6) + 1
        members = np.int64(end_member - first_member)
        if highest >= 0 and words <= mask.shape[0] and words <= _WORDS_A_MEMBER * members:
            first_word = np.uint64(lowest >> 6)
            for member in range(first_member, end_member):
                line = np.uint64(lines[member])
                begin = np.uint64(spread_starts[line])
                _mark(spread, begin, begin + np.uint64(counts[line]), first_word, mask)
            count = _read_marks(mask, words, (lowest >> 6) << 6, positions, count)
        elif highest >= 0:
            for member in range(first_member, end_member):
                line = np.uint64(lines[member])
                begin = np.uint64(spread_starts[line])
                for i in range(begin, begin + np.uint64(counts[line])):
                    positions[count] = spread[i]
                    count += one
            if members > 1 or not ascend:
                found = positions[begin_run:count]
                found.sort()
                count = begin_run + np.uint64(drop_repeats(found))
        run_counts[run] = np.int64(count - begin_run)
    return np.int64(count)


@kernel
def _fill_sites(line_keys, run_starts, row_starts, start, stop, low, strides, positions, sites):
    """Sites of the runs ``start .. stop``, whose positions begin at ``row_starts``."""
    last = sites.shape[1] - 1
    for run in range(np.uint64(start), np.uint64(stop)):
        rest = line_keys[np.uint64(run_starts[run])]
        first = np.uint64(row_starts[run])
        end = np.uint64(row_starts[run + np.uint64(1)])
        for c in range(last):
            step = rest // strides[c]
            rest -= step * strides[c]
            for row in range(first, end):
                sites[row, c] = step + low[c]
        for row in range(first, end):
            sites[row, last] = np.int64(positions[row]) + low[last]


@functools.lru_cache(maxsize=64)
def _reach_tables(geometry: ConvGeometry) -> tuple[NDArray[np.int64], NDArray[np.int64], tuple[int, ...]]:
    """For each axis, what taps add to a quotient, ordered by the remainder modulo the stride that they need.

    Tap ``t`` divides where the remainder is that of ``d * t``, and then adds ``(remainder - d * t) / s``.

    Returns:
        The steps ``[D, largest kernel]``, where those of each remainder begin ``[D, largest stride + 1]``, and the
        most taps that one remainder has on each axis.
    """
    ndim = geometry.ndim
    steps = np.zeros((ndim, max(geometry.kernel_size)), np.int64)
    starts = np.zeros((ndim, max(geometry.stride) + 1), np.int64)
    most = []
    for axis, (k, s, d) in enumerate(zip(geometry.kernel_size, geometry.stride, geometry.dilation, strict=True)):
        reach = d * np.arange(k, dtype=np.int64)
        remainders = reach % s
        order = np.argsort(remainders, kind="stable")
        steps[axis, :k] = ((remainders - reach) // s)[order]
        counts = np.bincount(remainders, minlength=starts.shape[1] - 1)
        starts[axis, 1:] = np.cumsum(counts)
        most.append(int(counts.max()))
    return steps, starts, tuple(most)


def _spread(
    index: SiteIndex, geometry: ConvGeometry, low: int, extent: int
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """What each fine line reaches along the last axis: ``[N, most]`` filled line by line, and counts ``[L]``."""
    taps, stride, padding, dilation = (
        axes[-1] for axes in (geometry.kernel_size, geometry.stride, geometry.padding, geometry.dilation)
    )
    lines = len(index.line_keys)
    spread = np.empty((len(index.sites), _reach_tables(geometry)[2][-1]), np.uint32)
    counts = np.empty(lines, np.int64)
    positions = np.ascontiguousarray(index.sites[:, -1])
    run_ranges(
        lambda start, stop: _spread_lines(
            positions,
            index.line_starts,
            start,
            stop,
            stride,
            padding,
            taps,
            dilation,
            low,
            extent,
            spread,
            counts,
        ),
        lines,
        _SMALLEST_RANGE,
    )
    return spread, counts


def _reached_lines(
    index: SiteIndex, geometry: ConvGeometry, box: SiteKeys, first: int, last: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Keys of the coarse lines that fine lines ``first .. last`` reach, ascending, and the fine line of each."""
    steps, step_starts, most = _reach_tables(geometry)
    combinations = math.prod(most[:-1])
    stride, padding, low, extent, strides = (
        np.array(values, np.int64)
        for values in (geometry.stride, geometry.padding, box.low, box.extent, box.strides)
    )
    keys = np.empty((last - first) * combinations, np.int64)
    lines = np.empty(len(keys), np.int64)
    count = _reach_lines(
        index.sites,
        index.line_starts,
        first,
        last,
        stride,
        padding,
        steps,
        step_starts,
        low,
        extent,
        strides,
        keys,
        lines,
    )
    order = argsort_keys(keys[:count], box.cells)
    return keys[order], lines[order]


def _united(
    box: SiteKeys,
    line_keys: NDArray[np.int64],
    lines: NDArray[np.int64],
    spread_starts: NDArray[np.int64],
    spread: NDArray[np.uint32],
    counts: NDArray[np.int64],
    ascend: bool,
) -> NDArray[np.int32]:
    """Sites ``[M, 1+D]`` of the coarse lines ``line_keys``, which repeat for each fine line that reaches them."""
    run_starts = np.empty(len(line_keys) + 1, np.int64)
    runs = _run_starts(line_keys, run_starts)
    room = np.concatenate([[0], np.cumsum(counts[lines])])
    positions = np.empty(room[-1], np.uint32)
    run_counts = np.empty(runs, np.int64)
    parts: dict[int, NDArray[np.uint32]] = {}

    def unite(start: int, stop: int) -> None:
        mask = np.zeros(min(_LONGEST_MASK, (box.extent[-1] >> 6) + 1), np.uint64)
        own = positions[room[run_starts[start]] : room[run_starts[stop]]]
        count = _unite(
            run_starts, start, stop, lines, spread_starts, spread, counts, ascend, mask, own, run_counts
        )
        parts[start] = own[:count]

    run_ranges(unite, runs, _SMALLEST_RANGE)
    together = np.concatenate([np.empty(0, np.uint32), *(parts[start] for start in sorted(parts))])
    row_starts = np.concatenate([[0], np.cumsum(run_counts)])
    sites = np.empty((len(together), len(box.low)), np.int32)
    low, strides = np.array(box.low, np.int64), np.array(box.strides, np.int64)
    run_ranges(
        lambda start, stop: _fill_sites(
            line_keys, run_starts, row_starts, start, stop, low, strides, together, sites
        ),
        runs,
        _SMALLEST_RANGE,
    )
    return sites


def coarse_sites(index: SiteIndex, geometry: ConvGeometry, shape: Sequence[int] | None) -> Tensor:
    """See :meth:`sparseconv.backends.Backend.coarse_sites`."""
    rows, columns = index.sites.shape
    box = coarse_box(index.box, geometry, shape) if rows else None
    if box is None:
        return no_sites(columns)
    spread, counts = _spread(index, geometry, box.low[-1], box.extent[-1])
    spread_starts = index.line_starts.astype(np.int64) * spread.shape[1]
    combinations = math.prod(_reach_tables(geometry)[2][:-1])
    chunk = max(1, _REACHED_AT_ONCE // combinations)
    total = len(index.line_keys)
    found = [
        _united(
            box,
            *_reached_lines(index, geometry, box, first, min(total, first + chunk)),
            spread_starts,
            spread.reshape(-1),
            counts,
            geometry.dilation[-1] == 1,
        )
        for first in range(0, total, chunk)
    ]
    if len(found) == 1:
        return torch.from_numpy(found[0])
    # The lines of different chunks reach the same coarse lines.
    keys, packed = pack_sites(np.concatenate(found))
    return sites_of(keys, distinct_sorted(packed))
