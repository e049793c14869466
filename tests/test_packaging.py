"""The wheel: what is in it, and that it works where only it is installed."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that no stale build folder takes part."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    tracked = ["sparseconv", "dense_ops", "datasets", "scripts", "pyproject.toml", "README.md", "LICENSE"]
    subprocess.run(["cp", "-r", *tracked, str(source)], cwd=ROOT, check=True)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*command, str(source)], check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def test_wheel_is_pure_python_under_one_name(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"sparseconv"}
    for path in ROOT.rglob("*.py"):
        folder = path.relative_to(ROOT).parts[0]
        if folder in ("sparseconv", "dense_ops", "datasets", "scripts"):
            inside = path.relative_to(ROOT).as_posix()
            expected = inside if folder == "sparseconv" else f"sparseconv/{inside}"
            assert expected in names, f"{inside} is missing from the wheel"
    assert "sparseconv/py.typed" in names
    assert any(name.endswith("LICENSE") for name in names)


def test_wheel_convolves_where_only_it_is_installed(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    script = (
        "import sparseconv, torch\n"
        "assert 'site' in sparseconv.__file__, sparseconv.__file__\n"
        "import sparseconv.datasets, sparseconv.dense_ops, sparseconv.scripts\n"
        "x = sparseconv.voxelize(torch.rand(100, 4), 0.1).to_sparse()\n"
        "print(sparseconv.SubMConv3d(4, 8, 3)(x).features.shape[1])"
    )
    # The folder before everything else; an editable install's finder only answers for what is not found there.
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "8"
