"""Compile the launches of the implicit GEMM for cards that are not here, and read off what came out.

The host functions run on CPU tensors and choose everything as they would on a card: the arguments, and with them
what Triton specialises on. Only the launch itself becomes a compilation.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import triton
from triton.backends.compiler import GPUTarget

from sparseconv.backends.cuda import implicit_gemm, implicit_gemm_kernels
from sparseconv.backends.cuda.implicit_gemm_table import MapTables

TABLE_KERNELS = ("mark_taps", "rank_masks", "join_masks", "write_tiles", "place_pairs")
KERNELS = ("convolve_tile", "outer_tile", "sum_tasks", *TABLE_KERNELS)


@dataclass(frozen=True)
class Compiled:
    """What the compiler made of one launch."""

    kernel: str
    constants: dict[str, Any]
    ttir: str
    ttgir: str
    ptx: str
    registers: int
    stack_bytes: int
    local_bytes: int
    shared_bytes: int

    def count(self, instruction: str) -> int:
        """How often an instruction stands in the PTX."""
        return len(re.findall(re.escape(instruction), self.ptx))


class Found(list[Compiled]):
    """Compiled launches in their order."""

    def of(self, kernel: str) -> list[Compiled]:
        """Those of one kernel."""
        return [code for code in self if code.kernel == kernel]


class _Card:
    """Enough of a Triton driver to compile: a target."""

    def __init__(self, arch: int) -> None:
        self._target = GPUTarget("cuda", arch, 32)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return self._target.arch

    def get_current_stream(self, device: int) -> int:
        return 0


class _Launcher:
    """Stands for a kernel: a launch compiles it."""

    def __init__(self, name: str, found: Found) -> None:
        self._kernel = getattr(implicit_gemm_kernels, name)
        self._name = name
        self._found = found

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        assert all(0 < extent < 2**31 for extent in grid)

        def launch(*args: Any, **kwargs: Any) -> None:
            kernel = self._kernel.warmup(*args, grid=grid, **kwargs)
            self._found.append(_read(self._name, kernel, kwargs))

        return launch


def _read(name: str, kernel: Any, constants: dict[str, Any]) -> Compiled:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        report = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    usage = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", report)
    assert usage is not None, report
    registers, stack, local = (int(number) for number in usage.groups())
    return Compiled(
        kernel=name,
        constants=dict(constants),
        ttir=kernel.asm["ttir"],
        ttgir=kernel.asm["ttgir"],
        ptx=kernel.asm["ptx"],
        registers=registers,
        stack_bytes=stack,
        local_bytes=local,
        shared_bytes=kernel.metadata.shared,
    )


@contextmanager
def compiling_for(arch: int, folder: Path) -> Iterator[Found]:
    """Within the block, the implicit GEMM compiles for ``sm_<arch>`` instead of running; yields what it compiled.

    Results of the host functions are uninitialised memory.
    """
    found = Found()
    stand_in = type("Kernels", (), {name: _Launcher(name, found) for name in KERNELS})
    stand_in.INTERPRETED = False  # type: ignore[attr-defined]
    driver = triton.runtime.driver
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(folder))
        patch.setattr(driver, "_active", _Card(arch), raising=False)
        patch.setattr(implicit_gemm, "_kernels", lambda: stand_in)
        patch.setattr(implicit_gemm, "_runs_on", lambda device: True)
        # Tables of kernels that did not run are of no use to anybody else.
        patch.setattr(implicit_gemm, "map_tables", MapTables())
        yield found
