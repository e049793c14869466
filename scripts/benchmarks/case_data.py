"""What goes to the workers for a case: voxels, features, weights, ready maps; the same for every program."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparseconv.coordinates import Coordinates
from sparseconv.geometry import ConvGeometry
from sparseconv.kernel_map import KernelMap
from sparseconv.models import build_model
from sparseconv.nn.conv import SparseConvolution
from sparseconv.scripts.benchmarks.cases import Case
from sparseconv.scripts.benchmarks.growth import surface
from sparseconv.scripts.benchmarks.scenes import Scans, Scene, build_scene
from sparseconv.tensor import SparseTensor

Arrays = dict[str, np.ndarray]

# Rows of the dense products: about as many as a scan has voxels. The crop has as many cells.
_DENSE_ROWS = 65_536
_CROP = (16, 64, 64)


class CaseData:
    """Builds arrays for cases, keeping the scenes.

    Args:
        scans: the points that everything comes from.
    """

    def __init__(self, scans: Scans) -> None:
        self._scans = scans
        self._scenes: dict[str, Scene] = {}

    def scene(self, name: str) -> Scene:
        """A scene by name."""
        if name not in self._scenes:
            size = name.removeprefix("surface ")
            scene = surface(int(size)) if size.isdecimal() else build_scene(name, self._scans)
            self._scenes[name] = scene
        return self._scenes[name]

    def build(self, case: Case) -> tuple[Arrays, dict[str, Any], int]:
        """The arrays of a case, its options, and its multiply-adds (0 where it has none)."""
        generator = torch.Generator().manual_seed(0)
        if case.step in ("mm", "conv3d"):
            return _dense_data(case, generator)
        if case.scene == "points":
            return {"points": self._scans.whole}, case.options, 0
        scene = self.scene(case.scene)
        arrays = {"indices": scene.indices.numpy(), "shape": np.array(scene.shape, np.int64)}
        if case.step == "map":
            return arrays, case.options, 0
        if case.step == "network":
            return _network_data(case, scene, arrays, generator)
        return _layer_data(case, scene, arrays, generator)


def _random(generator: torch.Generator, *shape: int) -> np.ndarray:
    return torch.randn(shape, generator=generator).numpy()


def _map_arrays(kernel_map: KernelMap, name: str) -> Arrays:
    return {
        f"map.{name}.in_rows": kernel_map.in_rows.numpy(),
        f"map.{name}.out_rows": kernel_map.out_rows.numpy(),
        f"map.{name}.offsets": kernel_map.tap_offsets.numpy(),
        f"map.{name}.n_out": np.array(kernel_map.n_out),
    }


def _layer_data(
    case: Case, scene: Scene, arrays: Arrays, generator: torch.Generator
) -> tuple[Arrays, dict[str, Any], int]:
    c_in = case.options["channels"]
    c_out = c_in if case.step == "subm" else 2 * c_in
    sites = Coordinates(scene.indices, scene.shape, 1)
    if case.step == "subm":
        targets, kernel_map = sites, sites.submanifold_map(ConvGeometry.submanifold(3, 3))
    else:
        targets, kernel_map = sites.downsample(ConvGeometry.create(3, 3, 2, 1))
    arrays["features"] = _random(generator, len(sites), c_in)
    arrays["weight"] = _random(generator, c_out, 3, 3, 3, c_in)
    if not case.is_ours_alone:
        arrays["gradient"] = _random(generator, len(targets), c_out)
        arrays["output_indices"] = targets.indices.numpy()
        arrays |= _map_arrays(kernel_map, "layer")
    return arrays, case.options, kernel_map.macs(c_in, c_out)


def _network_data(
    case: Case, scene: Scene, arrays: Arrays, generator: torch.Generator
) -> tuple[Arrays, dict[str, Any], int]:
    torch.manual_seed(0)
    model = build_model(case.options["model"], scene.features.shape[1]).eval()
    names: dict[int, str] = {}
    kept: list[KernelMap] = []
    layers: dict[str, str] = {}
    macs = 0

    def record(name: str) -> Any:
        def hook(layer: SparseConvolution, inputs: tuple[SparseTensor], output: SparseTensor) -> None:
            nonlocal macs
            kernel_map = layer.kernel_map(inputs[0])
            if id(kernel_map) not in names:
                names[id(kernel_map)] = str(len(kept))
                kept.append(kernel_map)
            layers[name] = names[id(kernel_map)]
            macs += kernel_map.macs(layer.in_channels, layer.out_channels)

        return hook

    for name, module in model.named_modules():
        if isinstance(module, SparseConvolution):
            module.register_forward_hook(record(name))
    x = SparseTensor(scene.features, scene.indices, scene.shape, 1)
    with torch.no_grad():
        output: SparseTensor = model(x).encoded
    state: dict[str, Tensor] = {f"state.{name}": value for name, value in model.state_dict().items()}
    arrays = arrays | {name: value.numpy() for name, value in state.items()}
    for number, kernel_map in enumerate(kept):
        arrays |= _map_arrays(kernel_map, str(number))
    arrays["features"] = scene.features.numpy()
    arrays["output_indices"] = output.indices.numpy()
    arrays["gradient"] = _random(generator, *output.features.shape)
    return arrays, case.options | {"layers": layers}, macs * (3 if case.options["backward"] else 1)


def _dense_data(case: Case, generator: torch.Generator) -> tuple[Arrays, dict[str, Any], int]:
    channels = case.options["channels"]
    if case.step == "mm":
        left, right = _random(generator, _DENSE_ROWS, channels), _random(generator, channels, channels)
        return {"left": left, "right": right}, case.options, _DENSE_ROWS * channels**2
    crop = _random(generator, 1, channels, *_CROP)
    weight = _random(generator, channels, channels, 3, 3, 3)
    # Taps that reach into the padding do no work: each axis of n cells has 3 n - 2 pairs.
    return {"crop": crop, "weight": weight}, case.options, math.prod(3 * n - 2 for n in _CROP) * channels**2
