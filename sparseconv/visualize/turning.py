"""Scenes in which another axis of the file than z points up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# The axes of the picture (x, y, up) as axes of the file and their signs. All are rotations: nothing is mirrored.
_TURNS: dict[str, tuple[tuple[int, int], ...]] = {
    "z": ((0, 1), (1, 1), (2, 1)),
    "-z": ((0, 1), (1, -1), (2, -1)),
    "y": ((0, 1), (2, -1), (1, 1)),
    "-y": ((0, 1), (2, 1), (1, -1)),
    "x": ((1, 1), (2, 1), (0, 1)),
    "-x": ((1, 1), (2, -1), (0, -1)),
}
UPS = tuple(_TURNS)


@dataclass(frozen=True)
class Turn:
    """A rotation by quarters.

    Attributes:
        axes: for each axis of the picture the file's axis.
        signs: 1, or -1 where the file's axis points the other way.
    """

    axes: tuple[int, ...]
    signs: tuple[int, ...]

    @classmethod
    def with_up(cls, up: str) -> Turn:
        """The rotation that brings an axis of the file up.

        Args:
            up: one of x, y, z, with or without a sign.

        Raises:
            ValueError: anything else.
        """
        turn = _TURNS.get(up.removeprefix("+"))
        if turn is None:
            raise ValueError(f"up must be x, y or z, with a sign or without, got {up!r}")
        axes, signs = zip(*turn, strict=True)
        return cls(axes, signs)

    @property
    def is_none(self) -> bool:
        """Whether everything stays as it is."""
        return self == Turn((0, 1, 2), (1, 1, 1))

    def points(self, points: NDArray[Any]) -> NDArray[Any]:
        """Positions ``[.., 3]`` in the picture's axes."""
        return points[..., list(self.axes)] * np.array(self.signs)

    def edges(self, edges: Sequence[float]) -> tuple[float, ...]:
        """Three lengths, one an axis, in the order of the picture's axes."""
        return tuple(edges[axis] for axis in self.axes)

    def bounds(self, bounds: Sequence[float]) -> tuple[float, ...]:
        """``x0 y0 z0 x1 y1 z1`` in the picture's axes, from low to high."""
        ends = self.points(np.array(bounds, np.float64).reshape(2, 3))
        return (*ends.min(0).tolist(), *ends.max(0).tolist())

    def names(self) -> tuple[str, ...]:
        """The file's axes as the picture's, such as ``x``, ``-z``, ``y``."""
        return tuple("-" * (sign < 0) + "xyz"[axis] for axis, sign in zip(self.axes, self.signs, strict=True))
