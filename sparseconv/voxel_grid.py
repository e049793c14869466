"""Where voxels lie."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparseconv.geometry import MAX_CELLS


@dataclass(frozen=True)
class VoxelGrid:
    """Where voxels lie: size and origin in the points' units, axes in the points' order (x, y, z).

    Attributes:
        voxel_size: edge lengths.
        origin: the corner of voxel 0.
        shape: number of voxels of each axis, or None for an unbounded grid.
    """

    voxel_size: tuple[float, ...]
    origin: tuple[float, ...]
    shape: tuple[int, ...] | None

    @classmethod
    def create(
        cls, voxel_size: float | Sequence[float], point_cloud_range: Sequence[float] | None = None
    ) -> VoxelGrid:
        """Grid of a voxel size (one or three numbers) and a range ``x0 y0 z0 x1 y1 z1``.

        The number of voxels is the rounded ratio of extent and size. Without a range the grid is unbounded
        and voxel 0 begins at the origin of the points.

        Raises:
            ValueError: a size that is not positive, a range that is not 6 numbers in order, or non-finite values.
        """
        size = _three(voxel_size, "voxel_size")
        # Voxels are computed in float32, where a tiny size is zero and a huge one infinite.
        with np.errstate(over="ignore", under="ignore"):
            if any(not 0 < np.float32(s) < np.inf for s in size):
                raise ValueError(f"voxel_size must be positive and finite, got {voxel_size!r} (as float32)")
        if point_cloud_range is None:
            return cls(size, (0.0, 0.0, 0.0), None)
        bounds = [float(value) for value in point_cloud_range]
        if len(bounds) != 6 or any(not math.isfinite(value) for value in bounds):
            raise ValueError(
                f"point_cloud_range must be 6 finite numbers x0, y0, z0, x1, y1, z1, got {point_cloud_range!r}"
            )
        low, high = bounds[:3], bounds[3:]
        if any(l >= h for l, h in zip(low, high, strict=True)):
            raise ValueError(
                f"point_cloud_range must run from low to high on each axis (x0, y0, z0, x1, y1, z1), got "
                f"{point_cloud_range!r}"
            )
        shape = tuple(round((h - l) / s) for l, h, s in zip(low, high, size, strict=True))
        if any(n > MAX_CELLS for n in shape):
            raise ValueError(
                f"point_cloud_range {point_cloud_range!r} holds {shape} voxels of size {size} along x, y, z, "
                f"beyond the int32 limit of {MAX_CELLS} an axis: use larger voxels or a smaller range"
            )
        if any(n < 1 for n in shape):
            raise ValueError(
                f"point_cloud_range {point_cloud_range!r} is smaller than half a voxel of size {size}: the grid "
                f"would have {shape} voxels"
            )
        return cls(size, tuple(low), shape)

    @property
    def spatial_shape(self) -> list[int] | None:
        """Number of voxels in the order of indices (z, y, x)."""
        return None if self.shape is None else list(self.shape[::-1])


def _three(value: float | Sequence[float], name: str) -> tuple[float, ...]:
    if getattr(value, "ndim", None) == 0:
        value = value.item()  # type: ignore[union-attr]
    try:
        items = [value] * 3 if isinstance(value, int | float) else list(value)
        numbers = tuple(float(item) for item in items)
    except TypeError:
        raise TypeError(f"{name} must be one number or three (x, y, z), got {value!r}") from None
    if len(numbers) != 3:
        raise ValueError(f"{name} must be one number or three (x, y, z), got {value!r}")
    return numbers
