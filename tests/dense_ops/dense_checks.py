"""What every dense variant is checked with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from sparseconv.ops import mapped

F64 = torch.float64


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=F64)


def assert_equal(actual: Tensor, expected: Tensor, factor: float = 1.0) -> None:
    """Equal up to the rounding of float64: sums of at most some thousand terms of size 1."""
    assert actual.shape == expected.shape
    limit = factor * 1e-10 * max(1.0, float(expected.detach().abs().max()) if expected.numel() else 1.0)
    torch.testing.assert_close(actual, expected, rtol=0, atol=limit)


def assert_gradients_equal(
    ours: Callable[..., Tensor], theirs: Callable[..., Tensor], tensors: tuple[Tensor, ...]
) -> None:
    """Values and gradients of two functions of the same tensors."""
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    mine, reference = ours(*leaves), theirs(*leaves)
    assert_equal(mine, reference)
    cotangent = torch.randn_like(reference)
    for one, other in zip(
        torch.autograd.grad(mine, leaves, cotangent),
        torch.autograd.grad(reference, leaves, cotangent),
        strict=True,
    ):
        assert_equal(one, other)


def gradcheck(function: Callable[..., Tensor], *tensors: Tensor) -> None:
    leaves = tuple(tensor.clone().requires_grad_() for tensor in tensors)
    assert torch.autograd.gradcheck(function, leaves)


@contextmanager
def counted_macs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Multiply-adds of every call that reaches the engine's convolution: pairs x depth x output channels."""
    calls: list[int] = []
    run = mapped.convolve

    def counting(features, weight, bias, in_rows, *rest):
        calls.append(len(in_rows) * weight.shape[0] * weight.shape[2])
        return run(features, weight, bias, in_rows, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(mapped, "convolve", counting)
        yield calls


def assert_folds(layer: nn.Module, input: Tensor) -> None:
    """``to_conv2d`` gives the same output, through torch's own convolution as well."""
    plain = layer.to_conv2d()
    assert_equal(plain(input), layer(input))
    (top, bottom), (left, right) = plain.window(input.shape[2:]).padding
    padded = nn.functional.pad(input, (left, right, top, bottom))
    reference = nn.functional.conv2d(
        padded, plain.weight, plain.bias, plain.stride, 0, plain.dilation, plain.groups
    )
    assert_equal(reference, layer(input))
