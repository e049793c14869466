"""Maps for the checks of the implicit GEMM: of real geometry, and adversarial ones."""

from __future__ import annotations

import torch
from scans import random_sites
from torch import Tensor

from sparseconv.backends import reference
from sparseconv.geometry import ConvGeometry

# in_rows, out_rows, tap_offsets
PairMap = tuple[Tensor, Tensor, Tensor]


def submanifold_map(count: int, kernel: tuple[int, ...], seed: int = 0) -> PairMap:
    """Odd kernel over random sites, a third of the cells of their box."""
    side = round((3 * count) ** (1 / len(kernel))) + 1
    index = reference.build_index(random_sites(count, (side,) * len(kernel), seed=seed, shuffled=True))
    ones = (1,) * len(kernel)
    geometry = ConvGeometry(kernel, ones, tuple((k - 1) // 2 for k in kernel), ones)
    return reference.kernel_pairs(index, index, geometry)


def strided_map(count: int, kernel: int, stride: int) -> tuple[PairMap, int]:
    """Convolution of random 3D sites onto every site that it reaches; the map and the number of those."""
    side = round((6 * count) ** (1 / 3)) + 1
    index = reference.build_index(random_sites(count, (side,) * 3))
    geometry = ConvGeometry((kernel,) * 3, (stride,) * 3, (0,) * 3, (1,) * 3)
    coarse = reference.coarse_sites(index, geometry, None)
    return reference.kernel_pairs(index, reference.build_index(coarse), geometry), len(coarse)


def random_map(n_in: int, n_out: int, taps: int, seed: int = 0) -> PairMap:
    """Taps of random rows: a fifth of them empty, a fifth full, input rows in no order, an output row left out."""
    generator = torch.Generator().manual_seed(seed)
    in_rows, out_rows, offsets = [], [], [0]
    for _ in range(taps):
        most = min(n_in, max(0, n_out - 1))
        share = float(torch.rand((), generator=generator)) * 1.67 - 0.33
        count = round(most * min(1.0, max(0.0, share)))
        out_rows.append(torch.randperm(max(0, n_out - 1), generator=generator)[:count].sort().values)
        in_rows.append(torch.randperm(n_in, generator=generator)[:count])
        offsets.append(offsets[-1] + count)
    return torch.cat(in_rows).int(), torch.cat(out_rows).int(), torch.tensor(offsets)


def swapped(pairs: PairMap) -> PairMap:
    """The map of the input gradient."""
    in_rows, out_rows, tap_offsets = pairs
    return (*reference.order_pairs(out_rows, in_rows, tap_offsets), tap_offsets)


def permuted_outputs(pairs: PairMap, order: Tensor) -> PairMap:
    """The map whose output row ``r`` is row ``order[r]`` of the given one."""
    in_rows, out_rows, tap_offsets = pairs
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    return (*reference.order_pairs(in_rows, place[out_rows.long()].int(), tap_offsets), tap_offsets)
