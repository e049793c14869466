from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from job_scans import settings, write_scans

from sparseconv.scripts.jobs.backbone import Backbone, WeightsChanged
from sparseconv.scripts.jobs.job import process_scans
from sparseconv.scripts.jobs.reading import VoxelizedScan, read_scan
from sparseconv.scripts.jobs.records import Records
from sparseconv.scripts.jobs.search import ScanFile, find_scans
from sparseconv.scripts.network import build_network


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def run(source: Path, out: Path, **options: Any) -> Any:
    chosen = options.pop("settings", None) or settings()
    return process_scans(find_scans([source]), out, chosen, workers=0, **options)


def test_each_scan_once_and_only_what_is_left(tmp_path: Path) -> None:
    paths = write_scans(tmp_path / "in", 4)
    first = run(tmp_path / "in", tmp_path / "out")
    assert (first.skipped, len(first.done), first.failed) == (0, 4, {})
    assert [record["name"] for record in lines(tmp_path / "out")] == sorted(
        path.relative_to(tmp_path / "in").as_posix() for path in paths
    )
    write_scans(tmp_path / "in", 6)
    # A file that has changed is run again, and so is one whose result is torn.
    whole = (tmp_path / "out/results.jsonl").read_text()
    (tmp_path / "out/results.jsonl").write_text(whole[:-25])
    changed = paths[0]
    changed.write_bytes(changed.read_bytes() + bytes(16))
    second = run(tmp_path / "in", tmp_path / "out")
    torn = json.loads(whole.splitlines()[-1])["name"]
    assert changed.relative_to(tmp_path / "in").as_posix() in second.done and torn in second.done
    records = lines(tmp_path / "out")
    assert len(records) == len({record["name"] for record in records}) == 6
    third = run(tmp_path / "in", tmp_path / "out")
    assert (third.skipped, len(third.done)) == (6, 0)
    assert lines(tmp_path / "out") == records


@pytest.mark.parametrize("moment", ["write", "fsync"])
def test_a_ctrl_c_while_a_result_is_written_loses_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    write_scans(tmp_path / "in", 4)
    call = getattr(os, moment)
    results = tmp_path / "out/results.jsonl"

    def interrupted(handle: int, *rest: Any) -> Any:
        answer = call(handle, *rest)
        # After the second result's bytes, once.
        if results.exists() and len(results.read_bytes().splitlines()) == 2 and not hit:
            hit.append(moment)
            raise KeyboardInterrupt
        return answer

    hit: list[str] = []
    monkeypatch.setattr(os, moment, interrupted)
    outcome = run(tmp_path / "in", tmp_path / "out")
    assert hit and outcome.interrupted and len(outcome.done) == 2
    assert outcome.done == {record["name"] for record in lines(tmp_path / "out")}
    assert outcome.voxel_sizes == {tuple(record["voxel_size"]) for record in lines(tmp_path / "out")}
    assert run(tmp_path / "in", tmp_path / "out").skipped == 2


def test_a_ctrl_c_that_python_drops_is_heard_after_the_scan(tmp_path: Path) -> None:
    write_scans(tmp_path / "in", 4)
    before = signal.getsignal(signal.SIGINT)

    def press(outcome: Any) -> None:
        if len(outcome.done) == 2:
            with contextlib.suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)

    outcome = run(tmp_path / "in", tmp_path / "out", on_scan=press)
    assert outcome.interrupted and len(outcome.done) == len(lines(tmp_path / "out")) == 2
    assert signal.getsignal(signal.SIGINT) is before
    # Where it is ignored from outside, it stays so.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        outcome = run(tmp_path / "in", tmp_path / "out", on_scan=press, overwrite=True)
        assert not outcome.interrupted and len(outcome.done) == 4
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_record_counts_what_the_library_counts(tmp_path: Path) -> None:
    from sparseconv import SparseTensor, voxelize
    from sparseconv.datasets import read_points
    from sparseconv.flops import count_forward
    from sparseconv.scripts.scan import SECOND_RANGE

    (path,) = write_scans(tmp_path / "in", 1)
    run(tmp_path / "in", tmp_path / "out", save_features=True)
    (record,) = lines(tmp_path / "out")
    voxels = voxelize(read_points(path).points, (0.5, 0.5, 0.1), SECOND_RANGE)
    torch.manual_seed(0)
    network = build_network("VoxelBackBone8x", 4)
    count = count_forward(network, SparseTensor(voxels.features, voxels.indices, [41, 160, 141], 1))
    assert record["points"] == 600 and record["voxels"] == len(voxels.indices)
    assert record["macs"] == count.macs and record["dense_macs"] == count.dense_macs
    arrays = np.load(tmp_path / "out" / record["features"])
    torch.testing.assert_close(torch.from_numpy(arrays["features"]), count.output.encoded.features, rtol=0, atol=0)
    assert len(arrays["indices"]) == record["output_voxels"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"voxel_size": (0.4, 0.5, 0.1)}, r"voxel_size \[0\.5, 0\.5, 0\.1\] there, \[0\.4, 0\.5, 0\.1\] here"),
        ({"voxel_size": None}, "here"),
        ({"point_range": (0.0, -40.0, -3.0, 70.4, 40.0, 3.0)}, "range chosen for each scan there"),
    ],
)
def test_results_of_other_settings_are_never_mixed(tmp_path: Path, change: Any, message: str) -> None:
    write_scans(tmp_path / "in", 2)
    run(tmp_path / "in", tmp_path / "out", save_features=True)
    before = (tmp_path / "out/results.jsonl").read_bytes()
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "in", tmp_path / "out", settings=settings(**change))
    assert (tmp_path / "out/results.jsonl").read_bytes() == before
    outcome = run(tmp_path / "in/first", tmp_path / "out", settings=settings(**change), overwrite=True)
    assert len(outcome.done) == 1
    # What another setting made is gone, features too.
    assert [record["name"] for record in lines(tmp_path / "out")] == ["000000.bin"]
    assert not list((tmp_path / "out").rglob("*.npz"))


