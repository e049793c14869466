"""What was read once comes back the same, and nothing stale or damaged does."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from collections import OrderedDict
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_indoor_rooms import write_s3dis
from test_kitti_object import write_kitti
from test_shapes import write_modelnet40

from sparseconv.datasets import S3DIS, CachedDataset, KittiObject, ModelNet40, PointDataset, Sample
from sparseconv.datasets.stable_digest import stable_digest


def same(a: Sample, b: Sample) -> None:
    assert (a.name, a.fields, a.path, a.class_id) == (b.name, b.fields, b.path, b.class_id)
    for name in ("points", "labels", "instances", "pose"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        if getattr(a, name) is not None:
            assert getattr(a, name).dtype == getattr(b, name).dtype
    assert a.point_data.keys() == b.point_data.keys()


def test_the_second_reading_needs_no_source(tmp_path: Path) -> None:
    root = write_s3dis(tmp_path / "s3dis")
    cached = CachedDataset(S3DIS(root, [1, 5]), tmp_path / "cache" / "s3dis")
    first = list(cached)
    for direct, kept in zip(S3DIS(root, [1, 5]), first, strict=True):
        same(direct, kept)
    root.rename(tmp_path / "gone")
    for again, kept in zip(pickle.loads(pickle.dumps(cached)), first, strict=True):
        same(again, kept)
    files = sorted(path.name for path in (tmp_path / "cache/s3dis").iterdir())
    assert files == ["000000.npz", "000001.npz"]


def test_other_options_are_read_anew(tmp_path: Path) -> None:
    root = write_modelnet40(tmp_path / "modelnet")
    for points, seed in ((10, 0), (20, 0), (20, 1), (10, 0)):
        direct = ModelNet40(root, points=points, seed=seed)
        same(CachedDataset(direct, tmp_path / "cache")[0], direct[0])
        same(CachedDataset(direct, tmp_path / "cache")[0], direct[0])


def test_damaged_files_are_read_anew(tmp_path: Path) -> None:
    direct = ModelNet40(write_modelnet40(tmp_path / "modelnet"), points=10)
    cached = CachedDataset(direct, tmp_path / "cache")
    cached[0]
    path = tmp_path / "cache/000000.npz"
    good = path.read_bytes()
    for content in (b"", good[:-30], good[: len(good) // 2], b"\0" * len(good)):
        path.write_bytes(content)
        same(cached[0], direct[0])
        assert path.read_bytes() != content


class Stamped(PointDataset):
    def __len__(self) -> int:
        return 1

    def read(self, index: int) -> Sample:
        data = {"time": np.arange(2.0), "beam": np.array([3, 4], np.int8)}
        return Sample(np.ones((2, 3), np.float32), ("x", "y", "z"), "ä/b", pose=np.eye(4), point_data=data)


def test_poses_and_point_data(tmp_path: Path) -> None:
    cached = CachedDataset(Stamped(), tmp_path)
    same(cached[0], Stamped()[0])
    again = cached[0]
    same(again, Stamped()[0])
    assert again.point_data["beam"].dtype == np.int8 and again.point_data["time"].tolist() == [0, 1]


def test_what_is_not_kept(tmp_path: Path) -> None:
    root = write_kitti(tmp_path / "kitti")
    with pytest.raises(ValueError, match="has boxes, a calibration or an augmentation"):
        CachedDataset(KittiObject(root, "training"), tmp_path / "cache")[0]
    with pytest.raises(ValueError, match="give the transform to CachedDataset"):
        CachedDataset(KittiObject(root, "training", transform=len), tmp_path / "cache")
    assert CachedDataset(Stamped(), tmp_path / "other", transform=len)[0] == 2
    assert list((tmp_path / "cache").iterdir()) == []


class Window:
    """An attribute without a text of its own."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high


class Chosen(PointDataset):
    """A data set of a user's own, with anything for its options."""

    def __init__(self, option: Any, root: str = "") -> None:
        super().__init__()
        self.option, self.root = option, root

    def __len__(self) -> int:
        return 1

    def read(self, index: int) -> Sample:
        name = repr(self.option.tolist() if isinstance(self.option, np.ndarray) else vars(self.option))
        return Sample(np.ones((2, 3), np.float32), ("x", "y", "z"), name)


