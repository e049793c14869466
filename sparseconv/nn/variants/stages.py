"""One-dimensional convolutions along the axes, of which spatially separable and flattened layers are made."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sparseconv.functional.variants.separable import along_axis
from sparseconv.geometry import MAX_KERNEL_SIZE, MAX_STEP, per_axis
from sparseconv.nn.conv import SparseConvolution
from sparseconv.nn.variants.base import Size


def same_padding(kernel_size: Size, dilation: Size, ndim: int) -> tuple[int, ...]:
    """``d (k // 2)`` on each axis: an odd kernel then keeps the grid at stride 1."""
    kernel = per_axis(kernel_size, ndim, "kernel_size", minimum=1, maximum=MAX_KERNEL_SIZE)
    spread = per_axis(dilation, ndim, "dilation", minimum=1, maximum=MAX_STEP)
    return tuple(d * (k // 2) for k, d in zip(kernel, spread, strict=True))


def stage_along(
    axis: int,
    ndim: int,
    channels: tuple[int, int],
    window: tuple[Size, Size, Size, Size],
    groups: int,
    bias: bool,
    subm: bool,
    **factory: Any,
) -> SparseConvolution:
    """A one-dimensional convolution layer along one axis.

    Args:
        axis: of the kernel.
        ndim: number of axes.
        channels: in and out.
        window: kernel_size, stride, padding and dilation of all axes, each read at ``axis`` alone.
        groups: channel groups.
        bias: whether there is a bias.
        subm: keep the input's sites.
        **factory: device and dtype.
    """
    kernel = per_axis(window[0], ndim, "kernel_size", minimum=1, maximum=MAX_KERNEL_SIZE)
    sides = [side if place == axis else 1 for place, side in enumerate(kernel)]
    stride, padding, dilation = along_axis(axis, ndim, *window[1:])
    return SparseConvolution(ndim, *channels, sides, stride, padding, dilation, groups, bias, subm=subm, **factory)


def product_kernel(stages: list[Tensor]) -> Tensor:
    """Outer product of one-dimensional kernels ``[.., k_a]`` over their last axes: ``[.., k_0, k_1, ..]``."""
    product = stages[0]
    for stage in stages[1:]:
        product = product[..., None] * stage.reshape(
            *stage.shape[:-1], *(1,) * (product.dim() - stage.dim() + 1), -1
        )
    return product


def refuse_submanifold(subm: bool) -> None:
    """Submanifold stages do not fold.

    Raises:
        TypeError: with ``subm``.
    """
    if subm:
        raise TypeError(
            "submanifold stages are no plain convolution: a path over an absent voxel is lost between them. The "
            "Sparse class of this layer, which makes the sites of each stage, is one"
        )
