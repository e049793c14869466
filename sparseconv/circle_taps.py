"""Where the taps of a circle (2D) or ball (3D) kernel sample, as weights of a square kernel; pure arithmetic."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sparseconv.geometry import MAX_KERNEL_SIZE, per_axis

Radius = float | Mapping[int, float] | None

# Angles of evenly spaced taps off the axes and diagonals, by (|gy|, |gx|); the paper's first version.
_EVEN_ANGLES = {
    (1, 2): math.pi / 8,
    (2, 1): 3 * math.pi / 8,
    (1, 3): math.pi / 12,
    (3, 1): 5 * math.pi / 12,
    (2, 3): 2 * math.pi / 12,
    (3, 2): 4 * math.pi / 12,
}
# A rounding error beside the kernel's border is on the border.
_SLACK = 1e-9


def _off_axis(tap: tuple[int, ...]) -> bool:
    return sum(1 for step in tap if step) > 1


def _ring(tap: tuple[int, ...]) -> int:
    return math.isqrt(sum(step * step for step in tap))


def _place(tap: tuple[int, ...], radii: Mapping[int, float], angles: str) -> tuple[float, ...]:
    """Where the tap at a grid place samples, relative to the centre."""
    if not _off_axis(tap):
        return tuple(float(step) for step in tap)
    radius = radii.get(_ring(tap), float(_ring(tap)))
    angle = _EVEN_ANGLES.get((abs(tap[0]), abs(tap[1]))) if angles == "even" else None
    if angle is not None:
        unit = [math.sin(angle), math.cos(angle)]
    else:
        length = math.sqrt(sum(step * step for step in tap))
        unit = [abs(step) / length for step in tap]
    return tuple(math.copysign(radius * part, step) if step else 0.0 for part, step in zip(unit, tap, strict=True))


@functools.lru_cache(maxsize=16)
def _matrix(kernel_size: int, ndim: int, radii: tuple[tuple[int, float], ...], angles: str) -> Tensor:
    half = kernel_size // 2
    grid = list(itertools.product(range(-half, half + 1), repeat=ndim))
    places = [_place(tap, dict(radii), angles) for tap in grid]
    for tap, place in zip(grid, places, strict=True):
        if max(map(abs, place)) > half + _SLACK:
            raise ValueError(
                f"radius must give rings a place inside the kernel of side {kernel_size}, and {dict(radii)} moves "
                f"the tap {tap} to {tuple(round(p, 3) for p in place)}: use a smaller radius"
            )
    # Kept, so it must serve training after an evaluation in inference mode.
    with torch.inference_mode(False):
        points = torch.tensor(places, dtype=torch.float64, device="cpu").clamp(-half, half)
        cells = torch.tensor(grid, dtype=torch.float64, device="cpu")
        matrix = torch.ones(len(grid), len(grid), dtype=torch.float64, device="cpu")
        for axis in range(ndim):
            matrix *= (1 - (points[:, None, axis] - cells[:, axis]).abs()).clamp(min=0)
    return matrix


def equal_side(kernel_size: int | Sequence[int], ndim: int) -> int:
    """The side of a kernel that has the same on every axis.

    Raises:
        TypeError: it is no integer.
        ValueError: sides that differ, or out of bounds.
    """
    sides = per_axis(kernel_size, ndim, "kernel_size", minimum=1, maximum=MAX_KERNEL_SIZE)
    if len(set(sides)) != 1:
        raise ValueError(f"a circle kernel has equal sides, got kernel_size {sides}: give one integer")
    return sides[0]


def ball_matrix(kernel_size: int, ndim: int, radius: Radius = None, angles: str = "grid") -> Tensor:
    """Linear weights of the cells (columns) that each tap (row) samples: float64 ``[k^D, k^D]``; rows sum to 1.

    A tap with more than one non-zero coordinate moves to the radius ``floor(its distance)``, its ring, along its
    own direction; taps on the axes stay. In 2D these are circles, as He et al., "Integrating Large Circular
    Kernels into CNNs through Neural Architecture Search", arXiv 2107.02451; in 3D, by the same rule, spheres.

    Args:
        kernel_size: an odd side.
        ndim: number of axes ``D``.
        radius: other radii for the taps off the axes: one number for a kernel of side 3 (in 2D, 0: centre,
            sqrt(2)/2: diamond, 1: circle, sqrt(2): the square kernel itself), or a mapping from ring to radius.
        angles: ``"grid"`` keeps each tap's direction; ``"even"``, in 2D up to 7x7, spaces the taps of a ring
            evenly.

    Raises:
        ValueError: an even side, unknown angles, radii that do not name rings, or that leave the kernel.
    """
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"a circle kernel has a centre: kernel_size must be odd, got {kernel_size}")
    if angles not in ("grid", "even"):
        raise ValueError(f"angles must be 'grid' or 'even', got {angles!r}")
    half = kernel_size // 2
    if angles == "even" and (ndim != 2 or half > 3):
        raise ValueError(
            f"evenly spaced angles are defined in 2D up to 7x7, got {ndim}D with kernel_size {kernel_size}: use "
            "angles='grid'"
        )
    rings = {_ring(tap) for tap in itertools.product(range(half + 1), repeat=ndim) if _off_axis(tap)}
    if radius is None:
        radius = {}
    elif not isinstance(radius, Mapping):
        if len(rings) != 1:
            raise ValueError(
                f"one radius is meant for a kernel of side 3 with at least 2 axes: give a mapping from ring "
                f"{sorted(rings)} to radius for {ndim}D with kernel_size {kernel_size}"
            )
        radius = dict.fromkeys(rings, radius)
    if not set(radius) <= rings or not all(r >= 0 for r in radius.values()):
        raise ValueError(f"radius must give rings of {sorted(rings)} a radius of at least 0, got {dict(radius)}")
    return _matrix(kernel_size, ndim, tuple(sorted((ring, float(r)) for ring, r in radius.items())), angles)
