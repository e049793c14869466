"""Convex solids, and both casters against every solid tried with every ray."""

from __future__ import annotations

import numpy as np
import pytest

from sparseconv.datasets import SimulatedRoom, SimulatedStreet
from sparseconv.datasets.open3d_import import open3d_or_none, open3d_problem
from sparseconv.datasets.ray_casting import cast_rays, cast_with_numpy
from sparseconv.datasets.solids import SHAPE_ID, SHAPES, Float64, Rays, Solids, entry
from sparseconv.datasets.street_layout import street_scene


def _unit(vectors: object) -> Float64:
    array = np.asarray(vectors, dtype=np.float64)
    return array / np.linalg.norm(array, axis=-1, keepdims=True)


def _boxes(*rows: tuple[float, ...]) -> Solids:
    table = np.array(rows, dtype=np.float64).reshape(-1, 7)
    count = len(table)
    return Solids(
        table[:, :3], table[:, 3:6], table[:, 6], np.zeros(count, np.int32), np.zeros((count, 3), np.float64)
    )


def _random_scene(seed: int, moving: bool = False) -> tuple[Rays, Solids]:
    """Solids of every shape, off the origin by more than any origin of a ray and any way of a solid."""
    rng = np.random.default_rng(seed)
    centers = _unit(rng.normal(size=(90, 3))) * rng.uniform(8, 40, (90, 1))
    velocities = rng.normal(0, 10.0 if moving else 0.0, (90, 3)) * (rng.random((90, 1)) < 0.5)
    shapes = rng.integers(len(SHAPES), size=90).astype(np.int32)
    solids = Solids(centers, rng.uniform(0.2, 6.0, (90, 3)), rng.uniform(-4, 4, 90), shapes, velocities)
    rays = Rays.from_point(_unit(rng.normal(size=(3001, 3))))
    if moving:
        times = rng.uniform(-0.05, 0.05, len(rays))
        rays = Rays(np.outer(times, [15.0, 3.0, 0.0]), rays.directions, times)
    return rays, solids


def _every_solid_against_every_ray(rays: Rays, solids: Solids) -> np.ndarray:
    nearest = np.full(len(rays), np.inf)
    winner = np.full(len(rays), -1)
    for number in range(len(solids)):
        distance, _ = entry(rays, solids, np.full(len(rays), number, np.int32))
        winner = np.where(distance < nearest, number, winner)
        nearest = np.minimum(distance, nearest)
    return winner


HITS = {
    "straight ahead": ((10, 0, 0, 2, 2, 2, 0), (1, 0, 0), 9.0, 1.0),
    "behind": ((-10, 0, 0, 2, 2, 2, 0), (-1, 0, 0), 9.0, 1.0),
    "a ray the other way": ((10, 0, 0, 2, 2, 2, 0), (-1, 0, 0), np.inf, None),
    "past it": ((10, 0, 0, 2, 2, 2, 0), (10, 1.2, 0), np.inf, None),
    "over it": ((10, 0, -3, 2, 2, 2, 0), (1, 0, 0), np.inf, None),
    "turned by 45 degrees": ((10, 0, 0, 2, 2, 2, np.pi / 4), (1, 0, 0), 10 - 2**0.5, 2**-0.5),
    "from above": ((0, 0, -5, 2, 2, 2, 0.3), (0, 0, -1), 4.0, 1.0),
    "aslant": ((10, 10, 0, 2, 20, 9, 0), (1, 1, 0), 9 * 2**0.5, 2**-0.5),
    "stretched": ((0, 30, 0, 2, 20, 9, 0), (0, 1, 0), 20.0, 1.0),
}


@pytest.mark.parametrize("case", HITS)
def test_hand_computed_hits(case: str) -> None:
    box, ray, distance, cosine = HITS[case]
    solids, rays = _boxes(box), Rays.from_point(_unit([ray]))
    found, angle = entry(rays, solids, np.zeros(1, np.int32))
    np.testing.assert_allclose(found, distance)
    if cosine is not None:
        np.testing.assert_allclose(angle, cosine)
    winner, cast, _ = cast_with_numpy(rays, solids)
    assert winner.tolist() == [0 if np.isfinite(distance) else -1]
    np.testing.assert_array_equal(cast, found)


def test_a_ray_in_the_plane_of_a_face() -> None:
    beside = Rays.from_point(_unit([[1, 0, 0]]), (0.0, 1.0001, 0.0))
    along = Rays.from_point(_unit([[1, 0, 0]]), (0.0, 0.9999, 0.0))
    box = _boxes((10, 0, 0, 2, 2, 2, 0))
    assert entry(beside, box, np.zeros(1, np.int32))[0] == np.inf
    np.testing.assert_allclose(entry(along, box, np.zeros(1, np.int32))[0], 9.0)


