"""The kernel that each output row picks among those of its sample's regions, and what the choice learns from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sparseconv.kernel_map import KernelMap
from sparseconv.ops.mapped import convolve_features


def region_taps(weight: Tensor) -> Tensor:
    """``[B, m, O, K, C]`` to ``[O, B m K, C]``."""
    return weight.permute(2, 0, 1, 3, 4).reshape(weight.shape[2], -1, weight.shape[4])


class _StraightThrough(torch.autograd.Function):
    """Add every region's output times a share that is 0 and has the derivative of the region's score.

    The sum is never taken. A score gets the gradient that its region's output would have had, the kernels get
    none, and derivatives of higher order follow.
    """

    @staticmethod
    def forward(
        ctx: Any, output: Tensor, scores: Tensor, rows: Tensor, weight: Tensor, every: Callable[[], KernelMap]
    ) -> Tensor:
        ctx.save_for_backward(scores, rows, weight)
        ctx.every = every
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        scores, rows, weight = tensors = ctx.saved_tensors
        # In the output's type: autocast, which chose it, is off on the way back.
        rows, weight = rows.to(grad.dtype), weight.to(grad.dtype)
        grad_scores = grad_rows = grad_weight = None
        kernel_map = ctx.every()
        outputs = (
            convolve_features(rows, region_taps(weight[:, region : region + 1]), None, kernel_map)
            for region in range(weight.shape[1])
        )
        if not torch.is_grad_enabled():
            # One region's output at a time.
            if ctx.needs_input_grad[1]:
                columns = [(grad * output).sum(1) for output in outputs]
                grad_scores = torch.stack(columns, 1).to(scores.dtype)
        else:
            shares = (scores - scores.detach()).to(grad.dtype)
            total = sum(output * shares[:, region, None] for region, output in enumerate(outputs))
            wanted = [tensor for tensor in tensors if tensor.requires_grad]
            found = dict(
                zip(map(id, wanted), torch.autograd.grad(total, wanted, grad, create_graph=True), strict=True)
            )
            grad_scores, grad_rows, grad_weight = (found.get(id(tensor)) for tensor in tensors)
        return (
            grad,
            grad_scores,
            grad_rows,
            grad_weight,
            None,  # every
        )


def straight_through(
    output: Tensor, scores: Tensor, rows: Tensor, weight: Tensor, every: Callable[[], KernelMap]
) -> Tensor:
    """The output as it is; each region's score gets the gradient that its kernel's output would have had.

    Args:
        output: ``[n_out, O]``, of the chosen kernels.
        scores: ``[n_out, m]``, the softmax of the guide.
        rows: ``[n_in, C]``.
        weight: ``[B, m, O, K, C]``.
        every: gives the map of one region's kernels, with taps of its own for each sample: ``B K`` taps in the
            order ``(n, t)``. Asked for on the way back.
    """
    passed: Tensor = _StraightThrough.apply(output, scores, rows, weight, every)
    return passed
