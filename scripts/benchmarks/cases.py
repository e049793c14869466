"""The list of what is measured: one case for each row of the report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sparseconv.scripts.scan import SECOND_RANGE, SECOND_VOXEL

CHANNELS = (16, 32, 64, 128)

# Scenes by name: see :mod:`sparseconv.scripts.benchmarks.scenes`.
DETECTOR, FINE, COARSE, TINY = "detector", "scan 0.05 m", "scan 0.1 m", "10 voxels"
# The detector's voxels in the order of their first points, as other voxelizers give them.
UNSORTED = "detector, unsorted"

WORKLOADS = {
    "dense": "Dense rates of the machine: torch.mm by shape, conv3d on a crop",
    "W1": "W1  submanifold 3x3x3",
    "W2": "W2  convolution 3x3x3 of stride 2, 32 > 64 channels, map included",
    "W3": "W3  VoxelBackBone8x, maps included (plain torch: its maps lie ready)",
    "W4": "W4  MinkUNet18 inference, maps included",
    "W5": "W5  map building and voxelization",
    "overhead": "Overhead: one layer on 10 voxels, cached map",
    "W6": "W6  growth: one submanifold layer, map and forward",
    "startup": "Start-up: a new process to the first output of VoxelBackBone8x",
}


@dataclass(frozen=True)
class Target:
    """At least ``ratio`` times as fast as the peer's fastest trustworthy setting."""

    peer: str
    ratio: float


@dataclass(frozen=True)
class Case:
    """One step on one scene.

    Attributes:
        workload: key of :data:`WORKLOADS`.
        name: unique within its workload.
        step: kind of step, a key of the programs' ``STEPS``.
        scene: name of the input.
        options: what the step is told.
        target: what is aimed at.
        depth: layers behind each other, for the tolerance of the comparison.
        half_ulp: rounding of what layers hand to each other; 0: float32, whose sums err by more.
        is_ours_alone: no peer runs it, and its memory is measured.
    """

    workload: str
    name: str
    step: str
    scene: str
    options: dict[str, Any] = field(default_factory=dict)
    target: Target | None = None
    depth: int = 1
    half_ulp: float = 0.0
    is_ours_alone: bool = False


# Aims by channels: a cached forward against spconv, forward and backward against plain torch.
_FORWARD_AIMS = {16: 4.0, 32: 2.0, 64: 1.5, 128: 1.4}
_TRAINING_AIMS = {16: 4.0, 32: 2.5, 64: 1.8, 128: 1.4}
_HARD_CAPS = {"max_points": 5, "max_voxels": 150_000}


def _layers(scenes: Iterable[str]) -> Iterable[Case]:
    for scene in scenes:
        for backward in (False, True):
            for cached in (True, False):
                for channels in CHANNELS:
                    aims, peer = (_TRAINING_AIMS, "plain torch") if backward else (_FORWARD_AIMS, "spconv")
                    parts = [scene, str(channels), "fwd+bwd" if backward else "fwd", "" if cached else "map"]
                    yield Case(
                        "W1",
                        ", ".join(filter(None, parts)),
                        "subm",
                        scene,
                        {"channels": channels, "backward": backward, "cached": cached},
                        Target(peer, aims[channels]) if cached else None,
                    )


def _networks() -> Iterable[Case]:
    for backward, name, aim in (
        (False, "inference", Target("spconv", 2.3)),
        (True, "forward + backward", Target("plain torch", 2.0)),
    ):
        options = {"model": "VoxelBackBone8x", "backward": backward}
        yield Case("W3", name, "network", DETECTOR, options, aim, depth=12)
    options = {"model": "VoxelBackBone8x", "backward": False}
    fused = options | {"fused": True}
    yield Case("W3", "inference, fused", "network", DETECTOR, fused, Target("spconv", 2.3), depth=12)
    half = fused | {"dtype": "bfloat16"}
    aim = Target("spconv", 4.0)
    yield Case("W3", "inference, fused, bfloat16", "network", DETECTOR, half, aim, depth=12, half_ulp=2.0**-9)
    options = {"model": "MinkUNet18", "backward": False}
    yield Case("W4", FINE, "network", FINE, options, Target("spconv", 1.7), depth=42)


def _sites() -> Iterable[Case]:
    for scene in (DETECTOR, UNSORTED, FINE, COARSE):
        yield Case("W5", f"submanifold map, {scene}", "map", scene, {}, Target("spconv", 4.0))
    grid = {"voxel": SECOND_VOXEL, "range": SECOND_RANGE}
    padded = grid | _HARD_CAPS
    yield Case("W5", "voxels, up to 5 points each", "hard voxels", "points", padded, Target("spconv", 3.0))
    yield Case("W5", "voxels, mean of points", "mean voxels", "points", grid)


def _dense() -> Iterable[Case]:
    for channels in CHANNELS:
        yield Case("dense", f"mm, {channels}", "mm", "dense", {"channels": channels})
    for channels in CHANNELS:
        yield Case("dense", f"conv3d, {channels}", "conv3d", "dense", {"channels": channels})


def all_cases(quick: bool) -> list[Case]:
    """Every case that programs run side by side; the quick ones are W1 on the detector's scene, and W5."""
    options = {"channels": 16, "backward": False, "cached": True}
    overhead = Case("overhead", "submanifold, 16 channels", "subm", TINY, options)
    strided = [
        Case("W2", scene, "strided", scene, {"channels": 32}, Target("spconv", 4.0))
        for scene in (DETECTOR, FINE, COARSE)
    ]
    if quick:
        return [*_layers([DETECTOR]), *_sites()]
    return [*_dense(), *_layers([DETECTOR, FINE, COARSE]), *strided, *_networks(), *_sites(), overhead]
