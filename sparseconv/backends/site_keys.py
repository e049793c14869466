"""Lossless 64-bit keys of sites.

A site ``(batch, axis 0, .., axis D-1)`` becomes its row-major number inside the bounding box of its set:
keys order as the sites do, and two sites never share one. The box is that of the *occupied* sites, so an
unbounded grid, or one far larger than 2**63 cells, is fine as long as what is occupied fits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sparseconv.geometry import ConvGeometry

KEY_BITS = 63  # the sign bit stays free: -1 means "no key"
# Cells that an unbounded grid can name: int32 coordinates, one cell short of the ends so that the float32
# neighbours of 2**31 stay out.
FARTHEST_CELL = 2147483520
# Of keys below this the quotient in doubles has the right floor: it lies 1 / divisor or more below the next
# integer, and it is rounded by half of that at most.
EXACT_CELLS = 1 << 52
# Rows are int32 throughout; the cuda backend keeps a rank in the low half of a slot's second word too.
MOST_SITES = (1 << 31) - 1


def check_site_count(count: int) -> None:
    """Raise ValueError where a set holds more sites than rows can name."""
    if count > MOST_SITES:
        raise ValueError(f"a set holds at most {MOST_SITES} sites (rows are int32), got {count}")


@dataclass(frozen=True)
class SiteKeys:
    """Bounding box of a set of sites and the row-major strides inside it.

    Attributes:
        low: smallest coordinate of each column.
        high: largest coordinate of each column, below ``low`` for an empty set.
        extent: number of values of each column, at least 1.
        strides: what one step along each column adds to the key.
    """

    low: tuple[int, ...]
    high: tuple[int, ...]
    extent: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def spanning(cls, low: Sequence[int], high: Sequence[int]) -> SiteKeys:
        """Keys of the sites from ``low`` to ``high`` (inclusive).

        Args:
            low: smallest coordinate of each column, batch first.
            high: largest coordinate of each column; may lie below ``low`` for an empty set.

        Raises:
            ValueError: the box holds 2**63 cells or more.
        """
        extent = [max(1, int(h) - int(l) + 1) for l, h in zip(low, high, strict=True)]
        strides = [1] * len(extent)
        for column in range(len(extent) - 2, -1, -1):
            strides[column] = strides[column + 1] * extent[column + 1]
        cells = strides[0] * extent[0]
        if cells >= 1 << KEY_BITS:
            raise ValueError(
                f"the occupied sites span a box of {' x '.join(map(str, extent))} cells (batch first), about "
                f"2^{cells.bit_length() - 1}; a site's key has {KEY_BITS} bits, so the box must stay below "
                f"2^{KEY_BITS} cells. Remove stray far-away sites, use larger voxels, or split the batch."
            )
        return cls(
            tuple(int(l) for l in low),
            tuple(int(h) for h in high),
            tuple(extent),
            tuple(strides),
        )

    @property
    def cells(self) -> int:
        """Number of cells in the box: every key is below it."""
        return self.strides[0] * self.extent[0]


def _box(low: list[int], high: list[int]) -> SiteKeys | None:
    if any(l > h for l, h in zip(low, high, strict=True)):
        return None
    if min(low) < -(1 << 31) or max(high) >= 1 << 31:
        raise ValueError(
            f"the output sites would span {low} .. {high} (batch first), beyond the int32 coordinates "
            "-2^31 .. 2^31-1. Shift the sites towards 0 or use larger voxels."
        )
    return SiteKeys.spanning(low, high)


def coarse_box(keys: SiteKeys, geometry: ConvGeometry, shape: Sequence[int] | None) -> SiteKeys | None:
    """Box of the coarse sites that fine sites inside ``keys`` can reach; None where there is none.

    Args:
        keys: box of the fine sites.
        geometry: the relation.
        shape: the coarse grid, or None where it is unbounded.

    Raises:
        ValueError: the box cannot be packed or leaves int32.
    """
    return _reached_box(
        keys, geometry, shape, lambda low, high, k, s, p, d: (-(-(low + p - d * (k - 1)) // s), (high + p) // s)
    )


def fine_box(keys: SiteKeys, geometry: ConvGeometry, shape: Sequence[int] | None) -> SiteKeys | None:
    """Box of the fine sites that coarse sites inside ``keys`` can reach; see :func:`coarse_box`."""
    return _reached_box(
        keys, geometry, shape, lambda low, high, k, s, p, d: (s * low - p, s * high - p + d * (k - 1))
    )


def _reached_box(
    keys: SiteKeys,
    geometry: ConvGeometry,
    shape: Sequence[int] | None,
    reach: Callable[[int, int, int, int, int, int], tuple[int, int]],
) -> SiteKeys | None:
    """Box of what ``reach(low, high, kernel, stride, padding, dilation)`` gives on each axis, inside the grid."""
    low, high = [keys.low[0]], [keys.high[0]]
    axes = zip(geometry.kernel_size, geometry.stride, geometry.padding, geometry.dilation, strict=True)
    for a, constants in enumerate(axes):
        first, last = reach(keys.low[a + 1], keys.high[a + 1], *constants)
        low.append(first if shape is None else max(first, 0))
        high.append(last if shape is None else min(last, shape[a] - 1))
    return _box(low, high)
