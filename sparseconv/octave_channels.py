"""How an octave layer divides its channels and groups between the frequencies."""

from __future__ import annotations

import math

# Decimal places of a share that count: 0.07 * 100 is 7.000000000000001 in binary, and means 7.
_PLACES = 9


def low_channels(channels: int, alpha: float) -> int:
    """Channels of the low frequency, ``floor(alpha channels)``."""
    return math.floor(round(alpha * channels, _PLACES))


def path_groups(groups: int, in_channels: int, alpha: float) -> tuple[int, int]:
    """Groups of the high and of the low path, ``ceil((1 - alpha) groups)`` and ``ceil(alpha groups)``.

    A depthwise layer (``groups`` is ``in_channels``) has depthwise paths.

    Args:
        groups: of the layer.
        in_channels: of the layer.
        alpha: low share of the input channels.
    """
    if groups == in_channels:
        low = low_channels(in_channels, alpha)
        return in_channels - low, low
    share = round(alpha * groups, _PLACES)
    return math.ceil(groups - share), math.ceil(share)
