"""Augmentations: what lies in a box stays in it, motions undo each other, equal generators give equal results."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparseconv.datasets import PointFileError, Sample, overlap_bev, points_in_boxes
from sparseconv.datasets.augmentations import (
    Augment,
    ObjectDatabase,
    concatenate,
    drop_points,
    flip,
    flip_along,
    jitter,
    laser_mix,
    paste_objects,
    polar_mix,
    rotate,
    rotate_by,
    scale,
    scale_by,
    shuffle,
    translate,
    translate_by,
)

CLASSES = ("Car", "Cyclist")


def frame(seed: int, *, boxes: int = 6, points: int = 1500, width: int = 9, labelled: bool = True) -> Sample:
    """Boxes that do not overlap, some of the points in them; each point knows its row and its box."""
    rng = np.random.default_rng(seed)
    places = rng.permutation(36)[:boxes]
    rows = np.zeros((boxes, width))
    rows[:, 0] = (places % 6 - 2.5) * 12 + rng.uniform(-1, 1, boxes)
    rows[:, 1] = (places // 6 - 2.5) * 12 + rng.uniform(-1, 1, boxes)
    rows[:, 2] = rng.uniform(-2, 2, boxes)
    rows[:, 3:6] = rng.uniform(1, 6, (boxes, 3))
    rows[:, 6] = rng.uniform(-np.pi, np.pi, boxes)
    rows[:, 7:] = rng.normal(size=(boxes, width - 7))
    xyz = rng.uniform([-40, -40, -4], [40, 40, 4], (points, 3))
    if boxes:
        # Well inside or outside, so that float32 does not decide.
        own = rng.integers(0, boxes, points // 2)
        local = rng.uniform(-0.45, 0.45, (len(own), 3)) * rows[own, 3:6]
        turned = (local[:, 0] + 1j * local[:, 1]) * np.exp(1j * rows[own, 6])
        xyz[: len(own)] = rows[own, :3] + np.stack([turned.real, turned.imag, local[:, 2]], 1)
        near = rows.copy()
        near[:, 3:6] *= 1.01
        smaller = rows.copy()
        smaller[:, 3:6] *= 0.99
        on_a_face = (points_in_boxes(xyz, near) != points_in_boxes(xyz, smaller)).any(1)
        xyz[on_a_face] = [0, 0, 50]
    normals = rng.normal(size=(points, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    names = tuple(CLASSES[number % 2] for number in range(boxes))
    return Sample(
        np.concatenate([xyz, rng.random((points, 1)), normals], 1).astype(np.float32),
        ("x", "y", "z", "intensity", "nx", "ny", "nz"),
        f"frame {seed}",
        labels=rng.integers(0, 5, points).astype(np.int32) if labelled else None,
        instances=rng.integers(0, 4, points).astype(np.int32) if labelled else None,
        boxes=rows.astype(np.float32),
        box_names=names,
        box_labels=np.array([CLASSES.index(name) for name in names], np.int32),
        pose=np.eye(4),
        point_data={"row": np.arange(points)},
        box_data={"number": np.arange(boxes)},
    )


MOTIONS: dict[str, Callable[[Sample, np.random.Generator], Sample]] = {
    "flip": partial(flip, axes=("x", "y"), probability=0.7),
    "rotate": partial(rotate, low=-7.0, high=7.0),
    "scale": partial(scale, low=0.5, high=2.0),
    "translate": partial(translate, sigma=(5.0, 3.0, 1.0)),
    "all": lambda s, rng: translate(scale(rotate(flip(s, rng, axes=("x", "y")), rng), rng), rng),
}


def same(a: Sample, b: Sample, tolerance: float = 0.0) -> None:
    np.testing.assert_allclose(a.points, b.points, atol=tolerance, rtol=tolerance)
    np.testing.assert_allclose(a.boxes[:, :6], b.boxes[:, :6], atol=tolerance, rtol=tolerance)  # type: ignore[index]
    turn = np.exp(1j * a.boxes[:, 6]) - np.exp(1j * b.boxes[:, 6])  # type: ignore[index]
    assert np.abs(turn).max(initial=0) <= tolerance + 1e-6
    np.testing.assert_allclose(a.boxes[:, 7:], b.boxes[:, 7:], atol=tolerance, rtol=tolerance)  # type: ignore[index]
    for name in ("labels", "instances", "box_labels"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert a.box_names == b.box_names


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


# Ground-truth sampling.


@pytest.fixture(scope="module")
def database() -> ObjectDatabase:
    return ObjectDatabase.collect([frame(seed) for seed in range(20, 24)], min_points=20)


def test_objects_are_cut_out(database: ObjectDatabase) -> None:
    assert len(database) == 24 and set(database.names) == set(CLASSES)
    for number in range(len(database)):
        rows = slice(database.offsets[number], database.offsets[number + 1])
        assert points_in_boxes(database.points[rows], database.boxes[number : number + 1]).all()
        assert rows.stop - rows.start >= 20
    first = frame(20)
    inside = points_in_boxes(first.points, first.boxes)[:, 0]
    assert (database.points[: inside.sum()] == first.points[inside]).all()
    only = ObjectDatabase.collect([first], classes=("Cyclist",))
    assert set(only.names) == {"Cyclist"} and len(only) == 3
    with pytest.raises(ValueError, match="no object with enough points"):
        ObjectDatabase.collect([first], min_points=10**6)
    with pytest.raises(ValueError, match="has no boxes"):
        ObjectDatabase.collect([Sample(np.ones((1, 3), np.float32), ("x", "y", "z"))])


@given(seed=st.integers(0, 10_000))
def test_pasting(database: ObjectDatabase, seed: int) -> None:
    before = frame(seed)
    counts = {"Car": 6, "Cyclist": 4, "Tram": 3}
    after = paste_objects(before, np.random.default_rng(seed), database, counts, box_classes=CLASSES)
    new = after.box_data["pasted"]
    assert not new[:6].any() and new[6:].all() and (after.boxes[:6] == before.boxes).all()
    # Three of each were there.
    assert after.box_names.count("Car") <= 6 and after.box_names.count("Cyclist") <= 4
    assert after.box_labels.tolist() == [CLASSES.index(name) for name in after.box_names]
    # Nothing stands in anything else's place, but for what stood so before.
    overlap = overlap_bev(after.boxes, after.boxes)
    np.fill_diagonal(overlap, False)
    overlap[:6, :6] = False
    assert not overlap.any()
    # In a pasted box lie exactly its own points; everywhere else the frame is as it was.
    gone = points_in_boxes(before.points, after.boxes[new]).any(1)
    kept = before.points[~gone]
    assert (after.points[: len(kept)] == kept).all()
    assert (after.labels[: len(kept)] == before.labels[~gone]).all()
    inside = points_in_boxes(after.points, after.boxes[new])
    place = len(kept)
    for number, box in enumerate(after.boxes[new]):
        source = int(np.flatnonzero((database.boxes == box).all(1))[0])
        rows = slice(database.offsets[source], database.offsets[source + 1])
        size = rows.stop - rows.start
        assert (after.points[place : place + size] == database.points[rows]).all()
        assert (after.labels[place : place + size] == database.labels[rows]).all()
        assert np.flatnonzero(inside[:, number]).tolist() == list(range(place, place + size))
        place += size
    assert place == len(after) and not after.instances[len(kept) :].any()
    again = paste_objects(before, np.random.default_rng(seed), database, counts, box_classes=CLASSES)
    same(after, again)


def test_pasting_happens_and_can_be_in_vain(database: ObjectDatabase) -> None:
    counts = {"Car": 9}
    pasted = [
        paste_objects(frame(s), np.random.default_rng(s), database, counts, box_classes=CLASSES) for s in range(5)
    ]
    assert sum(int(sample.box_data["pasted"].sum()) for sample in pasted) > 5
    assert any(len(sample.point_data["row"]) != 1500 for sample in pasted)
    full = paste_objects(frame(0), np.random.default_rng(0), database, {"Car": 3}, box_classes=CLASSES)
    assert not full.box_data["pasted"].any() and len(full) == 1500
    empty = frame(0, boxes=0)
    filled = paste_objects(empty, np.random.default_rng(0), database, {"Car": 2}, box_classes=CLASSES)
    assert len(filled.boxes) >= 1


def test_pasting_refuses_what_does_not_fit(database: ObjectDatabase) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="must have boxes and the fields"):
        paste_objects(Sample(np.ones((1, 3), np.float32), ("x", "y", "z")), rng, database, {})
    with pytest.raises(ValueError, match="labels of points must be in both"):
        paste_objects(frame(0, labelled=False), rng, database, {})
    with pytest.raises(ValueError, match="pass box_classes"):
        paste_objects(frame(0), rng, database, {"Car": 9})
    with pytest.raises(ValueError, match="box_classes has no 'Car'"):
        paste_objects(frame(0, boxes=0), rng, database, {"Car": 9}, box_classes=("Cyclist",))


def test_databases_are_saved_without_pickle(database: ObjectDatabase, tmp_path: Path) -> None:
    path = tmp_path / "objects.npz"
    database.save(path)
    with np.load(path, allow_pickle=False) as arrays:
        assert all(arrays[name].dtype.kind in "fiu" for name in arrays)
    again = ObjectDatabase.load(path)
    assert again.names == database.names and again.fields == database.fields
    for name in ("points", "offsets", "boxes", "labels"):
        assert (getattr(again, name) == getattr(database, name)).all()
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(PointFileError):
        ObjectDatabase.load(path)
    np.savez(path, points=np.zeros((3, 3)))
    with pytest.raises(PointFileError, match="has no array 'offsets'"):
        ObjectDatabase.load(path)
    np.savez(path, points=np.array([{}], object))
    with pytest.raises(PointFileError):
        ObjectDatabase.load(path)


def test_databases_are_loaded_by_the_name_they_were_saved_by(database: ObjectDatabase, tmp_path: Path) -> None:
    for name in ("objects", "objects.v2", "with.npz"):
        database.save(tmp_path / name)
        assert len(ObjectDatabase.load(tmp_path / name)) == len(database)
    with pytest.raises(PointFileError, match="other: no such file"):
        ObjectDatabase.load(tmp_path / "other")


def test_databases_of_no_points_keep_their_labels(tmp_path: Path) -> None:
    path = tmp_path / "objects.npz"
    first = frame(20)
    box = first.boxes[:1] + np.array([0, 0, 1000, *[0] * 6], np.float32)
    far = first.replace(boxes=box, box_names=("Car",), box_labels=np.zeros(1, np.int32), box_data={})
    database = ObjectDatabase.collect([far], min_points=0)
    database.save(path)
    again = ObjectDatabase.load(path)
    assert len(again) == 1 and again.labels is not None and again.labels.shape == (0,)
    pasted = paste_objects(frame(0, boxes=0), np.random.default_rng(0), again, {"Car": 1}, box_classes=CLASSES)
    assert len(pasted.boxes) == 1
    for labels in (None, np.zeros(0, np.int32)):
        none = np.zeros((0, 7), np.float32)
        ObjectDatabase(("x", "y", "z"), none[:, :3], np.zeros(1, np.int64), none, (), labels).save(path)
        again = ObjectDatabase.load(path)
        assert len(again) == 0 and (again.labels is None) == (labels is None)


def test_files_of_earlier_versions_have_no_labels(tmp_path: Path) -> None:
    path = tmp_path / "objects.npz"
    ObjectDatabase.collect([frame(20, labelled=False)]).save(path)
    with np.load(path) as arrays:
        np.savez(path, **{**arrays, "labels": np.zeros(0, np.int32)})
    assert ObjectDatabase.load(path).labels is None


def test_boxes_with_and_without_velocities_are_collected() -> None:
    first, second = frame(20), frame(21)
    moving = second.replace(boxes=np.pad(second.boxes[:, :7], ((0, 0), (0, 2)), constant_values=3))
    plain = first.replace(boxes=first.boxes[:, :7])
    for samples in ([plain, moving], [moving, plain]):
        database = ObjectDatabase.collect(samples, min_points=0)
        assert database.boxes.shape == (len(plain.boxes) + len(moving.boxes), 9)
        assert np.isnan(database.boxes[:, 7:]).all(1).sum() == len(plain.boxes)
        assert (database.boxes[:, 7:] == 3).all(1).sum() == len(moving.boxes)


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
