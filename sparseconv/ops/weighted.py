"""Sums over pairs of rows with a coefficient for each pair and channel group, as differentiable ops.

``out[o] = sum over pairs of coefficient * features[i]``: bilinear samples, attention, a kernel of its own for each
row. A pair is ``(in_rows[p], out_rows[p])``; rows may repeat on both sides, and a pair with a row of -1 counts
nothing, so that tables with absent neighbours need no packing.

:func:`weighted_sum` and :func:`pair_dots` are closed under differentiation: the gradient to the features is a
weighted sum over the same pairs, sorted by their input rows; the gradient to the coefficients is a dot product for
each pair; and the gradients of the dot products are weighted sums. So every order of derivative exists.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparseconv.backends import backend_for
from sparseconv.ops.operator import Operator
from sparseconv.ops.precision import widen


def _check_rows(**rows: Tensor) -> None:
    length = len(next(iter(rows.values())))
    for name, tensor in rows.items():
        if tensor.dtype != torch.int32:
            raise TypeError(f"{name} must be int32, got {tensor.dtype}")
        if tensor.shape != (length,):
            raise ValueError(f"{name} must have shape [{length}], one row for each pair, got {list(tensor.shape)}")


def _check_groups(channels: int, groups: int) -> None:
    if groups < 1 or channels % groups:
        raise ValueError(f"the {channels} channels cannot be cut into {groups} groups, one for each coefficient")


@Operator
def weighted_sum(
    features: Tensor,  # [n_in, C]
    coefficients: Tensor,  # [P, G]
    in_rows: Tensor,  # [P] int32
    out_rows: Tensor,  # [P] int32, ascending
    n_out: int,
    by_in_rows: Tensor | None = None,  # [P] int64
) -> Tensor:  # [n_out, C]
    """``out[out_rows[p], c] += coefficients[p, c // (C / G)] * features[in_rows[p], c]``; see the module.

    Args:
        features: in any floating type; half precisions are summed in float32.
        coefficients: one for each pair and group of ``C / G`` channels; float32 or the type of the features, in
            which they are multiplied (float32 for half precisions).
        in_rows: rows of the features, -1 for none.
        out_rows: rows of the result in ascending order, -1 (for none) first.
        n_out: number of rows of the result; a row without pairs is 0.
        by_in_rows: the pairs in stable order of ``in_rows``, for the gradient to the features; it is found by
            sorting where it is not given.

    Raises:
        TypeError: rows are not int32.
        ValueError: shapes do not fit, a row is out of range, or ``out_rows`` do not ascend.
    """
    _check_rows(in_rows=in_rows, out_rows=out_rows)
    if coefficients.dim() != 2 or len(coefficients) != len(in_rows):
        raise ValueError(f"coefficients must have shape [{len(in_rows)}, G], got {list(coefficients.shape)}")
    _check_groups(features.shape[1], coefficients.shape[1])
    wide = widen(features)
    out = backend_for(features.device).weighted_sum(wide, coefficients.to(wide.dtype), in_rows, out_rows, n_out)
    return out.to(features.dtype)


@weighted_sum.register_fake
def _(
    features: Tensor,
    coefficients: Tensor,
    in_rows: Tensor,
    out_rows: Tensor,
    n_out: int,
    by_in_rows: Tensor | None = None,
) -> Tensor:
    return features.new_empty((n_out, features.shape[1]))


@Operator
def pair_dots(
    left: Tensor,  # [n_left, C]
    right: Tensor,  # [n_right, C]
    left_rows: Tensor,  # [P] int32
    right_rows: Tensor,  # [P] int32
    groups: int,
) -> Tensor:  # [P, groups]
    """For each pair and channel group the dot product of two rows, 0 where a row is -1; see the module.

    The result is in the type that sums are taken in: float32 for half precisions.

    Args:
        left: in any floating type.
        right: in the type of ``left``.
        left_rows: rows of ``left``, -1 for none, in any order.
        right_rows: rows of ``right``, -1 for none, in any order.
        groups: groups of ``C / groups`` channels with a product of their own.

    Raises:
        TypeError: rows are not int32, or the two sides differ in type.
        ValueError: shapes do not fit, or a row is out of range.
    """
    _check_rows(left_rows=left_rows, right_rows=right_rows)
    if left.dtype != right.dtype:
        raise TypeError(f"both sides must be of one type, got {left.dtype} and {right.dtype}")
    if left.shape[1] != right.shape[1]:
        raise ValueError(f"both sides must have the same channels, got {left.shape[1]} and {right.shape[1]}")
    _check_groups(left.shape[1], groups)
    return backend_for(left.device).pair_dots(widen(left), widen(right), left_rows, right_rows, groups)


@pair_dots.register_fake
def _(left: Tensor, right: Tensor, left_rows: Tensor, right_rows: Tensor, groups: int) -> Tensor:
    dtype = torch.promote_types(left.dtype, torch.float32)
    return left.new_empty((left_rows.shape[0], groups), dtype=dtype)


def _summed_by(
    target_rows: Tensor, source_rows: Tensor, coefficients: Tensor, source: Tensor, n: int, order: Tensor | None
) -> Tensor:
    """A weighted sum whose output rows come in any order: ``[n, C]``."""
    if order is None:
        order = target_rows.argsort(stable=True)
    return weighted_sum(
        source,
        coefficients.index_select(0, order),
        source_rows.index_select(0, order),
        target_rows.index_select(0, order),
        n,
    )


def _weighted_sum_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, coefficients, in_rows, out_rows, _, by_in_rows = inputs
    ctx.save_for_backward(features, coefficients, in_rows, out_rows, by_in_rows)


def _weighted_sum_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    features, coefficients, in_rows, out_rows, by_in_rows = ctx.saved_tensors
    grad_features = grad_coefficients = None
    if ctx.needs_input_grad[0]:
        grad_features = _summed_by(in_rows, out_rows, coefficients, grad, features.shape[0], by_in_rows)
    if ctx.needs_input_grad[1]:
        dots = pair_dots(features, grad, in_rows, out_rows, coefficients.shape[1])
        grad_coefficients = dots.to(coefficients.dtype)
    return (
        grad_features,
        grad_coefficients,
        None,  # in_rows
        None,  # out_rows
        None,  # n_out
        None,  # by_in_rows
    )


weighted_sum.register_autograd(_weighted_sum_backward, setup_context=_weighted_sum_setup)


def _pair_dots_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, _ = inputs
    ctx.save_for_backward(*tensors)


def _pair_dots_backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
    left, right, left_rows, right_rows = ctx.saved_tensors
    grad_left = grad_right = None
    if ctx.needs_input_grad[0]:
        grad_left = _summed_by(left_rows, right_rows, cotangent, right, left.shape[0], None)
    if ctx.needs_input_grad[1]:
        grad_right = _summed_by(right_rows, left_rows, cotangent, left, right.shape[0], None)
    return (
        grad_left,
        grad_right,
        None,  # left_rows
        None,  # right_rows
        None,  # groups
    )


pair_dots.register_autograd(_pair_dots_backward, setup_context=_pair_dots_setup)