def test_where_a_moving_box_is_met() -> None:
    box = _boxes((10, 0, 0, 2, 2, 2, 0))
    moving = Solids(box.centers, box.sizes, box.yaws, box.shapes, np.array([[-4.0, 0.0, 0.0]]))
    rays = Rays(np.array([[1.0, 0.0, 0.0]]), np.array([[1.0, 0.0, 0.0]]), np.array([0.5]))
    assert entry(rays, moving, np.zeros(1, np.int32))[0] == 6.0
    for caster in ("numpy", "auto"):
        assert cast_rays(rays, moving, caster)[1] == 6.0


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_are_closed_convex_and_fill_the_unit_cube(name: str) -> None:
    shape = SHAPES[name]
    gaps = shape.vertices @ shape.planes[:, :3].T - shape.planes[:, 3]
    assert gaps.max() < 1e-12 and (np.isclose(gaps, 0).sum(axis=0) >= 3).all()
    np.testing.assert_allclose(np.abs(shape.vertices).max(axis=0), 0.5)
    edges = np.sort(shape.triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    _, counts = np.unique(edges, axis=0, return_counts=True)
    assert (counts == 2).all(), "an edge belongs to two triangles"
    # Euler: V - E + F = 2, for a closed surface of triangles.
    assert len(shape.vertices) - len(counts) + len(shape.triangles) == 2


@pytest.mark.parametrize("name", SHAPES)
def test_a_hit_lies_on_the_surface(name: str) -> None:
    """Of a stretched, turned solid, told by its planes in the unit cube, and with the face's true normal."""
    rng = np.random.default_rng(0)
    solids = Solids(
        np.array([[6.0, 2.0, 1.0]]),
        np.array([[3.0, 1.0, 2.0]]),
        np.array([0.7]),
        np.array([SHAPE_ID[name]], np.int32),
        np.zeros((1, 3)),
    )
    rays = Rays.from_point(_unit(np.array([6.0, 2.0, 1.0]) + rng.normal(0, 0.8, (500, 3))))
    distance, cosine = entry(rays, solids, np.zeros(500, np.int32))
    hit = np.isfinite(distance)
    assert hit.sum() > 100
    points = rays.directions[hit] * distance[hit, None] - solids.centers[0]
    turn = np.array([[np.cos(0.7), -np.sin(0.7), 0], [np.sin(0.7), np.cos(0.7), 0], [0, 0, 1]])
    local = points @ turn / solids.sizes[0]
    planes = SHAPES[name].planes
    gaps = local @ planes[:, :3].T - planes[:, 3]
    np.testing.assert_allclose(gaps.max(axis=1), 0, atol=1e-9)
    normal = _unit((planes[gaps.argmax(axis=1), :3] / solids.sizes[0]) @ turn.T)
    np.testing.assert_allclose(cosine[hit], -(normal * rays.directions[hit]).sum(axis=1), atol=1e-9)


def test_the_nearer_box_wins_whatever_the_order() -> None:
    near, far = (10, 0, 0, 1, 1, 1, 0), (20, 0, 0, 9, 9, 9, 0)
    ray = Rays.from_point(_unit([[1, 0, 0]]))
    assert cast_with_numpy(ray, _boxes(near, far))[0].tolist() == [0]
    assert cast_with_numpy(ray, _boxes(far, near))[0].tolist() == [1]


@pytest.mark.parametrize("moving", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_culling_loses_no_hit(seed: int, moving: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rays, solids = _random_scene(seed, moving)
    expected = _every_solid_against_every_ray(rays, solids)
    np.testing.assert_array_equal(cast_with_numpy(rays, solids)[0], expected)
    assert 0.1 < (expected >= 0).mean() < 0.9
    monkeypatch.setattr("sparseconv.datasets.ray_casting._PAIRS", 500)
    np.testing.assert_array_equal(cast_with_numpy(rays, solids)[0], expected)


def test_empty_scenes() -> None:
    rays, solids = _random_scene(0)
    nothing, no_rays = solids.select(np.arange(0)), rays.select(np.arange(0))
    for caster in ("numpy", "auto"):
        assert cast_rays(no_rays, solids, caster)[0].tolist() == []
        winner, distance, _ = cast_rays(rays, nothing, caster)
        assert (winner == -1).all() and np.isinf(distance).all()


def test_an_unknown_caster_is_refused() -> None:
    with pytest.raises(ValueError, match="caster must be 'auto', 'open3d' or 'numpy', got 'embree'"):
        cast_rays(*_random_scene(0), caster="embree")


def test_open3d_that_cannot_load_is_replaced_or_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparseconv.datasets.ray_casting.open3d_or_none", lambda: None)
    monkeypatch.setattr("sparseconv.datasets.ray_casting.open3d_problem", lambda: "buy it")
    rays, solids = _random_scene(0)
    np.testing.assert_array_equal(cast_rays(rays, solids)[0], cast_with_numpy(rays, solids)[0])
    with pytest.raises(RuntimeError, match="buy it"):
        cast_rays(rays, solids, caster="open3d")


@pytest.fixture
def _open3d() -> None:
    if open3d_or_none() is None:
        pytest.skip(open3d_problem() or "")


@pytest.mark.usefixtures("_open3d")
@pytest.mark.parametrize("seed", range(4))
def test_open3d_chooses_the_same_solids(seed: int) -> None:
    street = street_scene(seed, 1.0, 8.0, reach=80.0, speed=8.0).solids.shifted(np.array([-8.0, 0.0, -1.73]))
    for rays, solids in (_random_scene(seed), _random_scene(seed, moving=True), (_random_scene(seed)[0], street)):
        ours = cast_rays(rays, solids, caster="numpy")
        theirs = cast_rays(rays, solids, caster="open3d")
        # Where faces of one object coincide, either is right.
        same = np.isclose(ours[1], theirs[1], rtol=0, atol=1e-9)
        # A ray within float32 rounding of an edge may go either way.
        assert (~same).sum() <= 2
        assert (ours[0] == theirs[0]).mean() > 0.99


@pytest.mark.usefixtures("_open3d")
def test_open3d_gives_the_same_scans() -> None:
    for scene in (
        lambda caster: SimulatedStreet(seed=7, caster=caster).frame(3),
        lambda caster: SimulatedRoom(seed=3, views=1, caster=caster).scan(),
    ):
        ours, theirs = scene("numpy"), scene("open3d")
        common = {row.tobytes() for row in ours.points} & {row.tobytes() for row in theirs.points}
        assert len(common) >= max(len(ours), len(theirs)) - 5
        np.testing.assert_array_equal(ours.boxes, theirs.boxes)
