"""The steps of a strided map, taken by several threads at once; see :mod:`sparseconv.backends.cpu.meeting`."""

from __future__ import annotations

import numpy as np

from sparseconv.backends.cpu.atomic import add, linger, load, store
from sparseconv.backends.cpu.coarse_lines import reach_last, reach_leading
from sparseconv.backends.cpu.coarse_words import fill_lines, unite_lines
from sparseconv.backends.cpu.jit import kernel
from sparseconv.backends.cpu.meeting import LINE, take, wait, wait_for, word
from sparseconv.backends.cpu.radix import sort_digits

_WORDS = 18
# What stands behind a ticket is for :func:`~sparseconv.backends.cpu.meeting.take`.
(
    _,
    _REACH_TICKET,
    _,
    _,
    _REACHED,
    MEMBERS,
    ARE_SPARE,
    IDLE_LINES,
    HAS_LINES,
    _UNITE_TICKET,
    _,
    _,
    _UNITED,
    HAS_OUTPUTS,
    _FILL_TICKET,
    _,
    _,
    _FILLED,
) = range(0, _WORDS * LINE, LINE)
# Length of the meeting place.
WORDS = _WORDS * LINE


@kernel
def reach(
    place,
    tasks,
    is_helper,
    sites,
    order,
    line_keys,
    line_starts,
    plane_length,
    first_position,
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
    strides,
    key_bits,
    keys,
    members,
    spare_keys,
    spare_members,
):
    """What all fine lines reach: along the last axis in tasks, and along the leading ones, sorted, by the caller.

    The word ``MEMBERS`` receives one more than the number of members, ``ARE_SPARE`` whether they stand in the
    spare arrays, and ``IDLE_LINES`` how many lines have no hits.

    Returns whether all is done, and for a helper, whether the next step may begin: False after a while of waiting.
    """
    lines = line_starts.shape[0] - 1
    last = kernel_size.shape[0] - 1
    if not is_helper and load(word(place, MEMBERS)) == 0:
        count = reach_leading(
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
        )
        are_spare = sort_digits(
            keys[:count], members[:count], 0, key_bits, spare_keys[:count], spare_members[:count]
        )
        store(word(place, ARE_SPARE), np.int64(are_spare))
        store(word(place, MEMBERS), count + 1)
    while True:
        task = take(place, _REACH_TICKET, tasks, is_helper)
        if task < 0:
            break
        start, stop = lines * task // tasks, lines * (task + 1) // tasks
        idle = reach_last(
            sites,
            order,
            line_starts,
            start,
            stop,
            kernel_size[last],
            stride[last],
            padding[last],
            dilation[last],
            steps[last],
            step_taps[last],
            step_counts[last],
            low[last + 1],
            extent[last + 1],
            hit_cells,
            hit_taps,
            hit_rows,
            hit_starts,
            hit_stops,
            spans,
        )
        add(word(place, IDLE_LINES), idle)
        add(word(place, _REACHED), 1)
    return wait_for(place, HAS_LINES) if is_helper else wait(place, _REACHED, tasks)


@kernel
def unite(
    place,
    is_helper,
    bounds,
    run_starts,
    room,
    members,
    hit_starts,
    hit_stops,
    hit_cells,
    hit_taps,
    spans,
    taps,
    table_length,
    words,
    masks,
    word_starts,
    word_stops,
    row_counts,
    counts,
):
    """The words of all coarse lines, a chunk of them a task; see :func:`coarse_words.unite_lines`.

    Returns whether all is done, and for a helper, whether the next step may begin: False after a while of waiting.
    """
    chunks = bounds.shape[0] - 1
    stretch = np.zeros(table_length, np.uint64)
    while True:
        chunk = take(place, _UNITE_TICKET, chunks, is_helper)
        if chunk < 0:
            break
        unite_lines(
            run_starts,
            room,
            bounds[chunk],
            bounds[chunk + 1],
            members,
            hit_starts,
            hit_stops,
            hit_cells,
            hit_taps,
            spans,
            taps,
            stretch,
            words,
            masks,
            word_starts,
            word_stops,
            row_counts,
            counts[chunk],
        )
        add(word(place, _UNITED), 1)
    return wait_for(place, HAS_OUTPUTS) if is_helper else wait(place, _UNITED, chunks)


@kernel
def fill(
    place,
    is_helper,
    leaves_last,
    bounds,
    first_rows,
    line_keys,
    run_starts,
    words,
    masks,
    word_starts,
    word_stops,
    members,
    hit_starts,
    hit_stops,
    hit_cells,
    hit_taps,
    hit_rows,
    taps,
    low,
    strides,
    table_length,
    sites,
    line_starts,
    cursors,
    fine_rows,
    coarse_rows,
):
    """Sites and pairs of all coarse lines, a chunk of them a task; see :func:`coarse_words.fill_lines`.

    A thread that ``leaves_last`` gives the others the time to leave.
    """
    chunks = bounds.shape[0] - 1
    while True:
        chunk = take(place, _FILL_TICKET, chunks, is_helper)
        if chunk < 0:
            break
        fill_lines(
            line_keys,
            run_starts,
            words,
            masks,
            word_starts,
            word_stops,
            bounds[chunk],
            bounds[chunk + 1],
            first_rows[chunk],
            members,
            hit_starts,
            hit_stops,
            hit_cells,
            hit_taps,
            hit_rows,
            taps,
            low,
            strides,
            table_length,
            sites,
            line_starts,
            cursors[chunk],
            fine_rows,
            coarse_rows,
        )
        add(word(place, _FILLED), 1)
    if not wait(place, _FILLED, chunks):
        return False
    if leaves_last:
        linger()
    return True
