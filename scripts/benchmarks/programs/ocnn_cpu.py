"""ocnn's steps: convolution on the non-empty leaves of an octree, which are the voxels."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

# ocnn imports torchvision for one image network, and the registry's torchvision does not load beside a CPU torch.
_UNUSED = ModuleType("torchvision.models")
_UNUSED.resnet18 = None  # type: ignore[attr-defined]
sys.modules |= {"torchvision": ModuleType("torchvision"), "torchvision.models": _UNUSED}

from ocnn.nn import OctreeConv  # noqa: E402
from ocnn.octree import Octree, Points  # noqa: E402

PACKAGES = ("ocnn", "torch", "numpy")

Arrays = dict[str, Any]
Step = tuple[Callable[[], Any], Callable[[Any], Arrays]]


def _octree(centres: Tensor, depth: int) -> tuple[Octree, Tensor]:
    """The octree over voxel centres with its neighbours, and the leaf of each voxel."""
    octree = Octree(depth)
    leaves = octree.build_octree(Points(centres), 0.0, float(2**depth))
    octree.construct_all_neigh()
    octree.get_neigh(depth, "333", 1, nempty=True)
    return octree, leaves


def _places(arrays: Arrays) -> tuple[Tensor, int]:
    """Voxel centres, and the depth at which a leaf is one voxel."""
    centres = torch.from_numpy(arrays["indices"][:, 1:]).float() + 0.5
    return centres, int(max(arrays["shape"]) - 1).bit_length()


def subm(arrays: Arrays, options: Arrays) -> Step:
    """One 3x3x3 layer on the leaves."""
    backward = options["backward"]
    centres, depth = _places(arrays)
    kept, leaves = _octree(centres, depth)
    weight = torch.from_numpy(arrays["weight"])  # [C_out, 3, 3, 3, C_in]
    layer = OctreeConv(weight.shape[-1], weight.shape[0], [3], nempty=True)
    with torch.no_grad():
        layer.weights.copy_(weight.flatten(1, 3).permute(1, 2, 0))
    features, gradient = (torch.from_numpy(arrays[name]) for name in ("features", "gradient"))
    on_leaves = torch.empty_like(features).index_copy(0, leaves, features).requires_grad_(backward)
    gradient = torch.empty_like(gradient).index_copy(0, leaves, gradient)

    def run() -> tuple[Tensor, ...]:
        octree = kept if options["cached"] else _octree(centres, depth)[0]
        with torch.set_grad_enabled(backward):
            output = layer(on_leaves, octree, depth)
        if not backward:
            return (output,)
        return output, *torch.autograd.grad(output, (on_leaves, layer.weights), gradient)

    def collect(result: Any) -> Arrays:
        output, *gradients = result
        named = {"indices": arrays["indices"], "features": output.detach()[leaves].numpy()}
        if gradients:
            of_weight = gradients[1].permute(2, 0, 1).reshape(weight.shape)
            named["gradient of features"] = gradients[0][leaves].numpy()
            named["gradient of weight"] = of_weight.numpy()
        return named

    return run, collect


def submanifold_map(arrays: Arrays, options: Arrays) -> Step:
    """The octree and the neighbours of its leaves."""
    centres, depth = _places(arrays)

    def collect(result: Any) -> Arrays:
        octree, leaves = result
        voxels = torch.empty_like(leaves).index_copy(0, leaves, torch.arange(len(leaves)))
        neighbours = octree.get_neigh(depth, "333", 1, nempty=True)
        out_leaves, taps = torch.nonzero(neighbours >= 0, as_tuple=True)
        in_rows = voxels[neighbours[out_leaves, taps].long()]
        return {"indices": np.stack([taps.numpy(), in_rows.numpy(), voxels[out_leaves].numpy()], 1)}

    return lambda: _octree(centres, depth), collect


STEPS: dict[str, Callable[[Arrays, Arrays], Step]] = {"subm": subm, "map": submanifold_map}
