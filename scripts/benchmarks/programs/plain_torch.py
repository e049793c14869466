"""Plain torch: gather, ``torch.mm`` and ``index_add`` for each tap, on maps that lie ready; and dense rates."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

PACKAGES = ("torch", "numpy")

Arrays = dict[str, Any]
Step = tuple[Callable[[], Any], Callable[[Any], Arrays]]
Taps = list[tuple[Tensor, Tensor]]


def _taps(arrays: Arrays, name: str) -> Taps:
    """Input and output rows of each tap, as int64: what torch's gather and scatter take."""
    cuts = arrays[f"map.{name}.offsets"].tolist()
    rows = [torch.from_numpy(arrays[f"map.{name}.{side}"]).long() for side in ("in_rows", "out_rows")]
    return [(rows[0][a:b], rows[1][a:b]) for a, b in itertools.pairwise(cuts)]


def convolve(features: Tensor, weight: Tensor, taps: Taps, n_out: int) -> Tensor:
    """``out[out_rows] += features[in_rows] @ W[tap]`` for each tap; weight ``[C_out, *kernel, C_in]``."""
    by_tap = weight.flatten(1, -2).permute(1, 2, 0)
    output = features.new_zeros(n_out, weight.shape[0])
    for (in_rows, out_rows), tap_weight in zip(taps, by_tap, strict=True):
        output.index_add_(0, out_rows, torch.mm(features.index_select(0, in_rows), tap_weight))
    return output


def subm(arrays: Arrays, options: Arrays) -> Step:
    """One submanifold 3x3x3 layer."""
    backward = options["backward"]
    features = torch.from_numpy(arrays["features"]).requires_grad_(backward)
    weight = torch.from_numpy(arrays["weight"]).requires_grad_(backward)
    taps = _taps(arrays, "layer")

    def run() -> tuple[Tensor, ...]:
        with torch.set_grad_enabled(backward):
            output = convolve(features, weight, taps, len(features))
        if not backward:
            return (output,)
        return output, *torch.autograd.grad(output, (features, weight), torch.from_numpy(arrays["gradient"]))

    def collect(result: Any) -> Arrays:
        output, *gradients = result
        names = ("gradient of features", "gradient of weight")
        named = {name: g.numpy() for name, g in zip(names, gradients, strict=False)}
        return {"indices": arrays["indices"], "features": output.detach().numpy(), **named}

    return run, collect


def strided(arrays: Arrays, options: Arrays) -> Step:
    """One 3x3x3 layer of stride 2, its map lying ready."""
    features, weight = torch.from_numpy(arrays["features"]), torch.from_numpy(arrays["weight"])
    taps, sites = _taps(arrays, "layer"), arrays["output_indices"]

    def run() -> Tensor:
        with torch.no_grad():
            return convolve(features, weight, taps, len(sites))

    return run, lambda output: {"indices": sites, "features": output.numpy()}


def network(arrays: Arrays, options: Arrays) -> Step:
    """A sequence of convolution, batch norm and ReLU: inference, or forward and backward."""
    if options["model"] != "VoxelBackBone8x":
        raise NotImplementedError("plain torch runs only the backbone that is a plain sequence")
    backward, layers = options["backward"], options["layers"]
    state = {key: torch.from_numpy(array) for key, array in arrays.items() if key.startswith("state.")}
    learnt = [value.requires_grad_(backward) for key, value in state.items() if key.endswith((".weight", ".bias"))]
    taps = {name: _taps(arrays, name) for name in layers.values()}
    features = torch.from_numpy(arrays["features"])
    sizes = {name: int(arrays[f"map.{name}.n_out"]) for name in layers.values()}

    def run() -> Tensor:
        x = features
        with torch.set_grad_enabled(backward):
            for layer, name in layers.items():
                norm = f"state.{layer.rpartition('.')[0]}.1."
                x = convolve(x, state[f"state.{layer}.weight"], taps[name], sizes[name])
                mean, variance = state[f"{norm}running_mean"], state[f"{norm}running_var"]
                scale, shift = state[f"{norm}weight"], state[f"{norm}bias"]
                x = F.relu(F.batch_norm(x, mean, variance, scale, shift, backward, 0.01, 1e-3))
        if backward:
            for parameter in learnt:
                parameter.grad = None
            x.backward(torch.from_numpy(arrays["gradient"]))
        return x

    def collect(x: Tensor) -> Arrays:
        result = {"indices": arrays["output_indices"], "features": x.detach().numpy()}
        gradients = {f"gradient of {name}.weight": state[f"state.{name}.weight"].grad for name in layers}
        return {**result, **{name: g.numpy() for name, g in gradients.items() if g is not None}}

    return run, collect


def matrix_product(arrays: Arrays, options: Arrays) -> Step:
    """``torch.mm`` of a layer's shape."""
    left, right = torch.from_numpy(arrays["left"]), torch.from_numpy(arrays["right"])
    output = torch.empty(len(left), right.shape[1])
    return lambda: torch.mm(left, right, out=output), lambda product: {"features": product.numpy()}


def dense_convolution(arrays: Arrays, options: Arrays) -> Step:
    """``conv3d`` on a full crop."""
    crop, weight = torch.from_numpy(arrays["crop"]), torch.from_numpy(arrays["weight"])
    crop = crop.to(memory_format=torch.channels_last_3d)
    weight = weight.to(memory_format=torch.channels_last_3d)

    def run() -> Tensor:
        with torch.no_grad():
            return F.conv3d(crop, weight, padding=1)

    return run, lambda output: {"features": output.numpy()}


STEPS: dict[str, Callable[[Arrays, Arrays], Step]] = {
    "subm": subm,
    "strided": strided,
    "network": network,
    "mm": matrix_product,
    "conv3d": dense_convolution,
}
