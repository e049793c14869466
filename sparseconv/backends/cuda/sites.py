"""Output sites of strided and transposed convolutions, and distinct sites: emit keys, sort once, unpack.

Emitted keys are made distinct by ``torch.unique``, which sorts: equal input gives equal output, row for row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from sparseconv.backends.cuda.hash import SiteIndex, pack_sites
from sparseconv.backends.cuda.launch import cuda, kernel
from sparseconv.backends.site_keys import SiteKeys, coarse_box, fine_box
from sparseconv.geometry import ConvGeometry

# Keys that are emitted before they are made distinct: 256 MB, and about three times that while they are sorted.
_EMITTED_AT_ONCE = 1 << 25
# Larger than every key: what an emitting thread writes where its site reaches nothing.
_NO_SITE = (1 << 63) - 1


@kernel
def _emit_coarse(sites, per_axis, kernel_size, stride, padding, dilation, inverse, low, extent, strides, keys):
    """Keys of the coarse sites that each fine site reaches, one thread for each candidate.

    Along an axis the taps that divide are ``first + j * period``: with ``g = gcd(d, s)`` and a remainder
    ``r = (fine + p) mod s`` that g divides, ``first = r / g * inverse mod period``, ``period = s / g``, where
    ``inverse`` is that of ``d / g`` modulo the period. ``per_axis`` is how many there are at most.
    """
    rows = sites.shape[0]
    ndim = len(stride)
    candidates = keys.shape[0] // max(1, rows)
    for at in range(cuda.grid(1), rows * candidates, cuda.gridsize(1)):
        r = at // candidates
        rest = at - r * candidates
        key = (np.int64(sites[r, 0]) - low[0]) * strides[0]
        for back in range(ndim):
            a = ndim - 1 - back
            nth = rest % per_axis[a]
            rest = rest // per_axis[a]
            reached = np.int64(sites[r, a + 1]) + padding[a]
            remainder = reached % stride[a]
            common = inverse[2 * a]
            period = stride[a] // common
            if remainder % common != 0:
                key = -1
                break
            tap = (remainder // common * inverse[2 * a + 1]) % period + nth * period
            if tap >= kernel_size[a]:
                key = -1
                break
            distance = (reached - dilation[a] * tap) // stride[a] - low[a + 1]
            if distance < 0 or distance >= extent[a + 1]:
                key = -1
                break
            key += distance * strides[a + 1]
        if key < 0:
            key = _NO_SITE
        keys[at] = key


@kernel
def _emit_fine(sites, kernel_size, stride, padding, dilation, low, extent, strides, keys):
    """Keys of the fine sites that each coarse site reaches, one thread for each tap."""
    rows = sites.shape[0]
    ndim = len(stride)
    taps = keys.shape[0] // max(1, rows)
    for at in range(cuda.grid(1), rows * taps, cuda.gridsize(1)):
        r = at // taps
        rest = at - r * taps
        key = (np.int64(sites[r, 0]) - low[0]) * strides[0]
        for back in range(ndim):
            a = ndim - 1 - back
            tap = rest % kernel_size[a]
            rest = rest // kernel_size[a]
            distance = np.int64(sites[r, a + 1]) * stride[a] - padding[a] + dilation[a] * tap - low[a + 1]
            if distance < 0 or distance >= extent[a + 1]:
                key = -1
                break
            key += distance * strides[a + 1]
        if key < 0:
            key = _NO_SITE
        keys[at] = key


@kernel
def _unpack(keys, low, strides, sites):
    """Sites of keys."""
    for r in range(cuda.grid(1), keys.shape[0], cuda.gridsize(1)):
        rest = keys[r]
        for c in range(len(low)):
            step = rest // strides[c]
            rest -= step * strides[c]
            sites[r, c] = step + low[c]


def _sites_of(keys: Tensor, box: SiteKeys) -> Tensor:
    """Unpack keys into int32 ``[M, 1+D]``."""
    sites = torch.empty((len(keys), len(box.low)), dtype=torch.int32, device=keys.device)
    _unpack.launch(len(keys), keys, box.low, box.strides, sites)
    return sites


def _distinct(emit: Callable[[Tensor, Tensor], None], sites: Tensor, per_site: int) -> Tensor:
    """Distinct keys that ``emit(sites, keys)`` writes, ascending. Waits once for each chunk of sites.

    The last key is always the one for no site, and is cut off: whether there was one need not be asked.
    """
    chunk = max(1, _EMITTED_AT_ONCE // per_site)
    found = []
    for part in sites.split(chunk):
        keys = torch.full((len(part) * per_site + 1,), _NO_SITE, dtype=torch.int64, device=sites.device)
        emit(part, keys[:-1])
        found.append(torch.unique(keys)[:-1])
    return found[0] if len(found) == 1 else torch.unique(torch.cat(found))


def _no_sites(index: SiteIndex) -> Tensor:
    return torch.empty((0, index.sites.shape[1]), dtype=torch.int32, device=index.sites.device)


def coarse_sites(index: SiteIndex, geometry: ConvGeometry, shape: Sequence[int] | None) -> Tensor:
    """See :meth:`sparseconv.backends.Backend.coarse_sites`."""
    box = coarse_box(index.box, geometry, shape) if len(index.sites) else None
    if box is None:
        return _no_sites(index)
    per_axis, inverse = [], []
    for k, s, d in zip(geometry.kernel_size, geometry.stride, geometry.dilation, strict=True):
        common = math.gcd(d, s)
        period = s // common
        per_axis.append(-(-k // period))
        inverse += [common, pow(d // common, -1, period)]

    def emit(sites: Tensor, keys: Tensor) -> None:
        _emit_coarse.launch(
            len(keys),
            sites,
            tuple(per_axis),
            geometry.kernel_size,
            geometry.stride,
            geometry.padding,
            geometry.dilation,
            tuple(inverse),
            box.low,
            box.extent,
            box.strides,
            keys,
        )

    return _sites_of(_distinct(emit, index.sites, math.prod(per_axis)), box)


def fine_sites(index: SiteIndex, geometry: ConvGeometry, shape: Sequence[int] | None) -> Tensor:
    """See :meth:`sparseconv.backends.Backend.fine_sites`."""
    box = fine_box(index.box, geometry, shape) if len(index.sites) else None
    if box is None:
        return _no_sites(index)

    def emit(sites: Tensor, keys: Tensor) -> None:
        _emit_fine.launch(
            len(keys),
            sites,
            geometry.kernel_size,
            geometry.stride,
            geometry.padding,
            geometry.dilation,
            box.low,
            box.extent,
            box.strides,
            keys,
        )

    return _sites_of(_distinct(emit, index.sites, geometry.volume), box)


def unique_sites(indices: Tensor) -> tuple[Tensor, Tensor]:
    """See :meth:`sparseconv.backends.Backend.unique_sites`. Waits twice: for the box and the number of sites."""
    box, packed = pack_sites(indices.detach().contiguous())
    distinct, rows = torch.unique(packed, return_inverse=True)
    return _sites_of(distinct, box), rows
