"""``sparseconv --version``."""

from __future__ import annotations

from importlib.metadata import version as installed_version
from typing import Annotated

import typer


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"sparseconv {installed_version('sparseconv')}")
        raise typer.Exit


def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Sparse convolution on point clouds."""
