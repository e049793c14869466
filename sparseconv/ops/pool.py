"""Maximum and sum pooling over a kernel map, as differentiable ops; maps enter as in :mod:`.conv`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparseconv.backends import backend_for
from sparseconv.ops.operator import Operator
from sparseconv.ops.precision import widen


@Operator
def max_pool(
    features: Tensor,  # [n_in, C]
    in_rows: Tensor,  # [P] int32
    out_rows: Tensor,  # [P] int32
    tap_offsets: Tensor,  # [K + 1] int64, CPU
    n_out: int,
) -> tuple[Tensor, Tensor]:  # [n_out, C], [n_out, C] int32
    """Maxima over the inputs that exist, and the input row that gave each (-1 and 0 where there is none).

    Of equal maxima the first in tap order wins and takes the gradient; a NaN beats every number.
    """
    out, argmax = backend_for(features.device).max_pool(widen(features), in_rows, out_rows, tap_offsets, n_out)
    return out.to(features.dtype), argmax


@max_pool.register_fake
def _(
    features: Tensor, in_rows: Tensor, out_rows: Tensor, tap_offsets: Tensor, n_out: int
) -> tuple[Tensor, Tensor]:
    shape = (n_out, features.shape[1])
    return features.new_empty(shape), features.new_empty(shape, dtype=torch.int32)


@Operator
def max_pool_gradient(
    grad: Tensor,  # [n_out, C]
    argmax: Tensor,  # [n_out, C] int32
    n_in: int,
) -> Tensor:  # [n_in, C]
    """Send each output's gradient to the row that gave its maximum."""
    out = backend_for(grad.device).max_pool_gradient(widen(grad), argmax, n_in)
    return out.to(grad.dtype)


@max_pool_gradient.register_fake
def _(grad: Tensor, argmax: Tensor, n_in: int) -> Tensor:
    return grad.new_empty((n_in, grad.shape[1]))


def _max_pool_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.n_in = inputs[0].shape[0]


def _max_pool_backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    (argmax,) = ctx.saved_tensors
    return (
        max_pool_gradient(grad, argmax, ctx.n_in),
        None,  # in_rows
        None,  # out_rows
        None,  # tap_offsets
        None,  # n_out
    )


max_pool.register_autograd(_max_pool_backward, setup_context=_max_pool_setup)


def _max_pool_gradient_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])


def _max_pool_gradient_backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
    (argmax,) = ctx.saved_tensors
    taken = cotangent.gather(0, argmax.long().clamp(min=0)) if len(cotangent) else None
    return (
        None if taken is None else torch.where(argmax >= 0, taken, 0),
        None,  # argmax
        None,  # n_in
    )


max_pool_gradient.register_autograd(_max_pool_gradient_backward, setup_context=_max_pool_gradient_setup)


@Operator
def sum_pool(
    features: Tensor,  # [n_in, C]
    in_rows: Tensor,  # [P] int32
    out_rows: Tensor,  # [P] int32
    tap_offsets: Tensor,  # [K + 1] int64, CPU
    back_in_rows: Tensor,  # [P] int32
    back_out_rows: Tensor,  # [P] int32
    n_out: int,
) -> Tensor:  # [n_out, C]
    """Sums over the inputs that exist; its gradient is the sum over the swapped map."""
    out = backend_for(features.device).sum_pool(widen(features), in_rows, out_rows, tap_offsets, n_out)
    return out.to(features.dtype)


@sum_pool.register_fake
def _(
    features: Tensor,
    in_rows: Tensor,
    out_rows: Tensor,
    tap_offsets: Tensor,
    back_in_rows: Tensor,
    back_out_rows: Tensor,
    n_out: int,
) -> Tensor:
    return features.new_empty((n_out, features.shape[1]))


def _sum_pool_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, *rows, _ = inputs
    ctx.save_for_backward(*rows)
    ctx.n_in = features.shape[0]


def _sum_pool_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    in_rows, out_rows, tap_offsets, back_in, back_out = ctx.saved_tensors
    return (
        sum_pool(grad, back_in, back_out, tap_offsets, in_rows, out_rows, ctx.n_in),
        None,  # in_rows
        None,  # out_rows
        None,  # tap_offsets
        None,  # back_in_rows
        None,  # back_out_rows
        None,  # n_out
    )


sum_pool.register_autograd(_sum_pool_backward, setup_context=_sum_pool_setup)