def test_subsets_with_equal_ends_are_kept_apart(tmp_path: Path) -> None:
    first = np.arange(3000)
    second = first.copy()
    second[1500] = 7
    for option in (first, second, Window(0, 1), Window(0, 2)):
        for _ in range(2):
            same(CachedDataset(Chosen(option), tmp_path)[0], Chosen(option)[0])


def test_objects_are_known_again(tmp_path: Path) -> None:
    CachedDataset(Chosen(Window(0, 1)), tmp_path)[0]
    kept = (tmp_path / "000000.npz").stat().st_mtime_ns
    CachedDataset(Chosen(Window(0, 1)), tmp_path)[0]
    assert (tmp_path / "000000.npz").stat().st_mtime_ns == kept


def test_a_relative_root_is_one_of_its_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = set()
    for folder in ("a", "b"):
        (tmp_path / folder / "data").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / folder)
        for root in ("data", str(tmp_path / folder / "data")):
            CachedDataset(Chosen(Window(0, 1), root), tmp_path / "cache")[0]
            with np.load(tmp_path / "cache/000000.npz") as arrays:
                sources.add(arrays["source"].tobytes())
    assert len(sources) == 2


VALUES: tuple[Any, ...] = (
    *(None, True, 1, 1.0, "1", b"1", (1,), [1], {1}, frozenset({1}), {1: 2}, {2: 1}, OrderedDict({1: 2})),
    *(np.arange(3), np.arange(3.0), np.arange(3)[::-1], np.zeros((1, 3)), np.zeros((3, 1)), np.float32(1)),
    *(torch.arange(3), torch.arange(3.0), torch.arange(3.0).bfloat16(), np.array([{}, 1], object)),
    *(
        date(2020, 1, 2),
        date(2020, 1, 3),
        range(3),
        slice(1, 2),
        len,
        max,
        os.path.join,
        partial(max, 1),
        partial(max, 2),
    ),
    *(
        Window(0, 1),
        Window(1, 0),
        Window,
        Path("a"),
        Path("b"),
        re.compile("a" * 300),
        re.compile("a" * 300 + "b"),
    ),
    *(np.random.default_rng(0), np.random.default_rng(1), [1].append, [2].append, {"a": {"b": [1, {2, 3}]}}),
)


def test_digests_differ_where_values_do_and_only_there() -> None:
    digests = [stable_digest(value) for value in VALUES]
    assert len(set(digests)) == len(VALUES)
    again = [stable_digest(pickle.loads(pickle.dumps(value))) for value in VALUES]
    assert again == digests
    assert stable_digest({1: 2, "3": 4}) == stable_digest({"3": 4, 1: 2})
    assert stable_digest(Path("a")) == stable_digest(Path.cwd() / "b/../a")


def test_digests_are_those_of_another_process() -> None:
    value = (
        '{"names": {"x", "yy", "zzz", "w"}, "grid": np.arange(5), "f": np.sum, "when": datetime.date(2020, 1, 2)}'
    )
    code = (
        "import datetime, numpy as np; from sparseconv.datasets.stable_digest import stable_digest; "
        f"print(stable_digest({value}).hex())"
    )
    printed = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        printed.add(done.stdout)
    assert len(printed) == 1


def test_what_has_no_content_is_refused(tmp_path: Path) -> None:
    endless: list[Any] = []
    endless.append(endless)
    with (tmp_path / "a").open("w") as stream:
        for option, problem in ((stream, "TextIOWrapper"), (lambda: 0, "<lambda>"), (endless, "contains itself")):
            with pytest.raises(TypeError, match=f"Chosen cannot be told .*option.*{problem}"):
                CachedDataset(Chosen({"a": [option]}), tmp_path / "cache")


def test_what_the_data_set_has_is_had(tmp_path: Path) -> None:
    direct = S3DIS(write_s3dis(tmp_path / "s3dis"), [1, 5])
    cached = pickle.loads(pickle.dumps(CachedDataset(direct, tmp_path / "cache")))
    assert cached.classes == direct.classes and cached.rooms == direct.rooms
    assert cached.IGNORE_LABEL == direct.IGNORE_LABEL == -1
    zero = Stamped()
    zero.IGNORE_LABEL = 0
    assert CachedDataset(zero, tmp_path / "zero").IGNORE_LABEL == 0
    with pytest.raises(AttributeError, match="box_classes"):
        _ = cached.box_classes