def test_results_in_another_format_are_refused_whatever_they_mean(tmp_path: Path) -> None:
    write_scans(tmp_path / "in", 1)
    run(tmp_path / "in", tmp_path / "out")
    path = tmp_path / "out/job.json"
    chosen = json.loads(path.read_text())
    assert chosen["format"] == 3
    old = {key: chosen[key] for key in ("model", "weights", "voxel_size", "range")}
    for before, text in (
        ({**old, "format": 2}, "(format 2 there, 3 here)"),
        (old, "(format unknown there, 3 here)"),
    ):
        path.write_text(json.dumps(before))
        with pytest.raises(ValueError, match=re.escape(text)):
            run(tmp_path / "in", tmp_path / "out")
    with pytest.raises(ValueError, match="mesh_points must be a number of points >= 1, got 0"):
        settings(mesh_points=0)


def test_other_weights_are_noticed(tmp_path: Path) -> None:
    write_scans(tmp_path / "in", 1)
    network = build_network("VoxelBackBone8x", 4)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    chosen = settings(weights=tmp_path / "weights.pth")
    run(tmp_path / "in", tmp_path / "out", settings=chosen)
    run(tmp_path / "in", tmp_path / "random", settings=settings())
    keys = ("macs", "output_sha256")
    assert [lines(tmp_path / "out")[0][key] for key in keys] == [
        lines(tmp_path / "random")[0][key] for key in keys
    ]
    with torch.no_grad():
        next(network.parameters()).add_(1)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"weights weights\.pth, sha256"):
        run(tmp_path / "in", tmp_path / "out", settings=settings(weights=tmp_path / "weights.pth"))
    # In the middle of a job the file is what it was when the job began, or the job stops.
    scan = find_scans([tmp_path / "in"])[0]
    read = read_scan(0, scan, chosen)
    assert isinstance(read, VoxelizedScan)
    with pytest.raises(WeightsChanged, match="has changed"):
        Backbone(chosen).run(scan, read)


def test_weights_of_another_model_are_a_reason(tmp_path: Path) -> None:
    write_scans(tmp_path / "in", 1)
    torch.save({"a": torch.ones(1)}, tmp_path / "weights.pth")
    outcome = run(tmp_path / "in", tmp_path / "out", settings=settings(weights=tmp_path / "weights.pth"))
    assert "does not fit VoxelBackBone8x with 4 input channels" in outcome.failed["first/000000.bin"]


