"""How a point file is opened, and the one error that everything wrong with it becomes."""

from __future__ import annotations

import os
import stat
from pathlib import Path

PathLike = str | os.PathLike[str]


class PointFileError(ValueError):
    """A point file cannot be used; the message is one line that begins with its path.

    Args:
        path: the file.
        problem: what is wrong and what to do about it.
    """

    def __init__(self, path: PathLike, problem: str) -> None:
        # Both arguments go to `args`, so that the error survives pickling between processes.
        super().__init__(path, problem)
        self.path = path
        self.problem = problem

    def __str__(self) -> str:
        line = f"{os.fspath(self.path)}: {self.problem}"
        return "".join(char if char.isprintable() else " " for char in line)


def brief(cause: object) -> str:
    """What another library says about a file, short enough for a message of one line.

    Args:
        cause: an error, a shape, a dtype.

    Returns:
        The first line of its text, at most 120 characters; the type's name if there is none.
    """
    lines = str(cause).strip().splitlines()
    return lines[0][:120] if lines else type(cause).__name__


def check_point_file(path: PathLike) -> int:
    """Make sure that a path names an ordinary, non-empty file.

    Args:
        path: the file.

    Returns:
        Its size in bytes.

    Raises:
        PointFileError: it is missing, a folder, a device or pipe, empty, or out of reach.
    """
    try:
        status = Path(path).stat()
    except FileNotFoundError:
        raise PointFileError(path, "no such file: check the path") from None
    except (OSError, ValueError) as error:
        raise PointFileError(path, f"cannot be opened ({_reason(error)})") from error
    if stat.S_ISDIR(status.st_mode):
        raise PointFileError(path, "is a folder: give the path of one point file inside it")
    if not stat.S_ISREG(status.st_mode):
        raise PointFileError(path, "is not an ordinary file: copy its content to a file first")
    if status.st_size == 0:
        raise PointFileError(path, "is empty (0 bytes): download or export it again")
    return status.st_size


def read_bytes(path: PathLike) -> bytes:
    """Read a whole point file.

    Args:
        path: the file.

    Returns:
        Its content, at least one byte.

    Raises:
        PointFileError: see `check_point_file`; or the file is larger than the free memory.
    """
    size = check_point_file(path)
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise PointFileError(path, f"cannot be read ({_reason(error)})") from error
    except MemoryError as error:
        raise PointFileError(path, f"{size} bytes do not fit into memory: split it") from error


def _reason(error: OSError | ValueError) -> str:
    return str(getattr(error, "strerror", None) or error)
