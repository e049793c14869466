"""What the tests of the networks share: voxels of a LiDAR scan, crops of them, random voxels, tolerances."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from scans import random_sites, scan
from tolerance import tolerance
from torch import Tensor, nn

import sparseconv
from sparseconv import SparseTensor

SECOND_RANGE = (0, -40, -3, 70.4, 40, 1)
SECOND_VOXEL = (0.05, 0.05, 0.1)
SECOND_GRID = [41, 1600, 1408]


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


def random_voxels(
    count: int, shape: Sequence[int] | None, samples: Sequence[int] = (0,), batch_size: int = 1
) -> SparseTensor:
    """``count`` sites over the named samples, in random order, with 4 channels in float64.

    An unbounded grid is filled from -24 to 39, so that sites lie on both sides of its origin.
    """
    box, low = (shape, [0, 0, 0]) if shape is not None else ([64, 64, 64], [-24, -24, -24])
    sites = random_sites(count, box, samples, low=low, shuffled=True)
    features = torch.randn(count, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return SparseTensor(features, sites, shape, batch_size)


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
    errors of all layers add up: as if one sum had the addends of all.
    """
    weights = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    terms = more_terms + sum(math.prod(weight.shape[1:]) for weight in weights)
    largest = float(expected.detach().abs().max()) if expected.numel() else 0.0
    return tolerance(expected.dtype, terms, largest)


def assert_close(got: Tensor, expected: Tensor, allowed: float) -> None:
    """Equal shape and type, and no entry further off than ``allowed``."""
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    if got.numel():
        worst = float((got - expected).abs().max())
        assert worst <= allowed, f"off by {worst:.3e}, allowed {allowed:.3e}"


def test_the_scan_is_of_real_size() -> None:
    assert len(whole_scan()) > 40_000
    assert len(second_voxels()) > 20_000
    assert len(crop([41, 32, 32])) > 200
