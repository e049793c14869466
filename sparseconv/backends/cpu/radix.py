"""Sorting non-negative 64-bit keys by their digits: no comparison, so no mispredicted branch.

Eight bits a pass, from the least significant on, and only the passes that the largest key needs: 17,000 keys of
15 bits in 0.07 ms and 80,000 of 27 bits in 0.6 ms (Zen 4), where numpy's sort takes 0.5 and 3 ms; with vector
instructions (a Xeon) that takes 11 ns a key. Digits of 11 bits need fewer passes and are slower at a million keys.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparseconv.backends.cpu.jit import kernel

_DIGIT = 8


@kernel
def sort_digits(keys, values, bits, spare_keys, spare_values):
    """Sort ``keys`` below ``2 ** bits`` stably, and ``values`` along with them where it has as many.

    Returns whether the result stands in the spare arrays.
    """
    digit = np.uint64(_DIGIT)
    last = np.uint64((1 << _DIGIT) - 1)
    count = np.uint64(keys.shape[0])
    passes = (bits + _DIGIT - 1) // _DIGIT
    has_values = values.shape[0] > 0
    places = np.zeros((passes, 1 << _DIGIT), np.uint64)
    for i in range(count):
        key = np.uint64(keys[i])
        for p in range(passes):
            places[p, key & last] += np.uint64(1)
            key >>= digit
    in_spare = False
    source, target = keys, spare_keys
    source_values, target_values = values, spare_values
    for p in range(passes):
        place = places[p]
        total = np.uint64(0)
        is_shared = False
        for d in range(place.shape[0]):
            found = place[d]
            is_shared |= found == count
            place[d] = total
            total += found
        if is_shared:
            # All keys have this digit in common.
            continue
        shift = np.uint64(p) * digit
        for i in range(count):
            d = (np.uint64(source[i]) >> shift) & last
            at = place[d]
            place[d] = at + np.uint64(1)
            target[at] = source[i]
            if has_values:
                target_values[at] = source_values[i]
        source, target = target, source
        source_values, target_values = target_values, source_values
        in_spare = not in_spare
    return in_spare


def bits_below(key_range: int) -> int:
    """Bits of the largest key below ``key_range``."""
    return max(0, key_range - 1).bit_length()


def sort_keys(
    keys: NDArray[np.int64], key_range: int, values: NDArray[Any] | None = None
) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Non-negative keys below ``key_range`` in ascending order, and the values that came with them.

    The order of equal keys stays. The arrays that are handed in are overwritten.
    """
    carried = np.empty(0, np.int32) if values is None else values
    spare, spare_values = np.empty_like(keys), np.empty_like(carried)
    if sort_digits(keys, carried, bits_below(key_range), spare, spare_values):
        return spare, spare_values
    return keys, carried


def argsort_keys(keys: NDArray[np.int64], key_range: int) -> tuple[NDArray[np.int64], NDArray[np.integer[Any]]]:
    """Non-negative keys below ``key_range`` in ascending order, and the position of each before; stable.

    The keys that are handed in are overwritten. Positions are int32 where that suffices, else int64.
    """
    positions = np.arange(len(keys), dtype=np.int32 if len(keys) < 1 << 31 else np.int64)
    return sort_keys(keys, key_range, positions)
