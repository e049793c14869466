"""Checkpoints of other libraries: state dicts whose convolution weights are moved to this engine's layout.

Only tensors are ever unpickled.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparseconv.nn.conv import SparseConvolution
from sparseconv.weight_layouts import SOURCES, Source, convert_weight, guess_cube

# Where training programs put the state dict in their file: OpenPCDet, mmengine and Lightning, MinkowskiEngine's
# examples, plain ones.
_PLACES = ("model_state", "state_dict", "model_state_dict", "model", "net")
# Libraries that call the weight of a convolution `kernel`.
_KERNEL_SOURCES = ("torchsparse", "minkowski")


def read(path: str | Path, key: str | None = None) -> dict[str, Tensor]:
    """The state dict of a checkpoint file, on the CPU. Nothing but tensors and plain containers is unpickled.

    Args:
        path: a file of ``torch.save``.
        key: where in the file it lies, with dots between levels; None looks at the top and at the usual places.

    Raises:
        ValueError: no such file, other objects in it, or no state dict.
    """
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except pickle.UnpicklingError as error:
        reason = str(error).split("\n")[0]
        raise ValueError(
            f"{path}: holds other objects than tensors, which are never unpickled here ({reason}). Save its "
            "state dict alone, where it was made: torch.save(model.state_dict(), path)"
        ) from None
    except (RuntimeError, EOFError, KeyError) as error:
        raise ValueError(f"{path}: is no file of torch.save ({error})") from None
    found = _find(content, key)
    if found is None:
        keys = ", ".join(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(f"{path}: no state dict {'at ' + key if key else 'found'}; the file holds: {keys}")
    return found


def _find(content: Any, key: str | None) -> dict[str, Tensor] | None:
    if key is not None:
        for part in key.split("."):
            content = content.get(part) if isinstance(content, Mapping) else None
        return _as_state_dict(content)
    places = [content, *(content.get(place) for place in _PLACES if isinstance(content, Mapping))]
    return next((found for found in map(_as_state_dict, places) if found is not None), None)


def _as_state_dict(content: Any) -> dict[str, Tensor] | None:
    if not isinstance(content, Mapping) or not content:
        return None
    is_one = all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items())
    return dict(content) if is_one else None


def convert(
    state_dict: Mapping[str, Tensor],
    source: Source,
    *,
    model: nn.Module | None = None,
    ndim: int = 3,
    kernel_sizes: Mapping[str, Sequence[int]] | None = None,
    prefix: str = "",
    rename: Callable[[str], str] | None = None,
    reverse_axes: bool = False,
) -> dict[str, Tensor]:
    """A state dict of another library as one of this engine's layers. Other tensors pass unchanged.

    With ``model`` every convolution is found by its layer and checked against its shape. Without it, convolutions
    are told by their keys and shapes: every ``*.kernel`` (torchsparse, minkowski), and every ``*.weight`` with
    ``ndim + 2`` axes (spconv, mmcv) or with 4 or 3 axes (sparseconvnet). Where the network has dense convolutions
    of as many axes, give ``model``.

    Args:
        state_dict: tensors by key.
        source: the library that wrote it.
        model: the module that is to load it.
        ndim: spatial axes of the convolutions, where there is no ``model``.
        kernel_sizes: kernels by the layer's key (without ``.kernel`` or ``.weight``), in the source's axis order,
            where there is no ``model`` and a kernel has unequal sides; others are taken for cubes.
        prefix: keep the keys that begin with it, without it.
        rename: from the source's key, without ``prefix``, to the model's.
        reverse_axes: the source counts axes x, y, z and the model z, y, x (or the other way round).

    Returns:
        A new dict, for ``model.load_state_dict``.

    Raises:
        ValueError: a weight whose shape is not what the source or the model says.
    """
    if source not in SOURCES:
        raise ValueError(f"source must be one of {', '.join(SOURCES)}, got {source!r}")
    layers = {} if model is None else _convolutions(model)
    known = set() if model is None else set(model.state_dict())
    kernels = dict(kernel_sizes or {})
    converted: dict[str, Tensor] = {}
    for key, value in state_dict.items():
        if not key.startswith(prefix):
            continue
        name = key[len(prefix) :]
        name = _our_key(name if rename is None else rename(name), source, known)
        layer, _, part = name.rpartition(".")
        if part == "weight" and _is_convolution(name, key, value, source, layers, model, ndim):
            kernel = _kernel_size(layer, value, source, layers, kernels, ndim, reverse_axes)
            value = convert_weight(value, source, kernel, reverse_axes)
            _check(layer, value, layers)
        elif part == "bias" and source == "minkowski" and value.dim() == 2 and value.shape[0] == 1:
            value = value.reshape(-1)
        converted[name] = value
    return converted


def _convolutions(model: nn.Module) -> dict[str, SparseConvolution]:
    return {name: part for name, part in model.named_modules() if isinstance(part, SparseConvolution)}


def _our_key(name: str, source: str, known: set[str]) -> str:
    """The key of this engine's layers: MinkowskiEngine wraps torch's norms and linear layers."""
    layer, _, part = name.rpartition(".")
    if source in _KERNEL_SOURCES and part == "kernel":
        return f"{layer}.weight" if layer else "weight"
    outer, _, wrapper = layer.rpartition(".")
    if source == "minkowski" and wrapper in ("bn", "linear") and name not in known:
        shorter = f"{outer}.{part}" if outer else part
        if not known or shorter in known:
            return shorter
    return name


def _is_convolution(
    name: str,
    key: str,
    value: Tensor,
    source: str,
    layers: Mapping[str, SparseConvolution],
    model: nn.Module | None,
    ndim: int,
) -> bool:
    if source in _KERNEL_SOURCES:
        return key.rpartition(".")[2] == "kernel"
    if model is not None:
        return name.rpartition(".")[0] in layers
    return value.dim() in (3, 4) if source == "sparseconvnet" else value.dim() == ndim + 2


def _kernel_size(
    layer: str,
    value: Tensor,
    source: str,
    layers: Mapping[str, SparseConvolution],
    kernels: Mapping[str, Sequence[int]],
    ndim: int,
    reverse_axes: bool,
) -> Sequence[int] | None:
    """In the source's axis order; None where the tensor's own shape holds it."""
    if layer in kernels:
        return kernels[layer]
    if layer in layers:
        kernel = layers[layer].kernel_size
        return kernel[::-1] if reverse_axes else kernel
    if source.startswith("spconv") or source == "mmcv":
        return None
    taps = 1 if value.dim() == 2 else len(value)
    cube = guess_cube(taps, ndim)
    if cube is None:
        raise ValueError(
            f"the {taps} taps of {layer} make no cube of {ndim} axes: give model, or its kernel in kernel_sizes"
        )
    return cube


def _check(layer: str, value: Tensor, layers: Mapping[str, SparseConvolution]) -> None:
    if layer in layers and value.shape != layers[layer].weight.shape:
        raise ValueError(
            f"{layer}: the converted weight is {list(value.shape)}, and the layer has "
            f"{list(layers[layer].weight.shape)}: is it another source, or reverse_axes?"
        )
