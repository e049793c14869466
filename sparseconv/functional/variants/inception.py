"""Inception convolution: a dilation of its own for each output channel, and the search that finds them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparseconv.backends import backend_for
from sparseconv.compilation import eager
from sparseconv.coordinates import Coordinates
from sparseconv.dilation_patterns import (
    DilationSearch,
    Patterns,
    Place,
    candidate_dilations,
    check_odd,
    check_search_channels,
    supernet_side,
    taps_within,
)
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

    Returns:
        ``[n_out, O]`` on the sites of all patterns, sorted; with ``subm`` ``[N, O]`` on the input's sites.

    Raises:
        TypeError: no sparse tensor, or types differ.
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
) -> DilationSearch:
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

    Returns:
        The dilations, their errors, and what an ICConv layer needs.

    Raises:
        TypeError: the inputs are no sparse tensor, or a size is no integer.
        ValueError: an unknown criterion, a size out of bounds, or a weight that does not fit them and the inputs.
    """
    check_sparse(inputs, "search_dilation")
    side = supernet_side(kernel_size, max_dilation, criterion)
    ndim = inputs.ndim
    if check_kernel_axes(weight, ndim) != (side,) * ndim:
        raise ValueError(
            f"with kernel_size {kernel_size} and max_dilation {max_dilation} the supernet's weight must have "
            f"shape [C_out, {', '.join([str(side)] * ndim)}, C_in / groups], got {list(weight.shape)}"
        )
    c_out, depth = weight.shape[0], weight.shape[-1]
    check_search_channels(inputs.features.shape[1], c_out, depth, groups)
    errors = weight.new_empty(c_out, *(max_dilation,) * ndim)
    sides, reach = (kernel_size,) * ndim, (side // 2,) * ndim
    if criterion == "expectation":
        means = _means_by_tap(inputs, side).to(weight).unflatten(1, (groups, depth))
        own = means.repeat_interleave(c_out // groups, 1)  # [K, O, C / groups]
        per_tap = torch.einsum("okc,koc->ok", weight.flatten(1, -2), own).unflatten(1, (side,) * ndim)
    else:
        whole = subm_conv(inputs, weight, None, 1, groups).features
    for dilation in candidate_dilations(max_dilation, ndim):
        place: Place = (slice(None), *(d - 1 for d in dilation))
        taps: Place = (slice(None), *taps_within(dilation, sides, reach))
        if criterion == "expectation":
            dropped = per_tap.clone()
            dropped[taps] = 0
            errors[place] = dropped.flatten(1).sum(1).abs()
        else:
            kept = subm_conv(inputs, weight[taps].contiguous(), None, dilation, groups).features
            errors[place] = (whole - kept).abs().sum(0) / max(1, len(inputs))
    return DilationSearch.of_least_errors(errors, weight, kernel_size, kernel_axis=1)
