"""Keys sorted by their digits, and the pairs of each tap ordered by output row."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import sparseconv as sc
from sparseconv.backends import backend_for
from sparseconv.backends.cpu.radix import argsort_keys, sort_keys

# Around each number of passes, and where a key and its position no longer share a word.
_RANGES = [1, 2, 1 << 10, (1 << 10) + 1, 1 << 20, 1 << 21, 1 << 31, 1 << 32, (1 << 32) + 1, 1 << 62]


@pytest.mark.parametrize("key_range", _RANGES)
@pytest.mark.parametrize("count", [0, 1, 2, 1000])
def test_keys_are_sorted_stably(key_range: int, count: int) -> None:
    keys = np.random.default_rng(count).integers(0, key_range, count)
    # Each key twice or more, and the extremes.
    keys = np.concatenate([keys, keys[::2], keys[:1] * 0, keys[:1] * 0 + key_range - 1])
    expected = np.argsort(keys, kind="stable")
    found, positions = argsort_keys(keys.copy(), key_range)
    np.testing.assert_array_equal(positions, expected)
    np.testing.assert_array_equal(found, keys[expected])
    found, carried = sort_keys(keys.copy(), key_range, np.arange(len(keys)) * 3)
    np.testing.assert_array_equal(carried, expected * 3)
    np.testing.assert_array_equal(found, keys[expected])


def test_spare_memory_holds_the_keys_of_one_sort() -> None:
    keys = np.array([5, 3, 9, 0])
    spare = np.full(4, 77)
    found, positions = argsort_keys(keys, 10, spare)
    assert found is keys or found is spare
    assert found.tolist() == [0, 3, 5, 9]
    assert positions.tolist() == [3, 1, 0, 2]


@pytest.mark.parametrize("n_out", [1, 63, 64, 65, 1000])
def test_pairs_are_ordered_tap_by_tap(n_out: int, backend: str, device: torch.device) -> None:
    """Taps without a pair, of one pair, and of every row; rows at the ends of words of 64."""
    generator = torch.Generator().manual_seed(n_out)
    sizes = [0, n_out, 0, 1, (n_out + 1) // 2, 0]
    out_rows = [torch.randperm(n_out, generator=generator)[:size] for size in sizes]
    # One tap holds the last row alone.
    out_rows[3][:] = n_out - 1
    in_rows = [torch.randperm(n_out, generator=generator)[:size] + 10 * tap for tap, size in enumerate(sizes)]
    offsets = torch.tensor([0, *np.cumsum(sizes).tolist()], device="cpu")
    with sc.use_backend(backend):
        found_in, found_out = backend_for(device).order_pairs(
            torch.cat(in_rows).int().to(device), torch.cat(out_rows).int().to(device), offsets
        )
    for tap, (start, stop) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)):
        ascending = sorted(zip(out_rows[tap].tolist(), in_rows[tap].tolist(), strict=True))
        assert list(zip(found_out[start:stop].tolist(), found_in[start:stop].tolist(), strict=True)) == ascending
