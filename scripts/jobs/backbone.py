"""What the parent process does: one voxelized scan through the backbone, and the record of it."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sparseconv.flops import count_forward
from sparseconv.scripts.jobs.reading import VoxelizedScan
from sparseconv.scripts.jobs.records import Record, features_path, renamed_when_complete
from sparseconv.scripts.jobs.search import ScanFile
from sparseconv.scripts.jobs.settings import Settings
from sparseconv.scripts.network import build_network, describe_weights, network_shape, not_finite
from sparseconv.tensor import SparseTensor


class Backbone:
    """Runs scans through one model; networks for other numbers of point columns are built as they are met.

    Args:
        settings: of the job.
        folder: where features are kept, or None to keep none.
    """

    def __init__(self, settings: Settings, folder: Path | None = None) -> None:
        self.settings = settings
        self.folder = folder
        # Four different files at a time: more layouts than that do not stand in one data set.
        self._network = functools.lru_cache(maxsize=4)(self._build)

    def _build(self, channels: int) -> nn.Module:
        network = build_network(self.settings.model, channels, self.settings.weights)
        if describe_weights(self.settings.weights) != self.settings.weights_text:
            raise WeightsChanged(f"{self.settings.weights}: has changed since the job began; start it again")
        return network

    def run(self, scan: ScanFile, voxels: VoxelizedScan) -> Record:
        """The record of one scan; its features are kept first, so that no record promises what is not there.

        Raises:
            WeightsChanged, OSError: what must stop the job.
            Exception: what is wrong with this scan.
        """
        indices = torch.from_numpy(voxels.indices)
        shape = network_shape(voxels.grid.spatial_shape)
        tensor = SparseTensor(torch.from_numpy(voxels.features), indices, shape, 1)
        count = count_forward(self._network(voxels.features.shape[1]), tensor)
        output: SparseTensor = count.output.encoded
        features, sites = output.features.contiguous().numpy(), output.indices.contiguous().numpy()
        if self.folder is not None:
            with renamed_when_complete(features_path(self.folder, scan.name)) as path:
                np.savez(
                    path,
                    features=features,
                    indices=sites,
                    spatial_shape=np.array([] if output.spatial_shape is None else output.spatial_shape, np.int64),
                    voxel_size=np.array(voxels.grid.voxel_size),
                    origin=voxels.origin,
                )
        return {
            "name": scan.name,
            "path": str(scan.path),
            **_rounded(voxels.counts),
            "voxel_size": list(voxels.grid.voxel_size),
            "origin": voxels.origin.tolist(),
            "spatial_shape": voxels.grid.spatial_shape,
            "voxels": len(voxels.indices),
            "macs": count.macs,
            "dense_macs": count.dense_macs,
            "forward_ms": round(count.milliseconds, 3),
            "output_voxels": len(sites),
            "output_channels": features.shape[1],
            "output_not_finite": not_finite(output.features),
            "output_sha256": hashlib.sha256(sites.tobytes() + features.tobytes()).hexdigest(),
            "features": None if self.folder is None else features_path(Path(), scan.name).as_posix(),
        }


class WeightsChanged(ValueError):
    """The checkpoint is not the one that the job began with."""


def _rounded(counts: dict[str, Any]) -> dict[str, Any]:
    return {key: round(value, 3) if isinstance(value, float) else value for key, value in counts.items()}
