"""Which sites an operation writes, and the extent of its output grid.

fine = stride * coarse - padding + dilation * tap       per axis, tap = 0 .. kernel - 1
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

Coords = npt.NDArray[np.int32]  # [N, 1 + D], batch first
Site = tuple[int, ...]


def kernel_taps(kernel: Sequence[int]) -> Iterator[Site]:
    """Taps in row-major order, the last axis fastest."""
    return itertools.product(*(range(k) for k in kernel))


def conv_output_shape(
    shape: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Site:
    """Extent of the coarse grid: (in + 2p - d(k - 1) - 1) // s + 1 per axis."""
    axes = zip(shape, kernel, stride, padding, dilation, strict=True)
    return tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in axes)


def transposed_output_shape(
    shape: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    output_padding: Sequence[int],
) -> Site:
    """Extent of the fine grid: (in - 1)s - 2p + d(k - 1) + output_padding + 1 per axis."""
    axes = zip(shape, kernel, stride, padding, dilation, output_padding, strict=True)
    return tuple((n - 1) * s - 2 * p + d * (k - 1) + extra + 1 for n, k, s, p, d, extra in axes)


def sorted_sites(sites: Iterable[Site], ndim: int) -> Coords:
    """The distinct sites as int32 rows `[M, 1 + ndim]`, in lexicographic order."""
    return np.array(sorted(set(sites)), dtype=np.int32).reshape(-1, 1 + ndim)


def coarse_sites(
    fine: Coords,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    out_shape: Sequence[int] | None,
) -> Coords:
    """Every coarse site that at least one fine site reaches: coarse = (fine + p - d t) / s.

    Args:
        fine: active sites, `[N, 1 + D]`.
        kernel: taps per axis.
        stride: s per axis.
        padding: p per axis.
        dilation: d per axis.
        out_shape: sites outside [0, out_shape) are left out; None is a grid without bounds,
            negative coordinates included.

    Returns:
        `[M, 1 + D]`, lexicographic.
    """
    reached: set[Site] = set()
    for batch, *position in fine.tolist():
        for tap in kernel_taps(kernel):
            site: list[int] = []
            for f, s, p, d, t in zip(position, stride, padding, dilation, tap, strict=True):
                if (f + p - d * t) % s == 0:
                    site.append((f + p - d * t) // s)
            if len(site) == len(position) and _inside(site, out_shape):
                reached.add((batch, *site))
    return sorted_sites(reached, len(kernel))


def fine_sites(
    coarse: Coords,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    out_shape: Sequence[int] | None,
) -> Coords:
    """Every fine site that at least one coarse site reaches: fine = s coarse - p + d t.

    Arguments and result are those of `coarse_sites`, with the two grids exchanged.
    """
    reached: set[Site] = set()
    for batch, *position in coarse.tolist():
        for tap in kernel_taps(kernel):
            axes = zip(position, stride, padding, dilation, tap, strict=True)
            site = [s * c - p + d * t for c, s, p, d, t in axes]
            if _inside(site, out_shape):
                reached.add((batch, *site))
    return sorted_sites(reached, len(kernel))


def _inside(site: Sequence[int], shape: Sequence[int] | None) -> bool:
    return shape is None or all(0 <= x < n for x, n in zip(site, shape, strict=True))
