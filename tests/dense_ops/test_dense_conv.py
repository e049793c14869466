"""Dense 2D convolution on the executor, against torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tolerance import tolerance

from sparseconv.dense_ops import Conv2d, ConvTranspose2d, conv2d, conv_transpose2d, dense_kernel_map
from sparseconv.geometry import ConvGeometry

CASES = [
    # kernel, stride, padding, dilation, groups
    ((3, 3), 1, 1, 1, 1),
    ((3, 3), 2, 1, 1, 2),
    ((2, 5), (1, 2), (0, 3), (2, 1), 1),
    ((1, 1), 1, 0, 1, 1),
    ((4, 3), 3, 2, (1, 3), 6),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation", "groups"), CASES)
def test_conv2d_and_its_gradients_equal_torch(kernel, stride, padding, dilation, groups, dtype) -> None:
    x = torch.randn(2, 6, 13, 11, dtype=dtype, requires_grad=True)
    weight = torch.randn(12, 6 // groups, *kernel, dtype=dtype, requires_grad=True)
    bias = torch.randn(12, dtype=dtype, requires_grad=True)
    ours = conv2d(x, weight, bias, stride, padding, dilation, groups)
    theirs = F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    cotangent = torch.randn_like(theirs)
    bound = tolerance(dtype, 6 * kernel[0] * kernel[1] // groups, 10.0)
    torch.testing.assert_close(ours, theirs, rtol=bound, atol=bound)
    many = tolerance(dtype, cotangent.numel(), 10.0)
    for mine, reference in zip(
        torch.autograd.grad(ours, (x, weight, bias), cotangent),
        torch.autograd.grad(theirs, (x, weight, bias), cotangent),
        strict=True,
    ):
        torch.testing.assert_close(mine, reference, rtol=many, atol=many)


@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation", "groups"), CASES)
@pytest.mark.parametrize("output_padding", [0, 1])
def test_conv_transpose2d_equals_torch(kernel, stride, padding, dilation, groups, output_padding) -> None:
    steps = (stride, stride) if isinstance(stride, int) else stride
    spread = (dilation, dilation) if isinstance(dilation, int) else dilation
    extra = tuple(min(output_padding, max(s, d) - 1) for s, d in zip(steps, spread, strict=True))
    x = torch.randn(2, 6, 7, 9, dtype=torch.float64)
    weight = torch.randn(6, 12 // groups, *kernel, dtype=torch.float64)
    bias = torch.randn(12, dtype=torch.float64)
    ours = conv_transpose2d(x, weight, bias, stride, padding, extra, groups, dilation)
    theirs = F.conv_transpose2d(x, weight, bias, stride, padding, extra, groups, dilation)
    bound = tolerance(torch.float64, 6 * kernel[0] * kernel[1], 10.0)
    torch.testing.assert_close(ours, theirs, rtol=bound, atol=bound)


def test_modules_share_parameters_with_torch() -> None:
    x = torch.randn(1, 4, 9, 8)
    for ours, theirs in (
        (Conv2d(4, 6, 3, 2, 1), torch.nn.Conv2d(4, 6, 3, 2, 1)),
        (ConvTranspose2d(4, 6, 3, 2, 1, 1), torch.nn.ConvTranspose2d(4, 6, 3, 2, 1, 1)),
    ):
        theirs.load_state_dict(ours.state_dict())
        bound = tolerance(torch.float32, 36, 3.0)
        torch.testing.assert_close(ours(x), theirs(x), rtol=bound, atol=bound)


def test_map_counts_are_exact() -> None:
    kernel_map = dense_kernel_map(1, 5, 4, ConvGeometry.create(2, 3, 1, 1), 5, 4)
    # A 3-tap row over n pixels with one pixel of padding has 3n - 2 pairs inside.
    assert kernel_map.n_pairs == (3 * 5 - 2) * (3 * 4 - 2)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"\[N, C, H, W\], got \[4, 5, 5\]"):
        conv2d(torch.zeros(4, 5, 5), torch.zeros(2, 4, 3, 3))
    with pytest.raises(ValueError, match="takes 3"):
        conv2d(torch.zeros(1, 4, 5, 5), torch.zeros(2, 3, 3, 3))
    with pytest.raises(ValueError, match="larger than the grid"):
        conv2d(torch.zeros(1, 4, 2, 2), torch.zeros(2, 4, 3, 3))
    with pytest.raises(ValueError, match="padding_mode"):
        Conv2d(3, 3, 3, padding_mode="mirror")
