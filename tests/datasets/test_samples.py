"""The sample itself, and what holds for every data set: lazy imports, no pickle, no code of a file's own."""

from __future__ import annotations

import ast
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import sparseconv.datasets
from sparseconv.datasets import Sample
from sparseconv.datasets.point_dataset import PointDataset

FOLDER = Path(sparseconv.datasets.__file__).parent
POINTS = np.zeros((4, 3), np.float32)
XYZ = ("x", "y", "z")
BOXES = np.ones((2, 7), np.float32)


@pytest.mark.parametrize(
    ("attributes", "problem"),
    [
        ({"points": np.zeros((4, 3))}, "points must be a NumPy array of float32, got float64"),
        ({"points": np.zeros((4, 4), np.float32)}, r"points must have shape \[any, 3\], got \(4, 4\)"),
        ({"fields": ("y", "x", "z")}, "fields must be different names"),
        (
            {"fields": ("x", "y", "z", "x"), "points": np.zeros((4, 4), np.float32)},
            "fields must be different names",
        ),
        ({"labels": np.zeros(3, np.int32)}, r"labels must have shape \[4\]"),
        ({"labels": np.zeros(4, np.int64)}, "labels must be a NumPy array of int32"),
        ({"instances": [0, 0, 0, 0]}, "instances must be a NumPy array of int32, got list"),
        ({"point_data": {"ring": np.zeros((3, 2))}}, r"point_data\['ring'\] must have shape"),
        ({"boxes": np.ones((2, 8), np.float32), "box_names": ("a", "b")}, r"boxes must have shape \[B, 7\]"),
        ({"boxes": BOXES, "box_names": ("a",)}, "one name for each of 2 boxes"),
        ({"box_names": ("a",)}, "give boxes too"),
        ({"boxes": BOXES, "box_names": ("a", "b"), "box_labels": np.zeros(1, np.int32)}, "box_labels must have"),
        (
            {"boxes": BOXES, "box_names": ("a", "b"), "box_data": {"id": np.zeros(3)}},
            r"box_data\['id'\] must have",
        ),
        ({"pose": np.eye(3)}, r"pose must have shape \[4, 4\]"),
        ({"pose": np.eye(4, dtype=np.float32)}, "pose must be a NumPy array of float64"),
    ],
)
def test_a_sample_is_checked(attributes: dict[str, object], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Sample(**({"points": POINTS, "fields": XYZ} | attributes))  # type: ignore[arg-type]


def test_selection_and_pickling() -> None:
    frame = Sample(
        np.arange(12, dtype=np.float32).reshape(4, 3),
        XYZ,
        "a",
        labels=np.arange(4, dtype=np.int32),
        boxes=np.arange(14, dtype=np.float32).reshape(2, 7),
        box_names=("one", "two"),
        point_data={"beam": np.arange(4)},
        box_data={"id": np.array(["p", "q"])},
    )
    picked = frame.select_points(np.array([3, 0]))
    assert picked.labels.tolist() == [3, 0] and picked.point_data["beam"].tolist() == [3, 0]
    assert picked.xyz.tolist() == [[9, 10, 11], [0, 1, 2]] and len(picked) == 2
    kept = frame.select_boxes(np.array([False, True]))
    assert kept.box_names == ("two",) and kept.box_data["id"].tolist() == ["q"] and kept.boxes[0, 0] == 7
    assert frame.select_boxes(np.array([], int)).boxes.shape == (0, 7)
    assert (pickle.loads(pickle.dumps(frame)).boxes == frame.boxes).all()
    assert repr(frame) == "Sample('a', points=4, fields=('x', 'y', 'z'), boxes=2)"
    with pytest.raises(ValueError, match="has no boxes"):
        Sample(POINTS, XYZ).select_boxes(np.array([0]))
    with pytest.raises(AttributeError):
        frame.name = "b"  # type: ignore[misc]


def test_the_base_class_needs_its_methods() -> None:
    with pytest.raises(NotImplementedError):
        PointDataset().read(0)
    with pytest.raises(NotImplementedError):
        len(PointDataset())


def test_every_name_is_there() -> None:
    for name in sparseconv.datasets.__all__:
        assert getattr(sparseconv.datasets, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Kitti'"):
        sparseconv.datasets.Kitti  # noqa: B018


PROBE = """
import sys, types
sys.modules["torch"] = None
package = types.ModuleType("sparseconv")
package.__path__ = []
sys.modules["sparseconv"] = package
import importlib.util
spec = importlib.util.spec_from_file_location(
    "sparseconv.datasets", sys.argv[1] + "/__init__.py", submodule_search_locations=[sys.argv[1]]
)
module = importlib.util.module_from_spec(spec)
sys.modules["sparseconv.datasets"] = module
spec.loader.exec_module(module)
print(module.read_points(sys.argv[2]))
print(module.augmentations.flip.__name__)
try:
    module.KittiObject
except ImportError:
    print("needs torch")
"""


def test_readers_and_augmentations_work_without_torch(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text("1 2 3\n4 5 6\n")
    run = subprocess.run(
        [sys.executable, "-c", PROBE, str(FOLDER), str(tmp_path / "a.xyz")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.splitlines() == ["PointCloud(points=2, fields=('x', 'y', 'z'))", "flip", "needs torch"]


def test_nothing_is_unpickled() -> None:
    """No reader calls anything that could run code of a file's own."""
    forbidden = {"pickle", "marshal", "shelve", "joblib", "dill", "yaml"}
    for path in FOLDER.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            elif isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("np.load", "torch.load", "eval", "exec"), f"{path} calls {called}"
            assert not {name.partition(".")[0] for name in names} & forbidden, path
