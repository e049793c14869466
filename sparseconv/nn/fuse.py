"""Folding of trained layers for inference: convolution, batch norm, residual sum and ReLU become one pass."""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from typing import TypeVar

import torch
from torch import nn

from sparseconv.nn.container import Sequential
from sparseconv.nn.conv import SparseConvolution

Model = TypeVar("Model", bound=nn.Module)


def fuse(model: Model) -> Model:
    """A copy of an eval-mode model that computes the same with fewer passes over the features.

    In every ``Sequential`` (this library's or torch's) a convolution takes in the batch norm behind it, and the
    ReLU behind that. A module with a method ``fuse_layers()`` is asked to do the same to its own layers; residual
    blocks do, with :func:`fold_batch_norm` and a convolution's ``add_input``. Layers that the model uses in more
    than one place, norms in training mode and norms without running statistics stay as they are.

    Args:
        model: in eval mode; it is left as it is.

    Returns:
        The folded copy, equal up to rounding.

    Raises:
        ValueError: the model is in training mode.
    """
    if model.training:
        raise ValueError("only a model in eval mode can be folded: call model.eval() first")
    fused = copy.deepcopy(model)
    uses = Counter(
        id(child) for module in fused.modules() for child in module._modules.values() if child is not None
    )
    for module in list(fused.modules()):
        if isinstance(module, Sequential | nn.Sequential):
            _fuse_chain(module, uses)
        elif callable(own := getattr(module, "fuse_layers", None)):
            own()
    return fused


def _fuse_chain(chain: nn.Module, uses: Counter[int]) -> None:
    for absorb in (fold_batch_norm, _take_relu):
        for first, second in itertools.pairwise(list(chain._modules)):
            conv, follower = chain._modules.get(first), chain._modules[second]
            if not isinstance(conv, SparseConvolution) or follower is None or uses[id(conv)] > 1:
                continue
            if absorb(conv, follower):
                del chain._modules[second]


def _take_relu(conv: SparseConvolution, activation: nn.Module) -> bool:
    if isinstance(activation, nn.ReLU):
        conv.fused_relu = True
        return True
    return False


def fold_batch_norm(conv: SparseConvolution, norm: nn.Module) -> bool:
    """Fold an eval-mode batch norm into the convolution before it, in place.

    Returns:
        Whether that was possible: ``norm`` is a batch norm in eval mode with running statistics, and the
        convolution has no activation yet.
    """
    if not isinstance(norm, nn.modules.batchnorm._BatchNorm) or norm.training or conv.fused_relu:
        return False
    if norm.running_mean is None or norm.running_var is None:
        return False
    with torch.no_grad():
        scale = torch.rsqrt(norm.running_var.double() + norm.eps)
        if norm.weight is not None:
            scale = scale * norm.weight.double()
        shift = -norm.running_mean.double() * scale
        if conv.bias is not None:
            shift = shift + conv.bias.double() * scale
        if norm.bias is not None:
            shift = shift + norm.bias.double()
        dtype = conv.weight.dtype
        per_channel = scale.reshape(-1, *[1] * (conv.weight.dim() - 1))
        conv.weight = nn.Parameter((conv.weight.double() * per_channel).to(dtype))
        conv.bias = nn.Parameter(shift.to(dtype))
    return True
