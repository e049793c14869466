"""Changes to single points: noise, loss, order."""

from __future__ import annotations

import numpy as np

from sparseconv.datasets.sample import Sample

from .random_motions import check_probability


def jitter(sample: Sample, rng: np.random.Generator, *, sigma: float = 0.01, limit: float = 0.05) -> Sample:
    """Move every point on its own, by normal noise on each axis. Boxes stay.

    Args:
        sample: of any kind.
        rng: decides.
        sigma: standard deviation in metres.
        limit: metres to which the noise is cut.
    """
    if not (0 <= sigma < np.inf and limit >= 0):
        raise ValueError(f"sigma and limit must be metres >= 0, got {sigma!r} and {limit!r}")
    points = sample.points.copy()
    noise = np.clip(rng.normal(size=(len(points), 3)) * sigma, -limit, limit)
    points[:, :3] += noise.astype(np.float32)
    return sample.replace(points=points)


def drop_points(sample: Sample, rng: np.random.Generator, *, share: float = 0.1) -> Sample:
    """Lose each point with a probability; the others keep their order.

    Args:
        sample: of any kind.
        rng: decides.
        share: 0 to 1.
    """
    check_probability(share)
    return sample.select_points(rng.random(len(sample)) >= share)


def shuffle(sample: Sample, rng: np.random.Generator) -> Sample:
    """Put the points in a random order, for voxelizers that keep the first ones."""
    return sample.select_points(rng.permutation(len(sample)))
