"""W6: how time and memory of one submanifold layer grow with the number of voxels."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sparseconv.scripts.benchmarks.cases import Case
from sparseconv.scripts.benchmarks.samples import CaseResult
from sparseconv.scripts.benchmarks.scenes import Scene

SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000)
CHANNELS = 32
# Time per voxel at the largest size may be this many times that at the reference size.
REFERENCE, AIM = 100_000, 1.5

_ROUNDING = 16


def growth_cases() -> list[Case]:
    """One layer, map included, for each size."""
    options = {"channels": CHANNELS, "backward": False, "cached": False}
    return [
        Case("W6", f"{size:,} voxels", "subm", f"surface {size}", options, is_ours_alone=True) for size in SIZES
    ]


def surface(size: int) -> Scene:
    """A rolling sheet, one voxel thick: as many neighbours a voxel as a scanned surface has."""
    width = int(size**0.5)
    rows = torch.arange(size)
    y, x = rows // width, rows % width
    z = (20 + 8 * torch.sin(0.05 * x) + 8 * torch.sin(0.03 * y + 0.02 * x)).int()
    indices = torch.stack([torch.zeros_like(rows), z, y, x], 1).int()
    order = torch.argsort((z.long() * (width + 2) + y) * width + x)
    shape = tuple(-(-cells // _ROUNDING) * _ROUNDING for cells in (48, size // width + 1, width))
    return Scene(indices[order].contiguous(), shape, torch.zeros(size, 1))


def time_growth(results: Sequence[CaseResult]) -> float | None:
    """Time per voxel at the largest size over that at the reference size; None where either is missing."""
    per_voxel = {
        r.rows: r.timings["ours"].median for r in results if r.case.workload == "W6" and "ours" in r.timings
    }
    large, reference = per_voxel.get(SIZES[-1]), per_voxel.get(REFERENCE)
    return (large / SIZES[-1]) / (reference / REFERENCE) if large and reference else None
