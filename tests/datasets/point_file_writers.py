"""Point files written from scratch, independently of the readers under test."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

Table = npt.NDArray[np.void]

_PLY_TYPES = {
    "i1": "char",
    "u1": "uchar",
    "i2": "short",
    "u2": "ushort",
    "i4": "int",
    "u4": "uint",
    "f4": "float",
    "f8": "double",
}


def table(columns: dict[str, npt.NDArray[np.generic]]) -> Table:
    """A structured array from columns."""
    rows = np.zeros(
        len(next(iter(columns.values()))),
        dtype=[(name, values.dtype, values.shape[1:]) for name, values in columns.items()],
    )
    for name, values in columns.items():
        rows[name] = values
    return rows


def sample_table(count: int = 23, seed: int = 0) -> Table:
    """Points with every kind of number that PCD and PLY share."""
    rng = np.random.default_rng(seed)
    return table(
        {
            "intensity": rng.random(count).astype(np.float32),
            "z": rng.normal(size=count).astype(np.float32),
            "x": rng.normal(size=count).astype(np.float32) * 50,
            "tag": rng.integers(-100, 100, count).astype(np.int8),
            "ring": rng.integers(0, 60000, count).astype(np.uint16),
            "y": rng.normal(size=count),
            "time": rng.integers(0, 2**31, count).astype(np.uint32),
        }
    )


def lzf_compress(data: bytes) -> bytes:
    """A small LZF encoder: greedy, one candidate for every three bytes."""
    out, literals, at = bytearray(), bytearray(), 0
    seen: dict[bytes, int] = {}

    def flush() -> None:
        while literals:
            part = bytes(literals[:32])
            out.append(len(part) - 1)
            out.extend(part)
            del literals[: len(part)]

    while at < len(data):
        key = data[at : at + 3]
        before = seen.get(key)
        seen[key] = at
        if len(key) == 3 and before is not None and at - before <= 8192:
            length = 3
            while length < 264 and at + length < len(data) and data[before + length] == data[at + length]:
                length += 1
            flush()
            distance = at - before - 1
            if length < 9:
                out.append(((length - 2) << 5) | (distance >> 8))
            else:
                out.extend([(7 << 5) | (distance >> 8), length - 9])
            out.append(distance & 255)
            at += length
        else:
            literals.append(data[at])
            at += 1
    flush()
    return bytes(out)


def pcd_bytes(rows: Table, encoding: str, *, lower: bool = False, newline: str = "\n") -> bytes:
    """A PCD file of the table's columns."""
    fields = [(name, rows.dtype[name]) for name in rows.dtype.names or ()]
    kinds = {"f": "F", "i": "I", "u": "U"}
    counts = [int(np.prod(dtype.shape)) if dtype.shape else 1 for _, dtype in fields]
    bases = [dtype.base for _, dtype in fields]
    lines = [
        "# .PCD v0.7 - Point Cloud Data file format",
        "VERSION 0.7",
        "FIELDS " + " ".join(name for name, _ in fields),
        "SIZE " + " ".join(str(base.itemsize) for base in bases),
        "TYPE " + " ".join(kinds[base.kind] for base in bases),
        "COUNT " + " ".join(map(str, counts)),
        f"WIDTH {len(rows)}",
        "HEIGHT 1",
        "VIEWPOINT 0 0 0 1 0 0 0",
        f"POINTS {len(rows)}",
        f"DATA {encoding}",
    ]
    if lower:
        lines = [line.lower() for line in lines]
    head = newline.join([*lines, ""]).encode()
    if encoding == "ascii":
        return head + _text_rows(rows, newline)
    if encoding == "binary":
        return head + rows.tobytes()
    plain = b"".join(rows[name].tobytes() for name, _ in fields)
    packed = lzf_compress(plain)
    return head + struct.pack("<II", len(packed), len(plain)) + packed


