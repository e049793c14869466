"""What decides a job's numbers: results of two different settings must never stand in one folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparseconv.scripts.network import check_weights, describe_weights
from sparseconv.voxel_grid import VoxelGrid

# Raised when a record's meaning changes, so that old results are not taken for new ones.
_FORMAT = 3


@dataclass(frozen=True)
class Settings:
    """Model, weights, grid and how meshes are read.

    Attributes:
        model: a name of the registry.
        weights: a checkpoint, or None for random weights of seed 0.
        weights_text: :func:`sparseconv.scripts.network.describe_weights` of it, taken when the job began.
        voxel_size: x y z, or None for what suits each scan.
        point_range: x0 y0 z0 x1 y1 z1, or None for what suits each scan.
        mesh_points: points drawn from each mesh's surface, or None for what its format gets without.
        seed: of the points of meshes.
    """

    model: str
    weights: Path | None
    weights_text: str
    voxel_size: tuple[float, ...] | None
    point_range: tuple[float, ...] | None
    mesh_points: int | None = None
    seed: int = 0

    @classmethod
    def create(
        cls,
        model: str,
        weights: Path | None = None,
        *,
        voxel_size: tuple[float, ...] | None = None,
        point_range: tuple[float, ...] | None = None,
        mesh_points: int | None = None,
        seed: int = 0,
    ) -> Settings:
        """Settings with the digest of the weights as they are now.

        Raises:
            ValueError: the weights cannot be read or are no checkpoint, voxel size and range make no grid, or
                ``mesh_points`` is below 1.
        """
        if mesh_points is not None and mesh_points < 1:
            raise ValueError(f"mesh_points must be a number of points >= 1, got {mesh_points}")
        if voxel_size is not None:
            VoxelGrid.create(voxel_size, point_range)
        path = None if weights is None else weights.absolute()
        text = describe_weights(path)
        check_weights(path)
        return cls(model, path, text, voxel_size, point_range, mesh_points, seed)

    def fingerprint(self) -> dict[str, Any]:
        """What is written beside the results, and compared before anything is added to them."""
        return {
            "format": _FORMAT,
            "model": self.model,
            "weights": self.weights_text,
            "voxel_size": None if self.voxel_size is None else list(self.voxel_size),
            "range": None if self.point_range is None else list(self.point_range),
            "mesh_points": self.mesh_points,
            "seed": self.seed,
        }


def differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Every setting that differs, in words; empty where none does.

    Of results in another format only that is said: what its settings mean is not known here.
    """
    if before.get("format") != now["format"]:
        return f"format {before.get('format', 'unknown')} there, {now['format']} here"
    keys = dict.fromkeys([*before, *now])
    return "; ".join(
        f"{key} {_text(key, before.get(key))} there, {_text(key, now.get(key))} here"
        for key in keys
        if before.get(key) != now.get(key)
    )


def _text(key: str, value: Any) -> str:
    if value is None:
        return "not given" if key == "mesh_points" else "chosen for each scan"
    return str(value)
