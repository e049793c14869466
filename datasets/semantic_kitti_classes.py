"""SemanticKITTI's classes and learning maps: `semantic-kitti.yaml` and `semantic-kitti-all.yaml` of its API."""

from __future__ import annotations

# What the label files hold.
ORIGINAL_NAMES: dict[int, str] = {
    0: "unlabeled",
    1: "outlier",
    10: "car",
    11: "bicycle",
    13: "bus",
    15: "motorcycle",
    16: "on-rails",
    18: "truck",
    20: "other-vehicle",
    30: "person",
    31: "bicyclist",
    32: "motorcyclist",
    40: "road",
    44: "parking",
    48: "sidewalk",
    49: "other-ground",
    50: "building",
    51: "fence",
    52: "other-structure",
    60: "lane-marking",
    70: "vegetation",
    71: "trunk",
    72: "terrain",
    80: "pole",
    81: "traffic-sign",
    99: "other-object",
    252: "moving-car",
    253: "moving-bicyclist",
    254: "moving-person",
    255: "moving-motorcyclist",
    256: "moving-on-rails",
    257: "moving-bus",
    258: "moving-truck",
    259: "moving-other-vehicle",
}

# Single-scan task: 19 classes from 1 on, in this order; 0 is ignored. Each is named by its own original label.
_SINGLE = (10, 11, 15, 18, 20, 30, 31, 32, 40, 44, 48, 49, 50, 51, 70, 71, 72, 80, 81)
# Multi-scan task: six moving classes behind them.
_MOVING = (252, 253, 254, 255, 259, 258)
# Original labels that share another's class.
_MERGED = {1: 0, 52: 0, 99: 0, 13: 20, 16: 20, 60: 40}
_MERGED_SINGLE = {252: 10, 253: 31, 254: 30, 255: 32, 256: 20, 257: 20, 258: 18, 259: 20}
_MERGED_MULTI = {256: 259, 257: 259}

LEARNING_MAP_INVERSE: dict[int, int] = {0: 0, **dict(enumerate(_SINGLE, 1))}
LEARNING_MAP_INVERSE_MULTI: dict[int, int] = {0: 0, **dict(enumerate(_SINGLE + _MOVING, 1))}


def _learning_map(inverse: dict[int, int], merged: dict[int, int]) -> dict[int, int]:
    own = {original: label for label, original in inverse.items()}
    return {original: own[merged.get(original, original)] for original in ORIGINAL_NAMES}


LEARNING_MAP: dict[int, int] = _learning_map(LEARNING_MAP_INVERSE, _MERGED | _MERGED_SINGLE)
LEARNING_MAP_MULTI: dict[int, int] = _learning_map(LEARNING_MAP_INVERSE_MULTI, _MERGED | _MERGED_MULTI)

CLASSES: tuple[str, ...] = tuple(ORIGINAL_NAMES[original] for original in LEARNING_MAP_INVERSE.values())
CLASSES_MULTI: tuple[str, ...] = tuple(
    ORIGINAL_NAMES[original] for original in LEARNING_MAP_INVERSE_MULTI.values()
)

SPLITS: dict[str, tuple[int, ...]] = {
    "train": (0, 1, 2, 3, 4, 5, 6, 7, 9, 10),
    "valid": (8,),
    "test": tuple(range(11, 22)),
}
