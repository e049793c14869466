from __future__ import annotations

from pathlib import Path

import pytest

from sparseconv.scripts.jobs.request import is_job
from sparseconv.scripts.jobs.search import find_scans


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (
        "a/1.bin",
        "a/2.PCD",
        "a/deep/er/3.pcd.bin",
        "b/1.bin",
        "b/calib.txt",
        "b/notes.md",
        ".hidden/4.bin",
        "b/.5.bin",
        "results/features/6.npz",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "folder.bin").mkdir()
    return tmp_path


def names(*arguments: object, **options: object) -> list[str]:
    return [scan.name for scan in find_scans(*arguments, **options)]  # type: ignore[arg-type]


def test_a_folder_is_searched_to_its_depths(folder: Path) -> None:
    found = find_scans([folder], skip=folder / "results")
    assert [scan.name for scan in found] == ["a/1.bin", "a/2.PCD", "a/deep/er/3.pcd.bin", "b/1.bin"]
    assert all(scan.path == folder / scan.name for scan in found)
    assert "results/features/6.npz" in names([folder])


def test_patterns(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert names([folder], "**/*.txt") == ["b/calib.txt"]
    assert names([folder], "a/*.bin") == ["a/1.bin"]
    assert names([folder / "**" / "*.bin"]) == ["a/1.bin", "a/deep/er/3.pcd.bin", "b/1.bin"]
    assert names([folder / "?" / "1.bin"]) == ["a/1.bin", "b/1.bin"]
    monkeypatch.chdir(folder)
    relative = find_scans([Path("a/[12]*")])
    assert [(scan.name, scan.path) for scan in relative] == [
        ("1.bin", folder / "a/1.bin"),
        ("2.PCD", folder / "a/2.PCD"),
    ]


def test_scans_in_the_folder_of_the_results(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job's own files are no scans; everything else is."""
    results = folder / "results"
    for name in ("mine.bin", "results.jsonl", "job.json", "job_summary.json", "features/deep/7.npz"):
        (results / name).parent.mkdir(parents=True, exist_ok=True)
        (results / name).touch()
    monkeypatch.chdir(results)
    for source in (results, Path(), folder / "a" / ".." / "results", results / "**" / "*", Path("*.bin")):
        assert names([source], skip=Path()) == ["mine.bin"], source
    assert names([results], "**/*", skip=results) == ["mine.bin"]
    assert names([folder], "**/*.bin", skip=folder / "a" / ".." / "results") == [
        "a/1.bin",
        "a/deep/er/3.pcd.bin",
        "b/1.bin",
    ]
    with pytest.raises(ValueError, match="keeps its features there"):
        names([results / "features"], skip=results)
    assert names([results / "mine.bin"], skip=results) == ["mine.bin"]


def test_hidden_files_are_taken_where_a_pattern_names_them(folder: Path) -> None:
    assert names([folder], "**/*.bin") == names([folder / "**" / "*.bin"])
    assert names([folder], "b/.*.bin") == ["b/.5.bin"] == names([folder], "**/.5.bin")


def test_a_way_up_and_down_names_the_same_file(folder: Path) -> None:
    assert names([folder / "a" / "1.bin", folder / "a" / ".." / "a" / "1.bin"]) == ["1.bin"]


def test_single_files_keep_their_names_and_may_be_missing(folder: Path) -> None:
    assert names([folder / "a/1.bin", folder / "gone.bin", folder / "a/1.bin"]) == ["1.bin", "gone.bin"]


def test_a_file_whose_name_looks_like_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "scan[1].bin").touch()
    assert names([tmp_path / "scan[1].bin"]) == ["scan[1].bin"]


def test_two_files_of_one_name_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"both be called 1\.bin .* own --out"):
        find_scans([folder / "a", folder / "b"])


def test_nothing_found_says_what_to_do(folder: Path) -> None:
    for source, pattern, message in (
        (folder / "*.las", None, "no file matches this pattern"),
        (folder, "*.las", r"--pattern \*\.las"),
        (folder / "a" / "folder.bin", None, r"\.bin .*--pattern '\*\*/\*\.txt'"),
    ):
        with pytest.raises(ValueError, match=message):
            find_scans([source], pattern)


def test_what_makes_a_big_job(folder: Path) -> None:
    one = [folder / "a/1.bin"]
    nothing = (None, None, None, False, False)
    assert not is_job(None, *nothing) and not is_job(one, *nothing)
    assert not is_job([folder / "gone.bin"], *nothing)
    assert is_job([folder], *nothing) and is_job([*one, *one], *nothing) and is_job([folder / "*.bin"], *nothing)
    assert is_job(one, 2, None, None, False, False) and is_job(one, None, None, None, False, True)
    with pytest.raises(ValueError, match="need a folder or files"):
        is_job(None, 1, None, None, False, False)
