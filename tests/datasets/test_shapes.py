"""ModelNet40 and ShapeNetPart: objects written here."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from sparseconv.datasets import DatasetFolderError, ModelNet40, PointFileError, ShapeNetPart
from sparseconv.datasets.modelnet40 import CLASSES
from sparseconv.datasets.shapenet_part import CLASSES as SHAPENET_CLASSES
from sparseconv.datasets.shapenet_part import PARTS

SQUARE = "4 2 0\n0 0 5\n10 0 5\n10 10 5\n0 10 5\n3 0 1 2\n3 0 2 3\n"


def write_modelnet40(root: Path) -> Path:
    for name, head in (("airplane", "OFF\n"), ("xbox", "OFF")):
        for split in ("train", "test"):
            (root / name / split).mkdir(parents=True)
        (root / name / f"train/{name}_0001.off").write_text(head + SQUARE)
    (root / "airplane/test/airplane_0627.off").write_text("OFF\n" + SQUARE)
    return root


@pytest.fixture
def modelnet(tmp_path: Path) -> Path:
    return write_modelnet40(tmp_path / "modelnet")


def test_modelnet40(modelnet: Path) -> None:
    dataset = ModelNet40(modelnet, "train", points=300, normalize=False)
    assert len(dataset) == 2 and [shape.class_id for shape in dataset] == [0, 39]
    for shape in dataset:
        assert shape.points.shape == (300, 6) and shape.fields[3:] == ("nx", "ny", "nz")
        assert (shape.points[:, 2] == 5).all() and (shape.points[:, 3:] == [0, 0, 1]).all()
        assert shape.points[:, :2].min() >= 0 and shape.points[:, :2].max() <= 10
        assert shape.points[:, :2].mean() == pytest.approx(5, abs=0.6)
    # The same object in every epoch, another drawing for another object or seed.
    assert (dataset[0].points == dataset[0].points).all()
    assert (dataset[0].points != dataset[1].points).any()
    again = ModelNet40(modelnet, "train", points=300, normalize=False, seed=1)
    assert (dataset[0].points != again[0].points).any()
    assert len(ModelNet40(modelnet, "test")) == 1
    assert pickle.loads(pickle.dumps(dataset))[1].name == "xbox/xbox_0001"


def test_modelnet40_in_the_unit_sphere(modelnet: Path) -> None:
    points = ModelNet40(modelnet, "train", points=500)[0].points
    np.testing.assert_allclose(points[:, :3].mean(0), 0, atol=1e-5)
    assert np.linalg.norm(points[:, :3], axis=1).max() == pytest.approx(1, abs=1e-6)
    assert (points[:, 3:] == [0, 0, 1]).all()


def test_modelnet40_errors(modelnet: Path, tmp_path: Path) -> None:
    assert len(CLASSES) == 40 and sorted(CLASSES) == list(CLASSES)
    (modelnet / "xbox/train/xbox_0001.off").write_text("OFF" + SQUARE.replace("3 0 2 3\n", ""))
    with pytest.raises(PointFileError, match="is cut off"):
        ModelNet40(modelnet, "train")[1]
    (modelnet / "xbox/train/xbox_0001.off").write_text("OFF" + SQUARE.replace("3 0 2 3", "3 0 2 9"))
    with pytest.raises(PointFileError, match="a face names vertex 9 of 4"):
        ModelNet40(modelnet, "train")[1]
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        DatasetFolderError,
        match=r"holds no mesh of the split 'train'(.|\n)*airplane_0001.off(.|\n)*Princeton ModelNet",
    ):
        ModelNet40(tmp_path / "empty")
    with pytest.raises(ValueError, match="split must be"):
        ModelNet40(modelnet, "val")
    with pytest.raises(ValueError, match="points must be"):
        ModelNet40(modelnet, points=0)
    (tmp_path / "outer").mkdir()
    modelnet.rename(tmp_path / "outer/ModelNet40")
    assert len(ModelNet40(tmp_path / "outer")) == 2


def write_shapenet_part(root: Path) -> Path:
    for folder in ("train_test_split", "02691156", "03624134"):
        (root / folder).mkdir(parents=True)
    (root / "synsetoffset2category.txt").write_text("Airplane\t02691156\nKnife\t03624134\n")
    lists = {
        "train": ["shape_data/03624134/k1", "shape_data/02691156/a1"],
        "val": ["shape_data/02691156/a2"],
        "test": ["shape_data/03624134/k2"],
    }
    for split, entries in lists.items():
        (root / f"train_test_split/shuffled_{split}_file_list.json").write_text(json.dumps(entries))
    for name, part in (("02691156/a1", 0), ("02691156/a2", 3), ("03624134/k1", 22), ("03624134/k2", 23)):
        (root / f"{name}.txt").write_text(f"0.1 0.2 0.3 0 0 1 {part}.000000\n-0.5 0.25 1 1 0 0 {part}.000000\n")
    return root


@pytest.fixture
def shapenet(tmp_path: Path) -> Path:
    return write_shapenet_part(tmp_path / "shapenet")


def test_shapenet_part(shapenet: Path) -> None:
    dataset = ShapeNetPart(shapenet, "train")
    assert [shape.name for shape in dataset] == ["Knife/k1", "Airplane/a1"]
    knife = dataset[0]
    assert knife.class_id == 7 and SHAPENET_CLASSES[7] == "Knife"
    assert knife.labels.tolist() == [22, 22]
    np.testing.assert_allclose(knife.points, [[0.1, 0.2, 0.3, 0, 0, 1], [-0.5, 0.25, 1, 1, 0, 0]], rtol=1e-6)
    assert len(ShapeNetPart(shapenet, "trainval")) == 3 and len(ShapeNetPart(shapenet, "test")) == 1
    only = ShapeNetPart(shapenet, "train", classes=("Airplane",))
    assert [shape.class_id for shape in only] == [0]
    assert pickle.loads(pickle.dumps(only))[0].labels.tolist() == [0, 0]


def test_shapenet_parts_are_numbered_through() -> None:
    assert [part for parts in PARTS.values() for part in parts] == list(range(50))
    published = {
        "Earphone": [16, 17, 18],
        "Motorbike": [30, 31, 32, 33, 34, 35],
        "Table": [47, 48, 49],
        "Cap": [6, 7],
    }
    assert {name: list(PARTS[name]) for name in published} == published
    assert len(SHAPENET_CLASSES) == 16


def test_shapenet_errors(shapenet: Path, tmp_path: Path) -> None:
    path = shapenet / "03624134/k1.txt"
    for text, problem in (
        ("0 0 0 0 0 1 3\n", r"a part outside 22 .. 23, those of the category Knife"),
        ("0 0 0 0 0 1 22.5\n", "a part outside"),
        ("0 0 0 0 0 1\n", "line 1 holds 6 values where 7"),
        ("0 0 0 0 0 nan 22\n", "not finite"),
        ("\n", "holds no points"),
    ):
        path.write_text(text)
        with pytest.raises(PointFileError, match=problem):
            ShapeNetPart(shapenet, "train")[0]
    listing = shapenet / "train_test_split/shuffled_train_file_list.json"
    for text, problem in (
        ('["shape_data/../../etc/passwd"]', "expected 'shape_data/NUMBER/NAME'"),
        ("[3]", "expected 'shape_data/NUMBER/NAME'"),
        ('["shape_data/99/a"]', "unknown category 99"),
        ("{}", "no list of objects"),
        ("[", "is no JSON"),
    ):
        listing.write_text(text)
        with pytest.raises(PointFileError, match=problem):
            ShapeNetPart(shapenet, "train")
    listing.unlink()
    with pytest.raises(
        DatasetFolderError,
        match=r"has no train_test_split/shuffled_train(.|\n)*synsetoffset2category.txt(.|\n)*Part annotation",
    ):
        ShapeNetPart(shapenet, "train")
    with pytest.raises(ValueError, match="split must be one of train, val, trainval, test"):
        ShapeNetPart(shapenet, "all")
    (shapenet / "synsetoffset2category.txt").write_text("Unicorn 1\n")
    with pytest.raises(PointFileError, match="is no category and its number"):
        ShapeNetPart(shapenet, "test")
