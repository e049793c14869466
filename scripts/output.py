"""Output folders that appear complete or not at all."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def complete_folder(folder: Path) -> Iterator[Path]:
    """A staging folder whose files move into ``folder`` when the block ends without an error.

    Raises:
        ValueError: ``folder`` is a file, or cannot be made.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: is a file; name a folder for the results")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=folder))
    except OSError as error:
        raise ValueError(f"{folder}: cannot be written ({error.strerror}); name another folder") from None
    try:
        yield staging
        for path in sorted(staging.iterdir()):
            path.replace(folder / path.name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def check_output_file(path: Path | None, option: str) -> None:
    """Refuse a file that cannot be written before the work that it shall hold is done.

    Raises:
        ValueError: ``path`` is a folder, or lies in none that exists.
    """
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise ValueError(f"{option} must name a file in a folder that exists, got {path}")
