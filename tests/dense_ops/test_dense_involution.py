"""Involution, against its definition with torch's unfold."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from dense_checks import F64, assert_equal, assert_gradients_equal, counted_macs, draw, gradcheck

from sparseconv.dense_ops import Involution2d, involution2d


def unfolded(x, kernel, stride):
    batch, channels = x.shape[:2]
    groups, taps, height, width = kernel.shape[1:]
    side = round(taps**0.5)
    patches = F.unfold(x, side, padding=side // 2, stride=stride)
    patches = patches.reshape(batch, groups, channels // groups, taps, height, width)
    return (kernel[:, :, None] * patches).sum(3).reshape(batch, channels, height, width)


CASES = [(3, 1, 1), (5, 2, 2), (7, 1, 4), (1, 3, 2)]


@pytest.mark.parametrize(("side", "stride", "groups"), CASES)
def test_values_and_gradients_equal_the_definition(side, stride, groups) -> None:
    height, width = -(-9 // stride), -(-5 // stride)
    assert_gradients_equal(
        lambda x, k: involution2d(x, k, stride),
        lambda x, k: unfolded(x, k, stride),
        (draw(2, 4, 9, 5), draw(2, groups, side**2, height, width)),
    )


@pytest.mark.parametrize("stride", [1, 2])
def test_module_is_generator_and_definition(stride) -> None:
    layer = Involution2d(8, 3, stride, reduction=2, group_channels=4).double()
    x = draw(3, 8, 6, 8)
    pooled = F.avg_pool2d(x, stride) if stride > 1 else x
    hidden = F.conv2d(pooled, layer.conv1.weight)
    hidden = F.relu(F.batch_norm(hidden, None, None, layer.norm.weight, layer.norm.bias, True))
    kernel = F.conv2d(hidden, layer.conv2.weight, layer.conv2.bias)
    kernel = kernel.reshape(3, 2, 9, 6 // stride, 8 // stride)
    assert_equal(layer(x), unfolded(x, kernel, stride))


def test_special_cases() -> None:
    x = draw(2, 6, 5, 7)
    layer = Involution2d(6, 3, reduction=2, group_channels=3).double()
    torch.nn.init.zeros_(layer.conv2.weight)
    shared = layer.conv2.bias.reshape(2, 1, 3, 3).repeat_interleave(3, 0)
    assert_equal(layer(x), F.conv2d(x, shared, padding=1, groups=6))
    constant = draw(6, 9)[None, :, :, None, None].expand(2, 6, 9, 5, 7)
    assert_equal(
        involution2d(x, constant), F.conv2d(x, constant[0, :, :, 0, 0].reshape(6, 1, 3, 3), padding=1, groups=6)
    )
    delta = torch.zeros(2, 1, 9, 5, 7, dtype=F64)
    delta[:, :, 4] = 1
    assert_equal(involution2d(x, delta), x)
    assert involution2d(x[:0], delta[:0]).shape == (0, 6, 5, 7)


def test_derivatives() -> None:
    gradcheck(lambda x, k: involution2d(x, k, 2), draw(1, 2, 3, 4), draw(1, 2, 9, 2, 2))
    leaves = draw(1, 2, 3, 3).requires_grad_(), draw(1, 1, 9, 3, 3).requires_grad_()
    assert torch.autograd.gradgradcheck(involution2d, leaves)


def test_half_precision_and_autocast() -> None:
    layer = Involution2d(8, 3, reduction=2, group_channels=4).eval()
    x = torch.randn(2, 8, 5, 6)
    expected = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(layer(x).float(), expected, rtol=0, atol=0.1)
    half = layer.bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, rtol=0, atol=0.1)


def test_flops(monkeypatch) -> None:
    layer = Involution2d(16, 5, 2, reduction=4, group_channels=8)
    pixels, generator = 3 * 4, 16 * 4 + 4 * 25 * 2
    parameters = 16 * 4 + 2 * 4 + (4 + 1) * 25 * 2
    assert layer.flops((2, 16, 6, 8)) == (2 * pixels * (generator + 25 * 16), parameters)
    with counted_macs(monkeypatch) as calls:
        layer(torch.zeros(2, 16, 6, 8))
    assert sum(calls) == 2 * pixels * generator


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="must be odd, got 4"):
        Involution2d(16, 4)
    with pytest.raises(ValueError, match="multiple of group_channels = 16"):
        Involution2d(24, 3)
    with pytest.raises(ValueError, match=r"multiples of the stride 2, got \[5, 6\]"):
        Involution2d(16, 3, 2)(torch.zeros(1, 16, 5, 6))
    with pytest.raises(ValueError, match=r"\[1, 1, 9, 4, 4\], got \[1, 1, 9, 3, 4\]"):
        involution2d(draw(1, 2, 4, 4), draw(1, 1, 9, 3, 4))
    with pytest.raises(ValueError, match="K\\^2"):
        involution2d(draw(1, 2, 4, 4), draw(1, 1, 8, 4, 4))
