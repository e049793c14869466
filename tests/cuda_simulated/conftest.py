"""Every kernel of the CUDA backend under Numba's simulator, against the reference backend.

The simulator must be asked for before Python starts (``NUMBA_ENABLE_CUDASIM=1``), so
``tests/test_cuda_simulator.py`` runs each file of this folder in a process of its own. It checks indices,
not types and not races.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import Tensor

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"


def argument_type(argument: object) -> str:
    """How the table of kernels spells an argument."""
    if isinstance(argument, Tensor):
        return f"{str(argument.dtype).removeprefix('torch.')}[{','.join(':' * argument.dim())}]"
    if isinstance(argument, tuple):
        return f"{len(argument)} x int64"
    return {int: "int64", float: "float64"}[type(argument)]


@pytest.fixture(scope="session", autouse=True)
def _simulator() -> Iterator[None]:
    """Note with what types kernels are launched, for the check that the same were compiled."""
    if not SIMULATED:
        pytest.skip("needs NUMBA_ENABLE_CUDASIM=1 before Python starts: tests/test_cuda_simulator.py sets it")
    from sparseconv.backends.cuda.launch import Kernel

    # The simulator waits for its threads in a busy loop: at Python's own 5 ms it would take ten times as long.
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    seen: set[tuple[str, str]] = set()
    launch = Kernel.launch

    def noted(self: Kernel, threads: int, *args: object) -> None:
        seen.add((self.name, "; ".join(argument_type(argument) for argument in args)))
        launch(self, threads, *args)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Kernel, "launch", noted)
        yield
    sys.setswitchinterval(interval)
    if "SPARSECONV_LAUNCHES" in os.environ:
        Path(os.environ["SPARSECONV_LAUNCHES"]).write_text(json.dumps(sorted(seen)))


@pytest.fixture(params=[0, 1, 41], ids=lambda n: f"{n} sites")
def n_sites(request: pytest.FixtureRequest) -> int:
    """None, one, and a number that no block size divides."""
    return int(request.param)


@pytest.fixture(params=[True, False], ids=["sorted", "unsorted"])
def is_sorted(request: pytest.FixtureRequest) -> bool:
    """Whether the rows are in lexicographic order."""
    return bool(request.param)
