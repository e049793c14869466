"""Convolution over a kernel map, and its weight gradient, as differentiable ops.

The two are closed under differentiation: the gradient of each is made of both, over the same pairs or the
same pairs with their columns swapped. So every order of derivative exists.

A map enters as ``in_rows, out_rows, tap_offsets`` and, for the gradient, its transposed map as
``back_in_rows, back_out_rows`` over the same ``tap_offsets``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sparseconv.backends import backend_for
from sparseconv.ops.operator import Operator
from sparseconv.ops.precision import multiplied, widen


def transpose_weight(weight: Tensor, groups: int) -> Tensor:
    """``[C_out, K, C_in / groups]`` to ``[C_in, K, C_out / groups]``: the weight of the swapped map."""
    if groups == 1:
        return weight.permute(2, 1, 0)
    c_out, taps, depth = weight.shape
    grouped = weight.reshape(groups, c_out // groups, taps, depth)
    return grouped.permute(0, 3, 2, 1).reshape(groups * depth, taps, c_out // groups)


@Operator
def convolve(
    features: Tensor,  # [n_in, C_in]
    weight: Tensor,  # [C_out, K, C_in / groups]
    bias: Tensor | None,  # [C_out]
    in_rows: Tensor,  # [P] int32
    out_rows: Tensor,  # [P] int32
    tap_offsets: Tensor,  # [K + 1] int64, CPU
    back_in_rows: Tensor,  # [P] int32
    back_out_rows: Tensor,  # [P] int32
    n_out: int,
    groups: int,
) -> Tensor:  # [n_out, C_out]
    """``out[o] = bias + sum over taps of weight[:, t] @ features[i]``; see the module."""
    backend = backend_for(features.device)
    out = backend.convolve(
        multiplied(features, backend.CONVOLVED_HALVES),
        multiplied(weight, backend.CONVOLVED_HALVES),
        None if bias is None else widen(bias),
        in_rows,
        out_rows,
        tap_offsets,
        n_out,
        groups,
    )
    return out.to(features.dtype)


@convolve.register_fake
def _(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    in_rows: Tensor,
    out_rows: Tensor,
    tap_offsets: Tensor,
    back_in_rows: Tensor,
    back_out_rows: Tensor,
    n_out: int,
    groups: int,
) -> Tensor:
    return features.new_empty((n_out, weight.shape[0]))


@Operator
def convolve_epilogue(
    features: Tensor,  # [n_in, C_in]
    weight: Tensor,  # [C_out, K, C_in / groups]
    bias: Tensor | None,  # [C_out]
    residual: Tensor | None,  # [n_out, C_out]
    relu: bool,
    in_rows: Tensor,  # [P] int32
    out_rows: Tensor,  # [P] int32
    tap_offsets: Tensor,  # [K + 1] int64, CPU
    n_out: int,
    groups: int,
) -> Tensor:  # [n_out, C_out]
    """:func:`convolve`, plus ``residual``, through a ReLU, while a block is in cache. For inference only."""
    backend = backend_for(features.device)
    out = backend.convolve(
        multiplied(features, backend.CONVOLVED_HALVES),
        multiplied(weight, backend.CONVOLVED_HALVES),
        None if bias is None else widen(bias),
        in_rows,
        out_rows,
        tap_offsets,
        n_out,
        groups,
        None if residual is None else widen(residual),
        relu,
    )
    return out.to(features.dtype)


@convolve_epilogue.register_fake
def _(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    relu: bool,
    in_rows: Tensor,
    out_rows: Tensor,
    tap_offsets: Tensor,
    n_out: int,
    groups: int,
) -> Tensor:
    return features.new_empty((n_out, weight.shape[0]))


@Operator
def convolve_weight_gradient(
    features: Tensor,  # [n_in, C_in]
    grad: Tensor,  # [n_out, C_out]
    in_rows: Tensor,  # [P] int32
    out_rows: Tensor,  # [P] int32
    tap_offsets: Tensor,  # [K + 1] int64, CPU
    back_in_rows: Tensor,  # [P] int32
    back_out_rows: Tensor,  # [P] int32
    groups: int,
) -> Tensor:  # [C_out, K, C_in / groups]
    """``sum over a tap's pairs of grad[o] (x) features[i]``; see the module."""
    backend = backend_for(features.device)
    halves = backend.GRADIENT_HALVES if features.dtype == grad.dtype else ()
    left, right = multiplied(features, halves), multiplied(grad, halves)
    return backend.weight_gradient(left, right, in_rows, out_rows, tap_offsets, groups).to(features.dtype)


