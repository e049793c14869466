"""Binary search in a stretch of a row list, for kernels."""

from __future__ import annotations

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
