"""Lines of an index: runs of sites that differ in the last axis only, whatever the size of the box."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparseconv.backends import cpu
from sparseconv.backends.cpu.hash import _fill_lines
from sparseconv.backends.site_keys import EXACT_CELLS


def lines_of(keys: list[int], length: int) -> tuple[list[int], list[int]]:
    """By Python's integers."""
    starts = [i for i, key in enumerate(keys) if i == 0 or key // length != keys[i - 1] // length]
    return [keys[i] // length for i in starts], [*starts, len(keys)]


def found(keys: list[int], length: int, is_exact: bool) -> tuple[list[int], list[int]]:
    line_keys = np.full(len(keys), -7, np.int64)
    line_starts = np.full(len(keys) + 1, -7, np.int32)
    count = _fill_lines(np.array(keys, np.int64), length, is_exact, line_keys, line_starts)
    return line_keys[:count].tolist(), line_starts[: count + 1].tolist()


@given(st.data(), st.integers(1, 1 << 31), st.sampled_from([EXACT_CELLS, 1 << 63]))
def test_lines_by_doubles_and_by_integers(data: st.DataObject, length: int, end: int) -> None:
    """Around multiples of the length, where a rounded quotient would be off by one."""
    near = st.builds(
        lambda line, step: min(max(line * length + step, 0), end - 1),
        st.integers(0, (end - 1) // length),
        st.integers(-2, 2),
    )
    keys = sorted(data.draw(st.sets(near | st.integers(0, end - 1), max_size=40)))
    assert found(keys, length, end == EXACT_CELLS) == lines_of(keys, length)


def test_lines_across_blocks_of_keys() -> None:
    """A line that goes on where one block of keys ends and the next begins, and one that begins there."""
    for length, count in itertools.product((1, 3, 255, 256, 257, 5000), (0, 1, 255, 256, 257, 1000)):
        keys = list(range(7, 7 + count))
        for is_exact in (True, False):
            assert found(keys, length, is_exact) == lines_of(keys, length), (length, count)


@pytest.mark.parametrize("far", [0, 1 << 30])
def test_lines_of_sites(far: int) -> None:
    """An index of sites in three lines; with one far away no key of the box is exact in a double."""
    sites = [[0, 0, 0, 5], [0, 0, 0, 6], [0, 0, 2, 5], [0, 3 + far, 2, far]]
    index = cpu.build_index(torch.tensor(sites, dtype=torch.int32))
    assert (index.box.cells > EXACT_CELLS) == (far > 0)
    assert index.line_starts.tolist() == [0, 2, 3, 4]
    # The box has three cells along the axis before the last.
    assert index.line_keys.tolist() == [0, 2, (3 + far) * 3 + 2]
