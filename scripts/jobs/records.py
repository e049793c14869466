"""A job's folder: its settings, one line for each scan that is done, and what a later call may skip.

``results.jsonl`` grows by one whole line a scan, written by a single system call and on the disk before the next
scan's; a line that a power cut tore is dropped when the folder is opened again. Everything else appears under a
temporary name, is brought to the disk, and is renamed.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sparseconv.scripts.jobs.search import (
    FEATURES_FOLDER,
    RESULTS_FILE,
    SETTINGS_FILE,
    SUMMARY_FILE,
    ScanFile,
)
from sparseconv.scripts.jobs.settings import Settings, differences

Record = dict[str, Any]


@contextlib.contextmanager
def renamed_when_complete(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder that becomes ``path`` when the block ends without an error.

    Content and name are on the disk when the block is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".partial-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        # Windows flushes only what is open for writing.
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _flush_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the system can: Windows opens no folders."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def features_path(folder: Path, name: str) -> Path:
    """Where the features of the scan of this name are kept."""
    return folder / FEATURES_FOLDER / f"{name}.npz"


class Records:
    """The results of a folder, open for one job at a time.

    Args:
        folder: made where it does not exist.
        settings: of this job.
        overwrite: whether results of other settings may be thrown away.

    Raises:
        ValueError: the folder cannot be used, another job is writing to it, or it holds results of other settings.
    """

    def __init__(self, folder: Path, settings: Settings, overwrite: bool = False) -> None:
        self.folder = folder
        self.torn = 0
        self._known: dict[str, Record] = {}
        self._added: dict[str, Record] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(folder)
        except FileExistsError:
            raise ValueError(f"{folder}: is a file; name a folder for the results") from None
        except OSError as error:
            raise ValueError(f"{folder}: cannot be written ({error.strerror}); name another folder") from None
        try:
            self._adopt(settings, overwrite)
            # Without O_BINARY, Windows writes two bytes for a line's end.
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
            self._file: int | None = os.open(folder / RESULTS_FILE, flags, 0o644)
            _flush_folder(folder)
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_results()
        self._lock.close()

    def _close_results(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _adopt(self, settings: Settings, overwrite: bool) -> None:
        """Take over what the folder holds, or refuse it."""
        now = settings.fingerprint()
        results = self.folder / RESULTS_FILE
        if results.exists():
            self._known = self._read(results)
            different = differences(_read_settings(self.folder / SETTINGS_FILE), now)
            if different and not overwrite:
                raise ValueError(
                    f"{self.folder}: holds results of other settings ({different}). Name another --out, or pass "
                    "--overwrite to throw those away"
                )
            if different:
                self._discard(results)
        with renamed_when_complete(self.folder / SETTINGS_FILE) as path:
            path.write_text(json.dumps(now, indent=2) + "\n")

    def _discard(self, results: Path) -> None:
        for name, record in self._known.items():
            if record.get("features"):
                features_path(self.folder, name).unlink(missing_ok=True)
        results.unlink()
        self._known = {}

    def _read(self, results: Path) -> dict[str, Record]:
        """Records by name, the last one of each; a torn end is cut off."""
        known: dict[str, Record] = {}
        whole = 0
        with results.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    whole += len(line)
                record = _parse(line)
                if record is None:
                    self.torn += 1
                else:
                    known[record["name"]] = record
        if whole < results.stat().st_size:
            os.truncate(results, whole)
        return known

    def is_done(self, scan: ScanFile, with_features: bool) -> bool:
        """Whether the folder holds this scan's result, of the file as it is now.

        Raises:
            ValueError: it holds that of another file of the same name.
        """
        record = self._known.get(scan.name)
        if record is None:
            return False
        try:
            status = scan.path.stat()
        except OSError:
            return False
        if (record.get("bytes"), record.get("modified_ns")) != (status.st_size, status.st_mtime_ns):
            if record.get("path") != str(scan.path):
                raise ValueError(
                    f"{self.folder}: its {scan.name} is the result of {record.get('path')}, not of {scan.path}. "
                    "Name another --out for these scans"
                )
            return False
        return not with_features or (
            bool(record.get("features")) and features_path(self.folder, scan.name).is_file()
        )

    def add(self, record: Record) -> None:
        """Append one scan's result; it is on the disk when this returns.

        Raises:
            OSError: it cannot be written.
            ValueError: the job is finished, or a number is not finite.
        """
        if self._file is None:
            raise ValueError(f"{self.folder}: the job is finished; open its records again to add to them")
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        # Noted before it is written: a Ctrl-C that falls into the write must not make finish() drop the line.
        self._added[record["name"]] = record
        written = os.write(self._file, line)
        if written != len(line):
            raise OSError(f"{self.folder / RESULTS_FILE}: only {written} of {len(line)} bytes could be written")
        os.fsync(self._file)

    def added(self) -> list[Record]:
        """The results that were added since the folder was opened."""
        return list(self._added.values())

    def finish(self, summary: Record) -> None:
        """Sort the results by name, one line a scan, and write the summary; nothing can be added any more."""
        # Windows replaces no file that is open.
        self._close_results()
        records = self._known | self._added
        with renamed_when_complete(self.folder / RESULTS_FILE) as path, path.open("w", newline="\n") as file:
            file.writelines(json.dumps(records[name]) + "\n" for name in sorted(records))
        with renamed_when_complete(self.folder / SUMMARY_FILE) as path:
            path.write_text(json.dumps(summary, indent=2) + "\n")


def _parse(line: bytes) -> Record | None:
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("name"), str) else None


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return settings if isinstance(settings, dict) else {}


def _lock(folder: Path) -> Any:
    """An open file whose lock ends with this process, however it ends."""
    file = (folder / ".lock").open("w")
    try:
        import fcntl
    except ModuleNotFoundError:
        # Windows: two jobs in one folder are the user's own care.
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ValueError(
            f"{folder}: another job is writing its results there; wait for it, or name another --out"
        ) from None
    except OSError:
        # A file system without locks, as some networks have.
        return file
    return file
