"""``sparseconv warmup`` leaves nothing to compile."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

PROGRAM = """
import sparseconv as sc, torch
from sparseconv.models import build_model
points = torch.rand(3000, 4) * torch.tensor([9.0, 9.0, 3.0, 1.0])
voxels = sc.voxelize([points, points[:0]], 0.1, [0, 0, 0, 9, 9, 3.2])
model = build_model("VoxelBackBone8x", 4)
model(voxels.to_sparse()).encoded.features.sum().backward()
unordered = torch.randperm(len(voxels.indices))
x = sc.SparseTensor(voxels.features[unordered], voxels.indices[unordered])
y = sc.SparseSumPool3d(2, 2, indice_key="down")(sc.SubMConv3d(16, 32, 3, groups=16)(sc.SubMConv3d(4, 16, 3)(x)))
total = sc.SparseInverseConv3d(32, 8, 2, "down")(y).features.sum()
(total + sc.SparseGlobalMaxPool()(sc.SparseMaxPool3d(3, 2)(y)).sum()).backward()
sc.devoxelize(voxels.features, voxels, [points, points[:0]], "trilinear")
print("done")
"""


def kept(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*.nbc")}


def test_warm_up_compiles_what_programs_use(tmp_path: Path) -> None:
    environment = {**os.environ, "SPARSECONV_CACHE_DIR": str(tmp_path)}
    run = {"capture_output": True, "text": True, "env": environment, "check": False, "timeout": 300}
    result = subprocess.run([sys.executable, "-m", "sparseconv.scripts.app", "warmup"], **run)  # type: ignore[call-overload]
    assert result.returncode == 0, result.stderr
    assert str(tmp_path) in result.stdout.replace("\n", "")
    compiled = kept(tmp_path)
    assert len(compiled) > 30
    result = subprocess.run([sys.executable, "-c", PROGRAM], **run)  # type: ignore[call-overload]
    assert result.stdout.strip() == "done", result.stderr
    assert kept(tmp_path) == compiled, "the program compiled more"


def test_warm_up_leaves_the_random_state() -> None:
    import sparseconv

    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    sparseconv.warm_up()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_draws_nothing_and_changes_no_default(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.device] = []
    module = importlib.import_module("sparseconv.warm_up")
    monkeypatch.setattr(module, "steps", lambda dtypes: [("look", lambda: seen.append(torch.rand(3).device))])
    before = torch.random.get_rng_state()
    module.warm_up()
    module.warm_up(device="meta")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert seen == [torch.device("cpu"), torch.device("meta")]
    assert torch.get_default_device() == torch.device("cpu")
