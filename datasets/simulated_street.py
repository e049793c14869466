"""A spinning laser scanner in a simulated street: a point cloud where there is no file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from .point_cloud import PointCloud
from .ray_casting import Float64, box_entry, first_box
from .street_layout import CLASS_ID, CLASSES, SENSOR_HEIGHT, ground_class, street_layout

# Elevation of the first and last beam of the upper and of the lower half of a Velodyne HDL-64E, in
# degrees: its upper lasers stand a third of a degree apart, its lower ones half a degree.
_UPPER_BEAMS = (2.0, -8.33)
_LOWER_BEAMS = (-8.83, -24.8)

# Share of a laser pulse's energy that each class gives back, 0 to 1.
_REFLECTANCE = {
    "road": 0.25,
    "sidewalk": 0.35,
    "terrain": 0.40,
    "building": 0.40,
    "fence": 0.35,
    "car": 0.30,
    "pedestrian": 0.35,
    "pole": 0.50,
    "trunk": 0.30,
    "vegetation": 0.40,
}
# Depth of a surface that a box stands for, as a standard deviation in metres: leaves, above all.
_ROUGHNESS = {"vegetation": 0.12, "terrain": 0.02, "building": 0.01}
# Share of pulses that never return even at close range: dark and shiny surfaces.
_BASE_DROPOUT = 0.02
_CLASS_DROPOUT = {"car": 0.12, "building": 0.04, "vegetation": 0.05}
# Share of pulses lost at the greatest range, growing with the square of the distance.
_RANGE_DROPOUT = 0.5


@dataclass(frozen=True)
class SimulatedStreet:
    """One revolution of a laser scanner in a random street.

    The frame is KITTI's: x forward, y left, z up, metres, the sensor at the origin, 1.73 m above
    the road. With the default sensor a scan has about 100,000 points and a density close to that
    of a real 64-beam scan.

    Attributes:
        seed: chooses the street and the noise; the same seed gives the same scan.
        beams: lasers, stacked from +2 to -24.8 degrees of elevation.
        columns: firings in one turn.
        max_range: metres; farther surfaces give no point.
        range_noise: metres, standard deviation of the measured distance.
        caster: `"auto"` (Open3D where it loads, else NumPy), `"open3d"` or `"numpy"`. The points
            do not depend on it, but for a ray that grazes an edge within float32 rounding.

    Raises:
        ValueError: an attribute out of range.

    Example:
        >>> cloud = SimulatedStreet(seed=1, beams=16, columns=360, caster="numpy").scan()
        >>> cloud.fields
        ('x', 'y', 'z', 'intensity')
        >>> len(cloud) == len(cloud.labels)
        True
    """

    seed: int = 0
    beams: int = 64
    columns: int = 1800
    max_range: float = 120.0
    range_noise: float = 0.02
    caster: str = "auto"

    CLASSES: ClassVar[tuple[str, ...]] = CLASSES

    def __post_init__(self) -> None:
        for name, least in (("seed", 0), ("beams", 1), ("columns", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be a whole number >= {least}, got {value!r}")
        if not 0.0 < self.max_range < np.inf:
            raise ValueError(f"max_range must be positive metres, got {self.max_range!r}")
        if not 0.0 <= self.range_noise < np.inf:
            raise ValueError(f"range_noise must be metres >= 0, got {self.range_noise!r}")
        if self.caster not in ("auto", "open3d", "numpy"):
            raise ValueError(f"caster must be 'auto', 'open3d' or 'numpy', got {self.caster!r}")

    def scan(self) -> PointCloud:
        """Simulate one revolution.

        Returns:
            A cloud with fields `x y z intensity` (intensity from 0 to 0.99 in hundredths, as in
            KITTI), beam after beam from the top, and `labels`: indices into `CLASSES`.

        Raises:
            RuntimeError: the caster is `"open3d"` and Open3D cannot load.
        """
        rng = np.random.default_rng(self.seed)
        boxes, box_classes = street_layout(rng)
        directions = self._directions()
        # Every ray draws its own numbers, hit or not: a grazing ray that two casters judge
        # differently leaves the noise of all of the others as it is.
        count = len(directions)
        range_noise, intensity_noise = rng.standard_normal((2, count))
        survival = rng.random(count)

        box = first_box(directions, boxes, self.caster)
        box_distance, box_cosine = box_entry(directions, boxes, np.maximum(box, 0))
        box_distance[box < 0] = np.inf
        down = -directions[:, 2]
        ground_distance = np.where(down > 0, SENSOR_HEIGHT / np.maximum(down, 1e-9), np.inf)
        on_ground = ground_distance < box_distance
        distance = np.where(on_ground, ground_distance, box_distance)
        cosine = np.where(on_ground, down, box_cosine)

        seen = np.flatnonzero(distance < self.max_range)
        distance, cosine, directions = distance[seen], cosine[seen], directions[seen]
        labels = np.where(
            on_ground[seen],
            ground_class(directions[:, 1] * distance),
            box_classes[np.maximum(box[seen], 0)],
        ).astype(np.int32)

        lost = _BASE_DROPOUT + _by_class(_CLASS_DROPOUT)[labels]
        lost = lost + _RANGE_DROPOUT * (distance / self.max_range) ** 2
        kept = survival[seen] >= lost
        spread = np.hypot(self.range_noise, _by_class(_ROUGHNESS)[labels])
        measured = np.maximum(distance + spread * range_noise[seen], 0.0)

        points = np.empty((int(kept.sum()), 4), dtype=np.float32)
        points[:, :3] = (directions * measured[:, None])[kept]
        brightness = _by_class(_REFLECTANCE)[labels] * np.sqrt(cosine)
        brightness = brightness + 0.05 * intensity_noise[seen]
        points[:, 3] = np.round(np.clip(brightness[kept], 0.0, 0.99), 2)
        return PointCloud(points, ("x", "y", "z", "intensity"), labels[kept])

    def _directions(self) -> Float64:
        """`[beams * columns, 3]` unit vectors, beam after beam."""
        upper = (self.beams + 1) // 2
        degrees = np.concatenate(
            [np.linspace(*_UPPER_BEAMS, upper), np.linspace(*_LOWER_BEAMS, self.beams - upper)]
        )
        elevation = np.deg2rad(degrees)[:, None]
        azimuth = (-2 * np.pi / self.columns * np.arange(self.columns))[None, :]
        return np.stack(
            [
                np.cos(elevation) * np.cos(azimuth),
                np.cos(elevation) * np.sin(azimuth),
                np.sin(elevation) * np.ones_like(azimuth),
            ],
            axis=-1,
        ).reshape(-1, 3)


def _by_class(values: dict[str, float]) -> npt.NDArray[np.float64]:
    table = np.zeros(len(CLASSES))
    for name, value in values.items():
        table[CLASS_ID[name]] = value
    return table
