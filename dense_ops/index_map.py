"""Kernel maps of dense grids: every pixel is a site, so neighbours come by arithmetic and not by search.

Rows are pixels in row-major order, image after image: ``row = (n * H + y) * W + x``.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from sparseconv.geometry import ConvGeometry
from sparseconv.kernel_map import KernelMap

# Maps kept at once: the layers of a network run at a handful of sizes.
_MAPS_KEPT = 16


def _axis_pairs(size_in: int, size_out: int, geometry: ConvGeometry, axis: int, tap: int) -> tuple[Tensor, Tensor]:
    """Positions (fine, coarse) along one axis that a tap joins."""
    coarse = torch.arange(size_out)
    fine = geometry.stride[axis] * coarse - geometry.padding[axis] + geometry.dilation[axis] * tap
    inside = (fine >= 0) & (fine < size_in)
    return fine[inside], coarse[inside]


@functools.lru_cache(maxsize=_MAPS_KEPT)
def dense_kernel_map(
    batch_size: int, height: int, width: int, geometry: ConvGeometry, out_height: int, out_width: int
) -> KernelMap:
    """Map from the fine grid ``[batch, height, width]`` onto the coarse grid ``[batch, out_height, out_width]``.

    Zero padding: a tap that falls outside the fine grid has no pair. Input rows repeat in no tap.

    Args:
        batch_size: number of images.
        height: rows of the fine grid.
        width: columns of the fine grid.
        geometry: two-dimensional.
        out_height: rows of the coarse grid.
        out_width: columns of the coarse grid.

    Raises:
        ValueError: the geometry is not two-dimensional, or the grid has 2**31 pixels or more.
    """
    if geometry.ndim != 2:
        raise ValueError(f"a dense image needs a two-dimensional geometry, got {geometry.ndim} axes")
    pixels = batch_size * max(height * width, out_height * out_width)
    if pixels >= 1 << 31:
        raise ValueError(f"a batch must stay below 2^31 pixels, got {pixels}: split it")
    images = torch.arange(batch_size)[:, None, None]
    in_rows, out_rows, counts = [], [], [0]
    for tap_y, tap_x in geometry.taps():
        fine_y, coarse_y = _axis_pairs(height, out_height, geometry, 0, tap_y)
        fine_x, coarse_x = _axis_pairs(width, out_width, geometry, 1, tap_x)
        fine = (images * height + fine_y[:, None]) * width + fine_x
        coarse = (images * out_height + coarse_y[:, None]) * out_width + coarse_x
        in_rows.append(fine.reshape(-1).int())
        out_rows.append(coarse.reshape(-1).int())
        counts.append(fine.numel())
    return KernelMap(
        torch.cat(in_rows),
        torch.cat(out_rows),
        torch.tensor(counts).cumsum(0),
        batch_size * height * width,
        batch_size * out_height * out_width,
        True,
    )
