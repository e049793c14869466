"""The value that every reader and every simulation returns: one point cloud, one array."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

XYZ = ("x", "y", "z")


def _no_shift() -> npt.NDArray[np.float64]:
    return np.zeros(3, dtype=np.float64)


@dataclass(frozen=True, eq=False, repr=False)
class PointCloud:
    """Points with named columns.

    Rows may hold NaN where a file marks pixels without a return (organised PCD clouds); what to do
    with them is the voxelizer's decision.

    Attributes:
        points: `[N, 3 + F]` float32, C-contiguous: metres in the first three columns, then one
            column an attribute. Colours `r g b` run from 0 to 255.
        fields: the `3 + F` column names, all different; the first three are `"x", "y", "z"`.
        labels: `[N]` int32 class ids, or None.
        origin: `[3]` float64 in metres, subtracted from the coordinates of the source before they
            became float32: world position = `xyz + origin`. Zeros except for map-scale
            coordinates, which float32 could hold only to decimetres.

    Raises:
        ValueError: a shape, a dtype, a memory layout or a name differs from the above.
    """

    points: npt.NDArray[np.float32]
    fields: tuple[str, ...] = (*XYZ, "intensity")
    labels: npt.NDArray[np.int32] | None = None
    origin: npt.NDArray[np.float64] = field(default_factory=_no_shift)

    def __post_init__(self) -> None:
        _check_array("points", self.points, np.float32)
        _check_fields(self.fields)
        rows = self.points.shape[0]
        if self.points.ndim != 2 or self.points.shape[1] != len(self.fields):
            raise ValueError(
                f"points must have shape [N, {len(self.fields)}], one column for each of the fields"
                f" {' '.join(self.fields)}, got {self.points.shape}: reshape it or name its columns"
            )
        if not self.points.flags.c_contiguous:
            raise ValueError("points must be C-contiguous: pass np.ascontiguousarray(points)")
        if self.labels is not None:
            _check_array("labels", self.labels, np.int32)
            if self.labels.shape != (rows,):
                raise ValueError(
                    f"labels must have shape [N] with N = {rows} points, got {self.labels.shape}:"
                    " pass one class id a point"
                )
        _check_array("origin", self.origin, np.float64)
        if self.origin.shape != (3,) or not np.isfinite(self.origin).all():
            raise ValueError(
                f"origin must hold 3 finite metres, got shape {self.origin.shape}:"
                " leave it out for a cloud that was not shifted"
            )

    @property
    def xyz(self) -> npt.NDArray[np.float32]:
        """`[N, 3]` float32 coordinates in metres, a view of `points`."""
        return self.points[:, :3]

    def __repr__(self) -> str:
        """Sizes only."""
        return f"PointCloud(points={len(self.points)}, fields={self.fields})"

    def __len__(self) -> int:
        return int(self.points.shape[0])

    def column(self, name: str) -> npt.NDArray[np.float32]:
        """One column as a view.

        Args:
            name: a name in `fields`.

        Returns:
            `[N]` float32.

        Raises:
            ValueError: the cloud has no such column.
        """
        if name not in self.fields:
            raise ValueError(f"no column {name!r}: this cloud has {' '.join(self.fields)}")
        return self.points[:, self.fields.index(name)]


def _check_array(name: str, value: object, dtype: type[np.generic]) -> None:
    wanted = np.dtype(dtype)
    if not isinstance(value, np.ndarray):
        raise ValueError(
            f"{name} must be a NumPy array of {wanted}, got {type(value).__name__}:"
            f" pass np.asarray({name}, dtype=np.{wanted})"
        )
    if value.dtype != wanted or value.ndim == 0:
        raise ValueError(
            f"{name} must be an array of {wanted}, got {value.ndim} dimensions of {value.dtype}:"
            f" pass {name}.astype(np.{wanted})"
        )


def _check_fields(fields: object) -> None:
    if not isinstance(fields, tuple) or not all(isinstance(name, str) for name in fields):
        raise ValueError(f"fields must be a tuple of column names, got {fields!r}")
    if fields[:3] != XYZ:
        raise ValueError(f"fields must begin with 'x', 'y', 'z', got {fields}: reorder the columns")
    if len(set(fields)) != len(fields):
        raise ValueError(f"fields must be all different, got {fields}: rename the repeated ones")
