"""Augmentations: what lies in a box stays in it, motions undo each other, equal generators give equal results."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from augmentation_frames import frame, same
from hypothesis import given
from hypothesis import strategies as st

from sparseconv.datasets import Sample, points_in_boxes
from sparseconv.datasets.augmentations import (
    Augment,
    drop_points,
    flip,
    flip_along,
    jitter,
    laser_mix,
    polar_mix,
    rotate,
    rotate_by,
    scale,
    scale_by,
    shuffle,
    translate,
    translate_by,
)

MOTIONS: dict[str, Callable[[Sample, np.random.Generator], Sample]] = {
    "flip": partial(flip, axes=("x", "y"), probability=0.7),
    "rotate": partial(rotate, low=-7.0, high=7.0),
    "scale": partial(scale, low=0.5, high=2.0),
    "translate": partial(translate, sigma=(5.0, 3.0, 1.0)),
    "all": lambda s, rng: translate(scale(rotate(flip(s, rng, axes=("x", "y")), rng), rng), rng),
}


@pytest.mark.parametrize("name", MOTIONS)
@given(seed=st.integers(0, 10_000))
def test_what_lies_in_a_box_stays_in_it(name: str, seed: int) -> None:
    before = frame(seed)
    after = MOTIONS[name](before, np.random.default_rng(seed))
    inside = points_in_boxes(before.points, before.boxes)
    assert inside.sum() > 300
    assert (points_in_boxes(after.points, after.boxes) == inside).all()
    assert (after.points[:, 3] == before.points[:, 3]).all()
    # Headings are in range, and normals stay unit vectors.
    assert (after.boxes[:, 6] >= -np.pi).all() and (after.boxes[:, 6] < np.pi).all()
    np.testing.assert_allclose(np.linalg.norm(after.points[:, 4:], axis=1), 1, atol=1e-5)
    # The matrix that is kept says what happened.
    matrix = after.augmentation if after.augmentation is not None else np.eye(4)
    np.testing.assert_allclose(after.xyz, before.xyz @ matrix[:3, :3].T + matrix[:3, 3], atol=1e-3)
    factor = abs(np.linalg.det(matrix[:3, :3])) ** (1 / 3)
    np.testing.assert_allclose(after.boxes[:, 3:6], before.boxes[:, 3:6] * factor, rtol=1e-5)
    # A velocity, and the direction of the heading, turn and flip as a difference of two points does.
    np.testing.assert_allclose(after.boxes[:, 7:], before.boxes[:, 7:] @ matrix[:2, :2].T, atol=1e-4)
    ahead = np.stack([np.cos(before.boxes[:, 6]), np.sin(before.boxes[:, 6])], 1) @ matrix[:2, :2].T / factor
    np.testing.assert_allclose(
        np.stack([np.cos(after.boxes[:, 6]), np.sin(after.boxes[:, 6])], 1), ahead, atol=1e-5
    )
    normals = before.points[:, 4:] @ matrix[:3, :3].T / factor
    np.testing.assert_allclose(after.points[:, 4:], normals, atol=1e-5)
    # The frame itself is untouched.
    same(before, frame(seed))


@given(seed=st.integers(0, 10_000))
def test_motions_undo_each_other(seed: int) -> None:
    rng = np.random.default_rng(seed)
    original = frame(seed)
    same(flip_along(flip_along(original, "x"), "x"), original)
    same(flip_along(flip_along(original, "y"), "y"), original)
    angle, factor, shift = rng.uniform(-10, 10), rng.uniform(0.3, 3), rng.normal(size=3) * 10
    same(rotate_by(rotate_by(original, angle), -angle), original, 1e-4)
    same(scale_by(scale_by(original, factor), 1 / factor), original, 1e-4)
    same(translate_by(translate_by(original, shift), -shift), original, 1e-4)
    both = flip_along(flip_along(original, "x"), "y")
    same(both, rotate_by(original, np.pi), 1e-4)
    undone = rotate_by(rotate_by(original, angle), -angle)
    np.testing.assert_allclose(undone.augmentation, np.eye(4), atol=1e-12)


def test_by_hand() -> None:
    one = Sample(
        np.array([[1, 2, 3]], np.float32),
        ("x", "y", "z"),
        boxes=np.array([[1, 2, 3, 4, 2, 1, 0.5]], np.float32),
        box_names=("Car",),
    )
    left = flip_along(one, "y")
    assert left.points.tolist() == [[1, -2, 3]] and left.boxes[0].tolist() == pytest.approx(
        [1, -2, 3, 4, 2, 1, -0.5]
    )
    back = flip_along(one, "x")
    assert back.boxes[0].tolist() == pytest.approx([-1, 2, 3, 4, 2, 1, np.pi - 0.5])
    quarter = rotate_by(one, np.pi / 2)
    assert quarter.points[0].tolist() == pytest.approx([-2, 1, 3])
    assert quarter.boxes[0].tolist() == pytest.approx([-2, 1, 3, 4, 2, 1, 0.5 + np.pi / 2])
    assert scale_by(one, 2.0).boxes[0].tolist() == [2, 4, 6, 8, 4, 2, 0.5]
    assert translate_by(one, (1, 1, 1)).boxes[0].tolist() == [2, 3, 4, 4, 2, 1, 0.5]
    bare = Sample(np.ones((2, 3), np.float32), ("x", "y", "z"))
    assert rotate_by(bare, 1.0).boxes is None


OTHERS: dict[str, Callable[[Sample, np.random.Generator], Sample]] = {
    "jitter": jitter,
    "drop": partial(drop_points, share=0.3),
    "shuffle": shuffle,
    "polar": lambda s, rng: polar_mix(s, frame(77), rng),
    "laser": lambda s, rng: laser_mix(s, frame(77), rng, low=-1.0, high=1.0),
}


@pytest.mark.parametrize("name", [*MOTIONS, *OTHERS])
def test_equal_generators_give_equal_results(name: str) -> None:
    function = (MOTIONS | OTHERS)[name]
    first, second = (function(frame(1), np.random.default_rng(5)) for _ in range(2))
    same(first, second)
    results = {function(frame(1), np.random.default_rng(seed)).points.tobytes() for seed in range(12)}
    assert len(results) > 1


@pytest.mark.parametrize("name", [*MOTIONS, "jitter", "drop", "shuffle"])
def test_empty_frames(name: str) -> None:
    empty = frame(0, boxes=0, points=0)
    result = (MOTIONS | OTHERS)[name](empty, np.random.default_rng(0))
    assert len(result) == 0 and result.boxes.shape == (0, 9)


def test_jitter_is_bounded_noise() -> None:
    before = frame(2)
    after = jitter(before, np.random.default_rng(0), sigma=0.1, limit=0.15)
    moved = after.xyz - before.xyz
    assert np.abs(moved).max() <= 0.15 + 1e-5 and 0.05 < moved.std() < 0.1 and abs(moved.mean()) < 0.01
    assert (after.points[:, 3:] == before.points[:, 3:]).all() and (after.boxes == before.boxes).all()


def test_dropping_and_shuffling_keep_rows_together() -> None:
    before = frame(3)
    after = drop_points(before, np.random.default_rng(0), share=0.25)
    rows = after.point_data["row"]
    assert 0.2 < 1 - len(after) / len(before) < 0.3 and (np.diff(rows) > 0).all()
    mixed = shuffle(before, np.random.default_rng(0))
    assert sorted(mixed.point_data["row"].tolist()) == list(range(len(before)))
    for result in (after, mixed):
        rows = result.point_data["row"]
        assert (result.points == before.points[rows]).all() and (result.labels == before.labels[rows]).all()
    assert len(drop_points(before, np.random.default_rng(0), share=1.0)) == 0
    assert len(drop_points(before, np.random.default_rng(0), share=0.0)) == len(before)


def test_augment_draws_from_torch() -> None:
    transform = Augment(partial(flip, axes=("x", "y")), rotate, drop_points)
    torch.manual_seed(3)
    first, second = transform(frame(1)), transform(frame(1))
    assert first.points.tobytes() != second.points.tobytes()
    torch.manual_seed(3)
    same(transform(frame(1)), first)
    same(pickle.loads(pickle.dumps(transform))(frame(1)), second)
    assert "rotate" in repr(transform)
    with pytest.raises(TypeError, match="a step must be a function"):
        Augment("flip")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "call",
    [
        lambda s, r: flip(s, r, probability=1.5),
        lambda s, r: flip(s, r, axes=("z",), probability=1.0),  # type: ignore[arg-type]
        lambda s, r: rotate(s, r, low=1, high=0),
        lambda s, r: rotate_by(s, np.nan),
        lambda s, r: scale(s, r, low=-1, high=-1),
        lambda s, r: scale_by(s, 0.0),
        lambda s, r: translate(s, r, sigma=-1),
        lambda s, r: translate_by(s, (1.0, 2.0, np.inf)),
        lambda s, r: jitter(s, r, sigma=-1),
        lambda s, r: drop_points(s, r, share=2.0),
    ],
)
def test_bad_amounts(call: Callable[[Sample, np.random.Generator], Sample]) -> None:
    with pytest.raises(ValueError, match="must"):
        call(frame(0), np.random.default_rng(0))
