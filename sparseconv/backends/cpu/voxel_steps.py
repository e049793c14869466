"""The steps of grouping points by voxel, taken by several threads at once without a word of Python between.

A step of a scan takes as long as waking a thread does, 60 us, and so does each meeting of two threads at the
interpreter's lock. So a helper is woken once, and threads meet at words of memory.
"""

from __future__ import annotations

import numpy as np

from sparseconv.backends.cpu.atomic import add, exchange, load, pause, store
from sparseconv.backends.cpu.jit import kernel
from sparseconv.backends.cpu.voxel_runs import (
    clear_blocks,
    fill_blocks,
    find_runs,
    number_runs,
    sites_of_keys,
    spread_rows,
)

# Words of the threads' meeting place, each on a cache line of its own.
_LINE = 8
_WORDS = 14
(
    FIND_TICKET,
    TURN,
    NUMBERED,
    HAS_OUTPUTS,
    SPREAD_TICKET,
    _SPREAD_FRONT,
    _SPREAD_BACK,
    SPREAD,
    FILL_TICKET,
    _FILL_FRONT,
    _FILL_BACK,
    FILLED,
    POINTS_KEPT,
    HAS_FAILED,
) = range(0, _WORDS * _LINE, _LINE)
# From here on one word for each task: whether its runs have been found.
_HAS_RUNS = _WORDS * _LINE

# Looks at what others do, about 1 ns each, before a waiting thread returns to Python, where it sleeps: another
# program may need the core.
_LOOKS = 10_000
# Looks, about 10 us, while another thread passes the interpreter's lock: where two come to it at once, the second
# sleeps for 50 us.
_LINGER = 400


def words_of(tasks: int) -> int:
    """Length of the meeting place, int64 zeros."""
    return _HAS_RUNS + tasks


@kernel
def _word(place, index):
    return place + np.uint64(8 * index)


@kernel
def _wait(place, index, value, looks):
    """Look until the word has at least the value; returns whether it has."""
    for _ in range(looks):
        if load(_word(place, index)) >= value:
            return True
        if load(_word(place, HAS_FAILED)) != 0:
            return False
        pause()
    return False


@kernel
def _take(place, ticket, tasks, from_back):
    """A task that no other thread has, or -1: the caller takes them from the front and helpers from the back.

    So a thread comes again to the memory that it had in the step before. The words for front and back stand behind
    that of the tickets.
    """
    if load(_word(place, HAS_FAILED)) != 0 or add(_word(place, ticket), 1) >= tasks:
        return -1
    if from_back:
        return tasks - 1 - add(_word(place, ticket + 2 * _LINE), 1)
    return add(_word(place, ticket + _LINE), 1)


@kernel
def _linger():
    """Let another thread leave the interpreter's lock."""
    for _ in range(_LINGER):
        pause()


@kernel
def group_runs(
    place,
    tasks,
    points,
    starts,
    samples,
    pieces_of,
    constants,
    box_low,
    strides,
    keys,
    run_starts,
    run_counts,
    dropped,
    table,
    shift,
    voxels,
    voxel_keys,
    voxel_counts,
    run_rows,
    run_ranks,
):
    """Find the runs of all tasks on any thread, and number their voxels, task after task, on one at a time.

    ``pieces_of[task] .. pieces_of[task + 1]`` are the pieces of a task. Returns whether all is done: False after a
    while of waiting.
    """
    has_tickets = True
    looks = 0
    while looks < _LOOKS and load(_word(place, HAS_FAILED)) == 0:
        task = load(_word(place, NUMBERED))
        if task == tasks:
            return True
        is_ready = load(_word(place, _HAS_RUNS + task)) != 0
        if is_ready and exchange(_word(place, TURN), 1) == 0:
            # Another thread may have numbered it in the meantime.
            task = load(_word(place, NUMBERED))
            while task < tasks and load(_word(place, _HAS_RUNS + task)) != 0:
                number_runs(
                    starts,
                    pieces_of[task],
                    pieces_of[task + 1],
                    run_counts,
                    keys,
                    run_starts,
                    table,
                    shift,
                    voxels,
                    voxel_keys,
                    voxel_counts,
                    run_rows,
                    run_ranks,
                )
                task += 1
                store(_word(place, NUMBERED), task)
            store(_word(place, TURN), 0)
            looks = 0
            continue
        if has_tickets:
            task = add(_word(place, FIND_TICKET), 1)
            has_tickets = task < tasks
            if has_tickets:
                find_runs(
                    points,
                    starts,
                    samples,
                    pieces_of[task],
                    pieces_of[task + 1],
                    constants,
                    box_low,
                    strides,
                    keys,
                    run_starts,
                    run_counts,
                    dropped,
                )
                store(_word(place, _HAS_RUNS + task), 1)
                looks = 0
                continue
        looks += 1
        pause()
    return False


@kernel
def wait_for_outputs(place):
    """Wait until the caller has made room for the outputs; returns whether it has: False after a while."""
    has_outputs = _wait(place, HAS_OUTPUTS, 1, _LOOKS)
    if has_outputs:
        # The caller leaves the interpreter's lock in the meantime.
        _linger()
    return has_outputs


@kernel
def spread_voxels(
    place,
    tasks,
    starts,
    pieces_of,
    run_counts,
    keys,
    run_starts,
    run_rows,
    run_ranks,
    new_rows,
    rows,
    ranks,
    voxel_keys,
    is_exact,
    box_low,
    strides,
    sites,
    has_blocks,
    values,
    counts,
    blocks,
    block_counts,
    is_helper,
    leaves_last,
):
    """Sites of voxels and rows of points, with the points' ranks, or the voxels' blocks where ``has_blocks``.

    Returns whether all is done: False after a while of waiting. A thread that ``leaves_last`` gives the others the
    time to leave.
    """
    voxels = voxel_keys.shape[0]
    while True:
        task = _take(place, SPREAD_TICKET, tasks, is_helper)
        if task < 0:
            break
        start, stop = voxels * task // tasks, voxels * (task + 1) // tasks
        sites_of_keys(voxel_keys, is_exact, box_low, strides, start, stop, sites)
        if has_blocks:
            add(_word(place, POINTS_KEPT), clear_blocks(counts, start, stop, blocks, block_counts))
        else:
            spread_rows(
                starts,
                pieces_of[task],
                pieces_of[task + 1],
                run_counts,
                keys,
                run_starts,
                run_rows,
                run_ranks,
                new_rows,
                rows,
                ranks,
            )
        add(_word(place, SPREAD), 1)
    if not _wait(place, SPREAD, tasks, _LOOKS):
        return False
    if has_blocks:
        while True:
            task = _take(place, FILL_TICKET, tasks, is_helper)
            if task < 0:
                break
            fill_blocks(
                values,
                starts,
                pieces_of[task],
                pieces_of[task + 1],
                run_counts,
                keys,
                run_starts,
                run_rows,
                run_ranks,
                new_rows,
                rows,
                blocks,
            )
            add(_word(place, FILLED), 1)
        if not _wait(place, FILLED, tasks, _LOOKS):
            return False
    if leaves_last:
        _linger()
    return True
