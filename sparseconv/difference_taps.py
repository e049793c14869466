"""Which taps the difference convolutions subtract, in any number of dimensions; pure arithmetic.

A weight ``w_j`` multiplies its tap ``a`` mixed with differences to other taps ``b``::

    w_j ((1 - theta) x_a + theta sum over b of share_b (x_a - x_b))

The shares of one weight sum to 1, or there is no ``b``: then only the first part is left.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

DIRECTIONS = ("hv", "dg")
_KINDS = {"cpdc": "cd", "apdc": "ad", "rpdc": "rd", "cd": "cd", "ad": "ad", "rd": "rd"}


@dataclass(frozen=True)
class DifferenceTaps:
    """The taps of each weight of a difference convolution.

    Attributes:
        kernel_size: of the plain kernel in which the taps lie.
        plus: for each weight its tap.
        minus: for each weight the taps that are subtracted, each with its share.
    """

    kernel_size: tuple[int, ...]
    plus: tuple[int, ...]
    minus: tuple[tuple[tuple[int, float], ...], ...]

    def folding(self, theta: float) -> Tensor:
        """The plain kernel as a matrix of the weights, absent voxels being zeros: float64 ``[T, K]``."""
        return _folding(self, float(theta))


@functools.lru_cache(maxsize=64)
def _folding(taps: DifferenceTaps, theta: float) -> Tensor:
    # Kept, so it must serve training after an evaluation in inference mode.
    with torch.inference_mode(False):
        matrix = torch.zeros(len(taps.plus), math.prod(taps.kernel_size), dtype=torch.float64, device="cpu")
        for weight, (plus, minus) in enumerate(zip(taps.plus, taps.minus, strict=True)):
            matrix[weight, plus] += 1 if minus else 1 - theta
            for tap, share in minus:
                matrix[weight, tap] -= theta * share
    return matrix


def _number(tap: Sequence[int], kernel_size: Sequence[int]) -> int:
    """Number of a tap in row-major order."""
    number = 0
    for step, side in zip(tap, kernel_size, strict=True):
        number = number * side + step
    return number


@functools.lru_cache(maxsize=64)
def central_taps(kernel_size: tuple[int, ...]) -> DifferenceTaps:
    """Every tap against the centre.

    Raises:
        ValueError: an even side.
    """
    if any(k % 2 == 0 for k in kernel_size):
        raise ValueError(f"a central difference needs a centre tap: kernel sides must be odd, got {kernel_size}")
    volume = math.prod(kernel_size)
    centre = volume // 2
    minus = tuple(() if tap == centre else ((centre, 1.0),) for tap in range(volume))
    return DifferenceTaps(kernel_size, tuple(range(volume)), minus)


@functools.lru_cache(maxsize=64)
def cross_taps(ndim: int, direction: str) -> DifferenceTaps:
    """The centre and, ``"hv"``, its ``2 D`` neighbours along the axes or, ``"dg"``, the ``2^D`` corners.

    In row-major order: in 2D N, W, C, E, S and NW, NE, C, SW, SE.

    Raises:
        ValueError: an unknown direction.
    """
    if direction not in DIRECTIONS:
        raise ValueError(f"direction must be 'hv' (along the axes) or 'dg' (diagonal), got {direction!r}")
    distance = 1 if direction == "hv" else ndim
    steps = itertools.product((-1, 0, 1), repeat=ndim)
    kernel_size = (3,) * ndim
    plus = tuple(
        _number([s + 1 for s in step], kernel_size) for step in steps if sum(map(abs, step)) in (0, distance)
    )
    centre = 3**ndim // 2
    return DifferenceTaps(kernel_size, plus, tuple(() if tap == centre else ((centre, 1.0),) for tap in plus))


def pixel_kind(kind: str) -> str:
    """``"cd"``, ``"ad"`` or ``"rd"`` of a kind in either spelling.

    Raises:
        ValueError: an unknown kind.
    """
    short = _KINDS.get(kind.lower()) if isinstance(kind, str) else None
    if short is None:
        raise ValueError(f"kind must be 'CPDC', 'APDC' or 'RPDC' (or 'cd', 'ad', 'rd'), got {kind!r}")
    return short


@functools.lru_cache(maxsize=64)
def pixel_taps(ndim: int, kind: str) -> DifferenceTaps:
    """Differences of the ``3^D`` weights of a pixel difference convolution.

    Raises:
        ValueError: an unknown kind, or APDC in 1D, where there is no ring.
    """
    short = pixel_kind(kind)
    if short == "cd":
        return central_taps((3,) * ndim)
    return _angular_taps(ndim) if short == "ad" else _radial_taps(ndim)


def _angular_taps(ndim: int) -> DifferenceTaps:
    """Each tap against the next one round the ring of each axis plane through the centre that it lies in."""
    if ndim < 2:
        raise ValueError("APDC goes round a ring, and one axis has none: use CPDC or RPDC in 1D")
    kernel_size = (3,) * ndim
    ring = ((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1))  # clockwise from the top left
    following: dict[int, list[int]] = {}
    for first, second in itertools.combinations(range(ndim), 2):

        def on_plane(step: tuple[int, int], down: int = first, across: int = second) -> int:
            tap = [1] * ndim
            tap[down] += step[0]
            tap[across] += step[1]
            return _number(tap, kernel_size)

        for place, step in enumerate(ring):
            following.setdefault(on_plane(step), []).append(on_plane(ring[(place + 1) % 8]))
    volume = 3**ndim
    minus = tuple(
        tuple((other, 1 / len(following[tap])) for other in following[tap]) if tap in following else ()
        for tap in range(volume)
    )
    return DifferenceTaps(kernel_size, tuple(range(volume)), minus)


def _radial_taps(ndim: int) -> DifferenceTaps:
    """In each of the ``3^D - 1`` directions the voxel two steps out against the one a step out.

    The weights 1, 2, .. take the directions in row-major order; weight 0 reads the centre.
    """
    kernel_size = (5,) * ndim
    directions = [step for step in itertools.product((-1, 0, 1), repeat=ndim) if any(step)]
    outer = [_number([2 + 2 * s for s in step], kernel_size) for step in directions]
    inner = [_number([2 + s for s in step], kernel_size) for step in directions]
    centre = 5**ndim // 2
    return DifferenceTaps(kernel_size, (centre, *outer), ((), *(((tap, 1.0),) for tap in inner)))
