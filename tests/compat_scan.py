"""A corner of the real scan as detectors see it, and what the tests of the drop-in layers share."""

from __future__ import annotations

import functools

import numpy as np
import torch
from scans import scan
from torch import Tensor, nn

# x0 y0 z0 x1 y1 z1: some thousand voxels straight ahead.
RANGE = [4.0, -6.4, -3.0, 16.8, 6.4, 1.0]
VOXEL = [0.1, 0.1, 0.1]
# z has one cell more than the range, as OpenPCDet's `grid_size[::-1] + [1, 0, 0]`.
GRID = [41, 128, 128]


def points() -> np.ndarray:
    """Points of the scan inside RANGE, and some outside."""
    cloud = scan()
    return cloud[::2]


@functools.cache
def _voxels() -> tuple[Tensor, Tensor]:
    cloud = points()
    low, size = np.array(RANGE[:3], np.float32), np.array(VOXEL, np.float32)
    cells = np.floor((cloud[:, :3] - low) / size).astype(np.int64)
    inside = ((cells >= 0) & (cells < np.array(GRID)[::-1] - [0, 0, 1])).all(1)
    sites, rows = np.unique(cells[inside][:, ::-1], axis=0, return_inverse=True)
    rows = torch.from_numpy(rows.reshape(-1))
    features = torch.zeros(len(sites), 4).index_add(0, rows, torch.from_numpy(cloud[inside]))
    counts = torch.bincount(rows, minlength=len(sites))[:, None]
    return features / counts / 10, torch.from_numpy(sites.astype(np.int32))


def voxels() -> tuple[Tensor, Tensor, int]:
    """Features float64 ``[N, 4]``, indices int32 ``[N, 4]`` (batch, z, y, x) of two samples, and the batch size.

    The first sample has every voxel, the second the half of them that lies to the left.
    """
    features, sites = _voxels()
    left = sites[:, 1] < GRID[1] // 2
    batch = torch.cat([torch.zeros(len(sites), 1), torch.ones(int(left.sum()), 1)]).int()
    # In float32 a ReLU that rounding turns off or on moves the gradients of all layers before it.
    return (
        torch.cat([features, features[left]]).double(),
        torch.cat([batch, torch.cat([sites, sites[left]])], 1),
        2,
    )


def copy_by_order(source: nn.Module, target: nn.Module) -> None:
    """Give ``target`` the parameters and buffers of ``source``; names may differ, shapes may not."""
    ours, theirs = list(source.state_dict().values()), list(target.state_dict().values())
    assert [value.shape for value in ours] == [value.shape for value in theirs]
    with torch.no_grad():
        for value, place in zip(ours, theirs, strict=True):
            place.copy_(value)


# The longest sums of these backbones: a layer's pairs and channels, through some twenty layers.
TERMS = 27 * 128 * 20


def assert_same_gradients(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Equal up to the rounding of twenty layers in float64 and of batch norms that sum in another order."""
    # One limit for all: the gradient of a bias before a batch norm is zero, and rounding alone is left of it.
    limit = 1e-9 * max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in found.items():
        assert float((gradient - expected[name]).abs().max()) <= limit, name


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """The gradient of every parameter by name; none may be missing or all zero."""
    found = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} has no gradient"
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), f"the gradient of {name} is zero"
        found[name] = parameter.grad
    return found
