"""Where a data set lies on disk, and what is said when it does not."""

from __future__ import annotations

import os
from pathlib import Path


class DatasetFolderError(ValueError):
    """A data set's folder is missing, or is not laid out as expected; the message draws the expected tree."""


def require_folder(root: str | os.PathLike[str], *needed: str, tree: str, page: str) -> Path:
    """Make sure that a data set's folder exists and holds what is needed.

    Args:
        root: the folder that the user named.
        needed: paths below it that must exist.
        tree: the expected layout, drawn.
        page: where the data set is to be had, by the page's name.

    Returns:
        The folder.

    Raises:
        DatasetFolderError: it or one of `needed` does not exist.
    """
    folder = Path(root)
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise folder_error(f"{folder} {what}", tree, page)
    for name in needed:
        if not (folder / name).exists():
            raise folder_error(f"{folder} has no {name}", tree, page)
    return folder


def folder_error(problem: str, tree: str, page: str) -> DatasetFolderError:
    """The error for a layout that cannot be used: what is wrong, what is expected, where to get it.

    Args:
        problem: what was found.
        tree: the expected layout, drawn.
        page: where the data set is to be had.
    """
    return DatasetFolderError(f"{problem}. Expected:\n{tree.rstrip()}\nDownload: {page}")
