"""PCD files of the Point Cloud Library: ascii, binary and binary_compressed."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .colours import unpack_rgb
from .columns import FLOAT32_MILLIMETRE_RANGE, canonical_names, check_names, cloud_from_columns
from .lzf import LARGEST_EXPANSION, lzf_decompress
from .numeric_text import numbered_lines, parse_rows
from .pcd_header import PcdField, PcdHeader, parse_pcd_header
from .point_cloud import PointCloud
from .point_file import PathLike, PointFileError, read_bytes

# Longer arrays are descriptors of a neighbourhood (FPFH has 33 bins, SHOT 352), not attributes.
_LONGEST_EXPANDED_FIELD = 16
_PADDING = "_"
_PACKED_COLOURS = ("rgb", "rgba")

# One array [N, count] a field, in the order of the header.
_Blocks = list[npt.NDArray[Any]]


def read_pcd(path: PathLike) -> PointCloud:
    """Read a PCD file.

    `rgb` and `rgba` are unpacked into `r g b`; a field with COUNT from 2 to 16 becomes the columns
    `name_0, name_1, ...`; longer fields and padding (`_`) are skipped. NaN points of organised
    clouds stay, so the rows keep the order of the image. VIEWPOINT is not applied.

    Args:
        path: the file.

    Returns:
        The cloud, all of the remaining fields as columns.

    Raises:
        PointFileError: the header or the body is damaged, cut off, or contradicts the other; the
            file holds no points, or no `x y z`.
    """
    content = read_bytes(path)
    header = parse_pcd_header(path, content)
    kept = [_is_column(field) for field in header.fields]
    names = canonical_names(field.name if keep else "" for field, keep in zip(header.fields, kept, strict=True))
    check_names(path, [name for name, keep in zip(names, kept, strict=True) if keep])
    if header.points == 0:
        raise PointFileError(path, "holds no points: export it again with at least one")
    body = content[header.data_offset :]
    decode = {"ascii": _decode_ascii, "binary": _decode_binary}
    blocks = decode.get(header.encoding, _decode_compressed)(path, header, body)

    columns: dict[str, npt.NDArray[Any]] = {}
    for field, name, keep, block in zip(header.fields, names, kept, blocks, strict=True):
        if not keep:
            continue
        if name in _PACKED_COLOURS and field.count == 1:
            packed = _packed_bits(field, block[:, 0], header.encoding)
            if packed is not None and not {"r", "g", "b"} & set(names):
                columns |= unpack_rgb(packed)
            elif packed is None:
                columns[name] = block[:, 0]
        elif field.count == 1:
            columns[name] = block[:, 0]
        else:
            columns |= {f"{name}_{index}": block[:, index] for index in range(field.count)}
    return cloud_from_columns(path, columns)


def _is_column(field: PcdField) -> bool:
    return field.name != _PADDING and 1 <= field.count <= _LONGEST_EXPANDED_FIELD


def _decode_ascii(path: PathLike, header: PcdHeader, body: bytes) -> _Blocks:
    lines = numbered_lines(body, header.data_line + 1)
    if len(lines) < header.points:
        raise _cut_off(path, header.points, f"{len(lines)} lines of points")
    width = sum(field.count for field in header.fields)
    rows = parse_rows(path, lines[: header.points], width)
    stops = np.cumsum([field.count for field in header.fields])
    return [
        rows[:, stop - field.count : stop]
        if field.dtype.kind != "f" or field.size == 8
        else _as_float32(rows[:, stop - field.count : stop])
        for field, stop in zip(header.fields, stops, strict=True)
    ]


def _as_float32(values: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    # Text declared as float32 may still hold coordinates that only float64 can: keep those.
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    exact = np.nanmax(np.abs(values), initial=0.0) <= FLOAT32_MILLIMETRE_RANGE
    return single if exact else values


def _decode_binary(path: PathLike, header: PcdHeader, body: bytes) -> _Blocks:
    if header.points * header.stride > len(body):
        raise _cut_off(path, header.points, f"{len(body)} bytes of the {header.stride} a point")
    offsets = np.cumsum([0, *(field.nbytes for field in header.fields)])[:-1]
    record = np.dtype(
        {
            "names": [f"f{index}" for index in range(len(header.fields))],
            "formats": [(field.dtype, (field.count,)) for field in header.fields],
            "offsets": [int(offset) for offset in offsets],
            "itemsize": header.stride,
        }
    )
    table = np.frombuffer(body, dtype=record, count=header.points)
    return [table[name] for name in record.names or ()]


def _decode_compressed(path: PathLike, header: PcdHeader, body: bytes) -> _Blocks:
    if len(body) < 8:
        raise _cut_off(path, header.points, "no compressed data")
    packed_size, size = (int(value) for value in np.frombuffer(body, "<u4", count=2))
    if packed_size > len(body) - 8:
        raise _cut_off(path, header.points, f"{len(body) - 8} of {packed_size} compressed bytes")
    if size != header.points * header.stride:
        raise PointFileError(
            path,
            f"declares {size} bytes after decompression, but {header.points} points of"
            f" {header.stride} bytes: its header is damaged",
        )
    if size > packed_size * LARGEST_EXPANSION:
        raise PointFileError(
            path,
            f"declares {size} bytes from {packed_size} compressed ones: more than LZF can give",
        )
    try:
        plain = lzf_decompress(body[8 : 8 + packed_size], size)
    except ValueError as error:
        raise PointFileError(path, f"has damaged compressed data ({error}): download or export it again") from None
    # Compressed bodies store field after field, each for all of the points.
    blocks, offset = [], 0
    for field in header.fields:
        values = np.frombuffer(plain, field.dtype, count=header.points * field.count, offset=offset)
        blocks.append(values.reshape(header.points, field.count))
        offset += header.points * field.nbytes
    return blocks


def _packed_bits(field: PcdField, values: npt.NDArray[Any], encoding: str) -> npt.NDArray[np.uint32] | None:
    """The bits of a packed colour, or None where the field cannot hold one."""
    if field.size != 4:
        return None
    if encoding != "ascii":
        return np.ascontiguousarray(values).view(np.uint32)
    numbers = values.astype(np.float64)
    # Text may hold any number here; what cannot be a packed colour counts as black.
    numbers = np.where(np.abs(numbers) < 2.0**63, numbers, 0.0)
    bits = (numbers.astype(np.int64) & 0xFFFFFFFF).astype(np.uint32)
    if field.kind != "F":
        return bits
    # Declared as float, a colour is written either as the float that has its bits, which for
    # alpha 0 is below 2.4e-38, or as the packed integer itself.
    with np.errstate(over="ignore"):
        reinterpreted = numbers.astype(np.float32).view(np.uint32)
    return np.where((numbers >= 1) & (numbers == np.floor(numbers)), bits, reinterpreted)


def _cut_off(path: PathLike, points: int, found: str) -> PointFileError:
    return PointFileError(path, f"is cut off: it declares {points} points and holds {found}: download it again")
