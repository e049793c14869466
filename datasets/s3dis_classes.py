"""S3DIS's 13 classes (Armeni et al., CVPR 2016) in the order of their common label numbers."""

from __future__ import annotations

CLASSES = (
    "ceiling",
    "floor",
    "wall",
    "beam",
    "column",
    "window",
    "door",
    "table",
    "chair",
    "sofa",
    "bookcase",
    "board",
    "clutter",
)
