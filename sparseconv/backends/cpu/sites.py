"""Output sites of transposed convolutions, and distinct sites: emit keys, sort once, unpack."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparseconv.backends.cpu.hash import SiteIndex, pack_sites
from sparseconv.backends.cpu.jit import kernel
from sparseconv.backends.cpu.radix import argsort_keys, sort_keys
from sparseconv.backends.cpu.threads import run_ranges
from sparseconv.backends.site_keys import SiteKeys, fine_box
from sparseconv.geometry import ConvGeometry

# Keys that one range may emit before they are sorted and made distinct: they stay in a second-level cache,
# and bound the extra memory of a kernel that reaches many sites from each.
_EMITTED_AT_ONCE = 1 << 16


@kernel
def _emit_fine(sites, start, stop, offsets, stride, low, extent, strides, keys):
    """Keys of all fine sites that the coarse sites ``start .. stop`` reach; returns how many."""
    taps, ndim = offsets.shape
    count = 0
    for r in range(start, stop):
        for tap in range(taps):
            key = (np.int64(sites[r, 0]) - low[0]) * strides[0]
            inside = True
            for a in range(ndim):
                distance = np.int64(sites[r, a + 1]) * stride[a] + offsets[tap, a] - low[a + 1]
                if distance < 0 or distance >= extent[a + 1]:
                    inside = False
                    break
                key += distance * strides[a + 1]
            if inside:
                keys[count] = key
                count += 1
    return count


@kernel
def drop_repeats(keys):
    """Move the distinct keys of a sorted array to its front; returns how many."""
    count = 0
    for i in range(keys.shape[0]):
        if i == 0 or keys[i] != keys[i - 1]:
            keys[count] = keys[i]
            count += 1
    return count


@kernel
def _unpack(keys, start, stop, low, strides, sites):
    """Sites of ascending keys; a site in its predecessor's line takes no division."""
    last = sites.shape[1] - 1
    line_length = strides[last - 1]
    line_end = np.int64(-1)
    for r in range(start, stop):
        if keys[r] >= line_end or r == start:
            rest = keys[r]
            for c in range(last):
                step = rest // strides[c]
                rest -= step * strides[c]
                sites[r, c] = step + low[c]
            line_end = keys[r] - rest + line_length
        else:
            for c in range(last):
                sites[r, c] = sites[r - 1, c]
        sites[r, last] = keys[r] - (line_end - line_length) + low[last]


@kernel
def _number_runs(keys, order, rows, firsts):
    """Number the runs of equal keys; ``rows[order[i]]`` gets the run of the i-th key. Returns their number."""
    run = -1
    for i in range(keys.shape[0]):
        if i == 0 or keys[i] != keys[i - 1]:
            run += 1
            firsts[run] = i
        rows[order[i]] = run
    return run + 1


def _distinct(keys: NDArray[np.int64], key_range: int) -> NDArray[np.int64]:
    """Distinct keys below ``key_range``, ascending; overwrites what is handed in."""
    found, _ = sort_keys(keys, key_range)
    return found[: drop_repeats(found)].copy()


def sites_of(keys: SiteKeys, packed: NDArray[np.int64]) -> Tensor:
    """Unpack ascending keys into int32 ``[M, 1+D]``."""
    sites = np.empty((len(packed), len(keys.low)), np.int32)
    low, strides = np.array(keys.low, np.int64), np.array(keys.strides, np.int64)
    run_ranges(lambda start, stop: _unpack(packed, start, stop, low, strides, sites), len(packed), 16384)
    return torch.from_numpy(sites)


def _distinct_in_chunks(
    emit: Callable[[int, int, NDArray[np.int64]], int], rows: int, per_site: int, key_range: int
) -> NDArray[np.int64]:
    """Distinct keys below ``key_range`` that ``emit(start, stop, buffer)`` writes for all rows, ascending."""
    chunk = max(1, min(rows, _EMITTED_AT_ONCE // per_site))
    chunks = -(-rows // chunk)
    chunk = -(-rows // chunks)
    found: list[NDArray[np.int64]] = [np.empty(0, np.int64)] * chunks

    def work(first: int, stop: int) -> None:
        buffer = np.empty(chunk * per_site, np.int64)
        for number in range(first, stop):
            count = emit(number * chunk, min(rows, (number + 1) * chunk), buffer)
            found[number] = _distinct(buffer[:count], key_range)

    run_ranges(work, chunks, 1)
    return found[0] if chunks == 1 else _distinct(np.concatenate(found), key_range)


def no_sites(columns: int) -> Tensor:
    """An empty set."""
    return torch.empty((0, columns), dtype=torch.int32, device="cpu")


def fine_sites(index: SiteIndex, geometry: ConvGeometry, shape: Sequence[int] | None) -> Tensor:
    """See :meth:`sparseconv.backends.Backend.fine_sites`."""
    rows, columns = index.sites.shape
    box = fine_box(index.box, geometry, shape) if rows else None
    if box is None:
        return no_sites(columns)
    constants = [
        np.array(values, np.int64)
        for values in (
            geometry.offsets(),
            geometry.stride,
            box.low,
            box.extent,
            box.strides,
        )
    ]
    keys = _distinct_in_chunks(
        lambda start, stop, buffer: _emit_fine(index.sites, start, stop, *constants, buffer),
        rows,
        geometry.volume,
        box.cells,
    )
    return sites_of(box, keys)


def unique_sites(indices: Tensor) -> tuple[Tensor, Tensor]:
    """See :meth:`sparseconv.backends.Backend.unique_sites`."""
    sites = indices.detach().contiguous().numpy()
    box, packed = pack_sites(sites)
    packed, order = argsort_keys(packed, box.cells)
    rows = np.empty(len(sites), np.int64)
    firsts = np.empty(len(sites), np.int64)
    runs = _number_runs(packed, order, rows, firsts)
    return sites_of(box, packed[firsts[:runs]]), torch.from_numpy(rows)
