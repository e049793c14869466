"""ScanNet and S3DIS: rooms written here."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from sparseconv.datasets import S3DIS, DatasetFolderError, PointFileError, ScanNet
from sparseconv.datasets.s3dis import CLASSES as S3DIS_CLASSES
from sparseconv.datasets.scannet import CLASSES, NYU40_IDS

VERTEX = struct.Struct("<3f4B")
LABELLED = struct.Struct("<3f4BH")


def write_scene(folder: Path, scene: str, rows: list[tuple[float, ...]], labels: list[int] | None) -> None:
    """As ScanNet writes them: binary PLY with colours, alpha and faces; labels as ushort."""
    (folder / scene).mkdir(parents=True)
    head = "ply\nformat binary_little_endian 1.0\ncomment MLIB generated\nelement vertex {}\n"
    head += "".join(f"property float {axis}\n" for axis in "xyz")
    head += "".join(f"property uchar {name}\n" for name in ("red", "green", "blue", "alpha"))
    faces = "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    face = struct.pack("<B3i", 3, 0, 1, 2)
    body = b"".join(VERTEX.pack(*row[:3], *(int(v) for v in row[3:]), 255) for row in rows)
    name = folder / scene / f"{scene}_vh_clean_2"
    name.with_name(name.name + ".ply").write_bytes((head.format(len(rows)) + faces).encode() + body + face)
    if labels is not None:
        body = b"".join(
            LABELLED.pack(*row[:3], *(int(v) for v in row[3:]), 255, label)
            for row, label in zip(rows, labels, strict=False)
        )
        text = head.format(len(labels)) + "property ushort label\n" + faces
        name.with_name(name.name + ".labels.ply").write_bytes(text.encode() + body + face)


ROWS = [
    (0.5, 1.0, 1.5, 10, 20, 30),
    (2.0, 2.5, 0.25, 255, 0, 1),
    (3.0, 3.0, 0.0, 7, 8, 9),
    (1.0, 1.0, 1.0, 0, 0, 0),
]


def write_scannet(root: Path) -> Path:
    write_scene(root / "scans", "scene0000_00", ROWS, [1, 39, 0, 13])
    write_scene(root / "scans", "scene0001_00", ROWS[:3], [16, 40, 34])
    write_scene(root / "scans_test", "scene0707_00", ROWS, None)
    for split, scene in (("train", "scene0000_00"), ("val", "scene0001_00"), ("test", "scene0707_00")):
        (root / f"scannetv2_{split}.txt").write_text(f"{scene}\n")
    return root


@pytest.fixture
def scannet(tmp_path: Path) -> Path:
    return write_scannet(tmp_path / "scannet")


def test_scannet(scannet: Path) -> None:
    frame = ScanNet(scannet, "train")[0]
    assert frame.fields == ("x", "y", "z", "r", "g", "b")
    assert (frame.points == np.array(ROWS, np.float32)).all()
    assert frame.labels.tolist() == [0, 19, -1, -1]  # 0: no class; 13 (blinds) is none of the 20
    assert ScanNet(scannet, "val")[0].labels.tolist() == [13, -1, 17]
    test = ScanNet(scannet, "test")
    assert test[0].labels is None and test.scenes == ("scene0707_00",)
    both = pickle.loads(pickle.dumps(ScanNet(scannet, ["scene0001_00", "scene0000_00"])))
    assert [len(frame) for frame in both] == [3, 4]


def test_scannet_classes() -> None:
    assert len(CLASSES) == len(NYU40_IDS) == 20
    named = dict(zip(NYU40_IDS, CLASSES, strict=True))
    assert named[1] == "wall" and named[16] == "curtain" and named[24] == "refrigerator"
    assert named[28] == "shower curtain" and named[36] == "bathtub" and named[39] == "otherfurniture"


def test_scannet_errors(scannet: Path, tmp_path: Path) -> None:
    labels = scannet / "scans/scene0000_00/scene0000_00_vh_clean_2.labels.ply"
    good = labels.read_bytes()
    labels.unlink()
    with pytest.raises(PointFileError, match=r"labels\.ply: no such file"):
        ScanNet(scannet, "train")[0]
    labels.write_bytes((scannet / "scans/scene0001_00/scene0001_00_vh_clean_2.labels.ply").read_bytes())
    with pytest.raises(PointFileError, match="holds 3 vertices and its scene 4"):
        ScanNet(scannet, "train")[0]
    labels.write_bytes(good.replace(b"ushort label", b"ushort other"))
    with pytest.raises(PointFileError, match="no column 'label'"):
        ScanNet(scannet, "train")[0]
    labels.write_bytes(good.replace(struct.pack("<4BH", 0, 0, 0, 255, 13), struct.pack("<4BH", 0, 0, 0, 255, 41)))
    with pytest.raises(PointFileError, match=r"outside NYU's 0 .. 40"):
        ScanNet(scannet, "train")[0]
    labels.write_bytes(good[:-20])
    with pytest.raises(PointFileError, match="is cut off"):
        ScanNet(scannet, "train")[0]
    with pytest.raises(
        DatasetFolderError, match=r"scene9999_00 does not exist(.|\n)*scannetv2_train.txt(.|\n)*Download: ScanNet"
    ):
        ScanNet(scannet, ["scene9999_00"])
    with pytest.raises(ValueError, match="a scene must be a name"):
        ScanNet(scannet, ["../scene0000_00"])
    (scannet / "scannetv2_val.txt").unlink()
    with pytest.raises(DatasetFolderError, match=r"scannetv2_val.txt does not exist"):
        ScanNet(scannet, "val")
    with pytest.raises(ValueError, match="split must be 'train'"):
        ScanNet(scannet, "trainval")
    with pytest.raises(DatasetFolderError):
        ScanNet(tmp_path / "none")


OBJECTS = {
    "Area_1/office_1": {
        "chair_1.txt": "1.5 2.25 0.5 10 20 30\n1.6 2.3 0.4 40 50 60\n",
        "stairs_1.txt": "0 0 0 1 1 1\n",
        "wall_1.txt": "-3.0 4.0 1.0 255 254 253\n",
    },
    "Area_5/hallway_6": {"ceiling_1.txt": "22.3 6.6 3.0 185 187 182\n"},
}


def write_s3dis(root: Path) -> Path:
    for room, files in OBJECTS.items():
        (root / room / "Annotations").mkdir(parents=True)
        for name, text in files.items():
            (root / room / "Annotations" / name).write_text(text)
    return root


@pytest.fixture
def s3dis(tmp_path: Path) -> Path:
    return write_s3dis(tmp_path / "s3dis")


def test_s3dis(s3dis: Path) -> None:
    dataset = S3DIS(s3dis, [1, 5])
    assert dataset.rooms == ("Area_1/office_1", "Area_5/hallway_6")
    room = dataset[0]
    expected = [
        [1.5, 2.25, 0.5, 10, 20, 30],
        [1.6, 2.3, 0.4, 40, 50, 60],
        [0, 0, 0, 1, 1, 1],
        [-3, 4, 1, 255, 254, 253],
    ]
    assert (room.points == np.array(expected, np.float32)).all()
    chair, clutter, wall = (S3DIS_CLASSES.index(name) for name in ("chair", "clutter", "wall"))
    assert (chair, clutter, wall) == (8, 12, 2)
    assert room.labels.tolist() == [chair, chair, clutter, wall]
    assert room.instances.tolist() == [0, 0, 1, 2]
    assert dataset[1].labels.tolist() == [0]


def test_s3dis_splits(s3dis: Path) -> None:
    assert S3DIS(s3dis, "test").rooms == ("Area_5/hallway_6",)
    assert S3DIS(s3dis, "test", test_area=1).rooms == ("Area_1/office_1",)
    with pytest.raises(DatasetFolderError, match=r"has no Area_2(.|\n)*Annotations(.|\n)*Stanford3dDataset_v1.2"):
        S3DIS(s3dis, "train")
    for area in (2, 3, 4, 6):
        (s3dis / f"Area_{area}/room_1/Annotations").mkdir(parents=True)
    train = S3DIS(s3dis, "train")
    assert [room.split("/")[0] for room in train.rooms] == ["Area_1", "Area_2", "Area_3", "Area_4", "Area_6"]
    with pytest.raises(DatasetFolderError, match="holds no object"):
        train[1]
    for bad in ("all", [7], []):
        with pytest.raises(ValueError, match=r"split must|areas must"):
            S3DIS(s3dis, bad)
    with pytest.raises(ValueError, match="test_area must be 1 to 6"):
        S3DIS(s3dis, "test", test_area=0)


def test_s3dis_s_faulty_line_is_repaired_aloud(s3dis: Path) -> None:
    path = s3dis / "Area_5/hallway_6/Annotations/ceiling_1.txt"
    for control in (b"\x00", b"\x10"):
        path.write_bytes(b"1 2 3 4 5 6\n22.3 6.6 3.0 185" + control + b"187 182\n7 8 9 1 2 3\n")
        with pytest.warns(UserWarning, match=r"ceiling_1.txt: control characters in line 2 were read as spaces"):
            room = S3DIS(s3dis, "test")[0]
        np.testing.assert_allclose(room.points[1], [22.3, 6.6, 3.0, 185, 187, 182], rtol=1e-6)
        assert len(room) == 3
    # In place of a digit it cannot be repaired, nor can numbers that run together.
    for line in (b"19.302 -9.1\x000 1.785 146 137 106", b"22.3 6.6 3.0 185187 182", b"1 2 3 4 5 six"):
        path.write_bytes(b"1 2 3 4 5 6\n" + line + b"\n")
        with pytest.raises(PointFileError, match="line 2"):
            S3DIS(s3dis, "test")[0]


def test_s3dis_s_second_copies_are_left_out_aloud(s3dis: Path) -> None:
    (s3dis / "Area_5/hallway_6/Annotations/ceiling_1 (1).txt").write_text("1 2 3 4 5 6\n")
    with pytest.warns(UserWarning, match=r"ceiling_1 \(1\).txt is no object file"):
        assert len(S3DIS(s3dis, "test")[0]) == 1


def test_s3dis_errors(s3dis: Path) -> None:
    folder = s3dis / "Area_5/hallway_6/Annotations"
    (folder / "ceiling_1.txt").write_text("1 2 inf 4 5 6\n")
    with pytest.raises(PointFileError, match="not finite"):
        S3DIS(s3dis, "test")[0]
    (folder / "ceiling_1.txt").write_text("\n\n")
    with pytest.raises(PointFileError, match="holds no points"):
        S3DIS(s3dis, "test")[0]
    (folder / "ceiling_1.txt").rename(folder / "lamp_1.txt")
    with pytest.raises(PointFileError, match="unknown class 'lamp'"):
        S3DIS(s3dis, "test")[0]


def test_s3dis_below_the_archive_s_folder(s3dis: Path, tmp_path: Path) -> None:
    (tmp_path / "outer").mkdir()
    s3dis.rename(tmp_path / "outer/Stanford3dDataset_v1.2_Aligned_Version")
    assert S3DIS(tmp_path / "outer", "test")[0].labels.tolist() == [0]
