"""The text header of a PLY file: which elements follow, and what one record of each holds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .point_file import PathLike, PointFileError

FORMATS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}

_TYPES = {
    "char": "i1",
    "uchar": "u1",
    "short": "i2",
    "ushort": "u2",
    "int": "i4",
    "uint": "u4",
    "float": "f4",
    "double": "f8",
    "int8": "i1",
    "uint8": "u1",
    "int16": "i2",
    "uint16": "u2",
    "int32": "i4",
    "uint32": "u4",
    "float32": "f4",
    "float64": "f8",
}
# Headers with hundreds of properties and long comments stay far below; no PLY keyword is longer
# than a few dozen bytes, so a larger one means that this is no PLY file.
_LONGEST_HEADER = 1 << 20


@dataclass(frozen=True)
class PlyProperty:
    """A scalar, or with `count_type` a list that is preceded by its length."""

    name: str
    type: str
    count_type: str | None = None


@dataclass(frozen=True)
class PlyElement:
    """A named table of `count` records."""

    name: str
    count: int
    properties: tuple[PlyProperty, ...]

    @property
    def has_lists(self) -> bool:
        """Whether its records differ in length."""
        return any(item.count_type for item in self.properties)

    def record(self, byte_order: str) -> np.dtype[np.void]:
        """The packed dtype of one record, of scalars `f0, f1, ...` only."""
        return np.dtype([(f"f{i}", byte_order + item.type) for i, item in enumerate(self.properties)])


@dataclass(frozen=True)
class PlyHeader:
    """What a PLY header says; `byte_order` is empty for ascii."""

    byte_order: str
    elements: tuple[PlyElement, ...]
    data_offset: int
    data_line: int


def parse_ply_header(path: PathLike, content: bytes) -> PlyHeader:
    """Parse and check the header.

    Args:
        path: the file, for messages.
        content: the whole file.

    Returns:
        The header; element counts may still exceed what the body holds.

    Raises:
        PointFileError: it is no PLY header, is cut off, or has a keyword, a type or a number that
            PLY does not know.
    """
    lines, offset = _header_lines(path, content)
    byte_order: str | None = None
    elements: list[PlyElement] = []
    for number, line in enumerate(lines[1:], 2):
        words = line.split()
        if not words or words[0] in ("comment", "obj_info"):
            continue
        if words[0] == "format" and len(words) >= 2 and words[1] in FORMATS:
            byte_order = FORMATS[words[1]]
        elif words[0] == "element" and len(words) == 3 and _is_whole(words[2]):
            elements.append(PlyElement(words[1], int(words[2]), ()))
        elif words[0] == "property" and elements:
            added = _parse_property(path, number, words)
            last = elements[-1]
            elements[-1] = PlyElement(last.name, last.count, (*last.properties, added))
        else:
            raise PointFileError(
                path, f"line {number} of the PLY header is not valid: {line[:60]!r}: fix the header"
            )
    if byte_order is None:
        raise PointFileError(path, f"has no format line in its PLY header; expected one of {', '.join(FORMATS)}")
    return PlyHeader(byte_order, tuple(elements), offset, len(lines) + 2)


def _header_lines(path: PathLike, content: bytes) -> tuple[list[str], int]:
    if content[:3] != b"ply" or content[3:4] not in (b"\n", b"\r", b" ", b"\t"):
        raise PointFileError(path, "does not begin with 'ply': it is not a PLY file")
    # Only the first line end tells whether a binary body after "\r" may begin with "\n".
    carriage_only = content[3:4] == b"\r" and content[4:5] != b"\n"
    newline = b"\r" if carriage_only else b"\n"
    lines: list[str] = []
    offset = 0
    while True:
        stop = content.find(newline, offset, _LONGEST_HEADER)
        line = content[offset : stop if stop >= 0 else len(content)][:_LONGEST_HEADER]
        text = line.decode("latin-1").strip()
        if text == "end_header":
            return lines, stop + 1 if stop >= 0 else len(content)
        if stop < 0:
            raise PointFileError(path, "has no end_header line: its PLY header is cut off")
        lines.append(text)
        offset = stop + 1


def _parse_property(path: PathLike, number: int, words: list[str]) -> PlyProperty:
    is_list = words[1:2] == ["list"]
    if len(words) != (5 if is_list else 3):
        raise PointFileError(path, f"line {number} of the PLY header is not a valid property: fix the header")
    types = words[2:4] if is_list else words[1:2]
    for name in types:
        if name not in _TYPES:
            raise PointFileError(
                path, f"line {number} of the PLY header has the unknown type {name[:30]!r}: fix it"
            )
    codes = [_TYPES[name] for name in types]
    if not is_list:
        return PlyProperty(words[2], codes[0])
    if codes[0].startswith("f"):
        raise PointFileError(path, f"line {number} of the PLY header counts a list in {types[0]}: fix the header")
    return PlyProperty(words[4], codes[1], count_type=codes[0])


def _is_whole(text: str) -> bool:
    # 18 digits bound the arithmetic and stay below the length where Python refuses to convert.
    return text.isascii() and text.isdigit() and len(text) <= 18
