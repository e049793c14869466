"""Motions by a random amount, as detectors and segmenters are trained with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from sparseconv.datasets.sample import Sample

from .motions import flip_along, rotate_by, scale_by, translate_by


def flip(
    sample: Sample,
    rng: np.random.Generator,
    *,
    axes: Sequence[Literal["x", "y"]] = ("y",),
    probability: float = 0.5,
) -> Sample:
    """Mirror a sample along each of `axes` with a probability.

    Args:
        sample: of any kind.
        rng: decides.
        axes: see `flip_along`.
        probability: 0 to 1, for each axis on its own.
    """
    check_probability(probability)
    for axis in axes:
        if rng.random() < probability:
            sample = flip_along(sample, axis)
    return sample


def rotate(
    sample: Sample, rng: np.random.Generator, *, low: float = -np.pi / 4, high: float = np.pi / 4
) -> Sample:
    """Turn a sample about the z axis by an angle between `low` and `high` radians."""
    return rotate_by(sample, _between(rng, "angles", low, high))


def scale(sample: Sample, rng: np.random.Generator, *, low: float = 0.95, high: float = 1.05) -> Sample:
    """Scale a sample about the origin by a factor between `low` and `high`."""
    return scale_by(sample, _between(rng, "factors", low, high))


def translate(sample: Sample, rng: np.random.Generator, *, sigma: float | Sequence[float] = 0.2) -> Sample:
    """Shift a sample by a normal offset.

    Args:
        sample: of any kind.
        rng: decides.
        sigma: standard deviation in metres, one or for x, y and z.
    """
    deviation = np.broadcast_to(np.asarray(sigma, np.float64), 3)
    if not (np.isfinite(deviation) & (deviation >= 0)).all():
        raise ValueError(f"sigma must be metres >= 0, got {sigma!r}")
    return translate_by(sample, rng.normal(size=3) * deviation)


def check_probability(probability: float) -> None:
    """Refuse a number outside 0 to 1.

    Raises:
        ValueError: it lies outside.
    """
    if not 0.0 <= probability <= 1.0:
        raise ValueError(f"a probability or share must lie in 0 .. 1, got {probability!r}")


def _between(rng: np.random.Generator, name: str, low: float, high: float) -> float:
    if not (np.isfinite(low) and np.isfinite(high) and low <= high):
        raise ValueError(f"{name} must run from low to high, got {low!r} and {high!r}")
    return float(rng.uniform(low, high))
