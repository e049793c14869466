"""NumPy files: NPY and NPZ, read without pickle and without trusting a declared size."""

from __future__ import annotations

import io
import math
import warnings
import zipfile
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from .columns import cloud_from_columns, unnamed_columns
from .point_cloud import PointCloud
from .point_file import PathLike, PointFileError, brief, read_bytes

_HEADER_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# What zipfile raises for damaged, encrypted and unsupported entries.
_DAMAGED_ARCHIVE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OSError,
)
# Deflate gives at most 1032 bytes for one; an entry that declares more is damaged or hostile.
_LARGEST_DEFLATE_EXPANSION = 1032


def read_npy(path: PathLike) -> PointCloud:
    """Read one array `[N, C >= 3]` with `x y z` first.

    Args:
        path: the `.npy` file.

    Returns:
        The cloud; further columns are named by `unnamed_columns`.

    Raises:
        PointFileError: the file is damaged, cut off, or holds another shape or dtype.
    """
    return _cloud(path, _parse_npy(path, read_bytes(path), "the array"), None)


def read_npz(path: PathLike) -> PointCloud:
    """Read the array `points`, or the only one, and `labels` where there are such.

    Args:
        path: the `.npz` file.

    Returns:
        The cloud; further columns are named by `unnamed_columns`.

    Raises:
        PointFileError: the archive is damaged, no array is called `points` among several, or the
            array has another shape or dtype.
    """
    content = read_bytes(path)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = {
                entry.filename.removesuffix(".npy"): entry
                for entry in archive.infolist()
                if entry.filename.endswith(".npy")
            }
            names = list(entries)
            others = [name for name in names if name != "labels"]
            if "points" not in names and len(others) != 1:
                found = ", ".join(name[:30] for name in names[:8]) or "none"
                raise PointFileError(path, f"has no array 'points' (its arrays: {found}): save it under that name")
            key = "points" if "points" in names else others[0]
            points = _parse_npy(path, _extract(path, archive, entries[key]), f"the array {brief(key)!r}")
            labels = None
            if "labels" in names:
                labels = _parse_npy(path, _extract(path, archive, entries["labels"]), "the array 'labels'")
    except PointFileError:
        raise
    except _DAMAGED_ARCHIVE as error:
        raise PointFileError(path, f"is not a readable NPZ archive ({brief(error)}): save it again") from None
    return _cloud(path, points, labels)


def read_npz_arrays(path: PathLike) -> dict[str, npt.NDArray[Any]]:
    """Read every array of an NPZ file; nothing is unpickled.

    Args:
        path: the `.npz` file.

    Returns:
        Name to array of numbers.

    Raises:
        PointFileError: the archive is damaged, or an array holds something else than numbers.
    """
    content = read_bytes(path)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {
                name: _parse_npy(path, _extract(path, archive, entry), f"the array {brief(name)!r}")
                for entry in archive.infolist()
                if (name := entry.filename.removesuffix(".npy")) != entry.filename
            }
    except PointFileError:
        raise
    except _DAMAGED_ARCHIVE as error:
        raise PointFileError(path, f"is not a readable NPZ archive ({brief(error)}): save it again") from None


def _extract(path: PathLike, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise PointFileError(path, "uses an unusual ZIP method: save it with np.savez_compressed")
    if entry.file_size > _LARGEST_DEFLATE_EXPANSION * entry.compress_size + 64:
        raise PointFileError(
            path,
            f"declares {entry.file_size} bytes from {entry.compress_size} compressed ones:"
            " it is damaged; save it again",
        )
    with archive.open(entry) as stream:
        return stream.read()


def _parse_npy(path: PathLike, content: bytes, what: str) -> npt.NDArray[Any]:
    stream = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(stream)
        if version not in _HEADER_READERS:
            raise PointFileError(path, f"has NPY version {version}: save it again with np.save")
        with warnings.catch_warnings():
            # Arrays that Python 2 saved parse with a warning about speed.
            warnings.simplefilter("ignore")
            shape, column_major, dtype = _HEADER_READERS[version](stream)
    except PointFileError:
        raise
    # The header is a Python literal of unknown content: its parser may fail in any way.
    except Exception:
        raise PointFileError(path, "has a damaged NPY header: save it again with np.save") from None
    if dtype.hasobject or dtype.kind not in "fiub":
        raise PointFileError(path, f"{what} holds {brief(dtype)} values; expected numbers: save it as float32")
    if any(extent < 0 for extent in shape):
        raise PointFileError(path, f"{what} declares the shape {brief(shape)}: it is damaged")
    needed = math.prod(shape) * dtype.itemsize
    offset = stream.tell()
    if needed > len(content) - offset:
        raise PointFileError(
            path,
            f"is cut off: {what} of shape {brief(shape)} takes {needed} bytes and {len(content) - offset}"
            " follow its header: save it again",
        )
    flat = np.frombuffer(content, dtype=dtype, count=math.prod(shape), offset=offset)
    values = flat.reshape(shape, order="F" if column_major else "C")
    return values.astype(dtype.newbyteorder("="), copy=False)


def _cloud(path: PathLike, values: npt.NDArray[Any], labels: npt.NDArray[Any] | None) -> PointCloud:
    if values.ndim != 2 or values.shape[1] < 3:
        raise PointFileError(
            path, f"holds an array of shape {brief(values.shape)}; expected [N, 3 or more]: reshape it"
        )
    class_ids = None
    if labels is not None:
        if labels.shape != (len(values),) or labels.dtype.kind not in "iu":
            raise PointFileError(
                path,
                f"has labels of shape {brief(labels.shape)} and type {labels.dtype}; expected"
                f" {len(values)} integers, one a point",
            )
        class_ids = labels.astype(np.int32)
        if (class_ids != labels).any():
            raise PointFileError(path, "has labels beyond 32 bits: number the classes from 0")
    return cloud_from_columns(path, unnamed_columns(values), class_ids)