def test_features_are_added_where_they_were_not_kept(tmp_path: Path) -> None:
    write_scans(tmp_path / "in", 2)
    run(tmp_path / "in", tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.npz"))
    assert len(run(tmp_path / "in", tmp_path / "out", save_features=True).done) == 2
    (tmp_path / "out/features/first/000000.bin.npz").unlink()
    assert run(tmp_path / "in", tmp_path / "out", save_features=True).done == {"first/000000.bin"}
    assert run(tmp_path / "in", tmp_path / "out").skipped == 2
    assert not list((tmp_path / "out").rglob(".partial*"))


def test_overwrite_runs_again(tmp_path: Path) -> None:
    write_scans(tmp_path / "in", 2)
    run(tmp_path / "in", tmp_path / "out")
    assert len(run(tmp_path / "in", tmp_path / "out", overwrite=True).done) == 2
    assert len(lines(tmp_path / "out")) == 2


def test_the_same_name_from_another_folder_is_refused(tmp_path: Path) -> None:
    write_scans(tmp_path / "one", 1)
    write_scans(tmp_path / "two", 1, points=700)
    run(tmp_path / "one", tmp_path / "out")
    with pytest.raises(ValueError, match=r"is the result of .*one.*, not of .*two.*another --out"):
        run(tmp_path / "two", tmp_path / "out")


def test_a_torn_line_harms_no_other(tmp_path: Path) -> None:
    """Also where the job that dropped it never came to its end."""
    (path,) = write_scans(tmp_path / "in", 1)
    scan, torn = ScanFile("a", path), ScanFile("b", path)
    status = path.stat()
    record = {"path": str(path), "bytes": status.st_size, "modified_ns": status.st_mtime_ns}
    with Records(tmp_path / "out", settings()) as records:
        records.add({"name": "b", **record})
    results = tmp_path / "out/results.jsonl"
    results.write_bytes(results.read_bytes()[:-9])
    with Records(tmp_path / "out", settings()) as records:
        assert records.torn == 1 and not records.is_done(torn, False)
        records.add({"name": "a", **record})
    with Records(tmp_path / "out", settings()) as records:
        assert records.torn == 0 and records.is_done(scan, False) and not records.is_done(torn, False)


def test_a_file_written_again_at_the_same_length_is_run_again(tmp_path: Path) -> None:
    (path,) = write_scans(tmp_path / "in", 1)
    run(tmp_path / "in", tmp_path / "out")
    before = lines(tmp_path / "out")[0]
    path.write_bytes(bytes(16) + path.read_bytes()[16:])
    assert len(run(tmp_path / "in", tmp_path / "out").done) == 1
    assert lines(tmp_path / "out")[0]["output_sha256"] != before["output_sha256"]


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    with Records(tmp_path, settings()), pytest.raises(ValueError, match="another job is writing"):
        Records(tmp_path, settings())
    with Records(tmp_path, settings()) as records:
        assert not records.is_done(ScanFile("a", tmp_path / "a"), False)


def test_bad_files_are_named_and_the_rest_is_done(tmp_path: Path) -> None:
    write_scans(tmp_path / "in", 3)
    (tmp_path / "in/broken.bin").write_bytes(b"\0" * 30)
    (tmp_path / "in/far.bin").write_bytes(b"\0\0\x7a\x44" * 16)
    outcome = run(tmp_path / "in", tmp_path / "out")
    assert len(outcome.done) == 3 and set(outcome.failed) == {"broken.bin", "far.bin"}
    assert "none of its 4 points lies in the range" in outcome.failed["far.bin"]
    summary = json.loads((tmp_path / "out/job_summary.json").read_text())
    assert [failure["name"] for failure in summary["failed"]] == ["broken.bin", "far.bin"]
    write_scans(tmp_path / "again", 1)
    (tmp_path / "again/first/000000.bin").rename(tmp_path / "in/broken.bin")
    assert run(tmp_path / "in", tmp_path / "out").done == {"broken.bin"}


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(ValueError, match="is a file"):
        Records(tmp_path / "out", settings())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at open files in /proc")
def test_no_file_is_open_while_it_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows refuses that."""
    replace = Path.replace
    replaced = []

    def watched(source: Path, target: Path) -> Path:
        open_files = {str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()}
        assert not {str(source), str(target)} & open_files
        replaced.append(target.name)
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", watched)
    with Records(tmp_path, settings()) as records:
        records.add({"name": "a"})
        records.finish({})
        with pytest.raises(ValueError, match="is finished"):
            records.add({"name": "b"})
    assert replaced == ["job.json", "results.jsonl", "job_summary.json"]
    assert lines(tmp_path) == [{"name": "a"}]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at open files in /proc")
def test_features_are_on_the_disk_before_the_record_that_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[str] = []
    monkeypatch.setattr(
        os, "fsync", lambda handle: flushed.append(str(Path(f"/proc/self/fd/{handle}").readlink()))
    )
    write_scans(tmp_path / "in", 1)
    run(tmp_path / "in", tmp_path / "out", save_features=True)
    features = tmp_path / "out/features/first"
    first = next(index for index, name in enumerate(flushed) if Path(name).parent == features)
    # Content, then name, then the record.
    assert flushed[first : first + 3] == [flushed[first], str(features), str(tmp_path / "out/results.jsonl")]
    assert flushed[first].endswith(".npz")


def test_output_that_is_not_finite_is_counted_and_said(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("bad", "good"):
        points = np.random.default_rng(0).uniform(0, 16, (900, 4)).astype(np.float32)
        points[7, 3] = np.nan if name == "bad" else 0
        np.save(tmp_path / "in" / f"{name}.npy", points)
    outcome = run(tmp_path / "in", tmp_path / "out", settings=settings(voxel_size=(0.5, 0.5, 0.25)))
    assert outcome.not_finite == {"bad.npy"} and len(outcome.done) == 2
    bad, good = lines(tmp_path / "out")
    assert 0 < bad["output_not_finite"] <= bad["output_voxels"] and good["output_not_finite"] == 0
    assert json.loads((tmp_path / "out/job_summary.json").read_text())["not_finite"] == ["bad.npy"]


def test_weights_that_are_no_checkpoint_are_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "notes.pth"
    for content in (b"", b"my notes\n" * 40, bytes(range(256)), b"PK\x03\x04" + b"\0" * 40):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"notes\.pth"):
            settings(weights=path)
