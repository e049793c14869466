"""``sparseconv convert``: a checkpoint of another library to this engine's weight layout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from sparseconv import checkpoints
from sparseconv.scripts.console import one_line_errors, out
from sparseconv.weight_layouts import SOURCES


@one_line_errors
def convert(
    checkpoint: Annotated[Path, typer.Argument(help="A file of torch.save; only tensors are unpickled.")],
    result: Annotated[Path, typer.Argument(help="The state dict is written here, with torch.save.")],
    source: Annotated[str, typer.Option(help=f"The library that wrote it: {', '.join(SOURCES)}.")],
    ndim: Annotated[int, typer.Option(help="Spatial axes of its convolutions.")] = 3,
    kernel: Annotated[
        list[str] | None,
        typer.Option(help="Kernel of a layer that is no cube, as name=3,1,1 in its own axis order; repeatable."),
    ] = None,
    prefix: Annotated[str, typer.Option(help="Keep the keys that begin with it, without it.")] = "",
    key: Annotated[str | None, typer.Option(help="Where the state dict lies in the file, as a.b.")] = None,
    reverse_axes: Annotated[
        bool, typer.Option("--reverse-axes", help="It counts axes x, y, z and the model z, y, x.")
    ] = False,
) -> None:
    """Convert a checkpoint: convolution weights to [C_out, *kernel, C_in], everything else as it is."""
    if source not in SOURCES:
        raise ValueError(f"--source must be one of {', '.join(SOURCES)}, got {source!r}")
    if result.exists() and result.samefile(checkpoint):
        raise ValueError(f"{result}: is the checkpoint itself; name another file for the result")
    if not result.absolute().parent.is_dir():
        raise ValueError(f"{result}: its folder does not exist")
    before = checkpoints.read(checkpoint, key)
    after = checkpoints.convert(
        before,
        source,  # type: ignore[arg-type]
        ndim=ndim,
        kernel_sizes=_kernels(kernel or []),
        prefix=prefix,
        reverse_axes=reverse_axes,
    )
    if not after:
        raise ValueError(f"{checkpoint}: no key begins with {prefix!r}")
    staging = result.with_name(f".{result.name}.partial")
    torch.save(after, staging)
    staging.replace(result)
    moved = sum(1 for name, value in after.items() if not _is_unchanged(name, value, before, prefix))
    out.print(f"{result}: {len(after)} tensors, {moved} of them moved to this engine's layout")


def _is_unchanged(name: str, value: torch.Tensor, before: dict[str, torch.Tensor], prefix: str) -> bool:
    return before.get(prefix + name) is value


def _kernels(texts: list[str]) -> dict[str, list[int]]:
    kernels = {}
    for text in texts:
        name, _, sizes = text.partition("=")
        try:
            kernels[name] = [int(size) for size in sizes.split(",")]
        except ValueError:
            raise ValueError(f"--kernel must be name=3,1,1, got {text!r}") from None
    return kernels
