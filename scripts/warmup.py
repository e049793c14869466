"""``sparseconv warmup``: compile the kernels of this machine once."""

from __future__ import annotations

import time
from typing import Annotated

import torch
import typer

from sparseconv.backends.cpu.jit import cache_directory
from sparseconv.scripts.console import one_line_errors, out, progress
from sparseconv.warm_up import steps


@one_line_errors
def warmup(
    double: Annotated[bool, typer.Option("--double", help="The kernels of float64 as well.")] = False,
) -> None:
    """Compile every kernel for this machine and keep the code, so that no first call has to wait."""
    todo = list(steps((torch.float32, torch.float64) if double else (torch.float32,)))
    start = time.perf_counter()
    with progress() as bar:
        task = bar.add_task("compiling", total=len(todo))
        for name, step in todo:
            bar.update(task, description=name)
            step()
            bar.advance(task)
    seconds = time.perf_counter() - start
    out.print(f"kernels ready after {seconds:.1f} s, kept in {cache_directory()}", highlight=False)


if __name__ == "__main__":
    typer.run(warmup)
