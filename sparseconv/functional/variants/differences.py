"""Difference convolutions: central, on a cross, and of pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from sparseconv.compilation import eager
from sparseconv.difference_taps import DifferenceTaps, central_taps, cross_taps, pixel_kind, pixel_taps
from sparseconv.functional.kernel_axes import check_kernel_axes
from sparseconv.functional.variants.folded import convolve_folded, folded_map
from sparseconv.functional.variants.placement import (
    Size,
    finish,
    joined,
    kept_with,
    placed,
)
from sparseconv.geometry import MAX_PADDING, MAX_STEP, per_axis
from sparseconv.kernel_map import KernelMap
from sparseconv.ops.mapped import convolve_features
from sparseconv.tensor import NamedMap, SparseTensor, check_sparse

MISSING = ("zero", "ignore")

# Of each tap of a map of existing differences: the weight, and its factor ``constant + slope theta``.
Factors = tuple[tuple[int, float, float], ...]


def check_missing(missing: str) -> None:
    """Refuse an unknown treatment of absent voxels.

    Raises:
        ValueError: it is neither ``"zero"`` nor ``"ignore"``.
    """
    if missing not in MISSING:
        raise ValueError(f"missing must be 'zero' (an absent voxel is 0) or 'ignore', got {missing!r}")


def _pairs_of_differences(
    kernel_map: KernelMap, taps: DifferenceTaps
) -> tuple[list[tuple[Tensor, Tensor]], list[tuple[int, float, float]]]:
    pairs: list[tuple[Tensor, Tensor]] = []
    factors: list[tuple[int, float, float]] = []

    def add(rows: tuple[Tensor, Tensor], weight: int, constant: float, slope: float) -> None:
        if len(rows[0]):
            pairs.append(rows)
            factors.append((weight, constant, slope))

    reader = torch.empty(kernel_map.n_out, dtype=torch.int32, device=kernel_map.in_rows.device)
    for weight, (plus, minus) in enumerate(zip(taps.plus, taps.minus, strict=True)):
        in_rows, out_rows = kernel_map.pairs(plus)
        alone = torch.ones(len(in_rows), dtype=torch.bool, device=in_rows.device)
        for tap, share in minus:
            other_in, other_out = kernel_map.pairs(tap)
            reader.fill_(-1)[other_out.long()] = other_in
            other = reader[out_rows.long()]
            both = other >= 0
            if len(minus) == 1:
                # x_a counts once in full where x_b is there, and 1 - theta times where it is not.
                add((in_rows[both], out_rows[both]), weight, 1, 0)
                alone = ~both
            else:
                add((in_rows[both], out_rows[both]), weight, 0, share)
            add((other[both], out_rows[both]), weight, 0, -share)
        add((in_rows[alone], out_rows[alone]), weight, 1, -1)
    return pairs, factors


def existing_differences(kernel_map: KernelMap, taps: DifferenceTaps) -> tuple[KernelMap, Factors]:
    """The pairs of the differences whose two voxels exist, and of what is left of the others; see the module.

    Returns:
        A map with taps of its own, and of each of them the weight and its factor.
    """

    def build() -> tuple[KernelMap, Factors]:
        pairs, factors = _pairs_of_differences(kernel_map, taps)
        if not pairs:
            pairs, factors = [(kernel_map.in_rows[:0], kernel_map.out_rows[:0])], [(0, 0.0, 0.0)]
        return joined(pairs, kernel_map), tuple(factors)

    return kept_with(kernel_map, taps, build)


def difference_map(record: NamedMap, taps: DifferenceTaps, theta: float, missing: str) -> KernelMap:
    """The pairs that a difference convolution multiplies."""
    check_missing(missing)
    if missing == "zero":
        return folded_map(record, taps.folding(theta))
    return existing_differences(record.kernel_map, taps)[0]


def _convolve_differences(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    record: NamedMap,
    groups: int,
    taps: DifferenceTaps,
    theta: float,
    missing: str,
) -> Tensor:
    check_missing(missing)
    if missing == "zero":
        return convolve_folded(features, weight, taps.folding(theta), bias, record, groups)
    kernel_map, factors = existing_differences(record.kernel_map, taps)
    chosen = torch.tensor([number for number, _, _ in factors], device=weight.device)
    scales = [constant + slope * theta for _, constant, slope in factors]
    scale = torch.tensor(scales, dtype=torch.float64, device="cpu")
    by_tap = weight.flatten(1, -2).index_select(1, chosen) * scale.to(weight)[:, None]
    return convolve_features(features, by_tap, bias, kernel_map, groups)


@eager
def central_difference_conv(
    input: SparseTensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    theta: float = 0.7,
    missing: str = "zero",
    subm: bool = False,
    indice_key: str | None = None,
) -> SparseTensor:
    """Convolution of values mixed with differences to the centre.

    ``y = sum over t of W_t x_t - theta x_centre sum over t of W_t``, the centre tap included in both sums. Yu et
    al., "Searching Central Difference Convolutional Networks for Face Anti-Spoofing", arXiv 2003.04092.

    Args:
        input: ``[N, C]``.
        weight: ``[O, *kernel, C / groups]``, odd sides.
        bias: ``[O]`` or None; added once.
        stride: as in :func:`sparse_conv`; 1 with ``subm``.
        padding: as in :func:`sparse_conv`; without effect with ``subm``.
        dilation: as in :func:`sparse_conv`.
        groups: channel groups.
        theta: share of the difference; 0 is a plain convolution.
        missing: ``"zero"``: an absent voxel has the value 0, which is one folded kernel. ``"ignore"``: a
            difference with an absent voxel is left out, ``y = sum over existing t of W_t (x_t - theta x_centre)``;
            where the centre itself is absent (not with ``subm``) only ``1 - theta`` of the plain values is left.
        subm: keep the input's sites.
        indice_key: a name for the map.

    Returns:
        ``[n_out, O]`` on every site in reach, sorted; with ``subm`` ``[N, O]`` on the input's sites.

    Raises:
        TypeError: no sparse tensor, or types differ.
        ValueError: an even kernel side, an unknown ``missing``, or shapes that do not fit.
    """
    check_sparse(input, "central_difference_conv")
    taps = central_taps(check_kernel_axes(weight, input.ndim))
    record = placed(input, taps.kernel_size, stride, padding, dilation, subm=subm)
    features = _convolve_differences(input.features, weight, bias, record, groups, taps, theta, missing)
    return finish(input, features, record, indice_key)


@eager
def cross_central_difference_conv(
    input: SparseTensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    theta: float = 0.7,
    direction: str = "hv",
    missing: str = "zero",
    subm: bool = False,
    indice_key: str | None = None,
) -> SparseTensor:
    """Central difference convolution on a cross of a kernel of side 3.

    ``"hv"`` is the centre with its neighbours along the axes (5 taps in 2D, 7 in 3D), ``"dg"`` the centre with
    the corners (5 in 2D, 9 in 3D), in row-major order. Only those pairs are multiplied. Yu et al., "Dual-Cross
    Central Difference Network for Face Anti-Spoofing", arXiv 2105.01290, in 2D; more axes are this library's.

    Args:
        input: ``[N, C]``.
        weight: ``[O, 1, .., T, C / groups]``: D kernel axes, the T taps in the last.
        bias: ``[O]`` or None; added once.
        stride: as in :func:`central_difference_conv`, and so are the others.
        padding: of the kernel of side 3.
        dilation: see there.
        groups: see there.
        theta: see there.
        direction: ``"hv"`` or ``"dg"``.
        missing: see there.
        subm: see there.
        indice_key: see there.

    Returns:
        ``[n_out, O]`` on every site in reach, sorted; with ``subm`` ``[N, O]`` on the input's sites.

    Raises:
        TypeError: no sparse tensor, or types differ.
        ValueError: an unknown direction, or shapes that do not fit.
    """
    check_sparse(input, "cross_central_difference_conv")
    taps = cross_taps(input.ndim, direction)
    _check_weights(weight, (1,) * (input.ndim - 1) + (len(taps.plus),))
    record = placed(input, taps.kernel_size, stride, padding, dilation, subm=subm)
    features = _convolve_differences(input.features, weight, bias, record, groups, taps, theta, missing)
    return finish(input, features, record, indice_key)


def _check_weights(weight: Tensor, wanted: tuple[int, ...]) -> None:
    found = check_kernel_axes(weight, len(wanted))
    if found != wanted:
        sides = ", ".join(map(str, wanted))
        raise ValueError(f"the weight must have shape [C_out, {sides}, C_in / groups], got {list(weight.shape)}")


def pixel_padding(padding: Size, dilation: Size, ndim: int, kind: str) -> tuple[int, ...]:
    """Padding of the plain kernel: RPDC's side of 5 needs one more ring than 3 for the same output grid."""
    pads = per_axis(padding, ndim, "padding", minimum=0, maximum=MAX_PADDING)
    if pixel_kind(kind) != "rd":
        return pads
    spread = per_axis(dilation, ndim, "dilation", minimum=1, maximum=MAX_STEP)
    return tuple(p + d for p, d in zip(pads, spread, strict=True))


