"""The CUDA backend without a GPU: each file of ``tests/cuda_simulated`` in a process with Numba's simulator."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cuda_kernel_table import recorded

FOLDER = Path(__file__).parent / "cuda_simulated"
FAMILIES = sorted(path.stem for path in FOLDER.glob("simulated_*.py"))

pytestmark = [
    pytest.mark.cudasim,
    pytest.mark.skipif(
        importlib.util.find_spec("numba_cuda") is None,
        reason='numba-cuda, which brings the simulator, is not installed: pip install "sparseconv[cuda]"',
    ),
]


def run_family(name: str, launches: Path) -> str:
    """Run one file under the simulator; its output."""
    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "1", "SPARSECONV_LAUNCHES": str(launches)}
    environment.pop("PYTEST_XDIST_WORKER", None)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    result = subprocess.run(
        [*command, str(FOLDER / f"{name}.py")],
        env=environment,
        cwd=FOLDER.parent.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.parametrize("name", FAMILIES)
def test_family(name: str, tmp_path: Path) -> None:
    if name == "simulated_fused" and importlib.util.find_spec("triton") is None:
        pytest.skip('Triton is not installed: pip install "sparseconv[cuda]"')
    output = run_family(name, tmp_path / "launches.json")
    assert re.search(r"\d+ passed", output) and "skipped" not in output, output
    # What is launched is what was compiled for real devices.
    launched = {tuple(entry) for entry in json.loads((tmp_path / "launches.json").read_text())}
    unknown = launched - set(recorded())
    assert launched and not unknown, f"run tests/cuda_kernel_table.py: not in the table are {sorted(unknown)}"
