"""Inception convolution: a dilation of its own for each output channel, and the search that finds them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparseconv.backends import backend_for
from sparseconv.compilation import eager
from sparseconv.coordinates import Coordinates
from sparseconv.functional.conv import subm_conv
from sparseconv.functional.kernel_axes import check_kernel_axes
from sparseconv.functional.variants.placement import (
    Size,
    check_stride,
    kept_with,
)
from sparseconv.geometry import ConvGeometry
from sparseconv.kernel_map import KernelMap
from sparseconv.ops.mapped import convolve_features
from sparseconv.ops.precision import widen
from sparseconv.tensor import SparseTensor, check_sparse

# One dilation for each axis, and the number of consecutive output channels that have it.
Patterns = Sequence[tuple[tuple[int, ...], int]]


def check_odd(kernel_size: Sequence[int]) -> None:
    """Refuse a kernel without a centre tap.

    Raises:
        ValueError: an even side.
    """
    if any(k % 2 == 0 for k in kernel_size):
        raise ValueError(f"dilations share the centre tap: kernel sides must be odd, got {tuple(kernel_size)}")


def pattern_maps(
    input: SparseTensor,
    kernel_size: Sequence[int],
    dilations: Sequence[tuple[int, ...]],
    stride: Size,
    subm: bool,
) -> tuple[Coordinates, list[KernelMap]]:
    """Output sites of all patterns together, and the map of each pattern onto them."""
    check_sparse(input, "ic_conv")
    check_odd(kernel_size)
    sites = input.coordinates
    centred = [ConvGeometry.submanifold(input.ndim, kernel_size, dilation) for dilation in dilations]
    if subm:
        check_stride(stride, input.ndim)
        return sites, [sites.submanifold_map(geometry) for geometry in centred]
    geometries = tuple(
        ConvGeometry.create(input.ndim, one.kernel_size, stride, one.padding, one.dilation) for one in centred
    )

    def build() -> Coordinates:
        reached = [sites.downsample(geometry)[0] for geometry in geometries]
        union, _ = backend_for(sites.device).unique_sites(torch.cat([part.indices for part in reached]))
        return Coordinates(union, reached[0].spatial_shape, sites.batch_size)

    if len(set(geometries)) == 1:
        outputs = sites.downsample(geometries[0])[0]
    else:
        outputs = kept_with(sites, ("patterns", geometries), build)
    return outputs, [sites.map_onto(outputs, geometry) for geometry in geometries]


@eager
def ic_conv(
    input: SparseTensor,
    weight: Tensor,
    patterns: Patterns,
    bias: Tensor | None = None,
    stride: Size = 1,
    groups: int = 1,
    *,
    subm: bool = False,
) -> SparseTensor:
    """Convolution whose output channels differ in dilation, padded so that every one has the same grid.

    ``y[q, i] = sum over c and t in -r..r of W[i, t, c] x[s q + t d_i, c]``. One map a pattern, on that pattern's
    rows of the weight. Liu et al., "Inception Convolution with Efficient Dilation Search", arXiv 2012.13587.

    Args:
        input: ``[N, C]``.
        weight: ``[O, *kernel, C / groups]``, odd sides, output channels in the order of the patterns.
        patterns: ``((dilation of each axis), channels)`` in order; the channels sum to O.
        bias: ``[O]`` or None.
        stride: as in :func:`sparse_conv`; 1 with ``subm``.
        groups: channel groups within each pattern.
        subm: keep the input's sites; else an output site wherever some pattern reaches a voxel, sorted.

    Raises:
        ValueError: channels that do not sum to O, an even kernel side, or shapes that do not fit.
    """
    check_sparse(input, "ic_conv")
    kernel_size = check_kernel_axes(weight, input.ndim)
    counts = [count for _, count in patterns]
    if sum(counts) != weight.shape[0] or not counts:
        raise ValueError(f"the channels of the patterns must sum to {weight.shape[0]}, got {counts}")
    sites, maps = pattern_maps(input, kernel_size, [dilation for dilation, _ in patterns], stride, subm)
    offsets = [None] * len(counts) if bias is None else list(bias.split(counts))
    features = [
        convolve_features(input.features, part, offset, kernel_map, groups)
        for part, offset, kernel_map in zip(weight.split(counts), offsets, maps, strict=True)
    ]
    return SparseTensor.from_coordinates(torch.cat(features, 1), sites, input.named_maps)


@dataclass(frozen=True)
class SparseDilationSearch:
    """What :func:`search_dilation` found.

    Attributes:
        dilations: of each output channel, one for each axis, in the supernet's order.
        errors: ``[O, d_max, .., d_max]``, error of each channel with dilation d at ``[d_0 - 1, d_1 - 1, ..]``.
        order: int64 ``[O]``, the supernet's channels sorted by pattern: permute what follows the layer by it.
        pattern_dist: argument of the ICConv layers.
        weight: ``[O, k, .., k, C / groups]``, the supernet's taps on the patterns, sorted by pattern.
    """

    dilations: list[tuple[int, ...]]
    errors: Tensor
    order: Tensor
    pattern_dist: dict[str, int]
    weight: Tensor


Place = tuple[int | slice, ...]


def _taps_of(channels: int | slice, dilation: Sequence[int], kernel_size: int, side: int) -> Place:
    """Place of a pattern's taps in a supernet's weight or in what is kept for each channel and tap."""
    half, middle = kernel_size // 2, side // 2
    return (channels, *(slice(middle - d * half, middle + d * half + 1, d) for d in dilation))


def _means_by_tap(inputs: SparseTensor, side: int) -> Tensor:
    """Mean over all sites of what each tap reads, an absent voxel being 0: ``[K, C]``."""
    kernel_map = inputs.coordinates.submanifold_map(ConvGeometry.submanifold(inputs.ndim, side))
    rows = widen(inputs.features)
    sums = [rows.index_select(0, in_rows.long()).sum(0) for in_rows, _ in kernel_map]
    return torch.stack(sums) / max(1, len(inputs))


@torch.no_grad()
def search_dilation(
    weight: Tensor,
    inputs: SparseTensor,
    max_dilation: int,
    kernel_size: int = 3,
    criterion: str = "expectation",
    groups: int = 1,
) -> SparseDilationSearch:
    """Efficient dilation optimisation: for each output channel the dilation that loses least.

    The supernet is a submanifold convolution with one dense kernel of side ``K = 2 (k // 2) d_max + 1``; a
    dilation keeps its taps ``t d``. ``"expectation"`` scores ``|E[y_i] - E[y_i(d)]|`` over the sites of
    ``inputs``, from the mean that each tap reads; ``"mean_abs"`` scores ``E|y_i - y_i(d)|``. Absent voxels count
    as zeros in both. Of equal scores the smallest product of dilations wins, then the first in lexicographic
    order. Written from the paper (arXiv 2012.13587), whose authors published the patterns that they found, but not
    the search.

    Args:
        weight: ``[O, K, .., K, C / groups]`` of the trained supernet.
        inputs: ``[N, C]`` that the layer sees, for calibration.
        max_dilation: largest dilation of an axis.
        kernel_size: odd side of the dilated kernels.
        criterion: ``"expectation"`` or ``"mean_abs"``.
        groups: channel groups.

    Raises:
        ValueError: an unknown criterion, or a kernel of another size.
    """
    check_sparse(inputs, "search_dilation")
    check_odd((kernel_size,))
    if criterion not in ("expectation", "mean_abs"):
        raise ValueError(f"criterion must be 'expectation' or 'mean_abs', got {criterion!r}")
    ndim = inputs.ndim
    side = 2 * (kernel_size // 2) * max_dilation + 1
    if check_kernel_axes(weight, ndim) != (side,) * ndim:
        raise ValueError(
            f"with kernel_size {kernel_size} and max_dilation {max_dilation} the supernet's weight must have "
            f"shape [C_out, {', '.join([str(side)] * ndim)}, C_in / groups], got {list(weight.shape)}"
        )
    c_out, depth = weight.shape[0], weight.shape[-1]
    errors = weight.new_empty(c_out, *(max_dilation,) * ndim)
    candidates = list(itertools.product(range(1, max_dilation + 1), repeat=ndim))
    if criterion == "expectation":
        means = _means_by_tap(inputs, side).to(weight).unflatten(1, (groups, depth))
        own = means.repeat_interleave(c_out // groups, 1)  # [K, O, C / groups]
        per_tap = torch.einsum("okc,koc->ok", weight.flatten(1, -2), own).unflatten(1, (side,) * ndim)
        for dilation in candidates:
            place: Place = (slice(None), *(d - 1 for d in dilation))
            kept = per_tap.clone()
            kept[_taps_of(slice(None), dilation, kernel_size, side)] = 0
            errors[place] = kept.flatten(1).sum(1).abs()
    else:
        whole = subm_conv(inputs, weight, None, 1, groups).features
        for dilation in candidates:
            place = (slice(None), *(d - 1 for d in dilation))
            part = weight[_taps_of(slice(None), dilation, kernel_size, side)]
            lost = whole - subm_conv(inputs, part.contiguous(), None, dilation, groups).features
            errors[place] = lost.abs().sum(0) / max(1, len(inputs))
    return _choose(weight, errors, candidates, kernel_size)


def _choose(
    weight: Tensor, errors: Tensor, candidates: list[tuple[int, ...]], kernel_size: int
) -> SparseDilationSearch:
    side, c_out = weight.shape[1], len(weight)
    by_size = sorted(candidates, key=lambda d: (math.prod(d), d))
    places = {dilation: number for number, dilation in enumerate(candidates)}
    flat = errors.flatten(1).tolist()
    dilations = [min(by_size, key=lambda d: row[places[d]]) for row in flat]
    order = sorted(range(c_out), key=lambda i: dilations[i])
    found = [dilations[i] for i in order]
    return SparseDilationSearch(
        dilations,
        errors,
        torch.tensor(order, device="cpu"),
        {str(tuple(d - 1 for d in same)): len(list(run)) for same, run in itertools.groupby(found)},
        torch.stack([weight[_taps_of(i, dilations[i], kernel_size, side)] for i in order]),
    )