@eager
def pixel_difference_conv(
    input: SparseTensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    kind: str = "CPDC",
    theta: float = 1.0,
    missing: str = "zero",
    subm: bool = False,
    indice_key: str | None = None,
) -> SparseTensor:
    """Convolution of differences between pixels, here voxels.

    With weights ``w_0, w_1, ..`` in row-major order and theta 1: CPDC sums ``w_i (x_i - x_centre)``; APDC sums
    ``w_a (x_a - x_next(a))`` clockwise round the ring; RPDC sums ``w_i (x_outer - x_inner)`` for i = 1, 2, ..
    over the ``3^D - 1`` directions of a kernel of side 5. With a smaller theta the second voxel is weighted by it,
    and a weight without a difference (the centre; in RPDC ``w_0``) reads its tap with ``1 - theta``. Su et al.,
    "Pixel Difference Networks for Efficient Edge Detection", arXiv 2108.07009, in 2D. With more axes, which are
    this library's definition, APDC goes round the ring of every axis plane: a tap that lies in several takes the
    mean of its next ones, and one that lies in none (a corner) keeps ``1 - theta``.

    Args:
        input: ``[N, C]``.
        weight: ``[O, 3, .., 3, C / groups]``.
        bias: ``[O]`` or None; added once.
        stride: as in :func:`central_difference_conv`, and so are the others.
        padding: of the kernel of side 3; RPDC pads ``dilation`` more, so that all kinds give the same grid.
        dilation: see there.
        groups: see there.
        kind: ``"CPDC"``, ``"APDC"`` or ``"RPDC"``.
        theta: share of the difference.
        missing: ``"zero"``: an absent voxel has the value 0, which is one folded kernel. ``"ignore"``: a
            difference with an absent voxel is left out, and ``1 - theta`` of its weight stays with the first.
        subm: see there.
        indice_key: see there.

    Returns:
        ``[n_out, O]`` on every site in reach, sorted; with ``subm`` ``[N, O]`` on the input's sites.

    Raises:
        TypeError: no sparse tensor, or types differ.
        ValueError: an unknown kind, APDC in 1D, or shapes that do not fit.
    """
    check_sparse(input, "pixel_difference_conv")
    taps = pixel_taps(input.ndim, pixel_kind(kind))
    _check_weights(weight, (3,) * input.ndim)
    pads = pixel_padding(padding, dilation, input.ndim, kind)
    record = placed(input, taps.kernel_size, stride, pads, dilation, subm=subm)
    features = _convolve_differences(input.features, weight, bias, record, groups, taps, theta, missing)
    return finish(input, features, record, indice_key)
