"""The examples of docs/datasets.md, as they stand there, and its trees, as the errors draw them."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from test_indoor_rooms import write_s3dis, write_scannet
from test_kitti_object import write_kitti
from test_nuscenes import write_nuscenes
from test_semantic_kitti import write_semantic_kitti
from test_shapes import write_modelnet40, write_shapenet_part

PAGE = Path(__file__).resolve().parents[2] / "docs" / "datasets.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
WRITERS: dict[str, Callable[[Path], Path]] = {
    "kitti": write_kitti,
    "semantic_kitti": write_semantic_kitti,
    "nuscenes": write_nuscenes,
    "scannet": write_scannet,
    "s3dis": write_s3dis,
    "modelnet40": write_modelnet40,
    "shapenet_part": write_shapenet_part,
}


def test_there_is_one_for_every_data_set() -> None:
    named = {name for text in EXAMPLES for name in re.findall(r"[A-Z]\w+\(\"(\w+)\"", text)}
    assert named == {*WRITERS, "waymo"}


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_it_runs(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = EXAMPLES[number]
    (root,) = set(re.findall(r"[A-Z]\w+\(\"(\w+)\"", code))
    if root == "waymo":
        pytest.importorskip("pyarrow", reason="the Waymo extra is not installed")
        importlib.import_module("test_waymo").write_waymo(tmp_path / root)
    else:
        WRITERS[root](tmp_path / root)
    if root == "kitti":
        # The first frame's car gets a point, and the split a list.
        scan = tmp_path / "kitti/training/velodyne/000000.bin"
        scan.write_bytes(scan.read_bytes() + np.array([20.3, -1.9, -1.15, 0.5], "<f4").tobytes())
        (tmp_path / "kitti/ImageSets").mkdir()
        (tmp_path / "kitti/ImageSets/train.txt").write_text("000000\n000007\n")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, f"{PAGE.name}, example {number + 1}", "exec"), {})


@pytest.mark.parametrize(
    "module", ["kitti_object", "semantic_kitti", "nuscenes", "waymo", "scannet", "s3dis", "modelnet40"]
)
def test_the_page_draws_the_trees_of_the_errors(module: str) -> None:
    tree = importlib.import_module(f"sparseconv.datasets.{module}").TREE
    assert "\n".join(f"    {line}" for line in tree.strip().splitlines()) in PAGE.read_text()
