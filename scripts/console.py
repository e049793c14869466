"""What all commands share at the terminal: where messages go, and how a user's mistake ends."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import NoReturn, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

P = ParamSpec("P")
R = TypeVar("R")

# A file or a pipe has no width of its own: wide enough for every column.
_PIPE_WIDTH = 120

out = Console() if sys.stdout.isatty() else Console(width=_PIPE_WIDTH)
err = Console(stderr=True)

# A wrong call or a file that cannot be used, as Typer's own usage errors.
EXIT_BAD_INPUT = 2
# After Ctrl-C, as shells have it.
EXIT_INTERRUPTED = 130


def fail(message: str) -> NoReturn:
    """Print one line to stderr and leave with exit code 2."""
    complain(message)
    raise typer.Exit(EXIT_BAD_INPUT)


def complain(message: str) -> None:
    """Print one error line to stderr, unwrapped, so that scripts can read it."""
    line = " ".join(message.split())
    sys.stderr.write(f"sparseconv: {line}\n")


def one_line_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Turn the errors that a user can cause into one line and exit code 2."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except (ValueError, TypeError, OSError) as error:
            fail(str(error))

    return wrapped


def progress() -> Progress:
    """A progress bar on stderr, on a terminal only, gone when it is done."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )


def parse_numbers(text: str, counts: tuple[int, ...], name: str) -> list[float]:
    """Comma-separated numbers.

    Raises:
        ValueError: not numbers, or not one of ``counts`` many.
    """
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{name} must be numbers separated by commas, got {text!r}") from None
    if len(numbers) not in counts:
        wanted = " or ".join(map(str, counts))
        raise ValueError(f"{name} must be {wanted} numbers separated by commas, got {text!r}")
    return numbers
