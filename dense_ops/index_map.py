"""Kernel maps of dense grids: every pixel is a site, so neighbours come by arithmetic and not by search.

Rows are pixels in row-major order, image after image: ``row = (n * H + y) * W + x``.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from sparseconv.dense_ops.window import Pair, Window
from sparseconv.geometry import ConvGeometry
from sparseconv.kernel_map import KernelMap

# Bytes of maps kept for the next call: the layers of a network run at a handful of sizes. A 3x3 map of eight
# 224 x 224 images takes 29 MB. A map above half of it would drive out the others at each call: of those the last
# one alone is kept, beside the rest.
_BYTES_KEPT = 256 << 20


@dataclass(frozen=True, eq=False)
class NeighborPairs:
    """Pairs for :func:`sparseconv.ops.weighted_sum`: every tap of every output pixel, pixel after pixel.

    Attributes:
        in_rows: int32 ``[n_out K]``, -1 where a tap falls outside the image.
        out_rows: int32 ``[n_out K]``.
        by_in_rows: int64 ``[n_out K]``, the pairs in stable order of ``in_rows``.
    """

    in_rows: Tensor
    out_rows: Tensor
    by_in_rows: Tensor


_Pairs = TypeVar("_Pairs", KernelMap, NeighborPairs)

_lock = threading.Lock()
_kept: OrderedDict[Any, Any] = OrderedDict()
_large: OrderedDict[Any, Any] = OrderedDict()


def _bytes(kept: KernelMap | NeighborPairs) -> int:
    size = 2 * kept.in_rows.numel() * kept.in_rows.element_size()
    if isinstance(kept, NeighborPairs):
        return size + kept.by_in_rows.numel() * kept.by_in_rows.element_size()
    # Twice: a map whose input rows do not ascend keeps its transposed twin.
    return size * (1 if kept.in_rows_ascend else 2)


def remembered(key: Any, build: Callable[[], _Pairs]) -> _Pairs:
    """The map that ``build`` makes, kept under ``key`` until newer maps need its place."""
    with _lock:
        for store in (_kept, _large):
            if key in store:
                store.move_to_end(key)
                return store[key]
    # Kept, so it must serve training after an evaluation in inference mode.
    with torch.inference_mode(False):
        made = build()
    with _lock:
        if _bytes(made) > _BYTES_KEPT // 2:
            _large.clear()
            _large[key] = made
            return made
        _kept[key] = made
        total = sum(map(_bytes, _kept.values()))
        while total > _BYTES_KEPT:
            total -= _bytes(_kept.popitem(last=False)[1])
    return made


def check_pixels(batch_size: int, *shapes: Pair) -> None:
    """Refuse a batch whose pixels cannot be numbered in int32.

    Raises:
        ValueError: a grid has 2**31 pixels or more.
    """
    pixels = batch_size * max(height * width for height, width in shapes)
    if pixels >= 1 << 31:
        raise ValueError(f"a batch must stay below 2^31 pixels, got {pixels}: split it")


def _axis_pairs(
    size_in: int, size_out: int, stride: int, offset: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Positions (fine, coarse) along one axis that a tap joins."""
    coarse = torch.arange(size_out, device=device)
    fine = stride * coarse + offset
    inside = (fine >= 0) & (fine < size_in)
    return fine[inside], coarse[inside]


def _image_pairs(window: Window, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """For each tap the (input, output) pixels of one image that it joins, as int64 rows."""
    pairs = []
    width, out_width = window.in_shape[1], window.out_shape[1]
    for dy, dx in window.offsets:
        in_y, out_y = _axis_pairs(window.in_shape[0], window.out_shape[0], window.stride[0], dy, device)
        in_x, out_x = _axis_pairs(width, out_width, window.stride[1], dx, device)
        pairs.append(
            (
                (in_y[:, None] * width + in_x).reshape(-1),
                (out_y[:, None] * out_width + out_x).reshape(-1),
            )
        )
    return pairs


def batched_map(
    pairs: Sequence[tuple[Tensor, Tensor]],
    n_in: int,
    n_out: int,
    batch_size: int,
    *,
    per_sample: bool = False,
    in_rows_ascend: bool = True,
) -> KernelMap:
    """Repeat one image's pairs over the batch: within each tap, or with taps of its own for each sample."""
    device = pairs[0][0].device
    images = torch.arange(batch_size, device=device)[:, None]
    if per_sample:
        order = list(itertools.product(range(batch_size), pairs))
        in_rows = [inner + n * n_in for n, (inner, _) in order]
        out_rows = [outer + n * n_out for n, (_, outer) in order]
    else:
        in_rows = [(images * n_in + inner).reshape(-1) for inner, _ in pairs]
        out_rows = [(images * n_out + outer).reshape(-1) for _, outer in pairs]
    empty = torch.empty(0, dtype=torch.int64, device=device)
    return KernelMap(
        torch.cat([empty, *in_rows]).int(),
        torch.cat([empty, *out_rows]).int(),
        torch.tensor([0, *map(len, in_rows)], device="cpu").cumsum(0),
        batch_size * n_in,
        batch_size * n_out,
        in_rows_ascend,
    )


_CPU = torch.device("cpu")


def window_map(
    window: Window, batch_size: int, device: torch.device = _CPU, per_sample: bool = False
) -> KernelMap:
    """Map of a window over a batch of images.

    Zero padding: a tap that falls outside the image has no pair. Input rows repeat in no tap.

    Args:
        window: the resolved convolution.
        batch_size: number of images ``N``.
        device: where the rows shall lie.
        per_sample: give each sample taps of its own, ``N * K`` taps in the order ``(n, t)``: a kernel for each
            sample.

    Raises:
        ValueError: the grid has 2**31 pixels or more.
    """
    check_pixels(batch_size, window.in_shape, window.out_shape)
    return remembered(
        ("window", window, batch_size, device, per_sample),
        lambda: batched_map(
            _image_pairs(window, device), window.n_in, window.n_out, batch_size, per_sample=per_sample
        ),
    )


def neighbor_pairs(window: Window, batch_size: int, device: torch.device = _CPU) -> NeighborPairs:
    """The pairs of a window over a batch of images, by output pixel instead of by tap.

    Raises:
        ValueError: the grid has 2**31 pixels or more.
    """

    def build() -> NeighborPairs:
        table = window_map(window, batch_size, device).neighbor_table()
        in_rows = table.reshape(-1)
        out_rows = torch.arange(len(table), dtype=torch.int32, device=device).repeat_interleave(table.shape[1])
        return NeighborPairs(in_rows, out_rows, in_rows.argsort(stable=True))

    return remembered(("neighbors", window, batch_size, device), build)


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
    return window_map(geometry_window(geometry, (height, width), (out_height, out_width)), batch_size)


def geometry_window(geometry: ConvGeometry, in_shape: Pair, out_shape: Pair) -> Window:
    """The window of a geometry between two given grids.

    Raises:
        ValueError: the geometry is not two-dimensional.
    """
    if geometry.ndim != 2:
        raise ValueError(f"a dense image needs a two-dimensional geometry, got {geometry.ndim} axes")
    pad_y, pad_x = geometry.padding
    return Window(
        in_shape,
        out_shape,
        (geometry.stride[0], geometry.stride[1]),
        tuple((dy, dx) for dy, dx in geometry.offsets()),
        ((pad_y, pad_y), (pad_x, pad_x)),
    )
