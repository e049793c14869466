"""Inputs that the tests of the networks share: one LiDAR scan, its voxels, crops of them, random sites."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tolerance import tolerance
from torch import Tensor, nn

import sparseconv
from sparseconv import SparseTensor

SECOND_RANGE = (0, -40, -3, 70.4, 40, 1)
SECOND_VOXEL = (0.05, 0.05, 0.1)
SECOND_GRID = [41, 1600, 1408]

_SCAN = Path("kitti", "training", "velodyne", "000000.bin")


@functools.cache
def scan() -> npt.NDArray[np.float32]:
    """KITTI's first training scan ``[N, 4]``, or a synthetic one of its size where there is none."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get("SPARSECONV_DATA") or default) / _SCAN
    if path.is_file():
        return np.fromfile(path, np.float32).reshape(-1, 4)
    return synthetic_scan()


def synthetic_scan() -> npt.NDArray[np.float32]:
    """64 beams of 1800 shots at flat ground and a wall of 200 panels, as a sensor 1.73 m up sees them."""
    rng = np.random.default_rng(0)
    elevation = np.radians(np.linspace(-24.8, 2.0, 64))[:, None]
    azimuth = np.linspace(-math.pi, math.pi, 1800, endpoint=False)[None, :]
    wall = rng.uniform(4, 60, 200).repeat(9)[None, :] / np.cos(elevation)
    ground = np.where(elevation < 0, 1.73 / np.maximum(1e-3, -np.sin(elevation)), np.inf)
    distance = np.minimum(wall, ground) + rng.normal(0, 0.02, (64, 1800))
    flat = distance * np.cos(elevation)
    xyz = flat * np.cos(azimuth), flat * np.sin(azimuth), distance * np.sin(elevation)
    columns = [*xyz, rng.uniform(0, 1, distance.shape)]
    return np.stack([column.ravel() for column in columns], 1).astype(np.float32)


def second_voxels() -> SparseTensor:
    """The scan on SECOND's grid; a new tensor each time, so that maps are built anew."""
    voxels = sparseconv.voxelize(scan(), SECOND_VOXEL, SECOND_RANGE)
    return SparseTensor(voxels.features, voxels.indices, SECOND_GRID, 1)


def whole_scan() -> SparseTensor:
    """The scan in voxels of 0.05 m on an unbounded grid; a new tensor each time."""
    return sparseconv.voxelize(scan(), 0.05).to_sparse()


def crop(shape: Sequence[int], bounded: bool = True) -> SparseTensor:
    """Float64: the window ``shape`` of SECOND's grid, aligned to its size in y and x, with the most voxels."""
    voxels = second_voxels()
    window = voxels.indices.new_tensor([shape[0], shape[1], shape[2]])
    blocks = voxels.indices[:, 1:] // window
    corners, counts = torch.unique(blocks[blocks[:, 0] == 0], dim=0, return_counts=True)
    corner = corners[counts.argmax()]
    inside = (blocks == corner).all(1)
    sites = voxels.indices[inside].clone()
    sites[:, 1:] -= corner * window
    return SparseTensor(voxels.features[inside].double(), sites, list(shape) if bounded else None, 1)


def random_sites(
    count: int, shape: Sequence[int] | None, samples: Sequence[int] = (0,), batch_size: int = 1, seed: int = 0
) -> SparseTensor:
    """Up to ``count`` sites in each of the named samples, in random order, with 4 channels in float64.

    An unbounded grid is filled from -24 to 40, so that sites lie on both sides of its origin.
    """
    generator = torch.Generator().manual_seed(seed)
    low, high = ([0] * 3, list(shape)) if shape is not None else ([-24] * 3, [40] * 3)
    sites = []
    for sample in samples:
        columns = [torch.randint(l, h, (count, 1), generator=generator) for l, h in zip(low, high, strict=True)]
        sites.append(torch.cat([torch.full((count, 1), sample), *columns], 1))
    indices = torch.unique(torch.cat(sites), dim=0)
    indices = indices[torch.randperm(len(indices), generator=generator)]
    features = torch.randn(len(indices), 4, dtype=torch.float64, generator=generator)
    return SparseTensor(features, indices, shape, batch_size)


def settle(model: nn.Module, input: SparseTensor) -> nn.Module:
    """Give every batch norm the statistics of ``input`` and random scales; returns the model in eval mode.

    Fresh statistics (0, 1) let activations fade from layer to layer, and errors with them.
    """
    generator = torch.Generator().manual_seed(1)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None
        with torch.no_grad():
            norm.weight.uniform_(0.5, 1.5, generator=generator)
            norm.bias.uniform_(-0.5, 0.5, generator=generator)
    with torch.no_grad():
        model.train()(input)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model.eval()


def network_tolerance(model: nn.Module, expected: Tensor, more_terms: int = 0) -> float:
    """How far a network's result may lie from another way of computing it.

    An error made in one layer passes the next ones, which batch norm keeps at the same size, so the squared
    errors of all layers add up: as if one sum had the addends of all. Its addends then have the size of the
    result over the square root of their number.
    """
    weights = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    terms = more_terms + sum(math.prod(weight.shape[1:]) for weight in weights)
    largest = float(expected.detach().abs().max()) if expected.numel() else 0.0
    return tolerance(expected.dtype, terms, largest / math.sqrt(terms))


def assert_close(got: Tensor, expected: Tensor, allowed: float) -> None:
    """Equal shape and type, and no entry further off than ``allowed``."""
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    if got.numel():
        worst = float((got - expected).abs().max())
        assert worst <= allowed, f"off by {worst:.3e}, allowed {allowed:.3e}"


def test_the_scan_is_of_real_size() -> None:
    assert scan().shape[1] == 4
    assert 90_000 < len(scan()) < 140_000
    assert 90_000 < len(synthetic_scan()) < 140_000
    assert len(second_voxels()) > 20_000
    assert len(crop([41, 32, 32])) > 200
