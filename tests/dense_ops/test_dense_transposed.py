"""Transposed convolution: adjoint, zero-stuffing, overlap and checkerboard."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from dense_checks import F64, assert_equal, assert_gradients_equal, counted_macs, draw, gradcheck

from sparseconv.dense_ops import ConvTranspose2d, checkerboard, conv2d, conv_transpose2d, overlap_count

CASES = [(1, 0, 0, 1), (2, 1, 1, 1), (3, 0, 2, 2), (2, 2, 0, 2)]


@pytest.mark.parametrize(("stride", "padding", "output_padding", "dilation"), CASES)
@pytest.mark.parametrize("groups", [1, 2])
def test_values_and_gradients_equal_torch(stride, padding, output_padding, dilation, groups) -> None:
    arguments = (stride, padding, output_padding, groups, dilation)
    assert_gradients_equal(
        lambda x, w, b: conv_transpose2d(x, w, b, *arguments),
        lambda x, w, b: F.conv_transpose2d(x, w, b, *arguments),
        (draw(2, 4, 5, 4), draw(4, 3, 3, 3), draw(3 * groups)),
    )


@pytest.mark.parametrize(("stride", "padding", "output_padding", "dilation"), CASES)
def test_it_is_the_adjoint_of_the_convolution(stride, padding, output_padding, dilation) -> None:
    y, weight = draw(1, 4, 5, 4), draw(4, 3, 3, 3)
    up = conv_transpose2d(y, weight, None, stride, padding, output_padding, 1, dilation)
    z = draw(*up.shape)
    down = conv2d(z, weight, None, stride, padding, dilation)
    assert down.shape == y.shape
    assert_equal((down * y).sum(), (up * z).sum())


@pytest.mark.parametrize(("stride", "padding", "output_padding", "dilation"), CASES)
def test_it_is_a_convolution_of_the_zero_stuffed_input(stride, padding, output_padding, dilation) -> None:
    x, weight = draw(1, 2, 5, 4), draw(2, 3, 3, 3)
    stuffed = torch.zeros(1, 2, 4 * stride + 1, 3 * stride + 1, dtype=F64)
    stuffed[:, :, ::stride, ::stride] = x
    margin = dilation * 2 - padding
    stuffed = F.pad(stuffed, (margin, margin + output_padding) * 2)
    expected = conv2d(stuffed, weight.flip(2, 3).transpose(0, 1), dilation=dilation)
    assert_equal(conv_transpose2d(x, weight, None, stride, padding, output_padding, 1, dilation), expected)


def test_stride_one_is_a_full_convolution_with_the_flipped_kernel() -> None:
    x, weight = draw(1, 2, 5, 4), draw(2, 3, 3, 2)
    expected = conv2d(x, weight.flip(2, 3).transpose(0, 1), padding="full")
    assert_equal(conv_transpose2d(x, weight), expected)


def test_derivatives() -> None:
    gradcheck(lambda x, w, b: conv_transpose2d(x, w, b, 2, 1, 1, 2), draw(1, 2, 2, 3), draw(2, 1, 3, 3), draw(2))


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("dilation", [1, 2])
def test_overlap_is_a_convolution_of_ones(kernel, stride, padding, dilation) -> None:
    if (7 - 1) * stride + dilation * (kernel - 1) + 1 <= 2 * padding:
        return
    ones = torch.ones(1, 1, 7, 8, dtype=F64)
    expected = F.conv_transpose2d(
        ones, torch.ones(1, 1, kernel, kernel, dtype=F64), None, stride, padding, 0, 1, dilation
    )
    overlap = overlap_count((7, 8), kernel, stride, padding, 0, dilation)
    assert torch.equal(overlap.double(), expected[0, 0])
    # Interior pixels have the count of their class.
    report = checkerboard(kernel, stride, dilation)
    reach = dilation * (kernel - 1)
    for j in range(reach, overlap.shape[0] - reach):
        for i in range(reach, overlap.shape[1] - reach):
            assert overlap[j, i] == report.counts[(j + padding) % stride, (i + padding) % stride]


@pytest.mark.parametrize("kernel", range(2, 6))
@pytest.mark.parametrize("stride", range(1, 6))
def test_coverage_is_uniform_where_stride_divides_kernel(kernel, stride) -> None:
    report = checkerboard(kernel, stride)
    assert report.uniform == (kernel % stride == 0)
    per_axis = {(kernel - 1 - rho) // stride + 1 if kernel > rho else 0 for rho in range(stride)}
    assert set(report.counts.flatten().tolist()) == {a * b for a in per_axis for b in per_axis}
    assert report.ratio == (math.inf if 0 in per_axis else max(per_axis) ** 2 / min(per_axis) ** 2)


def test_dilation_that_shares_a_factor_with_the_stride_leaves_pixels_out() -> None:
    report = checkerboard(4, 2, 2)
    assert not report.uniform and report.ratio == math.inf
    assert report.counts.tolist() == [[16, 0], [0, 0]]


def test_equal_counts_with_unequal_weights_still_give_a_pattern() -> None:
    layer = ConvTranspose2d(2, 3, 4, 2, bias=False).double()
    report = layer.checkerboard()
    assert report.uniform and report.weight_spread > 0
    constant = layer(torch.ones(1, 2, 6, 6, dtype=F64))
    for j in (4, 5):
        for i in (4, 5):
            assert_equal(constant[0, :, j, i], report.weight_sums[:, :, j % 2, i % 2].sum(0))
    with torch.no_grad():
        layer.weight.fill_(1)
    assert layer.checkerboard().weight_spread == 0
    assert layer.overlap_count((6, 6)).shape == (14, 14)
    # The usual remedy: enlarge, then convolve.
    enlarged = torch.ones(1, 1, 8, 8, dtype=F64)
    assert conv2d(enlarged, torch.ones(1, 1, 3, 3, dtype=F64)).unique().numel() == 1


def test_flops(monkeypatch) -> None:
    layer = ConvTranspose2d(4, 6, 3, 2, groups=2)
    with counted_macs(monkeypatch) as calls:
        layer(torch.zeros(2, 4, 5, 7))
    assert layer.flops((2, 4, 5, 7)) == (sum(calls), 4 * 3 * 9 + 6)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="output_padding must be smaller"):
        conv_transpose2d(torch.zeros(1, 2, 3, 3), torch.zeros(2, 1, 3, 3), output_padding=1)
    with pytest.raises(ValueError, match=r"\[C, O / groups, kh, kw\] with C = 2"):
        conv_transpose2d(torch.zeros(1, 2, 3, 3), torch.zeros(3, 1, 3, 3))
    with pytest.raises(ValueError, match="kernel_size"):
        checkerboard(3, 2, weight=torch.zeros(1, 1, 4, 4))
