"""This library's steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparseconv import functional
from sparseconv.coordinates import Coordinates
from sparseconv.geometry import ConvGeometry
from sparseconv.models import build_model
from sparseconv.nn import fuse
from sparseconv.tensor import SparseTensor
from sparseconv.voxelization import hard_voxelize, voxelize

PACKAGES = ("sparseconv", "torch", "numba", "numpy")

Arrays = dict[str, Any]
Step = tuple[Callable[[], Any], Callable[[Any], Arrays]]


def _tensor(arrays: Arrays, features: Tensor) -> SparseTensor:
    shape = arrays["shape"].tolist() or None
    return SparseTensor(features, torch.from_numpy(arrays["indices"]), shape, 1)


def _rows(output: SparseTensor) -> Arrays:
    return {"indices": output.indices.numpy(), "features": output.features.detach().float().numpy()}


def subm(arrays: Arrays, options: Arrays) -> Step:
    """One submanifold 3x3x3 layer."""
    backward = options["backward"]
    features = torch.from_numpy(arrays["features"]).requires_grad_(backward)
    weight = torch.from_numpy(arrays["weight"]).requires_grad_(backward)
    kept = _tensor(arrays, features)

    def run() -> tuple[Any, ...]:
        x = kept if options["cached"] else _tensor(arrays, features)
        with torch.set_grad_enabled(backward):
            output = functional.subm_conv(x, weight)
        if not backward:
            return (output,)
        gradient = torch.from_numpy(arrays["gradient"])
        return output, *torch.autograd.grad(output.features, (features, weight), gradient)

    def collect(result: Any) -> Arrays:
        output, *gradients = result
        names = ("gradient of features", "gradient of weight")
        return {**_rows(output), **{name: g.numpy() for name, g in zip(names, gradients, strict=False)}}

    return run, collect


def strided(arrays: Arrays, options: Arrays) -> Step:
    """One 3x3x3 layer of stride 2 with its map."""
    features, weight = torch.from_numpy(arrays["features"]), torch.from_numpy(arrays["weight"])

    def run() -> SparseTensor:
        with torch.no_grad():
            return functional.sparse_conv(_tensor(arrays, features), weight, stride=2, padding=1)

    return run, _rows


def network(arrays: Arrays, options: Arrays) -> Step:
    """A backbone: inference, in a half type and fused where told so, or forward and backward."""
    model = build_model(options["model"], arrays["features"].shape[1])
    prefix = "state."
    state = {key[len(prefix) :]: torch.from_numpy(a) for key, a in arrays.items() if key.startswith(prefix)}
    model.load_state_dict(state)
    model.train(options["backward"])
    dtype = getattr(torch, options.get("dtype", "float32"))
    model.to(dtype)
    if options.get("fused"):
        model = fuse(model)
    features = torch.from_numpy(arrays["features"]).to(dtype)

    def run() -> SparseTensor:
        with torch.set_grad_enabled(options["backward"]):
            output: SparseTensor = model(_tensor(arrays, features)).encoded
        if options["backward"]:
            model.zero_grad()
            output.features.backward(torch.from_numpy(arrays["gradient"]))
        return output

    def collect(output: SparseTensor) -> Arrays:
        if not options["backward"]:
            return _rows(output)
        weights = {name: p for name, p in model.named_parameters() if p.dim() == 5}
        return {
            **_rows(output),
            **{f"gradient of {name}": p.grad.numpy() for name, p in weights.items() if p.grad is not None},
        }

    return run, collect


def submanifold_map(arrays: Arrays, options: Arrays) -> Step:
    """The map of a submanifold 3x3x3 layer, index included."""
    indices, shape = torch.from_numpy(arrays["indices"]), arrays["shape"].tolist() or None
    geometry = ConvGeometry.submanifold(3, 3)

    def collect(kernel_map: Any) -> Arrays:
        taps = np.repeat(np.arange(27), kernel_map.counts.numpy())
        return {"indices": np.stack([taps, kernel_map.in_rows.numpy(), kernel_map.out_rows.numpy()], 1)}

    return lambda: Coordinates(indices, shape, 1).submanifold_map(geometry), collect


def mean_voxels(arrays: Arrays, options: Arrays) -> Step:
    """Voxelization: the mean of the points of each voxel."""

    def collect(voxels: Any) -> Arrays:
        return {"indices": voxels.indices.numpy(), "features": voxels.features.numpy()}

    return lambda: voxelize(arrays["points"], options["voxel"], options["range"]), collect


def hard_voxels(arrays: Arrays, options: Arrays) -> Step:
    """Voxelization: the first points of each voxel, padded."""

    def run() -> Any:
        return hard_voxelize(
            arrays["points"],
            options["voxel"],
            options["range"],
            max_points=options["max_points"],
            max_voxels=options["max_voxels"],
        )

    def collect(voxels: Any) -> Arrays:
        flat = np.concatenate([voxels.points.flatten(1).numpy(), voxels.num_points[:, None].numpy()], 1)
        return {"indices": voxels.indices.numpy(), "features": flat}

    return run, collect


STEPS: dict[str, Callable[[Arrays, Arrays], Step]] = {
    "subm": subm,
    "strided": strided,
    "network": network,
    "map": submanifold_map,
    "mean voxels": mean_voxels,
    "hard voxels": hard_voxels,
}
