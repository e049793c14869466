"""CoordConv: features that know where they are."""

from __future__ import annotations

import torch
from torch import Tensor

from sparseconv.compilation import eager
from sparseconv.functional.conv import sparse_conv, subm_conv
from sparseconv.functional.variants.placement import Size, batch_of, check_stride
from sparseconv.tensor import SparseTensor, check_sparse

ORDERS = ("xy", "yx")
EXTENTS = ("grid", "sample")


def check_coords(order: str, extent: str) -> None:
    """Refuse unknown choices.

    Raises:
        ValueError: an unknown order or extent.
    """
    if order not in ORDERS:
        raise ValueError(f"order must be 'xy' (last axis first) or 'yx' (order of the indices), got {order!r}")
    if extent not in EXTENTS:
        raise ValueError(f"extent must be 'grid' or 'sample', got {extent!r}")


def _bounds(input: SparseTensor, extent: str) -> tuple[Tensor, Tensor]:
    """Lowest and highest place of each row's axes, int64 ``[N or 1, D]``."""
    places = input.indices[:, 1:].long()
    if extent == "grid":
        if input.spatial_shape is None:
            raise ValueError(
                "coordinates in the grid's extent need a bounded grid, and this tensor has spatial_shape=None: "
                "give spatial_shape when it is built, or use extent='sample'"
            )
        high = torch.tensor([input.spatial_shape], device=places.device) - 1
        return torch.zeros_like(high), high
    batch = batch_of(input.coordinates)
    index = batch[:, None].expand_as(places)
    shape = (input.batch_size, input.ndim)
    low, high = (
        places.new_zeros(shape).scatter_reduce(0, index, places, reduce, include_self=False)
        for reduce in ("amin", "amax")
    )
    return low[batch], high[batch]


@eager
def add_coords(
    input: SparseTensor, with_r: bool = False, order: str = "xy", *, extent: str = "grid"
) -> SparseTensor:
    """Append each site's coordinates to its features: ``[x, (y, z, ..), (r)]``, each from -1 to 1.

    ``2 i / (n - 1) - 1`` on an axis of ``n`` cells (0 where n is 1), and ``r`` the distance from the centre. Liu
    et al., "An intriguing failing of convolutional neural networks and the CoordConv solution", arXiv 1807.03247.

    Args:
        input: ``[N, C]``.
        with_r: append the distance from the centre too.
        order: ``"xy"`` begins with the last axis, as the paper's code; ``"yx"`` has the order of the indices.
        extent: what spans -1 to 1: ``"grid"`` the whole grid, ``"sample"`` the occupied box of each sample.

    Returns:
        ``[N, C + D]`` or, with_r, ``[N, C + D + 1]``, on the same sites.

    Raises:
        ValueError: an unbounded grid with ``"grid"``, or an unknown order or extent.
    """
    check_sparse(input, "add_coords")
    check_coords(order, extent)
    low, high = _bounds(input, extent)
    # In float64: the two ends are exactly -1 and 1, and large grids lose nothing before the last rounding.
    steps = (high - low).double()
    coords = 2 * (input.indices[:, 1:].long() - low).double() / steps.clamp(min=1) - 1
    coords = torch.where(steps > 0, coords, 0.0)
    if order == "xy":
        coords = coords.flip(1)
    if with_r:
        coords = torch.cat([coords, coords.square().sum(1, keepdim=True).sqrt()], 1)
    return input.replace_feature(torch.cat([input.features, coords.to(input.features)], 1))


@eager
def coord_conv(
    input: SparseTensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    with_r: bool = False,
    order: str = "xy",
    extent: str = "grid",
    subm: bool = False,
    indice_key: str | None = None,
) -> SparseTensor:
    """Convolution of the features with their coordinates appended; see :func:`add_coords`.

    An absent voxel counts as zeros, its coordinates included.

    Args:
        input: ``[N, C]``.
        weight: ``[O, *kernel, (C + D or C + D + 1) / groups]``.
        bias: ``[O]`` or None.
        stride: as in :func:`sparse_conv`; 1 with ``subm``.
        padding: as in :func:`sparse_conv`; without effect with ``subm``.
        dilation: as in :func:`sparse_conv`.
        groups: channel groups.
        with_r: as in :func:`add_coords`.
        order: as in :func:`add_coords`.
        extent: as in :func:`add_coords`.
        subm: keep the input's sites.
        indice_key: a name for the map.

    Returns:
        ``[n_out, O]`` on every site in reach, sorted; with ``subm`` ``[N, O]`` on the input's sites.

    Raises:
        TypeError: no sparse tensor, or types differ.
        ValueError: an unbounded grid with ``extent="grid"``, or shapes that do not fit.
    """
    whole = add_coords(input, with_r, order, extent=extent)
    if subm:
        check_stride(stride, input.ndim)
        return subm_conv(whole, weight, bias, dilation, groups, indice_key)
    return sparse_conv(whole, weight, bias, stride, padding, dilation, groups, indice_key)
