"""A big job on a cluster: Ray Data places the scans, this process writes the results.

Every machine must see the scans and, where features are kept, the results' folder under the same paths.
"""

from __future__ import annotations

import functools
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from sparseconv.scripts.jobs.backbone import Backbone, WeightsChanged
from sparseconv.scripts.jobs.reading import Failure, one_line, read_scan
from sparseconv.scripts.jobs.records import Record, features_path
from sparseconv.scripts.jobs.search import ScanFile
from sparseconv.scripts.jobs.settings import Settings

_REMEDY = 'the cluster needs Ray Data, which is not installed ({name}): pip install "sparseconv[cluster]"'
# Scans of one Ray task: its start (milliseconds) weighs nothing, and a task that is lost costs this many again.
_SCANS_A_TASK = 8
# A scan whose process died this often is given up.
_MOST_DEATHS = 2
_LOCAL = "local"


def _import_ray() -> ModuleType:
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise ValueError(_REMEDY.format(name=error.name)) from None
    return ray


def ray_runner(address: str = _LOCAL, cpus_a_task: int = 1) -> Callable[..., None]:
    """A runner for :func:`sparseconv.scripts.jobs.job.process_scans` that runs scans on a Ray cluster.

    Args:
        address: of the cluster's head, ``auto`` for the one that this machine belongs to, or ``local`` for one
            of this process's own.
        cpus_a_task: cores that one scan's network uses.

    Raises:
        ValueError: Ray is not installed; the message has the remedy.
    """
    _import_ray()
    return functools.partial(_run_on_ray, address, cpus_a_task)


def _run_on_ray(
    address: str,
    cpus_a_task: int,
    scans: Sequence[ScanFile],
    settings: Settings,
    features: Path | None,
    workers: int,
    add: Callable[[Record], None],
    fail: Callable[[str, str], None],
) -> None:
    ray = _import_ray()
    started_here = not ray.is_initialized()
    if started_here:
        _connect(ray, address)
    left = dict(enumerate(scans))
    # Held here: Ray ends an actor that nobody refers to any more.
    attempts = ray.remote(num_cpus=0)(Attempts).remote()
    try:
        work = functools.partial(
            run_row, settings=settings, features=features, threads=cpus_a_task, attempts=attempts
        )
        for row in _stream(ray, scans, work, cpus_a_task):
            scan = left.pop(row["index"])
            _take(scan, json.loads(row["record"]), row["reason"], features, add, fail)
        for scan in left.values():
            fail(scan.name, "Ray gave no result for it: see the logs of its session")
    finally:
        if started_here:
            ray.shutdown()


def _connect(ray: ModuleType, address: str) -> None:
    quiet = {"log_to_driver": False, "include_dashboard": False} if address == _LOCAL else {}
    try:
        ray.init(address=address, configure_logging=False, **quiet)
    except Exception as error:
        raise ConnectionError(f"no Ray cluster at {address}: {one_line(error)}") from None


def _stream(
    ray: ModuleType, scans: Sequence[ScanFile], work: Callable[..., Any], cpus_a_task: int
) -> Iterator[dict[str, Any]]:
    """Rows as they are done, in any order."""
    context = ray.data.DataContext.get_current()
    before = context.max_errored_blocks, context.enable_progress_bars
    # Its plans and notices; the job has a bar of its own, and Ray keeps everything in its session's log files.
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.ERROR)
    context.max_errored_blocks, context.enable_progress_bars = -1, False
    try:
        items = [{"index": index, "name": scan.name, "path": str(scan.path)} for index, scan in enumerate(scans)]
        blocks = -(-len(items) // _SCANS_A_TASK)
        yield from (
            ray.data.from_items(items, override_num_blocks=blocks).map(work, num_cpus=cpus_a_task).iter_rows()
        )
    finally:
        context.max_errored_blocks, context.enable_progress_bars = before
        logger.setLevel(level)


class Attempts:
    """How often each scan was begun and not ended, kept in one process of the cluster.

    Ray Data places a task whose process died again and again, without end; by these counts the scan that kills it
    is left out, and the others of its task are run.
    """

    def __init__(self) -> None:
        self._open: dict[int, int] = {}

    def begin(self, index: int) -> int:
        """Note that a scan is begun; returns how often it was before, without an end."""
        before = self._open.get(index, 0)
        self._open[index] = before + 1
        return before

    def end(self, index: int) -> None:
        """Note that a scan was got through."""
        self._open.pop(index, None)


def _take(
    scan: ScanFile,
    record: Record | None,
    reason: str,
    features: Path | None,
    add: Callable[[Record], None],
    fail: Callable[[str, str], None],
) -> None:
    if record is None:
        fail(scan.name, reason)
    elif features is not None and not features_path(features, scan.name).is_file():
        fail(scan.name, f"its features are not in {features}: the folder must be one that all machines share")
    else:
        add(record)


@functools.lru_cache(maxsize=1)
def _backbone(settings: Settings, features: Path | None, threads: int) -> Backbone:
    """One model a process: Ray's workers serve many tasks."""
    os.environ.setdefault("RAYON_NUM_THREADS", "1")
    import torch

    torch.set_num_threads(threads)
    return Backbone(settings, features)


def run_row(
    row: dict[str, Any], settings: Settings, features: Path | None, threads: int, attempts: Any
) -> dict[str, Any]:
    """One scan on whichever machine it was placed: its record, or the reason why there is none."""
    import ray

    # As text: records differ in which fields are lists and which are missing, and Arrow columns may not.
    result = {"index": row["index"], "record": "null", "reason": ""}
    deaths = ray.get(attempts.begin.remote(row["index"]))
    if deaths >= _MOST_DEATHS:
        return {**result, "reason": f"its process died {deaths} times: see Ray's logs"}
    record, reason = _run_scan(ScanFile(row["name"], Path(row["path"])), settings, features, threads)
    # Waited for, so that a death in the next scan does not swallow it.
    ray.get(attempts.end.remote(row["index"]))
    return {**result, "record": json.dumps(record), "reason": reason}


def _run_scan(
    scan: ScanFile, settings: Settings, features: Path | None, threads: int
) -> tuple[Record | None, str]:
    try:
        read = read_scan(0, scan, settings)
        if isinstance(read, Failure):
            return None, read.reason
        return _backbone(settings, features, threads).run(scan, read), ""
    except WeightsChanged as error:
        return None, f"{error} (on this machine the weights are others than where the job began)"
    except Exception as error:
        return None, one_line(error)
