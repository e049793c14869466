"""Two samples as one: side by side (Mix3D), by sectors (PolarMix) or by inclination (LaserMix).

Nekrasov et al., 3DV 2021; Xiao et al., NeurIPS 2022; Kong et al., CVPR 2023. The result has the first sample's
name, pose and calibration. A box goes with its centre: one that a border cuts keeps only its own side's points.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sparseconv.datasets.sample import Sample


def concatenate(first: Sample, second: Sample, *, keep_boxes: bool = True) -> Sample:
    """All points and boxes of two samples (Mix3D).

    Args:
        first: gives name, path, pose and calibration.
        second: with the same fields and the same kinds of labels. What only one of the two has of `point_data` and
            `box_data` is left out.
        keep_boxes: False: the result has no boxes.

    Returns:
        The points of `first`, then those of `second`. Instances of `second` are renumbered above those of `first`;
        0 and below stay as they are, since they mean none.

    Raises:
        ValueError: fields differ, or one sample has labels, instances or boxes and the other has none.
    """
    if first.fields != second.fields:
        raise ValueError(f"the samples must have the same fields, got {first.fields} and {second.fields}")
    for name in ("labels", "instances", *(["boxes", "box_labels"] if keep_boxes else [])):
        if (getattr(first, name) is None) != (getattr(second, name) is None):
            raise ValueError(f"one of the samples has {name} and the other has none: they cannot be mixed")
    changes: dict[str, Any] = {
        "points": np.concatenate([first.points, second.points]),
        "point_data": _joined(first.point_data, second.point_data),
        "class_id": None,
    }
    if first.labels is not None and second.labels is not None:
        changes["labels"] = np.concatenate([first.labels, second.labels])
    if first.instances is not None and second.instances is not None:
        above = max(int(first.instances.max(initial=0)), 0)
        renumbered = np.where(second.instances > 0, second.instances.astype(np.int64) + above, second.instances)
        if renumbered.size and renumbered.max() > np.iinfo(np.int32).max:
            raise ValueError("the samples have instances whose numbers together exceed 32 bits: renumber them")
        changes["instances"] = np.concatenate([first.instances, renumbered.astype(np.int32)])
    if not keep_boxes or first.boxes is None or second.boxes is None:
        return first.replace(**changes, boxes=None, box_names=(), box_labels=None, box_data={})
    width = max(first.boxes.shape[1], second.boxes.shape[1])
    changes["boxes"] = np.concatenate([_widened(first.boxes, width), _widened(second.boxes, width)])
    changes["box_names"] = first.box_names + second.box_names
    if first.box_labels is not None and second.box_labels is not None:
        changes["box_labels"] = np.concatenate([first.box_labels, second.box_labels])
    changes["box_data"] = _joined(first.box_data, second.box_data)
    return first.replace(**changes)


def polar_mix(
    first: Sample, second: Sample, rng: np.random.Generator, *, low: float = np.pi / 2, high: float = np.pi
) -> Sample:
    """The first sample, with one sector about the z axis replaced by the second's.

    Args:
        first: see `concatenate`.
        second: see `concatenate`.
        rng: decides where the sector begins and how wide it is.
        low: smallest width in radians.
        high: largest width, at most a whole turn.
    """
    if not 0 <= low <= high <= 2 * np.pi:
        raise ValueError(
            f"the sector's width must run from low to high within 0 .. 2 pi, got {low!r} and {high!r}"
        )
    start, width = rng.uniform(-np.pi, np.pi), rng.uniform(low, high)

    def is_inside(xyz: np.ndarray) -> np.ndarray:
        azimuth = np.arctan2(xyz[:, 1].astype(np.float64), xyz[:, 0].astype(np.float64))
        return np.mod(azimuth - start, 2 * np.pi) < width

    return concatenate(_part(first, lambda xyz: ~is_inside(xyz)), _part(second, is_inside))


def laser_mix(
    first: Sample,
    second: Sample,
    rng: np.random.Generator,
    *,
    low: float = np.deg2rad(-25.0),
    high: float = np.deg2rad(3.0),
    bands: tuple[int, ...] = (3, 4, 5, 6),
) -> Sample:
    """Alternating bands of inclination, from the first sample and the second.

    Args:
        first: see `concatenate`; it gives the lowest band.
        second: see `concatenate`.
        rng: decides how many bands there are.
        low: radians above the horizon where the lowest band ends below; what is lower belongs to it.
        high: radians where the highest band ends.
        bands: numbers of bands to choose from.
    """
    if not (-np.pi / 2 <= low < high <= np.pi / 2) or not bands or min(bands) < 1:
        raise ValueError(
            f"inclinations must run from low to high and bands be >= 1, got {low!r}, {high!r}, {bands!r}"
        )
    count = int(rng.choice(np.asarray(bands)))

    def is_odd(xyz: np.ndarray) -> np.ndarray:
        wide = xyz.astype(np.float64)
        inclination = np.arctan2(wide[:, 2], np.hypot(wide[:, 0], wide[:, 1]))
        band = np.floor((inclination - low) / (high - low) * count)
        return np.clip(band, 0, count - 1) % 2 == 1

    return concatenate(_part(first, lambda xyz: ~is_odd(xyz)), _part(second, is_odd))


def _part(sample: Sample, is_kept: Any) -> Sample:
    part = sample.select_points(is_kept(sample.points[:, :3]))
    return part if part.boxes is None else part.select_boxes(is_kept(part.boxes[:, :3]))


def _joined(first: Any, second: Any) -> dict[str, np.ndarray]:
    return {name: np.concatenate([first[name], second[name]]) for name in first if name in second}


def _widened(boxes: np.ndarray, width: int) -> np.ndarray:
    # Boxes without velocities get unknown ones.
    return np.pad(boxes, ((0, 0), (0, width - boxes.shape[1])), constant_values=np.nan)
