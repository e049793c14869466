"""The steps of grouping points by voxel, taken by several threads; see :mod:`sparseconv.backends.cpu.meeting`."""

from __future__ import annotations

from sparseconv.backends.cpu.atomic import add, exchange, linger, load, pause, store
from sparseconv.backends.cpu.jit import kernel
from sparseconv.backends.cpu.meeting import HAS_ENDED, LINE, LOOKS, take, wait, wait_for, word
from sparseconv.backends.cpu.voxel_runs import (
    clear_blocks,
    fill_blocks,
    find_runs,
    number_runs,
    sites_of_keys,
    spread_rows,
)

# What stands behind a ticket is for :func:`~sparseconv.backends.cpu.meeting.take`.
_WORDS = 14
(
    _,
    _FIND_TICKET,
    _TURN,
    _NUMBERED,
    HAS_OUTPUTS,
    _SPREAD_TICKET,
    _,
    _,
    _SPREAD,
    _FILL_TICKET,
    _,
    _,
    _FILLED,
    POINTS_KEPT,
) = range(0, _WORDS * LINE, LINE)
# From here on one word for each task: whether its runs have been found.
_HAS_RUNS = _WORDS * LINE


def words_of(tasks: int) -> int:
    """Length of the meeting place, int64 zeros."""
    return _HAS_RUNS + tasks


@kernel
def group_runs(
    place,
    tasks,
    is_helper,
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

    ``pieces_of[task] .. pieces_of[task + 1]`` are the pieces of a task. Returns whether all is done, and for a
    helper, whether the outputs have room: False after a while of waiting.
    """
    has_tickets = True
    looks = 0
    while looks < LOOKS and load(word(place, HAS_ENDED)) == 0:
        task = load(word(place, _NUMBERED))
        if task == tasks:
            return wait_for(place, HAS_OUTPUTS) if is_helper else True
        is_ready = load(word(place, _HAS_RUNS + task)) != 0
        if is_ready and exchange(word(place, _TURN), 1) == 0:
            # Another thread may have numbered it in the meantime.
            task = load(word(place, _NUMBERED))
            while task < tasks and load(word(place, _HAS_RUNS + task)) != 0:
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
                store(word(place, _NUMBERED), task)
            store(word(place, _TURN), 0)
            looks = 0
            continue
        if has_tickets:
            task = add(word(place, _FIND_TICKET), 1)
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
                store(word(place, _HAS_RUNS + task), 1)
                looks = 0
                continue
        looks += 1
        pause()
    return False


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
        task = take(place, _SPREAD_TICKET, tasks, is_helper)
        if task < 0:
            break
        start, stop = voxels * task // tasks, voxels * (task + 1) // tasks
        sites_of_keys(voxel_keys, is_exact, box_low, strides, start, stop, sites)
        if has_blocks:
            add(word(place, POINTS_KEPT), clear_blocks(counts, start, stop, blocks, block_counts))
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
        add(word(place, _SPREAD), 1)
    if not wait(place, _SPREAD, tasks):
        return False
    if has_blocks:
        while True:
            task = take(place, _FILL_TICKET, tasks, is_helper)
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
            add(word(place, _FILLED), 1)
        if not wait(place, _FILLED, tasks):
            return False
    if leaves_last:
        linger()
    return True
