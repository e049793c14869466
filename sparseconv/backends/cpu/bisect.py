"""Binary search in a stretch of a row list, for kernels."""

from __future__ import annotations

import numpy as np

from sparseconv.backends.cpu.jit import kernel


@kernel
def first_at_least(rows, start, stop, value):
    """First position of the ascending stretch ``start .. stop`` whose value is at least ``value``."""
    while start < stop:
        middle = (start + stop) >> 1
        if rows[middle] < value:
            start = middle + 1
        else:
            stop = middle
    return start


@kernel
def copy_into(target, values):
    """Copy an array into one of its length; a slice assigned to takes Numba 2 s to compile, once a process."""
    for i in range(target.shape[0]):
        target[i] = values[i]


@kernel
def tap_starts(out_rows, tap_offsets, row):
    """Where the pairs of the output rows from ``row`` on begin in each tap."""
    starts = np.empty(tap_offsets.shape[0] - 1, np.int64)
    for tap in range(starts.shape[0]):
        starts[tap] = first_at_least(out_rows, tap_offsets[tap], tap_offsets[tap + 1], row)
    return starts


@kernel
def block_stops(out_rows, tap_offsets, starts, row0, row1, stops):
    """Where the pairs of the output rows ``row0 .. row1`` end in each tap; they begin at ``starts``.

    Output rows are distinct within a tap, so a block holds at most as many pairs as rows.
    """
    for tap in range(starts.shape[0]):
        far = min(tap_offsets[tap + 1], starts[tap] + (row1 - row0))
        stops[tap] = first_at_least(out_rows, starts[tap], far, row1)
