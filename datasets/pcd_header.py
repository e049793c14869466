"""The text header of a PCD file, checked before any number in it is believed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .point_file import PathLike, PointFileError

ENCODINGS = ("ascii", "binary", "binary_compressed")

_SHAPE_KEYWORDS = ("WIDTH", "HEIGHT", "POINTS")
_FIELD_KEYWORDS = ("FIELDS", "COLUMNS", "SIZE", "TYPE", "COUNT")
_KEYWORDS = frozenset(["VERSION", "VIEWPOINT", "DATA", *_FIELD_KEYWORDS, *_SHAPE_KEYWORDS])
_TYPES = frozenset([("F", "4"), ("F", "8"), *((kind, size) for kind in "IU" for size in "1248")])
# A header with hundreds of fields takes a few kilobytes; more means that this is no PCD file.
_LONGEST_HEADER = 65536
# NumPy keeps record sizes in 32 bits; the widest real points (SHOT descriptors) take 1.5 kB.
_LARGEST_POINT = 1 << 20


@dataclass(frozen=True)
class PcdField:
    """One entry of FIELDS with its SIZE, TYPE and COUNT."""

    name: str
    size: int
    kind: str
    count: int

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The little-endian dtype of one element."""
        return np.dtype(f"<{self.kind.lower()}{self.size}")

    @property
    def nbytes(self) -> int:
        """Bytes that the field takes in one point."""
        return self.size * self.count


@dataclass(frozen=True)
class PcdHeader:
    """What a PCD header says, with `data_offset` and `data_line` for where the body starts."""

    fields: tuple[PcdField, ...]
    points: int
    encoding: str
    data_offset: int
    data_line: int

    @property
    def stride(self) -> int:
        """Bytes of one point."""
        return sum(field.nbytes for field in self.fields)


def parse_pcd_header(path: PathLike, content: bytes) -> PcdHeader:
    """Parse and check the header.

    Keywords are accepted in any case and any order as long as DATA is last. COUNT defaults to 1
    and POINTS to WIDTH x HEIGHT.

    Args:
        path: the file, for messages.
        content: the whole file.

    Returns:
        The header; `points` may still exceed what the body holds.

    Raises:
        PointFileError: the header is missing, incomplete, contradicts itself, or declares a type
            that PCD does not have.
    """
    entries, offset, line = _read_entries(path, content)
    fields = _parse_fields(path, entries)
    points = _parse_points(path, entries)
    encoding = " ".join(entries["DATA"]).lower()
    if encoding not in ENCODINGS:
        raise PointFileError(path, f"has DATA {encoding[:40]!r}; expected {', '.join(ENCODINGS)}: convert it")
    header = PcdHeader(fields, points, encoding, offset, line)
    if header.stride > _LARGEST_POINT:
        raise PointFileError(path, f"declares {header.stride} bytes a point: its SIZE or COUNT is damaged")
    return header


def _read_entries(path: PathLike, content: bytes) -> tuple[dict[str, list[str]], int, int]:
    entries: dict[str, list[str]] = {}
    offset = number = 0
    while "DATA" not in entries:
        newline = content.find(b"\n", offset, _LONGEST_HEADER)
        stop = newline if newline >= 0 else min(len(content), _LONGEST_HEADER)
        words = content[offset:stop].decode("latin-1").split()
        number += 1
        offset = stop + 1
        if words and not words[0].startswith("#"):
            keyword = words[0].upper()
            if keyword not in _KEYWORDS:
                raise PointFileError(
                    path,
                    f"line {number} of the PCD header begins with {words[0][:20]!r}, which is no"
                    " PCD keyword: it is not a PCD file, or its header is damaged",
                )
            entries[keyword] = words[1:]
        if newline < 0 and "DATA" not in entries:
            raise PointFileError(path, "has no DATA line: it is not a PCD file, or its header is cut off")
    return entries, offset, number


def _parse_fields(path: PathLike, entries: dict[str, list[str]]) -> tuple[PcdField, ...]:
    names = entries.get("FIELDS") or entries.get("COLUMNS")
    if not names:
        raise PointFileError(path, "has no FIELDS line in its PCD header: export it again")
    counts = entries.get("COUNT") or ["1"] * len(names)
    kinds = [kind.upper() for kind in entries.get("TYPE", [])]
    sizes = entries.get("SIZE", [])
    for keyword, values in (("SIZE", sizes), ("TYPE", kinds), ("COUNT", counts)):
        if len(values) != len(names):
            raise PointFileError(
                path,
                f"has {len(values)} values in {keyword} for {len(names)} FIELDS: fix the header",
            )
    fields = []
    for name, size, kind, count in zip(names, sizes, kinds, counts, strict=True):
        if (kind, size) not in _TYPES:
            raise PointFileError(
                path,
                f"field {name[:40]!r} has TYPE {kind[:10]} SIZE {size[:10]}; expected F with SIZE"
                " 4 or 8, or I or U with SIZE 1, 2, 4 or 8: fix the header",
            )
        fields.append(PcdField(name, int(size), kind, _whole(path, "COUNT", count)))
    return tuple(fields)


def _parse_points(path: PathLike, entries: dict[str, list[str]]) -> int:
    given = {
        keyword: _whole(path, keyword, " ".join(entries[keyword]))
        for keyword in _SHAPE_KEYWORDS
        if keyword in entries
    }
    area = given["WIDTH"] * given.get("HEIGHT", 1) if "WIDTH" in given else None
    points = given.get("POINTS", area)
    if points is None:
        raise PointFileError(path, "has neither POINTS nor WIDTH in its PCD header: export it again")
    if area is not None and area != points:
        raise PointFileError(path, f"declares POINTS {points} but WIDTH x HEIGHT {area}: fix the header")
    return points


def _whole(path: PathLike, keyword: str, text: str) -> int:
    # 18 digits bound the arithmetic and stay below the length where Python refuses to convert.
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise PointFileError(path, f"has {keyword} {text[:30]!r}; expected a whole number >= 0: fix the header")
    return int(text)
