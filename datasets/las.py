"""LAS and LAZ files, COPC included, through laspy."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .colours import colours_to_byte_range
from .columns import cloud_from_columns
from .laz_layers import layer_count, layers_fit
from .point_cloud import PointCloud
from .point_file import PathLike, PointFileError, brief, check_point_file

REMEDY = 'pip install "sparseconv[las]"'

_COLOURS = {"red": "r", "green": "g", "blue": "b"}

_SMALLEST_HEADER = 227
_HEADER_1_4 = 375
_VLR_HEADER = 54
_COMPRESSED = 0x80
_SMALLEST_POINT = 20
# Points at a time (23 MB of the common 34-byte format): a file that declares more points than it
# holds fails before it has taken more memory than one such part.
_POINTS_AT_ONCE = 700_000


def read_las(path: PathLike) -> PointCloud:
    """Read a LAS or LAZ file.

    Map coordinates are far beyond float32 at a millimetre, so `PointCloud.origin` holds what was
    subtracted from each axis.

    Args:
        path: the file.

    Returns:
        A cloud with `x y z intensity`, and `r g b` from 0 to 255 where the point format has them.
        Intensity keeps the file's scale (0 to 65535).

    Raises:
        PointFileError: laspy is not installed; the file is damaged, cut off, or holds no points.
    """
    size = check_point_file(path)
    count = _check_header(path, size)
    try:
        import laspy
    # Uninstalled, or built for another Python.
    except (ImportError, OSError):
        raise PointFileError(path, f"needs laspy to be read: {REMEDY}") from None

    parts: dict[str, list[npt.NDArray[Any]]] = {}
    selection = laspy.DecompressionSelection
    try:
        # The serial decoder fails cleanly on damaged chunks. Extended records are never needed.
        with laspy.open(
            Path(path),
            laz_backend=laspy.LazBackend.Lazrs,
            read_evlrs=False,
            decompression_selection=(
                selection.XY_RETURNS_CHANNEL | selection.Z | selection.INTENSITY | selection.RGB
            ),
        ) as reader:
            header = reader.header
            if header.are_points_compressed:
                _check_chunks(path, header, count)
            stored = set(header.point_format.dimension_names)
            wanted = ["X", "Y", "Z", "intensity", *(name for name in _COLOURS if name in stored)]
            scales, offsets = header.scales, header.offsets
            for chunk in reader.chunk_iterator(min(count, _POINTS_AT_ONCE)):
                for name in wanted:
                    parts.setdefault(name, []).append(np.array(chunk[name]))
    except PointFileError:
        raise
    # A damaged chunk makes the decoder, which is Rust, panic; that is no `Exception`.
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        if isinstance(error, ImportError) or "backend" in str(error).lower():
            raise PointFileError(path, f"needs a LAZ decoder to be read: {REMEDY}") from None
        raise PointFileError(path, f"is damaged or cut off ({brief(error)}): download it again") from error

    raw = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    if len(raw.get("X", ())) != count:
        raise PointFileError(
            path,
            f"is cut off: it declares {count} points and holds {len(raw.get('X', ()))}: download it again",
        )
    with np.errstate(over="ignore", invalid="ignore"):
        axes = {
            axis.lower(): raw.pop(axis) * float(scale) + float(offset)
            for axis, scale, offset in zip("XYZ", scales, offsets, strict=True)
        }
    if not all(np.isfinite(values).all() for values in axes.values()):
        raise PointFileError(path, "has a scale or an offset that is not finite: export it again")
    columns = {**axes, **{_COLOURS.get(name, name): values for name, values in raw.items()}}
    return cloud_from_columns(path, colours_to_byte_range(columns))


def _check_header(path: PathLike, size: int) -> int:
    """The point count, after checking what laspy would take on trust."""
    try:
        with Path(path).open("rb") as stream:
            head = stream.read(_HEADER_1_4)
            if len(head) < _SMALLEST_HEADER or head[:4] != b"LASF":
                raise PointFileError(path, "does not begin with a LAS header: it is not LAS or LAZ")
            minor = head[25]
            length, start, records, point_format, record, count = struct.unpack_from("<HIIBHI", head, 94)
            if minor >= 4 and len(head) == _HEADER_1_4:
                count = struct.unpack_from("<Q", head, 247)[0] or count
            stream.seek(min(start, size))
            chunk_table = stream.read(8)
            chunks = 0
            if point_format & _COMPRESSED and len(chunk_table) == 8:
                position = struct.unpack("<q", chunk_table)[0]
                if position == -1:
                    # Written as a stream: the position stands at the end of the file.
                    stream.seek(size - 8)
                    position = struct.unpack("<q", stream.read(8))[0]
                if 0 < position < size:
                    stream.seek(position)
                    table = stream.read(8)
                    chunks = struct.unpack("<II", table)[1] if len(table) == 8 else 0
    except OSError as error:
        raise PointFileError(path, f"cannot be read ({error.strerror or error})") from error
    if count == 0:
        raise PointFileError(path, "holds no points: export it again with at least one")
    room = start - length
    if length < _SMALLEST_HEADER or start > size or records * _VLR_HEADER > room or record < _SMALLEST_POINT:
        raise PointFileError(path, "has a damaged or cut off LAS header: download it again")
    needed = start + count * record
    if not point_format & _COMPRESSED and needed > size:
        raise PointFileError(
            path,
            f"is cut off: it declares {count} points, {needed} bytes, and has {size}: download it again",
        )
    # A chunk takes at least one byte; the decoder allocates for as many as are declared.
    if chunks > size:
        raise PointFileError(path, f"declares {chunks} LAZ chunks in {size} bytes: it is damaged")
    return count


def _check_chunks(path: PathLike, header: Any, count: int) -> None:
    import lazrs

    laszip_record = header.vlrs.get("LasZipVlr")[0].record_data
    layers = layer_count(laszip_record)
    start, record = header.offset_to_point_data, header.point_format.size
    if not layers:
        return
    with Path(path).open("rb") as stream:
        stream.seek(start)
        chunks = lazrs.read_chunk_table(stream, lazrs.LazVlr(laszip_record))
    # The chunks follow the 8 bytes that say where their table is. Past the last one, the decoder
    # would take whatever follows for another.
    complete = sum(points for points, _ in chunks) >= count
    if not complete or not layers_fit(path, start + 8, record, layers, chunks):
        raise PointFileError(path, "has a damaged or cut off LAZ chunk: download it again")
