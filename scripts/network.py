"""The backbone of a command: which grid it wants, what it is given, and where its weights come from."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import nn

from sparseconv import checkpoints
from sparseconv.models import MODELS, build_model
from sparseconv.tensor import SparseTensor
from sparseconv.voxelization import Voxels

# Models that see the whole cloud at one voxel size on an unbounded grid; the others are detectors' backbones.
_SEGMENTATION = ("MinkUNet14", "MinkUNet18", "MinkUNet34")


# Width of an output cell in voxels along x, y (and z, where the output has it) of the detectors' backbones.
_DETECTOR_STRIDES = {
    "VoxelBackBone8x": (8, 8, 16),
    "VoxelResBackBone8x": (8, 8, 16),
    "UNetV2": (8, 8, 16),
    "VoxelNeXtBackbone": (8, 8),
}


def check_model(name: str) -> None:
    """Refuse a name that is in no registry.

    Raises:
        ValueError: with the names that are.
    """
    if name not in MODELS:
        raise ValueError(f"no model {name!r}; the models are {', '.join(MODELS)}")


def wants_bounded_grid(model: str) -> bool:
    """Whether a model of this name runs on a grid with ends."""
    return model not in _SEGMENTATION


def output_stride(model: str) -> tuple[int, ...]:
    """Width of a cell of ``encoded`` in input voxels along x, y and z; without z where it lies on (y, x)."""
    return (1, 1, 1) if model in _SEGMENTATION else _DETECTOR_STRIDES[model]


def network_shape(spatial_shape: list[int] | None) -> list[int] | None:
    """A grid (z, y, x) as detectors hand it over: with one more layer of cells on top (z), as SECOND has it."""
    return None if spatial_shape is None else [spatial_shape[0] + 1, *spatial_shape[1:]]


def network_input(voxels: Voxels) -> SparseTensor:
    """The voxels on the grid of :func:`network_shape`."""
    if voxels.spatial_shape is None:
        return voxels.to_sparse()
    return SparseTensor(voxels.features, voxels.indices, network_shape(voxels.spatial_shape), voxels.batch_size)


def not_finite(features: torch.Tensor) -> int:
    """How many rows of ``[N, C]`` hold a number that is infinite or none at all."""
    return int((~features.isfinite()).any(1).sum())


def describe_weights(path: Path | None) -> str:
    """What the weights are, in words that differ where the weights do: random, or the SHA-256 of a file.

    Raises:
        ValueError: the file cannot be read.
    """
    if path is None:
        return "random, seed 0"
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise ValueError(f"{path}: the weights cannot be read ({error.strerror})") from None
    return f"{path.name}, sha256 {digest.hexdigest()}"


def check_weights(path: Path | None) -> None:
    """Refuse a file that holds no weights at all, before any scan is read.

    Raises:
        ValueError: it is no checkpoint.
    """
    if path is not None:
        checkpoints.read(path)


def build_network(model: str, in_channels: int, weights: Path | None = None) -> nn.Module:
    """A backbone in evaluation mode.

    Args:
        model: a name of the registry.
        in_channels: columns of the points.
        weights: a checkpoint in this engine's layout; None: random weights of seed 0.

    Raises:
        ValueError: no such model, no such file, or a checkpoint of other layers.
    """
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    network = build_model(model, in_channels).eval()
    torch.random.set_rng_state(state)
    if weights is not None:
        try:
            network.load_state_dict(checkpoints.read(weights))
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"{weights}: does not fit {model} with {in_channels} input channels ({reason[:300]}). A "
                "checkpoint of another library goes through `sparseconv convert` first"
            ) from None
    return network