@convolve_weight_gradient.register_fake
def _(
    features: Tensor,
    grad: Tensor,
    in_rows: Tensor,
    out_rows: Tensor,
    tap_offsets: Tensor,
    back_in_rows: Tensor,
    back_out_rows: Tensor,
    groups: int,
) -> Tensor:
    return features.new_empty((grad.shape[1], tap_offsets.shape[0] - 1, features.shape[1] // groups))


def _to_features(grad: Tensor, weight: Tensor, rows: Sequence[Tensor], n_in: int, groups: int) -> Tensor:
    """Carry ``grad [n_out, C_out]`` back to the inputs: the same op over the swapped map, ``[n_in, C_in]``."""
    in_rows, out_rows, tap_offsets, back_in, back_out = rows
    return convolve(
        grad,
        transpose_weight(weight, groups),
        None,
        back_in,
        back_out,
        tap_offsets,
        in_rows,
        out_rows,
        n_in,
        groups,
    )


def _convolve_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, weight, bias, *rows, _, groups = inputs
    ctx.save_for_backward(features, weight, *rows)
    ctx.has_bias = bias is not None
    ctx.groups = groups


def _convolve_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    features, weight, *rows = ctx.saved_tensors
    in_rows, out_rows, tap_offsets, back_in, back_out = rows
    grad_features = grad_weight = grad_bias = None
    if ctx.needs_input_grad[0]:
        grad_features = _to_features(grad, weight, rows, features.shape[0], ctx.groups)
    if ctx.needs_input_grad[1]:
        grad_weight = convolve_weight_gradient(
            features, grad, in_rows, out_rows, tap_offsets, back_in, back_out, ctx.groups
        )
    if ctx.has_bias and ctx.needs_input_grad[2]:
        grad_bias = sum_rows(grad)
    return (
        grad_features,
        grad_weight,
        grad_bias,
        None,  # in_rows
        None,  # out_rows
        None,  # tap_offsets
        None,  # back_in_rows
        None,  # back_out_rows
        None,  # n_out
        None,  # groups
    )


convolve.register_autograd(_convolve_backward, setup_context=_convolve_setup)


def _weight_gradient_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, groups = inputs
    ctx.save_for_backward(*tensors)
    ctx.groups = groups


def _weight_gradient_backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
    features, grad, *rows = ctx.saved_tensors
    in_rows, out_rows, tap_offsets, back_in, back_out = rows
    grad_features = grad_grad = None
    if ctx.needs_input_grad[0]:
        grad_features = _to_features(grad, cotangent, rows, features.shape[0], ctx.groups)
    if ctx.needs_input_grad[1]:
        grad_grad = convolve(
            features,
            cotangent,
            None,
            in_rows,
            out_rows,
            tap_offsets,
            back_in,
            back_out,
            grad.shape[0],
            ctx.groups,
        )
    return (
        grad_features,
        grad_grad,
        None,  # in_rows
        None,  # out_rows
        None,  # tap_offsets
        None,  # back_in_rows
        None,  # back_out_rows
        None,  # groups
    )


convolve_weight_gradient.register_autograd(_weight_gradient_backward, setup_context=_weight_gradient_setup)


@Operator
def sum_rows(grad: Tensor) -> Tensor:  # [N, C] -> [C]
    """Sum over rows in an order that does not depend on the number of threads: the gradient of a bias.

    A bias is a weight on an input of constant one, so this is that weight's gradient.
    """
    rows = torch.arange(grad.shape[0], dtype=torch.int32, device=grad.device)
    tap_offsets = torch.arange(2, device="cpu") * grad.shape[0]
    ones = grad.new_ones((grad.shape[0], 1))
    backend = backend_for(grad.device)
    out = backend.weight_gradient(widen(ones), widen(grad), rows, rows, tap_offsets, 1)
    return out.reshape(-1).to(grad.dtype)


@sum_rows.register_fake
def _(grad: Tensor) -> Tensor:
    return grad.new_empty(grad.shape[1])


def _sum_rows_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.n_rows = inputs[0].shape[0]


def _sum_rows_backward(ctx: Any, cotangent: Tensor) -> Tensor:
    return cotangent.expand(ctx.n_rows, -1)


sum_rows.register_autograd(_sum_rows_backward, setup_context=_sum_rows_setup)
