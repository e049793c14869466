"""A job on Ray, with two cores of this machine for a cluster."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from job_scans import settings, write_scans

from sparseconv.scripts.jobs import cluster
from sparseconv.scripts.jobs.job import process_scans
from sparseconv.scripts.jobs.records import Records
from sparseconv.scripts.jobs.search import find_scans


@pytest.fixture
def ray() -> Iterator[Any]:
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'sparseconv[cluster]'")
    pytest.importorskip("ray.data", reason="Ray Data is not installed: pip install 'sparseconv[cluster]'")
    try:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    except Exception as error:
        pytest.skip(f"Ray cannot start here: {error}")
    yield ray
    ray.shutdown()


# What Ray itself leaves open or warns of is none of ours.
@pytest.mark.filterwarnings("ignore")
def test_ray_gives_what_this_machine_gives(ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_scans(tmp_path / "in", 6)
    (tmp_path / "in/broken.bin").write_bytes(b"\0" * 30)
    (tmp_path / "in/killer.bin").write_bytes(b"\0" * 32)

    # Ray takes a function of a function along by value; it dies as a reader with a bug would.
    def run_row(row: dict[str, Any], **options: Any) -> dict[str, Any]:
        import sparseconv.scripts.jobs.cluster as there

        run_scan = there._run_scan

        def dying(scan: Any, *rest: Any) -> Any:
            if scan.name == "killer.bin":
                os.kill(os.getpid(), signal.SIGKILL)
            return run_scan(scan, *rest)

        there._run_scan = dying
        try:
            return there.run_row(row, **options)
        finally:
            there._run_scan = run_scan

    monkeypatch.setattr(cluster, "run_row", run_row)
    scans = find_scans([tmp_path / "in"])
    outcome = process_scans(scans, tmp_path / "ray", settings(), runner=cluster.ray_runner(), save_features=True)
    assert set(outcome.failed) == {"broken.bin", "killer.bin"}
    assert "its process died 2 times" in outcome.failed["killer.bin"]
    good = [scan for scan in scans if scan.name not in outcome.failed]
    here = process_scans(good, tmp_path / "here", settings(), workers=0)
    assert outcome.done == here.done and len(here.done) == 6
    with Records(tmp_path / "ray", settings()) as found, Records(tmp_path / "here", settings()) as expected:
        for scan in good:
            assert found.is_done(scan, with_features=True)
            ours, theirs = (records._known[scan.name] for records in (found, expected))
            for key in ("points", "voxels", "macs", "dense_macs", "output_sha256", "spatial_shape", "bytes"):
                assert ours[key] == theirs[key], (scan.name, key)


def test_without_ray_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r'pip install "sparseconv\[cluster\]"'):
        cluster.ray_runner("auto")


def test_a_cluster_that_is_not_there_is_an_error_of_one_line(tmp_path: Path) -> None:
    pytest.importorskip("ray.data", reason="Ray Data is not installed: pip install 'sparseconv[cluster]'")
    write_scans(tmp_path / "in", 1)
    with pytest.raises(ConnectionError, match="no Ray cluster at auto"):
        process_scans(
            find_scans([tmp_path / "in"]), tmp_path / "out", settings(), runner=cluster.ray_runner("auto")
        )


def test_attempts_count_what_was_begun_and_not_ended() -> None:
    attempts = cluster.Attempts()
    assert [attempts.begin(1), attempts.begin(1), attempts.begin(2)] == [0, 1, 0]
    attempts.end(1)
    assert [attempts.begin(1), attempts.begin(2)] == [0, 1]
