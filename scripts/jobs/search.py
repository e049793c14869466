"""Which files a big job works on, and what each is called in the results."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sparseconv.datasets import SUPPORTED_SUFFIXES

# Beside scans these hold calibrations, labels and poses far more often than points: a pattern takes them.
_SIDE_FILES = (".txt", ".csv")
_SEARCHED = tuple(suffix for suffix in SUPPORTED_SUFFIXES if suffix not in _SIDE_FILES)


@dataclass(frozen=True)
class ScanFile:
    """One input.

    Attributes:
        name: its path below the folder or pattern that found it, with forward slashes; unique in a job.
        path: where it lies, absolute.
    """

    name: str
    path: Path


def has_magic(path: Path) -> bool:
    """Whether a path that does not exist as it stands is a glob pattern."""
    return glob.has_magic(str(path)) and not path.exists()


def find_scans(sources: Sequence[Path], pattern: str | None = None, skip: Path | None = None) -> list[ScanFile]:
    """The scans of folders, glob patterns and single files, sorted by name.

    Args:
        sources: a folder is searched with all its subfolders, hidden ones excepted; a pattern may hold ``**``.
        pattern: which files of a folder are taken, relative to it; None: every point format but ``.txt`` and
            ``.csv``.
        skip: a folder that is not searched: the one for the results.

    Raises:
        ValueError: nothing found, a file named twice, or two files of one name.
    """
    found: dict[str, Path] = {}
    for source in sources:
        count = 0
        for name, path in _matches(source, pattern, None if skip is None else skip.absolute()):
            count += 1
            path = path.absolute()
            if found.setdefault(name, path) != path:
                raise ValueError(
                    f"{found[name]} and {path} would both be called {name} in the results: call once for each "
                    "folder, with its own --out"
                )
        if count == 0:
            raise ValueError(_nothing(source, pattern))
    return [ScanFile(name, found[name]) for name in sorted(found)]


def _matches(source: Path, pattern: str | None, skip: Path | None) -> Iterator[tuple[str, Path]]:
    if has_magic(source):
        root = _fixed_part(source)
        for text in glob.iglob(str(source), recursive=True):  # noqa: PTH207 - the pattern may be absolute
            path = Path(text)
            if path.is_file() and not _is_inside(path, skip):
                yield path.relative_to(root).as_posix(), path
    elif source.is_dir():
        yield from _search(source, pattern, skip)
    else:
        # Also one that does not exist: it is reported with the others that cannot be read.
        yield source.name, source


def _search(folder: Path, pattern: str | None, skip: Path | None) -> Iterator[tuple[str, Path]]:
    if pattern is not None:
        for path in folder.glob(pattern):
            if path.is_file() and not _is_inside(path, skip):
                yield path.relative_to(folder).as_posix(), path
        return
    for place, folders, files in os.walk(folder):
        here = Path(place)
        folders[:] = [name for name in folders if not name.startswith(".") and (here / name).absolute() != skip]
        for name in files:
            path = here / name
            if not name.startswith(".") and name.lower().endswith(_SEARCHED) and path.is_file():
                yield path.relative_to(folder).as_posix(), path


def _is_inside(path: Path, folder: Path | None) -> bool:
    return folder is not None and path.absolute().is_relative_to(folder)


def _fixed_part(pattern: Path) -> Path:
    fixed = []
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return Path(*fixed)


def _nothing(source: Path, pattern: str | None) -> str:
    if has_magic(source):
        return f"{source}: no file matches this pattern"
    if pattern is not None:
        return f"{source}: no file in it matches --pattern {pattern}"
    return (
        f"{source}: no point file in it or below it ({' '.join(_SEARCHED)}); name others with --pattern, such as "
        "--pattern '**/*.txt'"
    )
