"""Dilations of inception convolution: how a layer is told them, where their taps lie, which ones lose least."""

from __future__ import annotations

import ast
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparseconv.geometry import MAX_KERNEL_SIZE, per_axis

# One dilation for each axis.
Dilation = tuple[int, ...]
# A dilation, and the number of consecutive output channels that have it.
Patterns = Sequence[tuple[Dilation, int]]

# An index into the channels and taps of a weight.
Place = tuple[int | slice, ...]

CRITERIA = ("expectation", "mean_abs")


def check_odd(kernel_size: Sequence[int]) -> None:
    """Refuse a kernel without a centre tap.

    Raises:
        ValueError: an even side.
    """
    if any(k % 2 == 0 for k in kernel_size):
        raise ValueError(f"dilations share the centre tap: kernel sides must be odd, got {tuple(kernel_size)}")


def parse_patterns(
    pattern_dist: Mapping[Any, int], planes: int, groups: int, ndim: int
) -> list[tuple[Dilation, int]]:
    """Patterns of ``{"(d_0 - 1, d_1 - 1, ..)": channels}`` in its order.

    Args:
        pattern_dist: keys may be tuples too; patterns without channels are left out.
        planes: what the channels must sum to.
        groups: what the channels of each pattern must divide by.
        ndim: number of axes.

    Raises:
        TypeError: no mapping.
        ValueError: a key that is not ``ndim`` numbers >= 0, a negative number of channels, or channels that do not
            sum to ``planes`` or do not divide by ``groups``.
    """
    if not isinstance(pattern_dist, Mapping):
        raise TypeError(
            f"pattern_dist must map {ndim} dilations less one to a number of channels, such as "
            f"{{{(0,) * ndim}: {planes}}}, got {type(pattern_dist).__name__}"
        )
    patterns = []
    for key, count in pattern_dist.items():
        try:
            steps = tuple(ast.literal_eval(key) if isinstance(key, str) else key)
            valid = len(steps) == ndim and min(steps) >= 0 and count >= 0
        except (TypeError, ValueError, SyntaxError):
            valid = False
        if not valid:
            raise ValueError(
                f"pattern_dist maps {ndim} dilations less one, (d - 1, ..), to a number of channels, got {key!r}: "
                f"{count!r}; dilation 1 is 0"
            )
        if count:
            patterns.append((tuple(int(step) + 1 for step in steps), count))
    counts = [count for _, count in patterns]
    if sum(counts) != planes:
        raise ValueError(f"the channels of pattern_dist must sum to planes = {planes}, got {sum(counts)}")
    if any(count % groups for count in counts):
        raise ValueError(f"the channels of each pattern must divide by groups = {groups}, got {counts}")
    return patterns


def taps_within(dilation: Dilation, kernel_size: Sequence[int], reach: Sequence[int]) -> tuple[slice, ...]:
    """Where a dilated kernel's taps lie in a dense kernel of ``2 reach + 1`` taps an axis."""
    return tuple(
        slice(r - d * (k // 2), r + d * (k // 2) + 1, d)
        for r, d, k in zip(reach, dilation, kernel_size, strict=True)
    )


def supernet_side(kernel_size: int, max_dilation: int, criterion: str) -> int:
    """Side of the dense kernel that holds every dilation up to ``max_dilation``: ``2 (k // 2) d_max + 1``.

    Args:
        kernel_size: ``k``, side of the dilated kernels.
        max_dilation: ``d_max`` of each axis.
        criterion: of the search.

    Raises:
        TypeError: a size that is no integer.
        ValueError: an even kernel, a size out of bounds, or an unknown criterion.
    """
    for name, value in (("kernel_size", kernel_size), ("max_dilation", max_dilation)):
        per_axis(value, 1, name, minimum=1, maximum=MAX_KERNEL_SIZE)
    check_odd((kernel_size,))
    if criterion not in CRITERIA:
        raise ValueError(f"criterion must be 'expectation' or 'mean_abs', got {criterion!r}")
    return 2 * (kernel_size // 2) * max_dilation + 1


def check_search_channels(channels: int, c_out: int, depth: int, groups: int) -> None:
    """Refuse a supernet that the inputs do not fit.

    Args:
        channels: of the inputs.
        c_out: output channels of the weight.
        depth: input channels of one group of the weight.
        groups: channel groups.

    Raises:
        ValueError: they do not fit.
    """
    if groups < 1 or c_out % groups or depth * groups != channels:
        raise ValueError(
            f"a weight of {c_out} x {depth} channels in {groups} groups reads {depth * groups} channels, and the "
            f"inputs have {channels}; groups must divide both"
        )


@dataclass(frozen=True)
class DilationSearch:
    """What a search of dilations found.

    Attributes:
        dilations: of each output channel, one for each axis, in the supernet's order.
        errors: ``[O, d_max, .., d_max]``, error of each channel with dilation d at ``[d_0 - 1, d_1 - 1, ..]``.
        order: int64 ``[O]``, the supernet's channels sorted by pattern: permute what follows the layer by it.
        pattern_dist: argument of the ICConv layers.
        weight: the supernet's taps on the patterns, sorted by pattern: the weight of an ICConv layer, ``[O, k, ..,
            k, C / groups]`` on voxels and ``[O, C / groups, k, k]`` on images.
    """

    dilations: list[Dilation]
    errors: Tensor
    order: Tensor
    pattern_dist: dict[str, int]
    weight: Tensor

    @classmethod
    def of_least_errors(cls, errors: Tensor, weight: Tensor, kernel_size: int, kernel_axis: int) -> DilationSearch:
        """Take the best dilation of each channel.

        Of equal errors the smallest product of dilations wins, then the first in lexicographic order.

        Args:
            errors: ``[O, d_max, .., d_max]``.
            weight: of the supernet, output channels first.
            kernel_size: of the dilated kernels.
            kernel_axis: first kernel axis of the weight.
        """
        ndim, largest = errors.dim() - 1, errors.shape[1]
        candidates = candidate_dilations(largest, ndim)
        places = {dilation: number for number, dilation in enumerate(candidates)}
        by_size = sorted(candidates, key=lambda d: (math.prod(d), d))
        dilations = [min(by_size, key=lambda d: row[places[d]]) for row in errors.flatten(1).tolist()]
        order = sorted(range(len(dilations)), key=lambda channel: dilations[channel])
        found = [dilations[channel] for channel in order]
        sides, reach = (kernel_size,) * ndim, (kernel_size // 2 * largest,) * ndim

        def kept(channel: int) -> Tensor:
            channels: Place = (channel, *(slice(None),) * (kernel_axis - 1))
            return weight[channels + taps_within(dilations[channel], sides, reach)]

        return cls(
            dilations,
            errors,
            torch.tensor(order, device=errors.device),
            {str(tuple(d - 1 for d in same)): len(list(run)) for same, run in itertools.groupby(found)},
            torch.stack([kept(channel) for channel in order]),
        )


def candidate_dilations(max_dilation: int, ndim: int) -> list[Dilation]:
    """Every dilation up to ``max_dilation`` an axis, in lexicographic order."""
    return list(itertools.product(range(1, max_dilation + 1), repeat=ndim))
