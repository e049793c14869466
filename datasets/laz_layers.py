"""A check that the LAZ decoder leaves out: that the layers of a chunk fit into the chunk."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

from .point_file import PathLike

# Layers of each LAZ item type of point formats 6 to 10. Item 14, extra bytes, has one a byte.
_LAYERS = {10: 9, 11: 1, 12: 2, 13: 1}
_EXTRA_BYTES = 14
_ITEMS_OFFSET = 34


def layer_count(laszip_record: bytes) -> int:
    """How many layers a chunk has.

    Args:
        laszip_record: content of the file's LASzip record.

    Returns:
        The number, 0 for the point formats 0 to 5, which have no layers.
    """
    items = laszip_record[_ITEMS_OFFSET:]
    count = 0
    for offset in range(0, len(items) - 5, 6):
        kind, size, _ = struct.unpack_from("<HHH", items, offset)
        count += size if kind == _EXTRA_BYTES else _LAYERS.get(kind, 0)
    return count


def layers_fit(path: PathLike, start: int, record: int, layers: int, chunks: Iterable[tuple[int, int]]) -> bool:
    """Whether every chunk is as long as its own layers say.

    The decoder allocates 32-bit layer sizes as it finds them: a few damaged bytes would cost
    gigabytes, or the process.

    Args:
        path: the file.
        start: position of its first chunk.
        record: bytes of one uncompressed point; a chunk begins with one.
        layers: layers of each chunk.
        chunks: points and bytes of each chunk, in order.

    Returns:
        False for a damaged file.
    """
    head = struct.Struct(f"<I{layers}I")
    size = Path(path).stat().st_size
    with Path(path).open("rb") as stream:
        for _, length in chunks:
            stream.seek(start + record)
            sizes = stream.read(head.size)
            if start + length > size or len(sizes) < head.size:
                return False
            if record + head.size + sum(head.unpack(sizes)[1:]) > length:
                return False
            start += length
    return True
