from __future__ import annotations

import numpy as np
import pytest

from sparseconv.datasets import SimulatedStreet
from sparseconv.datasets.open3d_import import open3d_or_none, open3d_problem
from sparseconv.datasets.ray_casting import (
    Boxes,
    Float64,
    box_entry,
    cast_with_numpy,
    first_box,
)
from sparseconv.datasets.street_layout import street_layout


def _unit(vectors: object) -> Float64:
    array = np.asarray(vectors, dtype=np.float64)
    return array / np.linalg.norm(array, axis=-1, keepdims=True)


def _boxes(*rows: tuple[float, ...]) -> Boxes:
    table = np.array(rows, dtype=np.float64).reshape(-1, 7)
    return Boxes(table[:, :3], table[:, 3:6], table[:, 6])


def _random_scene(seed: int) -> tuple[Float64, Boxes]:
    rng = np.random.default_rng(seed)
    centers = _unit(rng.normal(size=(40, 3))) * rng.uniform(5, 40, (40, 1))
    boxes = Boxes(centers, rng.uniform(0.2, 5.0, (40, 3)), rng.uniform(-4, 4, 40))
    return _unit(rng.normal(size=(3001, 3))), boxes


def _every_box_against_every_ray(directions: Float64, boxes: Boxes) -> np.ndarray:
    nearest = np.full(len(directions), np.inf)
    winner = np.full(len(directions), -1)
    for number in range(len(boxes)):
        distance, _ = box_entry(directions, boxes, np.full(len(directions), number, np.int32))
        winner = np.where(distance < nearest, number, winner)
        nearest = np.minimum(distance, nearest)
    return winner


HITS = {
    "straight ahead": ((10, 0, 0, 2, 2, 2, 0), (1, 0, 0), 9.0, 1.0),
    "behind": ((-10, 0, 0, 2, 2, 2, 0), (-1, 0, 0), 9.0, 1.0),
    "a ray the other way": ((10, 0, 0, 2, 2, 2, 0), (-1, 0, 0), np.inf, None),
    "past it": ((10, 0, 0, 2, 2, 2, 0), (10, 1.2, 0), np.inf, None),
    "over it": ((10, 0, -3, 2, 2, 2, 0), (1, 0, 0), np.inf, None),
    "turned by 45 degrees": (
        (10, 0, 0, 2, 2, 2, np.pi / 4),
        (1, 0, 0),
        10 - 2**0.5,
        2**-0.5,
    ),
    "from above": ((0, 0, -5, 2, 2, 2, 0.3), (0, 0, -1), 4.0, 1.0),
    "aslant": ((10, 10, 0, 2, 20, 9, 0), (1, 1, 0), 9 * 2**0.5, 2**-0.5),
}


@pytest.mark.parametrize("case", HITS)
def test_hand_computed_hits(case: str) -> None:
    box, ray, distance, cosine = HITS[case]
    boxes, directions = _boxes(box), _unit([ray])
    entry, angle = box_entry(directions, boxes, np.zeros(1, np.int32))
    np.testing.assert_allclose(entry, distance)
    if cosine is not None:
        np.testing.assert_allclose(angle, cosine)
    expected = 0 if np.isfinite(distance) else -1
    assert cast_with_numpy(directions, boxes).tolist() == [expected]


def test_the_nearer_box_wins_whatever_the_order() -> None:
    near, far = (10, 0, 0, 1, 1, 1, 0), (20, 0, 0, 9, 9, 9, 0)
    ray = _unit([[1, 0, 0]])
    assert cast_with_numpy(ray, _boxes(near, far)).tolist() == [0]
    assert cast_with_numpy(ray, _boxes(far, near)).tolist() == [1]


@pytest.mark.parametrize("seed", range(5))
def test_culling_loses_no_hit(seed: int) -> None:
    directions, boxes = _random_scene(seed)
    expected = _every_box_against_every_ray(directions, boxes)
    np.testing.assert_array_equal(cast_with_numpy(directions, boxes), expected)
    assert 0.1 < (expected >= 0).mean() < 0.9


def test_empty_scenes() -> None:
    directions, boxes = _random_scene(0)
    assert cast_with_numpy(directions[:0], boxes).tolist() == []
    assert (cast_with_numpy(directions, _boxes()) == -1).all()


def test_an_unknown_caster_is_refused() -> None:
    with pytest.raises(ValueError, match="caster must be 'auto', 'open3d' or 'numpy', got 'embree'"):
        first_box(*_random_scene(0), caster="embree")


def test_open3d_that_cannot_load_is_replaced_or_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparseconv.datasets.ray_casting.open3d_or_none", lambda: None)
    monkeypatch.setattr("sparseconv.datasets.ray_casting.open3d_problem", lambda: "buy it")
    directions, boxes = _random_scene(0)
    expected = cast_with_numpy(directions, boxes)
    np.testing.assert_array_equal(first_box(directions, boxes), expected)
    with pytest.raises(RuntimeError, match="buy it"):
        first_box(directions, boxes, caster="open3d")


@pytest.fixture
def _open3d() -> None:
    if open3d_or_none() is None:
        pytest.skip(open3d_problem() or "")


@pytest.mark.usefixtures("_open3d")
@pytest.mark.parametrize("seed", range(5))
def test_open3d_chooses_the_same_boxes(seed: int) -> None:
    for directions, boxes in (
        _random_scene(seed),
        (_random_scene(seed)[0], street_layout(np.random.default_rng(seed))[0]),
    ):
        ours = first_box(directions, boxes, caster="numpy")
        theirs = first_box(directions, boxes, caster="open3d")
        # A ray within float32 rounding of an edge may go either way.
        assert (ours != theirs).sum() <= 2
    assert first_box(directions[:0], boxes, caster="open3d").tolist() == []


@pytest.mark.usefixtures("_open3d")
@pytest.mark.parametrize("seed", [0, 7])
def test_open3d_gives_the_same_scan(seed: int) -> None:
    ours = SimulatedStreet(seed=seed, caster="numpy").scan()
    theirs = SimulatedStreet(seed=seed, caster="open3d").scan()
    common = {row.tobytes() for row in ours.points} & {row.tobytes() for row in theirs.points}
    assert len(common) >= max(len(ours), len(theirs)) - 5
