"""Index of a set of sites: blocks of 32 cells with their occupancy and rank, in an open-addressing hash table.

A block is 32 successive keys. Its slot of 16 bytes holds its name (key / 32), its 32-bit occupancy, and the rank
(place in lexicographic order) of its first site; the rank of any site is the block's rank plus the number of
occupancy bits below its own. So one look-up reads one sector of memory and answers for 32 cells.

Which slot a block gets depends on which thread came first. What a look-up finds does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sparseconv.backends import DuplicateSiteError
from sparseconv.backends.cuda.launch import cuda, device_function, kernel
from sparseconv.backends.site_keys import SiteKeys, check_site_count
from sparseconv.memoized import memoized

_EMPTY = -1


@device_function
def slot_of(name, last_slot):
    """Where the probing for a block begins: murmur3's mixing of 32 bits, in products that fit 64."""
    mixed = (name ^ (name >> 31)) & 0xFFFFFFFF
    mixed = ((mixed ^ (mixed >> 16)) * 0x45D9F3B5) & 0xFFFFFFFF
    mixed = ((mixed ^ (mixed >> 15)) * 0x2C1B3C6D) & 0xFFFFFFFF
    return (mixed ^ (mixed >> 16)) & last_slot


@device_function
def rank_of(key, table):
    """Rank of the site with this key, -1 where there is none."""
    name = key >> 5
    last_slot = table.shape[0] - 1
    slot = slot_of(name, last_slot)
    found = table[slot, 0]
    while found != name and found != -1:
        slot = (slot + 1) & last_slot
        found = table[slot, 0]
    if found == -1:
        return -1
    block = table[slot, 1]
    occupancy = (block >> 32) & 0xFFFFFFFF
    bit = key & 31
    if (occupancy >> bit) & 1 == 0:
        return -1
    return (block & 0x7FFFFFFF) + cuda.popc(occupancy & ((1 << bit) - 1))


@kernel
def _pack(sites, low, strides, keys):
    """Row-major number of each site inside the box."""
    for r in range(cuda.grid(1), sites.shape[0], cuda.gridsize(1)):
        key = 0
        for c in range(len(low)):
            key += (np.int64(sites[r, c]) - low[c]) * strides[c]
        keys[r] = key


@kernel
def _fill_table(keys, table):
    """Enter each block of the ascending ``keys``: the thread of its first site collects it."""
    last_slot = table.shape[0] - 1
    for r in range(cuda.grid(1), keys.shape[0], cuda.gridsize(1)):
        name = keys[r] >> 5
        if r > 0 and keys[r - 1] >> 5 == name:
            continue
        occupancy = 0
        site = r
        while site < keys.shape[0] and keys[site] >> 5 == name:
            occupancy |= 1 << (keys[site] & 31)
            site += 1
        slot = slot_of(name, last_slot)
        while cuda.atomic.cas(table, (slot, 0), -1, name) != -1:
            slot = (slot + 1) & last_slot
        table[slot, 1] = (occupancy << 32) | r


@kernel
def _query(queries, low, extent, strides, table, order, rows):
    """Row of each queried site, -1 where it is absent; ``order`` is empty where ranks are rows."""
    for q in range(cuda.grid(1), queries.shape[0], cuda.gridsize(1)):
        key = 0
        inside = True
        for c in range(len(low)):
            distance = np.int64(queries[q, c]) - low[c]
            if distance < 0 or distance >= extent[c]:
                inside = False
                break
            key += distance * strides[c]
        rank = -1
        if inside:
            rank = rank_of(key, table)
        if rank >= 0 and order.shape[0] > 0:
            rank = order[rank]
        rows[q] = rank


@dataclass(frozen=True, eq=False)
class SiteIndex:
    """A set of distinct sites and what finds them.

    Attributes:
        box: bounding box and strides of the keys.
        sites: int32 ``[N, 1+D]`` in the caller's order.
        keys: int64 ``[N]`` ascending.
        order: int32 ``[N]``, the caller's row of each sorted site; empty where the rows came sorted.
    """

    box: SiteKeys
    sites: Tensor
    keys: Tensor
    order: Tensor

    @property
    def is_sorted(self) -> bool:
        """Whether the caller's rows are in lexicographic order."""
        return len(self.order) < len(self.keys) or len(self.keys) == 0

    @memoized
    def table(self) -> Tensor:
        """Slots of blocks, int64 ``[S, 2]``: name (-1 where empty), then occupancy << 32 | rank.

        There are at least two slots for each site, and so at most half of them are filled: a probe run is short,
        1.5 slots on average for a hit. The number of blocks, which is smaller, would have to be waited for.
        """
        slots = 1 << max(4, (2 * len(self.keys) - 1).bit_length())
        table = torch.full((slots, 2), _EMPTY, dtype=torch.int64, device=self.keys.device)
        _fill_table.launch(len(self.keys), self.keys, table)
        return table


def bounds(indices: Tensor) -> tuple[list[int], list[int]]:
    """See :meth:`sparseconv.backends.Backend.bounds`. Waits once."""
    low, high = torch.stack(torch.aminmax(indices, dim=0)).tolist()
    return low, high


def pack_sites(sites: Tensor) -> tuple[SiteKeys, Tensor]:
    """Bounding box and key of each row of ``sites [N, 1+D]``. Waits once, for the box.

    Raises:
        ValueError: the sites cannot be packed into 63 bits.
    """
    rows, columns = sites.shape
    box = SiteKeys.spanning(*(bounds(sites) if rows else ([0] * columns, [-1] * columns)))
    keys = torch.empty(rows, dtype=torch.int64, device=sites.device)
    _pack.launch(rows, sites, box.low, box.strides, keys)
    return box, keys


def build_index(indices: Tensor) -> SiteIndex:
    """See :meth:`sparseconv.backends.Backend.build_index`.

    Waits twice for sorted rows (box, order), three times for others (repeats).
    """
    check_site_count(len(indices))
    # A copy: kernels rely on the order that is found here, whatever becomes of the caller's memory.
    sites = indices.detach().clone(memory_format=torch.contiguous_format)
    box, keys = pack_sites(sites)
    order = torch.empty(0, dtype=torch.int32, device=sites.device)
    if not bool((keys[1:] > keys[:-1]).all()):
        keys, positions = torch.sort(keys, stable=True)
        repeats = torch.nonzero(keys[1:] == keys[:-1])
        if len(repeats):
            at = int(repeats[0, 0])
            first, second = positions[at : at + 2].tolist()
            raise DuplicateSiteError(
                f"indices hold the site {sites[second].tolist()} (batch first) more than once, in rows {first} "
                f"and {second}: merge duplicate voxels first, for example with sparseconv.voxelize"
            )
        order = positions.int()
    return SiteIndex(box, sites, keys, order)


def is_sorted(index: SiteIndex) -> bool:
    """See :meth:`sparseconv.backends.Backend.is_sorted`."""
    return index.is_sorted


def query(index: SiteIndex, indices: Tensor) -> Tensor:
    """See :meth:`sparseconv.backends.Backend.query`."""
    queries = indices.detach().contiguous()
    rows = torch.empty(len(queries), dtype=torch.int64, device=queries.device)
    box = index.box
    _query.launch(len(queries), queries, box.low, box.extent, box.strides, index.table, index.order, rows)
    return rows
