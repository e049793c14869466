"""Octave convolution: some channels on a grid of half the resolution."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from sparseconv.compilation import eager
from sparseconv.functional.conv import subm_conv
from sparseconv.functional.pool import mean_over, upsample
from sparseconv.functional.variants.differences import check_missing
from sparseconv.functional.variants.placement import Size, cells
from sparseconv.ops.mapped import sum_features
from sparseconv.tensor import SparseTensor, check_sparse

# High and low frequency; the low one lies on the occupied cells of 2 sites a side of the high one.
Octaves = tuple[SparseTensor | None, SparseTensor | None]
Path = Callable[[SparseTensor], SparseTensor] | None


@eager
def halve(input: SparseTensor, missing: str = "ignore") -> SparseTensor:
    """Mean of each cell of 2 sites a side, on the occupied cells ``floor(site / 2)``, sorted.

    Args:
        input: ``[N, C]``.
        missing: ``"ignore"``: the mean of the voxels that exist; ``"zero"``: absent ones count as zeros.

    Returns:
        ``[n_out, C]`` on a grid of ``ceil(shape / 2)``.

    Raises:
        TypeError: the input is no sparse tensor.
        ValueError: an unknown ``missing``.
    """
    check_sparse(input, "halve")
    check_missing(missing)
    sites, kernel_map = cells(input.coordinates, 2)
    if missing == "ignore":
        features = mean_over(input.features, kernel_map)
    else:
        features = sum_features(input.features, kernel_map) / 2**input.ndim
    return SparseTensor.from_coordinates(features, sites, input.named_maps)


@eager
def repeat(input: SparseTensor, like: SparseTensor) -> SparseTensor:
    """Each site of ``like`` takes the features of its cell: nearest-neighbour upsampling onto given sites.

    Args:
        input: ``[M, C]`` on the occupied cells of ``like``, those of :func:`halve`.
        like: N sites.

    Returns:
        ``[N, C]`` on the sites of ``like``.

    Raises:
        ValueError: ``input`` does not lie on the cells of ``like``.
    """
    _check_cells(input, like)
    _, kernel_map = cells(like.coordinates, 2)
    return SparseTensor.from_coordinates(
        sum_features(input.features, kernel_map.transposed()), like.coordinates, input.named_maps
    )


def _check_cells(low: SparseTensor, high: SparseTensor) -> None:
    sites, _ = cells(high.coordinates, 2)
    if not low.coordinates.same_sites(sites):
        raise ValueError(
            f"the low frequency must lie on the occupied cells of the high one, {sites}, got {low.coordinates}: "
            "take both from one octave layer, or make the low one with sparseconv.functional.halve"
        )


def _sum(first: SparseTensor | None, second: SparseTensor | None) -> SparseTensor | None:
    if first is None or second is None:
        return second if first is None else first
    return first.replace_feature(first.features + second.features)


def _shift(tensor: SparseTensor | None, bias: Tensor | None) -> SparseTensor | None:
    if tensor is None or bias is None:
        return tensor
    return tensor.replace_feature(tensor.features + bias.to(tensor.dtype))


def octave_paths(
    high: SparseTensor | None,
    low: SparseTensor | None,
    paths: Sequence[Path],
    stride: int = 1,
    missing: str = "ignore",
) -> Octaves:
    """:func:`octave_conv` with any four submanifold operations (hh, lh, hl, ll) or None."""
    if stride not in (1, 2):
        raise ValueError(f"stride must be 1 or 2, got {stride}")
    check_missing(missing)
    for name, tensor in (("high", high), ("low", low)):
        if tensor is not None:
            check_sparse(tensor, f"the {name} frequency of an octave convolution")
    if high is not None and low is not None:
        _check_cells(low, high)
    hh, lh, hl, ll = paths

    def run(input: SparseTensor | None, path: Path) -> SparseTensor | None:
        return None if input is None or path is None else path(input)

    fine = high
    if high is not None and stride == 2:
        high = halve(high, missing)
    slow = halve(low, missing) if low is not None and ll is not None and stride == 2 else low
    crossed = run(low, lh)
    if crossed is not None and stride == 1:
        crossed = upsample(crossed, 2) if fine is None else repeat(crossed, fine)
    pooled = halve(high, missing) if high is not None and hl is not None else None
    return _sum(run(high, hh), crossed), _sum(run(pooled, hl), run(slow, ll))


@eager
def octave_conv(
    high: SparseTensor | None,
    low: SparseTensor | None,
    high_to_high: Tensor | None,
    low_to_high: Tensor | None,
    high_to_low: Tensor | None,
    low_to_low: Tensor | None,
    high_bias: Tensor | None = None,
    low_bias: Tensor | None = None,
    stride: int = 1,
    dilation: Size = 1,
    groups: Sequence[int] = (1, 1, 1, 1),
    *,
    missing: str = "ignore",
) -> Octaves:
    """Four submanifold convolutions between two frequencies; a path without input or weight is left out.

    Stride 1: ``y_h = hh(x_h) + up(lh(x_l))`` and ``y_l = hl(pool(x_h)) + ll(x_l)``, with ``pool`` the mean of each
    cell of 2 sites a side and ``up`` its nearest-neighbour inverse. Stride 2 pools first: ``y_h = hh(pool(x_h)) +
    lh(x_l)`` and ``y_l = hl(pool(pool(x_h))) + ll(pool(x_l))``. Each convolution keeps the sites of its own level.
    Chen et al., "Drop an Octave", arXiv 1904.05049.

    Args:
        high: ``[N, C_h]`` or None.
        low: ``[M, C_l]`` on the occupied cells of ``high`` (:func:`halve`), or None. Without ``high`` what goes up
            fills every site of a cell.
        high_to_high: ``[O_h, *kernel, C_h / groups]`` or None, and so on.
        low_to_high: see there.
        high_to_low: see there.
        low_to_low: see there.
        high_bias: ``[O_h]`` or None.
        low_bias: ``[O_l]`` or None.
        stride: 1 or 2.
        dilation: of the convolutions.
        groups: channel groups of hh, lh, hl and ll.
        missing: as in :func:`halve`.

    Returns:
        ``[N, O_h]`` or None, and ``[M, O_l]`` on its occupied cells or None.

    Raises:
        ValueError: another stride, a low frequency on other sites, or shapes that do not fit.
    """

    def path(weight: Tensor | None, n_groups: int) -> Path:
        if weight is None:
            return None
        return lambda input: subm_conv(input, weight, None, dilation, n_groups)

    weights = (high_to_high, low_to_high, high_to_low, low_to_low)
    paths = [path(weight, n_groups) for weight, n_groups in zip(weights, groups, strict=True)]
    y_high, y_low = octave_paths(high, low, paths, stride, missing)
    return _shift(y_high, high_bias), _shift(y_low, low_bias)
