"""Ground-truth sampling: objects cut out of frames, kept in a file, and pasted into others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from augmentation_frames import CLASSES, frame, same
from hypothesis import given
from hypothesis import strategies as st

from sparseconv.datasets import PointFileError, Sample, overlap_bev, points_in_boxes
from sparseconv.datasets.augmentations import ObjectDatabase, paste_objects


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
