"""How a kernel map enters an op: checks of shapes and types, autocast, and the swapped map for the gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from sparseconv.kernel_map import KernelMap
from sparseconv.ops.conv import convolve, convolve_epilogue
from sparseconv.ops.pool import sum_pool


def convolve_features(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    kernel_map: KernelMap,
    groups: int = 1,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """Run one kernel map: ``out[o] = bias + sum over taps of weight[:, tap] @ features[i]``.

    Args:
        features: ``[n_in, C_in]``.
        weight: ``[C_out, *kernel, C_in / groups]``; its taps, last axis fastest, are those of the map.
        bias: ``[C_out]`` or None.
        kernel_map: the pairs.
        groups: channel groups.
        residual: ``[n_out, C_out]`` to add to the result, or None.
        relu: whether to set negative values to zero at the end. Without gradients, both are done while a block of
            rows is in cache.

    Returns:
        ``[n_out, C_out]`` in the type of the features, or of autocast where it is on.

    Raises:
        TypeError: features and weight differ in type.
        ValueError: shapes do not fit.
    """
    flat = weight.flatten(1, -2)
    c_out, taps, depth = flat.shape
    if features.shape[1] != depth * groups:
        raise ValueError(
            f"features have {features.shape[1]} channels, and the weight {list(weight.shape)} with groups "
            f"{groups} takes {depth * groups}"
        )
    if features.shape[0] != kernel_map.n_in:
        raise ValueError(f"features have {features.shape[0]} rows, and the kernel map reads {kernel_map.n_in}")
    if taps != kernel_map.volume:
        raise ValueError(f"the weight {list(weight.shape)} has {taps} taps and the kernel map {kernel_map.volume}")
    if c_out % groups:
        raise ValueError(f"the {c_out} output channels cannot be cut into {groups} groups")
    if bias is not None and bias.shape != (c_out,):
        raise ValueError(
            f"the bias must have shape [{c_out}], one value for each output channel, got {list(bias.shape)}"
        )
    device = features.device.type
    if torch.is_autocast_enabled(device) and features.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
        features, flat = features.to(dtype), flat.to(dtype)
        bias = None if bias is None else bias.to(dtype)
        residual = None if residual is None else residual.to(dtype)
    if residual is not None and residual.shape != (kernel_map.n_out, c_out):
        raise ValueError(
            f"the residual must have shape [{kernel_map.n_out}, {c_out}] like the output, got "
            f"{list(residual.shape)}"
        )
    for name, parameter in (("weight", flat), ("bias", bias), ("residual", residual)):
        if parameter is None:
            continue
        if features.dtype != parameter.dtype:
            raise TypeError(
                f"features are {features.dtype} and the {name} is {parameter.dtype}: convert one of them "
                "(model.half(), x.float(), ..) or use torch.autocast"
            )
        if features.device != parameter.device:
            raise ValueError(
                f"features are on {features.device} and the {name} is on {parameter.device}: move one of them "
                "with .to()"
            )
    differentiable = torch.is_grad_enabled() and any(
        part is not None and part.requires_grad for part in (features, flat, bias, residual)
    )
    if (residual is not None or relu) and not differentiable:
        return convolve_epilogue(
            features,
            flat,
            bias,
            residual,
            relu,
            kernel_map.in_rows,
            kernel_map.out_rows,
            kernel_map.tap_offsets,
            kernel_map.n_out,
            groups,
        )
    back_in, back_out = kernel_map.out_rows, kernel_map.in_rows
    if differentiable:
        transposed = kernel_map.transposed()
        back_in, back_out = transposed.in_rows, transposed.out_rows
    out = convolve(
        features,
        flat,
        bias,
        kernel_map.in_rows,
        kernel_map.out_rows,
        kernel_map.tap_offsets,
        back_in,
        back_out,
        kernel_map.n_out,
        groups,
    )
    if residual is not None:
        out = out + residual
    return out.relu() if relu else out


def sum_features(features: Tensor, kernel_map: KernelMap) -> Tensor:
    """Sum the input rows of each output row of a map: ``[n_in, C]`` to ``[n_out, C]``."""
    back_in, back_out = kernel_map.out_rows, kernel_map.in_rows
    if torch.is_grad_enabled() and features.requires_grad:
        back = kernel_map.transposed()
        back_in, back_out = back.in_rows, back.out_rows
    return sum_pool(
        features,
        kernel_map.in_rows,
        kernel_map.out_rows,
        kernel_map.tap_offsets,
        back_in,
        back_out,
        kernel_map.n_out,
    )
