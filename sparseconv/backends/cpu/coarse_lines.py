"""What fine sites reach under a strided geometry, line by line: along the last axis, and which coarse lines.

A line is a run of sites that differ in the last axis only. Along that axis a site reaches the same cells in every
coarse line, so they are found once a line.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparseconv.backends.cpu.jit import kernel
from sparseconv.backends.cpu.scratch import Scratch
from sparseconv.geometry import ConvGeometry


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
def _most_taps(step_counts):
    """The most taps that one remainder has."""
    most = np.int64(0)
    for count in step_counts:
        most = max(most, count)
    return most


@kernel
def reach_last(
    sites,
    order,
    line_starts,
    start,
    stop,
    kernel_size,
    stride,
    padding,
    dilation,
    steps,
    step_taps,
    step_counts,
    low,
    extent,
    hit_cells,
    hit_taps,
    hit_rows,
    hit_starts,
    hit_stops,
    spans,
):
    """What each of the fine lines ``start .. stop`` reaches along the last axis, from ``low`` on.

    Returns how many of them reach nothing.

    A hit is a cell, the tap, and the row of the fine site. Those of a line lie at ``hit_starts .. hit_stops`` in
    order of its sites, and the words of 64 cells that hold them inside ``spans``. ``steps [remainder, nth]`` is
    what the nth tap of a remainder adds to the quotient.
    """
    exponent = _power_of_two(stride)
    last = sites.shape[1] - 1
    most = np.uint64(_most_taps(step_counts))
    one = np.uint64(1)
    idle = 0
    has_order = order.shape[0] > 0
    first_row, end_row = np.uint64(line_starts[start]), np.uint64(line_starts[stop])
    places = np.empty(end_row - first_row + one, np.uint64)
    place = first_row * most
    for row in range(first_row, end_row):
        places[row - first_row] = place
        fine = np.int64(sites[row, last]) + padding
        quotient = _divide(fine, stride, exponent)
        remainder = np.uint64(fine - quotient * stride)
        quotient -= low
        named = np.int64(order[row]) if has_order else np.int64(row)
        count = step_counts[remainder]
        # What is no hit is written too, and overwritten by the next: a branch would be mispredicted.
        for nth in range(most):
            cell = quotient + steps[remainder, nth]
            hit_cells[place] = cell
            hit_taps[place] = step_taps[remainder, nth]
            hit_rows[place] = named
            place += np.uint64((np.int64(nth) < count) & (cell >= 0) & (cell < extent))
    places[end_row - first_row] = place
    for line in range(np.uint64(start), np.uint64(stop)):
        row, end = np.uint64(line_starts[line]), np.uint64(line_starts[line + one])
        hit_starts[line] = places[row - first_row]
        hit_stops[line] = places[end - first_row]
        idle += hit_starts[line] == hit_stops[line]
        nearest = np.int64(sites[row, last]) + padding - dilation * (kernel_size - 1)
        farthest = np.int64(sites[end - one, last]) + padding
        spans[line, 0] = max(0, _divide(nearest, stride, exponent) - low) >> 6
        spans[line, 1] = min(extent - 1, _divide(farthest, stride, exponent) - low) >> 6
    return idle


@kernel
def reach_leading(
    sites,
    line_keys,
    line_starts,
    plane_length,
    first_position,
    kernel_size,
    stride,
    padding,
    steps,
    step_taps,
    step_counts,
    low,
    extent,
    strides,
    keys,
    members,
):
    """Key of each coarse line that a fine line reaches, and which fine line by which taps; returns how many.

    A member is ``fine line << 32 | tap of the leading axes``. What no line is reached by is written too, and
    overwritten by the next. ``plane_length`` keys of fine lines are one plane, in which the last leading axis runs
    from ``first_position`` on.
    """
    leads = strides.shape[0] - 1
    one = np.uint64(1)
    last = max(0, leads - 1)
    # All but the last leading axis: lines of one plane have them in common.
    exponents = np.empty(last, np.int64)
    room = 1
    for a in range(last):
        exponents[a] = _power_of_two(stride[a])
        room *= steps.shape[2]
    plane_keys = np.empty(room + 1, np.int64)
    plane_taps = np.empty(room + 1, np.int64)
    planes = np.uint64(0)
    count = np.uint64(0)
    last_steps, last_taps, reached_by = steps[last], step_taps[last], step_counts[last]
    taps, most = kernel_size[last], np.uint64(steps.shape[2])
    line_stride, cells = strides[leads], extent[leads]
    # What is read from arrays in the loop is read anew after each write.
    exponent, divisor = _power_of_two(stride[last]), stride[last]
    shift, lowest = first_position + padding[last], low[leads]
    plane, plane_stop = np.int64(0), np.int64(-1)
    for line in range(np.uint64(line_keys.shape[0])):
        if line_keys[line] >= plane_stop:
            plane = line_keys[line] // plane_length * plane_length
            plane_stop = plane + plane_length
            row = np.uint64(line_starts[line])
            plane_keys[0] = (np.int64(sites[row, 0]) - low[0]) * strides[0]
            plane_taps[0] = 0
            planes = one
            for a in range(last):
                fine = np.int64(sites[row, a + 1]) + padding[a]
                quotient = _divide(fine, stride[a], exponents[a])
                remainder = fine - quotient * stride[a]
                first, end = np.int64(0), step_counts[a, remainder]
                while first < end and quotient + steps[a, remainder, end - 1] < low[a + 1]:
                    end -= 1
                while first < end and quotient + steps[a, remainder, first] >= low[a + 1] + extent[a + 1]:
                    first += 1
                found = np.uint64(end - first)
                # From the back, so that nothing is overwritten before it is used.
                for old in range(planes):
                    old = planes - one - old
                    key, tap = plane_keys[old], plane_taps[old] * kernel_size[a]
                    for new in range(found):
                        nth = first + np.int64(new)
                        step = quotient + steps[a, remainder, nth] - low[a + 1]
                        plane_keys[old * found + new] = key + step * strides[a + 1]
                        plane_taps[old * found + new] = tap + step_taps[a, remainder, nth]
                planes *= found
        named = np.int64(line) << 32
        if leads == 0:
            keys[count] = plane_keys[0]
            members[count] = named
            count += one
            continue
        fine = line_keys[line] - plane + shift
        quotient = _divide(fine, divisor, exponent)
        remainder = np.uint64(fine - quotient * divisor)
        quotient -= lowest
        reached = np.int64(reached_by[remainder])
        for p in range(planes):
            plane_key, plane_tap = plane_keys[p], plane_taps[p] * taps
            # Inside: around the planes, what is reached would become a branch that is mispredicted.
            for nth in range(most):
                step = quotient + last_steps[remainder, nth]
                keys[count] = plane_key + step * line_stride
                members[count] = named | (plane_tap + last_taps[remainder, nth])
                count += np.uint64((np.int64(nth) < reached) & (step >= 0) & (step < cells))
    return np.int64(count)


@dataclass(frozen=True)
class Steps:
    """For each axis and remainder of ``(fine + padding) / stride``: the taps that divide, in ascending order.

    Tap ``t`` divides where the remainder is that of ``d * t``, and then adds ``(remainder - d * t) / s`` to the
    quotient.

    Attributes:
        steps: int64 ``[D, largest stride, most]``, what a tap adds.
        taps: int64, of the same shape: the tap.
        counts: int64 ``[D, largest stride]``, how many taps there are.
        most: the most taps that one remainder has on each axis.
        axes: kernel size, stride, padding and dilation, int64 ``[D]`` each.
    """

    steps: NDArray[np.int64]
    taps: NDArray[np.int64]
    counts: NDArray[np.int64]
    most: tuple[int, ...]
    axes: tuple[NDArray[np.int64], ...]


@functools.lru_cache(maxsize=64)
def steps_of(geometry: ConvGeometry) -> Steps:
    """The steps of a geometry."""
    axes = list(zip(geometry.kernel_size, geometry.stride, geometry.dilation, strict=True))
    counts = np.zeros((geometry.ndim, max(geometry.stride)), np.int64)
    for axis, (k, s, d) in enumerate(axes):
        counts[axis, :s] = np.bincount(d * np.arange(k, dtype=np.int64) % s, minlength=s)
    most = counts.max(axis=1)
    steps = np.zeros((*counts.shape, int(most.max())), np.int64)
    taps = np.zeros_like(steps)
    for axis, (k, s, d) in enumerate(axes):
        reach = d * np.arange(k, dtype=np.int64)
        for remainder in np.flatnonzero(counts[axis]):
            found = np.flatnonzero(reach % s == remainder)
            steps[axis, remainder, : len(found)] = (remainder - reach[found]) // s
            taps[axis, remainder, : len(found)] = found
    numbers = (geometry.kernel_size, geometry.stride, geometry.padding, geometry.dilation)
    return Steps(steps, taps, counts, tuple(most.tolist()), tuple(np.array(row, np.int64) for row in numbers))


@dataclass(frozen=True)
class Hits:
    """What each fine line reaches along the last axis; see :func:`reach_last`."""

    cells: NDArray[np.uint32]
    taps: NDArray[np.int32]
    rows: NDArray[np.int32]
    starts: NDArray[np.uint64]
    stops: NDArray[np.uint64]
    spans: NDArray[np.int64]

    @classmethod
    def within(cls, scratch: Scratch, sites: int, lines: int, most: int) -> Hits:
        """Room for what ``sites`` in so many lines reach, each at most ``most`` cells."""
        room = sites * most
        return cls(
            cells=scratch.array("hit cells", room, np.uint32),
            taps=scratch.array("hit taps", room, np.int32),
            rows=scratch.array("hit rows", room, np.int32),
            starts=scratch.array("hit starts", lines, np.uint64),
            stops=scratch.array("hit stops", lines, np.uint64),
            spans=scratch.array("hit spans", 2 * lines, np.int64).reshape(lines, 2),
        )
