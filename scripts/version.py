"""``sparseconv --version``."""

from __future__ import annotations

from typing import Annotated

import typer

from sparseconv import __version__


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"sparseconv {__version__}")
        raise typer.Exit


def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Sparse convolution on point clouds."""
