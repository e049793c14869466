"""Kernel maps by look-ups: count the hits of each tap and block of rows, scan, fill.

A block of threads takes one tap and as many successive coarse sites as it has threads. Places come from a scan
over ``(tap, block of sites)``, so the pairs of a tap are in order of their coarse rows without any sort.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sparseconv.backends import CoarseMap
from sparseconv.backends.cuda.hash import SiteIndex, build_index, rank_of
from sparseconv.backends.cuda.launch import BLOCK, cuda, kernel
from sparseconv.backends.cuda.sites import coarse_sites
from sparseconv.geometry import ConvGeometry

# Fine rows that are held between counting and filling, at most: 512 MB. Taps beyond that are taken in groups and
# looked up a second time, which bounds the memory of a kernel of very many taps.
_HELD_ROWS = 1 << 27


@kernel
def _find(
    sites, first_tap, kernel_size, stride, padding, dilation, low, extent, strides, table, order, found, counts
):
    """Fine row of each coarse site for the taps from ``first_tap`` on, and the hits of each block of sites.

    ``found [T, M]`` holds -1 where there is none; ``counts [T, B]``.
    """
    taps, rows = found.shape
    parts = counts.shape[1]
    ndim = len(stride)
    for item in range(cuda.blockIdx.x, taps * parts, cuda.gridDim.x):
        tap = item // parts
        part = item - tap * parts
        r = part * BLOCK + cuda.threadIdx.x
        rank = -1
        if r < rows:
            inside = True
            distance = np.int64(sites[r, 0]) - low[0]
            if distance < 0 or distance >= extent[0]:
                inside = False
            key = np.int64(0)
            if inside:
                key = distance * strides[0]
            rest = first_tap + tap
            for back in range(ndim):
                a = ndim - 1 - back
                step = rest % kernel_size[a]
                rest = rest // kernel_size[a]
                distance = np.int64(sites[r, a + 1]) * stride[a] - padding[a] + dilation[a] * step - low[a + 1]
                if distance < 0 or distance >= extent[a + 1]:
                    inside = False
                    break
                key += distance * strides[a + 1]
            if inside:
                rank = rank_of(key, table)
            if rank >= 0 and order.shape[0] > 0:
                rank = order[rank]
            found[tap, r] = rank
        hits = cuda.syncthreads_count(1 if rank >= 0 else 0)
        if cuda.threadIdx.x == 0:
            counts[tap, part] = hits


@kernel
def _fill(found, places, mirror_places, fine_rows, coarse_rows):
    """Write the hits of each tap and block of sites from their place on; swapped to the mirrored taps too.

    ``places [T, B]`` and ``mirror_places`` (none where no tap is mirrored) say where.
    """
    before = cuda.shared.array(BLOCK, np.int32)
    taps, rows = found.shape
    parts = places.shape[1]
    thread = cuda.threadIdx.x
    for item in range(cuda.blockIdx.x, taps * parts, cuda.gridDim.x):
        tap = item // parts
        part = item - tap * parts
        r = part * BLOCK + thread
        fine = -1
        if r < rows:
            fine = found[tap, r]
        # Inclusive sum over the threads of the block, in doubling steps (Hillis and Steele, 1986). After the last
        # of them a thread reads its own sum only, so the next item needs no barrier before it.
        before[thread] = 1 if fine >= 0 else 0
        cuda.syncthreads()
        step = 1
        while step < BLOCK:
            more = 0
            if thread >= step:
                more = before[thread - step]
            cuda.syncthreads()
            before[thread] += more
            cuda.syncthreads()
            step *= 2
        if fine >= 0:
            place = places[tap, part] + before[thread] - 1
            fine_rows[place] = fine
            coarse_rows[place] = r
            if mirror_places.shape[0] > 0:
                place = mirror_places[tap, part] + before[thread] - 1
                fine_rows[place] = r
                coarse_rows[place] = fine


def kernel_pairs(fine: SiteIndex, coarse: SiteIndex, geometry: ConvGeometry) -> tuple[Tensor, Tensor, Tensor]:
    """See :meth:`sparseconv.backends.Backend.kernel_pairs`. Waits once, for the number of pairs.

    On one sorted set of sites a submanifold geometry is its own mirror: the taps before the centre are those
    behind it with the columns swapped, and the centre is the identity.
    """
    device = coarse.sites.device
    taps, rows = geometry.volume, len(coarse.sites)
    mirrored = fine is coarse and geometry.is_submanifold and fine.is_sorted
    first_tap = taps // 2 + 1 if mirrored else 0
    searched = taps - first_tap
    parts = -(-rows // BLOCK)
    at_once = max(1, min(searched, _HELD_ROWS // max(1, rows)))
    groups = [(start, min(searched, start + at_once)) for start in range(0, searched, at_once)]
    found = torch.empty((min(searched, at_once), rows), dtype=torch.int32, device=device)
    counts = torch.empty((searched, parts), dtype=torch.int64, device=device)

    def find(start: int, stop: int) -> None:
        _find.launch(
            (stop - start) * parts * BLOCK,
            coarse.sites,
            first_tap + start,
            geometry.kernel_size,
            geometry.stride,
            geometry.padding,
            geometry.dilation,
            fine.box.low,
            fine.box.extent,
            fine.box.strides,
            fine.table,
            fine.order,
            found[: stop - start],
            counts[start:stop],
        )

    for group in groups:
        find(*group)
    totals = counts.sum(1)
    if mirrored:
        totals = torch.cat([totals.flip(0), totals.new_full((1,), rows), totals])
    offsets = torch.cat([totals.new_zeros(1), totals.cumsum(0)])
    tap_offsets = offsets.cpu()
    pairs = int(tap_offsets[-1])
    fine_rows = torch.empty(pairs, dtype=torch.int32, device=device)
    coarse_rows = torch.empty(pairs, dtype=torch.int32, device=device)
    before = counts.cumsum(1) - counts
    places = offsets[first_tap:-1, None] + before
    mirror_places = offsets[: taps // 2].flip(0)[:, None] + before if mirrored else places[:0]
    for start, stop in groups:
        if len(groups) > 1:
            find(start, stop)
        _fill.launch(
            (stop - start) * parts * BLOCK,
            found[: stop - start],
            places[start:stop],
            mirror_places[start:stop],
            fine_rows,
            coarse_rows,
        )
    if mirrored:
        centre = slice(int(tap_offsets[taps // 2]), int(tap_offsets[taps // 2 + 1]))
        fine_rows[centre] = coarse_rows[centre] = torch.arange(rows, dtype=torch.int32, device=device)
    return fine_rows, coarse_rows, tap_offsets


def coarse_map(index: SiteIndex, geometry: ConvGeometry, shape: Sequence[int] | None) -> CoarseMap:
    """See :meth:`sparseconv.backends.Backend.coarse_map`."""
    sites = coarse_sites(index, geometry, shape)
    coarse = build_index(sites)
    return CoarseMap(sites, coarse, *kernel_pairs(index, coarse, geometry))


def order_pairs(in_rows: Tensor, out_rows: Tensor, tap_offsets: Tensor) -> tuple[Tensor, Tensor]:
    """See :meth:`sparseconv.backends.Backend.order_pairs`."""
    counts = tap_offsets.diff().to(out_rows.device)
    taps = torch.repeat_interleave(counts, output_size=len(out_rows))
    order = torch.argsort((taps << 32) | out_rows, stable=True)
    return in_rows[order], out_rows[order]
