"""Headerless float32 files: nothing in them says what they hold, so the values are judged."""

from __future__ import annotations

import numpy as np

from .point_cloud import PointCloud
from .point_file import PathLike, PointFileError, read_bytes

# No sensor sees farther than a few kilometres; bytes that are not float32 coordinates decode to
# magnitudes spread over 1e-38 to 1e38, so nearly every foreign file exceeds this.
LARGEST_COORDINATE = 1e6

# Enough bytes that no real scan can consist of printable characters by chance.
_TEXT_SAMPLE = 4096
_PRINTABLE = bytes(range(0x20, 0x7F)) + b"\t\n\r\f\v"

_SIGNATURES = {
    b"# .PCD": ".pcd",
    b"VERSION": ".pcd",
    b"ply\n": ".ply",
    b"ply\r": ".ply",
    b"LASF": ".las",
    b"\x93NUMPY": ".npy",
    b"PK\x03\x04": ".npz",
}


def read_float32_records(path: PathLike, fields: tuple[str, ...], layout: str) -> PointCloud:
    """Read little-endian float32 records without a header.

    Args:
        path: the file.
        fields: names of the values of one record, `x y z` first.
        layout: what the format is called in messages.

    Returns:
        A cloud with those fields.

    Raises:
        PointFileError: the file is missing, empty, of another format, text, cut off inside a
            record, or holds values that are no coordinates.
    """
    content = read_bytes(path)
    record = 4 * len(fields)
    expected = f"{layout} (float32 {' '.join(fields)})"
    for signature, suffix in _SIGNATURES.items():
        if content.startswith(signature):
            raise PointFileError(
                path,
                f"is a {suffix[1:].upper()} file, not {expected}: rename it to end in {suffix}",
            )
    if not content[:_TEXT_SAMPLE].translate(None, delete=_PRINTABLE):
        raise PointFileError(path, f"is a text file, not {expected}: rename it to end in .xyz if it lists points")
    if len(content) % record:
        raise PointFileError(
            path,
            f"has {len(content)} bytes, not a multiple of the {record} bytes a point of {expected}:"
            " it is cut off or of another format",
        )
    values = np.frombuffer(content, dtype="<f4").astype(np.float32).reshape(-1, len(fields))
    unusable = int((~np.isfinite(values)).any(axis=1).sum())
    if unusable:
        raise PointFileError(
            path,
            f"has NaN or infinite values in {unusable} of {len(values)} points: it is not"
            f" {expected}, or those points must be removed first",
        )
    farthest = float(np.abs(values[:, :3]).max())
    if farthest > LARGEST_COORDINATE:
        raise PointFileError(
            path,
            f"has a coordinate of {farthest:.3g} m: it is not {expected}; check the format",
        )
    return PointCloud(values, fields)
