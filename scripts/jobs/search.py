"""Which files a big job works on, and what each is called in the results."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sparseconv.datasets import SUPPORTED_SUFFIXES

# Beside scans these hold calibrations, labels and poses far more often than points: a pattern takes them.
_SIDE_FILES = (".txt", ".csv")
_SEARCHED = tuple(suffix for suffix in SUPPORTED_SUFFIXES if suffix not in _SIDE_FILES)
# What a job writes into its folder.
SETTINGS_FILE = "job.json"
RESULTS_FILE = "results.jsonl"
SUMMARY_FILE = "job_summary.json"
FEATURES_FOLDER = "features"
_OWN = (SETTINGS_FILE, RESULTS_FILE, SUMMARY_FILE, FEATURES_FOLDER)


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

    Hidden files and folders are left out unless a pattern names them with their dot. A file that is named twice
    counts once.

    Args:
        sources: a folder is searched with all its subfolders; a pattern may hold ``**``.
        pattern: which files of a folder are taken, relative to it; None: every point format but ``.txt`` and
            ``.csv``.
        skip: the folder for the results: not searched; where the scans lie in it themselves, only what a job
            writes there is left out.

    Raises:
        ValueError: nothing found, two files of one name, or scans where the features of the results are kept.
    """
    found: dict[str, Path] = {}
    for source in sources:
        count = 0
        for name, path in _matches(source, pattern, None if skip is None else skip.resolve()):
            count += 1
            path = path.absolute()
            if found.setdefault(name, path).resolve() != path.resolve():
                raise ValueError(
                    f"{found[name]} and {path} would both be called {name} in the results: call once for each "
                    "folder, with its own --out"
                )
        if count == 0:
            raise ValueError(_nothing(source, pattern))
    return [ScanFile(name, found[name]) for name in sorted(found)]


def _matches(source: Path, pattern: str | None, results: Path | None) -> Iterator[tuple[str, Path]]:
    if has_magic(source):
        root = _fixed_part(source)
        left_out = _left_out(root, results)
        # The pattern may be absolute, which Path.glob refuses.
        paths: Iterable[Path] = map(Path, glob.iglob(str(source), recursive=True))  # noqa: PTH207
        asks_for_hidden = _is_hidden(source.relative_to(root))
    elif source.is_dir():
        root = source
        left_out = _left_out(root, results)
        paths = _walk(source, left_out) if pattern is None else source.glob(pattern)
        asks_for_hidden = pattern is not None and _is_hidden(Path(pattern))
    else:
        # Also one that does not exist: it is reported with the others that cannot be read.
        yield source.name, source
        return
    for path in paths:
        inside = path.relative_to(root)
        if not path.is_file() or (_is_hidden(inside) and not asks_for_hidden):
            continue
        if left_out and any(path.resolve().is_relative_to(own) for own in left_out):
            continue
        yield inside.as_posix(), path


def _left_out(root: Path, results: Path | None) -> tuple[Path, ...]:
    """Files and folders below a root that are the job's own."""
    if results is None:
        return ()
    place = root.resolve()
    if not place.is_relative_to(results):
        return (results,)
    if place.is_relative_to(results / FEATURES_FOLDER):
        raise ValueError(f"{root}: a job with --out {results} keeps its features there; name another --out")
    return tuple(results / name for name in _OWN)


def _walk(folder: Path, left_out: tuple[Path, ...]) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        here = Path(place)
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and not (left_out and (here / name).resolve() in left_out)
        ]
        yield from (here / name for name in files if name.lower().endswith(_SEARCHED))


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") and part not in (".", "..") for part in path.parts)


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