def ply_bytes(rows: Table, form: str, *, faces_first: bool = False, newline: str = "\n") -> bytes:
    """A PLY file of the table's columns, with a face element of mixed polygons."""
    order: Literal["<", ">"] = ">" if form == "binary_big_endian" else "<"
    vertex = [f"element vertex {len(rows)}"]
    vertex += [f"property {_PLY_TYPES[rows.dtype[n].str[1:]]} {n}" for n in rows.dtype.names or ()]
    faces = ["element face 2", "property uchar tag", "property list uchar int vertex_indices"]
    elements = faces + vertex if faces_first else vertex + faces
    head = ["ply", f"format {form} 1.0", "comment end_header follows", "obj_info none"]
    text = newline.join([*head, *elements, "end_header", ""]).encode()
    if form == "ascii":
        face_body = newline.join(["9 3 0 1 2", "8 4 0 1 2 3", ""]).encode()
        body = _text_rows(rows, newline)
    else:
        face_body = struct.pack(f"{order}BB3iBB4i", 9, 3, 0, 1, 2, 8, 4, 0, 1, 2, 3)
        body = rows.astype(rows.dtype.newbyteorder(order)).tobytes()
    return text + (face_body + body if faces_first else body + face_body)


def _text_rows(rows: Table, newline: str) -> bytes:
    lines = [
        " ".join(repr(number.item()) for value in row for number in np.ravel(value))
        for row in (tuple(np.asarray(row[n]) for n in rows.dtype.names or ()) for row in rows)
    ]
    return newline.join([*lines, ""]).encode()


def write_las(path: Path, xyz: npt.NDArray[np.float64], *, point_format: int = 7, version: str = "1.4") -> None:
    """A LAS or LAZ file (by the suffix) at a tenth of a millimetre, with 16-bit colours."""
    import laspy

    header = laspy.LasHeader(point_format=point_format, version=version)
    header.scales = np.full(3, 1e-4)
    header.offsets = np.floor(xyz.mean(axis=0)) if len(xyz) else np.zeros(3)
    las = laspy.LasData(header)
    las.x, las.y, las.z = xyz.T
    las.intensity = np.arange(len(xyz)) % 65536
    if "red" in set(header.point_format.dimension_names):
        for shift, name in enumerate(("red", "green", "blue")):
            las[name] = (np.arange(len(xyz)) + shift) % 256 * 257
    las.write(str(path))


def minimal_files(folder: Path) -> dict[str, Path]:
    """One valid file for every supported suffix."""
    rng = np.random.default_rng(1)
    rows = sample_table(40)
    xyz = rng.normal(size=(40, 3)) * 20
    five = np.column_stack([xyz, rng.random(40), np.arange(40)]).astype("<f4")
    lines = "\n".join("{:.3f} {:.3f} {:.3f} 7".format(*row) for row in xyz)
    contents = {
        ".bin": five[:, :4].tobytes(),
        ".pcd.bin": five.tobytes(),
        ".pcd": pcd_bytes(rows, "binary_compressed"),
        ".ply": ply_bytes(rows, "binary_big_endian", faces_first=True),
        ".xyz": ("x y z i\n" + lines).encode(),
        ".txt": lines.encode(),
        ".csv": ("# comment\nx;y;z;i\n" + lines.replace(" ", ";").replace(".", ",")).encode(),
    }
    corners = "\n".join("{:.3f} {:.3f} {:.3f}".format(*row) for row in xyz)
    faces = [(i, i + 1, i + 2) for i in range(38)]
    contents[".off"] = (
        f"OFF\n40 38 0\n{corners}\n{''.join(f'3 {a} {b} {c}' + chr(10) for a, b, c in faces)}".encode()
    )
    contents[".obj"] = ("v " + corners.replace("\n", "\nv ")).encode() + b"".join(
        f"\nf {a + 1} {b + 1} {c + 1}".encode() for a, b, c in faces
    )
    contents[".stl"] = (
        bytes(80)
        + (38).to_bytes(4, "little")
        + b"".join(bytes(12) + xyz[list(face)].astype("<f4").tobytes() + bytes(2) for face in faces)
    )
    files = {suffix: folder / f"valid{suffix}" for suffix in (*contents, ".npy", ".npz")}
    for suffix, content in contents.items():
        files[suffix].write_bytes(content)
    np.save(files[".npy"], five)
    np.savez_compressed(files[".npz"], points=five, labels=np.arange(40))
    try:
        import laspy
    except ImportError:
        return files
    del laspy
    for suffix in (".las", ".laz", ".copc.laz"):
        files[suffix] = folder / f"valid{suffix}"
        write_las(files[suffix], xyz + np.array([5e5, 4e6, 100.0]))
    return files
