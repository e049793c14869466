"""Moments, products and affine maps of columns, as differentiable ops: what batch norm is made of.

The three are closed under differentiation, so that every order of derivative exists.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparseconv.backends import backend_for
from sparseconv.ops.operator import Operator
from sparseconv.ops.precision import widen


@Operator
def scale_shift(
    values: Tensor,  # [N, C]
    scale: Tensor,  # [C]
    shift: Tensor,  # [C]
) -> Tensor:  # [N, C]
    """``values * scale + shift`` by column; scale and shift are in the type that sums are taken in."""
    out = backend_for(values.device).scale_shift(widen(values), scale, shift)
    return out.to(values.dtype)


@scale_shift.register_fake
def _(values: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return torch.empty_like(values, memory_format=torch.contiguous_format)


@Operator
def column_dots(
    grad: Tensor,  # [N, C]
    values: Tensor,  # [N, C]
) -> tuple[Tensor, Tensor]:  # [C], [C]
    """Per column the sums of ``grad * values`` and of ``grad``, in the type that sums are taken in."""
    return backend_for(values.device).column_dots(widen(grad), widen(values))


@column_dots.register_fake
def _(grad: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(values.dtype, torch.float32)
    return tuple(values.new_empty(values.shape[1], dtype=dtype) for _ in range(2))  # type: ignore[return-value]


@Operator
def column_moments(values: Tensor) -> tuple[Tensor, Tensor]:  # [N, C] -> [C], [C]
    """Mean and (biased) variance of each column, in the type that sums are taken in. N is at least 1."""
    return backend_for(values.device).column_moments(widen(values))


@column_moments.register_fake
def _(values: Tensor) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(values.dtype, torch.float32)
    return tuple(values.new_empty(values.shape[1], dtype=dtype) for _ in range(2))  # type: ignore[return-value]


def _scale_shift_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    values, scale, _ = inputs
    ctx.save_for_backward(values, scale)


def _scale_shift_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    values, scale = ctx.saved_tensors
    grad_scale, grad_shift = column_dots(grad, values)
    return scale_shift(grad, scale, torch.zeros_like(scale)), grad_scale, grad_shift


scale_shift.register_autograd(_scale_shift_backward, setup_context=_scale_shift_setup)


def _column_dots_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs)


def _column_dots_backward(ctx: Any, of_dots: Tensor, of_sums: Tensor) -> tuple[Tensor, Tensor]:
    grad, values = ctx.saved_tensors
    return scale_shift(values, of_dots, of_sums), scale_shift(grad, of_dots, torch.zeros_like(of_dots))


column_dots.register_autograd(_column_dots_backward, setup_context=_column_dots_setup)


def _column_moments_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs)


def _column_moments_backward(ctx: Any, of_mean: Tensor, of_variance: Tensor) -> Tensor:
    (values,) = ctx.saved_tensors
    # The mean is taken again rather than kept, so that this function is differentiable in ``values``.
    mean, _ = column_moments(values)
    slope = of_variance * (2 / values.shape[0])
    return scale_shift(values, slope, of_mean / values.shape[0] - slope * mean)


column_moments.register_autograd(_column_moments_backward, setup_context=_column_moments_setup)
