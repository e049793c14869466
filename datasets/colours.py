"""Colours as files store them, and as the columns `r g b` from 0 to 255."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def unpack_rgb(packed: npt.NDArray[np.uint32]) -> dict[str, npt.NDArray[np.uint8]]:
    """Split colours packed as `0xAARRGGBB`, the layout of PCL; alpha is dropped.

    Args:
        packed: `[N]` uint32.

    Returns:
        `r`, `g` and `b`, `[N]` uint8 each.
    """
    return {name: ((packed >> shift) & 0xFF).astype(np.uint8) for name, shift in (("r", 16), ("g", 8), ("b", 0))}


def colours_to_byte_range(columns: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """Bring `r g b` columns to 0-255, whatever range their file uses.

    The three share one range, so they are judged together: 16-bit integers with any value above
    255 lose their low byte, which undoes both ways of widening in use (times 256, times 257);
    floats that never exceed 1 are multiplied by 255. Writers that leave 8-bit colours in 16-bit
    fields exist, hence the look at the values.

    Args:
        columns: name to `[N]` numbers, with all or none of `r`, `g`, `b`.

    Returns:
        The same columns with those three rescaled.
    """
    names = [name for name in "rgb" if name in columns]
    if len(names) != 3 or not columns["r"].size:
        return columns
    kinds = {columns[name].dtype.kind for name in names}
    # A column of NaN only has no maximum; it compares false with every limit.
    highest = max(float(np.fmax.reduce(columns[name])) for name in names)
    if kinds == {"f"} and 0.0 < highest <= 1.0:
        return columns | {name: columns[name] * np.float32(255.0) for name in names}
    if "f" not in kinds and highest > 255:
        return columns | {name: columns[name] // 256 for name in names}
    return columns
