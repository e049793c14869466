"""Open3D's steps: the operations of its ``ml.torch``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import open3d.ml.torch as ml3d
import torch
from torch import Tensor

PACKAGES = ("open3d-cpu", "torch", "numpy")

Arrays = dict[str, Any]
Step = tuple[Callable[[], Any], Callable[[Any], Arrays]]


def _centres(arrays: Arrays) -> Tensor:
    return torch.from_numpy(arrays["indices"][:, 1:]).float() + 0.5


def subm(arrays: Arrays, options: Arrays) -> Step:
    """One 3x3x3 layer: its own neighbour search, or the bare operation on neighbours that lie ready."""
    if options["cached"]:
        return _on_ready_neighbours(arrays, options)
    weight = torch.from_numpy(arrays["weight"])
    layer = ml3d.layers.SparseConv(weight.shape[-1], weight.shape[0], [3, 3, 3], use_bias=False)
    with torch.no_grad():
        # Its first kernel axis is z of the position x y z, that is the last of our axes.
        layer.kernel.copy_(weight.permute(3, 2, 1, 4, 0))
    centres = _centres(arrays)
    return _forward_backward(
        arrays, options, layer.kernel, lambda features: layer(features, centres, centres, 1.0), (4, 2, 1, 0, 3)
    )


def _on_ready_neighbours(arrays: Arrays, options: Arrays) -> Step:
    offsets, in_rows, out_rows = (arrays[f"map.layer.{name}"] for name in ("offsets", "in_rows", "out_rows"))
    taps = np.repeat(np.arange(27, dtype=np.uint8), np.diff(offsets))
    order = np.argsort(out_rows, kind="stable")
    counts = np.bincount(out_rows, minlength=len(arrays["indices"]))
    neighbours = {
        "neighbors_index": torch.from_numpy(in_rows[order]),
        "neighbors_kernel_index": torch.from_numpy(taps[order]),
        "neighbors_row_splits": torch.from_numpy(np.concatenate([[0], np.cumsum(counts)])),
        "inp_importance": torch.empty(0),
        "neighbors_importance": torch.empty(0),
    }
    weight = torch.from_numpy(arrays["weight"]).permute(1, 2, 3, 4, 0).contiguous()
    weight.requires_grad_(options["backward"])

    def convolve(features: Tensor) -> Tensor:
        output: Tensor = ml3d.ops.sparse_conv(weight, inp_features=features, **neighbours)
        return output

    return _forward_backward(arrays, options, weight, convolve, (4, 0, 1, 2, 3))


def _forward_backward(
    arrays: Arrays,
    options: Arrays,
    weight: Tensor,
    convolve: Callable[[Tensor], Tensor],
    to_our_axes: tuple[int, ...],
) -> Step:
    backward = options["backward"]
    features = torch.from_numpy(arrays["features"]).requires_grad_(backward)
    gradient = torch.from_numpy(arrays["gradient"])

    def run() -> tuple[Tensor, ...]:
        with torch.set_grad_enabled(backward):
            output = convolve(features)
        return (output, *torch.autograd.grad(output, (features, weight), gradient)) if backward else (output,)

    def collect(result: Any) -> Arrays:
        output, *gradients = result
        named = {"indices": arrays["indices"], "features": output.detach().numpy()}
        if gradients:
            named["gradient of features"] = gradients[0].numpy()
            named["gradient of weight"] = gradients[1].permute(to_our_axes).numpy()
        return named

    return run, collect


def submanifold_map(arrays: Arrays, options: Arrays) -> Step:
    """The neighbours of every voxel in the cube of three cells around it."""
    centres = _centres(arrays)
    search = ml3d.layers.FixedRadiusSearch(metric="Linf", ignore_query_point=False)

    def collect(result: Any) -> Arrays:
        in_rows = result.neighbors_index.numpy()
        out_rows = np.repeat(np.arange(len(centres)), np.diff(result.neighbors_row_splits.numpy()))
        cells = arrays["indices"][:, 1:]
        taps = (cells[in_rows] - cells[out_rows] + 1) @ np.array([9, 3, 1])
        return {"indices": np.stack([taps, in_rows, out_rows], 1)}

    return lambda: search(centres, centres, 3 * 0.51), collect


def hard_voxels(arrays: Arrays, options: Arrays) -> Step:
    """Voxelization: the rows of the first points of each voxel; the padded block is left to the caller.

    Where it multiplies by the inverse of the size, points on a voxel's face land on its other side.
    """
    points, max_points = torch.from_numpy(arrays["points"]), options["max_points"]
    bounds = torch.tensor(options["range"], dtype=torch.float32)
    places, splits = points[:, :3].contiguous(), torch.tensor([0, len(points)])
    size = torch.tensor(options["voxel"], dtype=torch.float32)

    def run() -> Any:
        return ml3d.ops.voxelize(places, splits, size, bounds[:3], bounds[3:], max_points, options["max_voxels"])

    def collect(result: Any) -> Arrays:
        cells, counts = result.voxel_coords.numpy(), np.diff(result.voxel_point_row_splits.numpy())
        rows = np.repeat(np.arange(len(counts)), counts)
        starts = np.cumsum(counts) - counts
        block = np.zeros((len(counts), max_points, points.shape[1]), np.float32)
        block[rows, np.arange(len(rows)) - starts[rows]] = points[result.voxel_point_indices].numpy()
        flat = np.concatenate([block.reshape(len(counts), -1), counts[:, None]], 1)
        return {"indices": np.pad(cells[:, ::-1], ((0, 0), (1, 0))), "features": flat}

    return run, collect


STEPS: dict[str, Callable[[Arrays, Arrays], Step]] = {
    "subm": subm,
    "map": submanifold_map,
    "hard voxels": hard_voxels,
}
