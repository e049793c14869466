"""A real scan (a simulated one without it) through every variant in 3D, forward and backward."""

from __future__ import annotations

import functools

import pytest
import torch
from scans import scan_sites
from variant_layers import CHANNELS, LAYERS, settled

from sparseconv import SparseTensor

# A patch of the frame before the car: every variant stays within a second.
PATCH = (41, 240, 240)


@functools.lru_cache(maxsize=1)
def frame() -> torch.Tensor:
    """Sites of one reduced frame, twice: once as sample 0 and once, mirrored, as sample 2 of 3."""
    sites = scan_sites()
    corner = torch.tensor([0, 0, 680, 60], dtype=torch.int32)
    sites = sites - corner
    inside = ((sites[:, 1:] >= 0) & (sites[:, 1:] < torch.tensor(PATCH))).all(1)
    mine = sites[inside]
    other = mine.clone()
    other[:, 0] = 2
    other[:, 2] = PATCH[1] - 1 - other[:, 2]
    return torch.cat([mine, other])


@pytest.mark.parametrize("name", LAYERS)
def test_a_scan_goes_through_and_back(name: str) -> None:
    sites = frame()
    assert len(sites) > 2000
    features = torch.randn(len(sites), CHANNELS, requires_grad=True)
    x = SparseTensor(features, sites, PATCH, 3)
    layer = settled(name, dtype=torch.float32).train()
    out = layer(x)
    assert len(out) > 0 and out.features.isfinite().all()
    out.features.square().mean().backward()
    for key, parameter in [("features", features), *layer.named_parameters()]:
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
    assert float(features.grad.abs().max()) > 0
    assert set(out.indices[:, 0].unique().tolist()) == {0, 2}
