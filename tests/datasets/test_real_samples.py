"""Known facts of real files; skipped where a machine does not have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sample_data import sample

from sparseconv.datasets import PointCloud, PointFileError, read_points
from sparseconv.datasets.open3d_import import open3d_or_none, open3d_problem

COUNTS = {
    "kitti/training/velodyne/000000.bin": 115384,
    "kitti/training/velodyne/000001.bin": 120268,
    "kitti/training/velodyne/000002.bin": 126891,
    "nuscenes/*.pcd.bin": 34688,
    "las/simple.las": 1065,
    "las/simple.laz": 1065,
    "las/simple.copc.laz": 1065,
    "las/autzen_trim.laz": 110000,
    "pcd/bunny.pcd": 397,
    "pcd/colored_cloud.pcd": 1000,
    "pcd/office1.pcd": 307200,
    "ply/target.ply": 69088,
    "ply/points_ascii.ply": 5,
    "mesh/bunny.ply": 8171,
    "xyz/points_agisoft.xyz": 100,
}


def _occupied(cloud: PointCloud, size: float) -> int:
    cells = np.floor(cloud.xyz / np.float32(size)).astype(np.int64)
    return len(np.unique(cells @ np.array([1 << 40, 1 << 20, 1])))


@pytest.mark.parametrize("name", COUNTS)
def test_point_counts(name: str) -> None:
    path = sample(name)
    if path.suffix in (".las", ".laz"):
        pytest.importorskip("laspy", reason="LAS files are read through laspy")
    assert len(read_points(path)) == COUNTS[name]


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("kitti/training/velodyne/000000.bin", (79943, 47769, 22602)),
        ("semantic_kitti/sequences/00/velodyne/000000.bin", (91767, 60152, 31834)),
    ],
)
def test_occupied_voxels_of_real_scans(name: str, counts: tuple[int, int, int]) -> None:
    cloud = read_points(sample(name))
    assert tuple(_occupied(cloud, size) for size in (0.05, 0.1, 0.2)) == counts


def test_nuscenes_rings() -> None:
    cloud = read_points(sample("nuscenes/*.pcd.bin"))
    assert cloud.fields[-1] == "ring"
    assert set(np.unique(cloud.column("ring"))) == set(range(32))


def test_map_coordinates_come_back() -> None:
    laspy = pytest.importorskip("laspy", reason="LAS files are read through laspy")
    for name in ("las/simple.las", "las/simple.copc.laz", "las/autzen_trim.laz"):
        path = sample(name)
        cloud = read_points(path)
        expected = laspy.read(path)
        np.testing.assert_allclose(cloud.xyz + cloud.origin, expected.xyz, atol=5e-4)
        np.testing.assert_array_equal(cloud.column("intensity"), expected.intensity)


@pytest.mark.parametrize(
    "name",
    [
        *("pcd/bunny.pcd", "pcd/colored_cloud.pcd", "pcd/lamppost.pcd", "pcd/office1.pcd"),
        *("ply/target.ply", "ply/points_ascii.ply", "ply/points_bin.ply", "mesh/bunny.ply"),
    ],
)
def test_open3d_reads_the_same_points(name: str) -> None:
    open3d = open3d_or_none()
    if open3d is None:
        pytest.skip(open3d_problem() or "")
    path = sample(name)
    cloud = read_points(path)
    with open3d.utility.VerbosityContextManager(open3d.utility.VerbosityLevel.Error):
        expected = open3d.t.io.read_point_cloud(str(path)).point
    np.testing.assert_array_equal(cloud.xyz, expected["positions"].numpy())
    if "colors" in expected:
        np.testing.assert_array_equal(cloud.points[:, 3:6], expected["colors"].numpy())


def test_an_organised_cloud_keeps_its_pixels_and_colours() -> None:
    cloud = read_points(sample("pcd/office1.pcd"))
    assert len(cloud) == 640 * 480
    assert cloud.fields == ("x", "y", "z", "r", "g", "b")
    missing = np.isnan(cloud.xyz)
    assert 0 < missing.any(axis=1).sum() < len(cloud)
    assert (missing.any(axis=1) == missing.all(axis=1)).all()
    assert cloud.column("r").max() <= 255


def test_a_calibration_file_is_no_cloud() -> None:
    with pytest.raises(PointFileError, match="line 1: 'P0:' is not a number"):
        read_points(sample("kitti/training/calib/000000.txt"))


@pytest.mark.parametrize("suffix", [".bin", ".pcd.bin", ".npy", ".las"])
def test_a_real_text_file_under_a_binary_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(sample("xyz/points_agisoft.xyz").read_bytes())
    with pytest.raises(PointFileError, match=r"is a text file|damaged NPY|does not begin with a LA"):
        read_points(path)
