"""Compile every CUDA kernel for real devices, without one, and note what it takes: ``docs/cuda_kernels.md``.

Run as a program it launches all kernels under the simulator to see with what types they are called, and writes the
table anew.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import pkgutil
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

TABLE = Path(__file__).parent.parent / "docs" / "cuda_kernels.md"
ARCHITECTURES = ((8, 0), (9, 0))
TOOLS = ("numba-cuda", "nvidia-nvvm", "nvidia-nvjitlink")

Launch = tuple[str, str]  # the kernel and the types of its arguments


@dataclass(frozen=True)
class Usage:
    """What a kernel takes on one architecture: registers a thread, and bytes."""

    registers: int
    stack: int
    spilled: int
    shared: int


def kernels() -> dict[str, Any]:
    """Every kernel of the backend, by name; each module of the folder is imported."""
    package = importlib.import_module("sparseconv.backends.cuda")
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        # The Triton kernels are checked with the interpreter and by tests of their own.
        if not module.name.rpartition(".")[2].startswith("implicit_gemm"):
            importlib.import_module(module.name)
    found: dict[str, Any] = importlib.import_module("sparseconv.backends.cuda.launch").KERNELS
    return found


def _numba_type(text: str) -> Any:
    from numba.cuda import types

    if "[" in text:
        name, brackets = text.split("[")
        return types.Array(getattr(types, name), brackets.count(":"), "C")
    if " x " in text:
        return types.UniTuple(types.int64, int(text.split(" x ")[0]))
    return getattr(types, text)


@contextlib.contextmanager
def _as_if_on(architecture: tuple[int, int]) -> Iterator[None]:
    """Numba asks the current device what to compile functions for that kernels call."""
    dispatcher = importlib.import_module("numba.cuda.dispatcher")
    asked = dispatcher.get_current_device
    dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=architecture)
    try:
        yield
    finally:
        dispatcher.get_current_device = asked


def compile_ptx(launch: Launch, architecture: tuple[int, int]) -> str:
    """PTX of a kernel for the types of one launch."""
    from numba import cuda
    from numba.cuda import types

    name, arguments = launch
    signature = types.void(*(_numba_type(text) for text in arguments.split("; ")))
    with _as_if_on(architecture):
        ptx, _ = cuda.compile(
            kernels()[name].function, signature, cc=architecture, output="ptx", device=False, abi="numba"
        )
    return str(ptx)


def integer_results(launch: Launch) -> list[tuple[str, int]]:
    """Every operation of a kernel (not of what it calls) whose result is a whole number, and its bits."""
    from numba.cuda import types
    from numba.cuda.compiler import compile_cuda
    from numba.cuda.core import ir

    name, arguments = launch
    signature = tuple(_numba_type(text) for text in arguments.split("; "))
    with _as_if_on(ARCHITECTURES[0]):
        found = compile_cuda(kernels()[name].function, types.void, signature, cc=ARCHITECTURES[0]).type_annotation
    results = []
    for block in found.blocks.values():
        for statement in block.body:
            value = getattr(statement, "value", None)
            if isinstance(value, ir.Expr) and value.op in ("binop", "inplace_binop"):
                kind = found.typemap[statement.target.name]
                if isinstance(kind, types.Integer):
                    results.append((str(statement), int(kind.bitwidth)))
    return results


def assemble(ptx: str, architecture: tuple[int, int]) -> Usage:
    """Assemble PTX to machine code and read what the assembler says of it."""
    from cuda.bindings import nvjitlink

    options = [f"-arch=sm_{architecture[0]}{architecture[1]}", "-verbose"]
    linker = nvjitlink.create(len(options), options)
    code = ptx.encode()
    nvjitlink.add_data(linker, nvjitlink.InputType.PTX, code, len(code), "kernel")
    nvjitlink.complete(linker)
    log = bytearray(nvjitlink.get_info_log_size(linker))
    nvjitlink.get_info_log(linker, log)
    nvjitlink.destroy(linker)
    text = log.decode()

    def number(pattern: str) -> int:
        return sum(int(found) for found in re.findall(pattern, text))

    assert re.search(r"Used \d+ registers", text), text
    return Usage(
        number(r"Used (\d+) registers"),
        number(r"(\d+) bytes stack frame"),
        number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads"),
        number(r"(\d+) bytes smem"),
    )


def recorded() -> dict[Launch, tuple[Usage, ...]]:
    """The table: for each kernel and types of arguments, what it takes on each architecture."""
    rows = {}
    for line in TABLE.read_text().splitlines():
        cells = [cell.strip(" `") for cell in line.strip("|").split("|")]
        if len(cells) == 2 + 4 * len(ARCHITECTURES) and cells[2].isdigit():
            numbers = [int(cell) for cell in cells[2:]]
            rows[cells[0], cells[1]] = tuple(Usage(*numbers[4 * i : 4 * i + 4]) for i in range(len(ARCHITECTURES)))
    return rows


def tools() -> str:
    """The compiler, spelled as the table does."""
    return ", ".join(f"{name} {version(name)}" for name in TOOLS)


def main() -> None:
    """Write the table anew."""
    from test_cuda_simulator import FAMILIES, run_family

    launches: set[Launch] = set()
    for family in FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "launches.json"
            run_family(family, path)
            launches |= {(name, arguments) for name, arguments in json.loads(path.read_text())}
        sys.stderr.write(f"{family}: {len(launches)} launches known\n")
    names = [f"sm_{major}{minor}" for major, minor in ARCHITECTURES]
    lines = [
        "# What the CUDA kernels take",
        "",
        "Every Numba kernel of the CUDA backend, compiled to machine code without a GPU for the types with which",
        "it is launched: registers a thread, and bytes of stack frame (`stack`), of spilled registers (`spill`)",
        "and of shared memory (`shared`). Not yet run on hardware; see [cuda.md](cuda.md).",
        "",
        "Written by `python tests/cuda_kernel_table.py`; `tests/test_cuda_kernels.py` compiles all of them again.",
        "",
        f"Compiled with {tools()}.",
        "",
        "| kernel | arguments | " + " | ".join(f"{n} registers | stack | spill | shared" for n in names) + " |",
        "|---|---|" + "--:|" * 4 * len(names),
    ]
    for launch in sorted(launches):
        numbers: list[int] = []
        for architecture in ARCHITECTURES:
            usage = assemble(compile_ptx(launch, architecture), architecture)
            numbers += [usage.registers, usage.stack, usage.spilled, usage.shared]
        lines.append(f"| `{launch[0]}` | `{launch[1]}` | " + " | ".join(map(str, numbers)) + " |")
    TABLE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
