"""Two frames in one: end to end, by sectors of azimuth, by bands of inclination."""

from __future__ import annotations

import numpy as np
import pytest
from augmentation_frames import frame

from sparseconv.datasets import Sample
from sparseconv.datasets.augmentations import concatenate, laser_mix, polar_mix


def test_concatenation() -> None:
    a, b = frame(4), frame(5, boxes=2, points=300, width=7)
    both = concatenate(a, b)
    assert (both.points == np.concatenate([a.points, b.points])).all() and both.name == a.name
    assert (both.labels == np.concatenate([a.labels, b.labels])).all()
    assert both.boxes.shape == (8, 9) and np.isnan(both.boxes[6:, 7:]).all()
    assert (both.boxes[6:, :7] == b.boxes).all() and both.box_names == a.box_names + b.box_names
    # Objects stay apart: 3 is the highest number of the first.
    assert a.instances.max() == 3
    assert (both.instances[len(a) :] == np.where(b.instances > 0, b.instances + 3, 0)).all()
    assert both.box_data["number"].tolist() == [0, 1, 2, 3, 4, 5, 0, 1]
    assert concatenate(a, b, keep_boxes=False).boxes is None
    with pytest.raises(ValueError, match="one of the samples has labels"):
        concatenate(a, frame(5, labelled=False))
    with pytest.raises(ValueError, match="the same fields"):
        concatenate(a, Sample(np.ones((1, 3), np.float32), ("x", "y", "z")))
    with pytest.raises(ValueError, match="one of the samples has boxes"):
        concatenate(a, b.replace(boxes=None, box_names=(), box_labels=None, box_data={}))


def test_polar_mix_takes_a_sector() -> None:
    a, b = frame(6), frame(7)
    mixed = polar_mix(a, b, np.random.default_rng(3), low=1.0, high=1.0)
    from_a = len([1 for row in mixed.points if (row == a.points).all(1).any()])
    assert 0 < from_a < len(mixed)

    def azimuth(points: np.ndarray) -> np.ndarray:
        return np.arctan2(points[:, 1], points[:, 0])

    start = np.random.default_rng(3).uniform(-np.pi, np.pi)
    in_sector = np.mod(azimuth(mixed.points.astype(float)) - start, 2 * np.pi) < 1.0
    assert not in_sector[:from_a].any() and in_sector[from_a:].all()
    kept_a = np.mod(azimuth(a.points.astype(float)) - start, 2 * np.pi) >= 1.0
    assert (mixed.points[:from_a] == a.points[kept_a]).all()
    assert len(mixed.boxes) == len(mixed.box_names) == len(mixed.box_labels)
    whole = polar_mix(a, b, np.random.default_rng(3), low=2 * np.pi, high=2 * np.pi)
    assert (whole.points == b.points).all() and (whole.boxes == b.boxes).all()
    with pytest.raises(ValueError, match="sector's width"):
        polar_mix(a, b, np.random.default_rng(0), low=3, high=2)


def test_laser_mix_alternates() -> None:
    a, b = frame(8), frame(9)
    mixed = laser_mix(a, b, np.random.default_rng(0), low=-0.2, high=0.2, bands=(4,))

    def band(points: np.ndarray) -> np.ndarray:
        wide = points.astype(float)
        angle = np.arctan2(wide[:, 2], np.hypot(wide[:, 0], wide[:, 1]))
        return np.clip(np.floor((angle + 0.2) / 0.1), 0, 3)

    expected = np.concatenate([a.points[band(a.points) % 2 == 0], b.points[band(b.points) % 2 == 1]])
    assert (mixed.points == expected).all() and 0 < (band(a.points) % 2 == 0).sum() < len(a)
    with pytest.raises(ValueError, match="inclinations must run"):
        laser_mix(a, b, np.random.default_rng(0), low=1, high=0)
