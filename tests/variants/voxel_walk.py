"""Plain Python over a dictionary of voxels: the formulas of the variants, one tap at a time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sparseconv import SparseTensor

Place = tuple[int, ...]


class Voxels:
    """Features by (sample, place); an absent voxel is None."""

    def __init__(self, tensor: SparseTensor) -> None:
        self.sites = [tuple(row) for row in tensor.indices.tolist()]
        self.rows = {site: number for number, site in enumerate(self.sites)}
        self.features = tensor.features.detach()
        self.ndim, self.batch_size = tensor.ndim, tensor.batch_size

    def at(self, sample: int, place: Sequence[int]) -> Tensor | None:
        row = self.rows.get((sample, *place))
        return None if row is None else self.features[row]

    def value(self, sample: int, place: Sequence[int]) -> Tensor:
        found = self.at(sample, place)
        return torch.zeros_like(self.features[0]) if found is None else found

    def between(self, sample: int, place: Sequence[float], ignore: bool = False) -> Tensor:
        """Linear between the voxels round a place; ``ignore``: the shares of those that exist sum to 1."""
        low = [math.floor(p) for p in place]
        total, shares = torch.zeros_like(self.features[0]), 0.0
        for corner in itertools.product((0, 1), repeat=self.ndim):
            cell = [a + b for a, b in zip(low, corner, strict=True)]
            share = math.prod(1 - abs(p - c) for p, c in zip(place, cell, strict=True))
            found = self.at(sample, cell)
            if found is not None:
                total, shares = total + share * found, shares + share
        return total / shares if ignore and shares > 0 else total

    def mean(self, sample: int) -> Tensor:
        mine = [self.features[row] for site, row in self.rows.items() if site[0] == sample]
        return torch.stack(mine).mean(0) if mine else torch.zeros_like(self.features[0])


def steps(side: int, ndim: int) -> list[Place]:
    """Places of a centred kernel, row-major."""
    return list(itertools.product(range(-(side // 2), side // 2 + 1), repeat=ndim))


def plus(place: Sequence[int], step: Sequence[float], times: float = 1) -> tuple:
    return tuple(a + times * b for a, b in zip(place, step, strict=True))


def over(sites: Sequence[Place], width: int, value: Callable[[int, Place], Tensor]) -> Tensor:
    """``value(sample, place)`` at every site: ``[N, width]``."""
    rows = [value(site[0], site[1:]) for site in sites]
    return torch.stack(rows) if rows else torch.zeros(0, width, dtype=torch.float64)


def taps_of(weight: Tensor) -> Tensor:
    """``[O, *kernel, C / g]`` to ``[K, O, C / g]``."""
    return weight.detach().flatten(1, -2).transpose(0, 1)


def grouped(weight: Tensor, value: Tensor, groups: int) -> Tensor:
    """``[O, C / g]`` times ``[C]``."""
    parts = zip(weight.chunk(groups), value.chunk(groups), strict=True)
    return torch.cat([kernel @ part for kernel, part in parts])


def strided_sites(voxels: Voxels, side: int, stride: int, padding: int) -> list[Place]:
    """Every coarse site that a voxel reaches, on an unbounded grid, sorted."""
    reached = set()
    for sample, *place in voxels.sites:
        for tap in itertools.product(range(side), repeat=voxels.ndim):
            coarse = [p + padding - t for p, t in zip(place, tap, strict=True)]
            if all(c % stride == 0 for c in coarse):
                reached.add((sample, *(c // stride for c in coarse)))
    return sorted(reached)


def per_sample(voxels: Voxels, sites, kernels: list[Tensor], groups: int = 1, stride: int = 1) -> Tensor:
    """A kernel ``[O, *kernel, C / g]`` for each sample."""
    by_tap = [taps_of(kernel) for kernel in kernels]
    places = steps(3, voxels.ndim)

    def value(sample: int, place) -> Tensor:
        centre = tuple(stride * p for p in place)
        pairs = zip(by_tap[sample], places, strict=True)
        return sum(grouped(kernel, voxels.value(sample, plus(centre, step)), groups) for kernel, step in pairs)

    return over(sites, kernels[0].shape[0], value)
