"""Convolutions in factors, against the one kernel that they multiply to."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from dense_checks import F64, assert_equal, assert_folds, counted_macs, draw, gradcheck

from sparseconv.dense_ops import (
    DepthwiseSeparableConv2d,
    FlattenedConv2d,
    SpatiallySeparableConv2d,
    depthwise_separable_conv2d,
    flattened_conv2d,
    spatially_separable_conv2d,
)

GEOMETRY = [
    # kernel, stride, padding, dilation
    (3, 1, None, 1),
    (5, 2, 1, 1),
    ((3, 5), (2, 3), (2, 0), (1, 2)),
    (2, 1, "same", 1),
    (3, 1, "full", 2),
]


@pytest.mark.parametrize("order", ["hw", "wh"])
@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation"), GEOMETRY)
def test_spatially_separable_is_the_product_kernel(kernel, stride, padding, dilation, depthwise, order) -> None:
    channels = (4, 4, 4) if depthwise else (3, 5, 4)
    layer = SpatiallySeparableConv2d(
        channels[0], channels[1], kernel, channels[2], stride, padding, dilation, depthwise, True, order
    ).double()
    assert_folds(layer, draw(2, channels[0], 11, 13))


def test_spatially_separable_layouts() -> None:
    """Vertical first, by the formula; and Sobel is the product of a smoothing and a difference."""
    x, a, b = draw(1, 3, 6, 7), draw(4, 3, 3, 1), draw(2, 4, 1, 3)
    weight = torch.einsum("omv,mcu->ocuv", b[:, :, 0], a[:, :, :, 0])
    assert_equal(spatially_separable_conv2d(x, a, b, padding=1), F.conv2d(x, weight, padding=1))
    image = draw(1, 1, 6, 7)
    smooth, difference = torch.tensor([1.0, 2, 1], dtype=F64), torch.tensor([-1.0, 0, 1], dtype=F64)
    sobel = torch.outer(smooth, difference)[None, None]
    separable = spatially_separable_conv2d(image, smooth.reshape(1, 1, 3, 1), difference.reshape(1, 1, 1, 3))
    assert_equal(separable, F.conv2d(image, sobel))


@pytest.mark.parametrize("mid", [1, 2, 3])
def test_mid_channels_bound_the_rank(mid) -> None:
    weight = SpatiallySeparableConv2d(4, 5, 3, mid).double().to_conv2d().weight  # [O, C, u, v]
    matrix = weight.permute(0, 3, 1, 2).reshape(5 * 3, 4 * 3)
    assert torch.linalg.matrix_rank(matrix) == mid


@pytest.mark.parametrize("multiplier", [1, 3])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"), [(3, 1, 1, 1), (4, 2, 3, 2), ((2, 3), 1, "same", 1)]
)
def test_depthwise_separable_is_the_product_kernel(kernel, stride, padding, dilation, multiplier, bias) -> None:
    layer = DepthwiseSeparableConv2d(3, 5, kernel, stride, padding, dilation, multiplier, bias).double()
    assert_folds(layer, draw(2, 3, 9, 8))


def test_depthwise_separable_special_cases() -> None:
    x = draw(2, 3, 6, 5)
    delta = torch.zeros(3, 1, 3, 3, dtype=F64)
    delta[:, :, 1, 1] = 1
    pointwise = draw(4, 3, 1, 1)
    assert_equal(depthwise_separable_conv2d(x, delta, pointwise, padding=1), F.conv2d(x, pointwise))
    depthwise, identity = draw(3, 1, 3, 3), torch.eye(3, dtype=F64)[:, :, None, None]
    expected = F.conv2d(x, depthwise, padding=1, groups=3)
    assert_equal(depthwise_separable_conv2d(x, depthwise, identity, padding=1), expected)


@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation"), GEOMETRY)
def test_flattened_is_a_kernel_of_rank_one(kernel, stride, padding, dilation) -> None:
    layer = FlattenedConv2d(3, 4, kernel, stride, padding, bias=False, dilation=dilation).double()
    assert_folds(layer, draw(2, 3, 11, 13))


def test_flattened_biases() -> None:
    x = draw(2, 3, 9, 8)
    unpadded = FlattenedConv2d(3, 4, 3, padding=0).double()
    assert_folds(unpadded, x)
    padded = FlattenedConv2d(3, 4, 3).double()
    with pytest.raises(ValueError, match="do not fold to one kernel at the borders"):
        padded.to_conv2d()
    plain, layered = padded.to_conv2d(interior_only=True)(x), padded(x)
    assert_equal(plain[:, :, 1:-1, 1:-1], layered[:, :, 1:-1, 1:-1])
    assert (plain - layered).abs().max() > 1e-3
    with pytest.raises(ValueError, match="got 2 sets"):
        FlattenedConv2d(3, 4, 3, num_sets=2).to_conv2d()


@pytest.mark.parametrize(
    ("padding", "lateral", "vertical", "folds"),
    [
        ((1, 0), 0, 1, True),  # the vertical kernel pads nothing but the lateral bias
        ((1, 0), 1, 0, False),
        ((0, 1), 0, 1, False),
        ((0, 1), 1, 0, False),
        ((1, 1), 0, 0, True),
        ("valid", 1, 1, True),
        ("full", 0, 1, False),
        ("same", 0, 0, True),
    ],
)
def test_a_flattened_set_folds_where_no_bias_is_lost_in_the_padding(padding, lateral, vertical, folds) -> None:
    layer = FlattenedConv2d(3, 4, 3, padding=padding).double()
    with torch.no_grad():
        layer.sets[0].lateral.bias.mul_(lateral)
        layer.sets[0].vertical.bias.mul_(vertical)
    x = draw(2, 3, 6, 7)
    if folds:
        assert_folds(layer, x)
    else:
        with pytest.raises(ValueError, match="do not fold"):
            layer.to_conv2d()
        assert (layer.to_conv2d(interior_only=True)(x) - layer(x)).abs().max() > 1e-3


def test_flattened_sets_run_one_after_the_other() -> None:
    layer = FlattenedConv2d(3, 4, 3, 2, num_sets=2).double()
    x = draw(1, 3, 9, 8)
    assert layer(x).shape == (1, 4, 5, 4)
    assert_equal(layer(x), layer.sets[1](layer.sets[0](x)))
    assert layer.flops((3, 9, 8)).parameters == 4 * (3 + 6) + 4 * (4 + 6) + 2 * 12


def test_derivatives() -> None:
    x = draw(1, 2, 4, 3)
    gradcheck(
        lambda *t: spatially_separable_conv2d(*t, 2, 1, 1, 1, "wh"), x, draw(3, 2, 1, 3), draw(2, 3, 3, 1), draw(2)
    )
    gradcheck(
        lambda *t: depthwise_separable_conv2d(*t, 1, 1), x, draw(4, 1, 3, 3), draw(3, 4, 1, 1), draw(4), draw(3)
    )
    gradcheck(
        lambda *t: flattened_conv2d(*t, 1, 1),
        x,
        draw(3, 2, 1, 1),
        draw(3, 1, 3, 1),
        draw(3, 1, 1, 3),
        *(draw(3),) * 3,
    )


def test_flops_by_formula_and_by_map(monkeypatch) -> None:
    pixels, k = 2 * 7 * 6, 3
    for layer, per_pixel, parameters in (
        (SpatiallySeparableConv2d(4, 6, k, 5), k * (4 * 5 + 5 * 6), k * (4 * 5 + 5 * 6) + 6),
        (DepthwiseSeparableConv2d(4, 6, k, multiplier=2), 8 * 9 + 8 * 6, 8 * 9 + 8 * 6 + 8 + 6),
        (FlattenedConv2d(4, 6, k), 6 * (4 + 2 * k), 6 * (4 + 2 * k) + 18),
    ):
        assert layer.flops((2, 4, 7, 6)) == (pixels * per_pixel, parameters)
    for layer in (
        SpatiallySeparableConv2d(4, 6, k, 5, 2, 0),
        DepthwiseSeparableConv2d(4, 6, k, 2, 0),
        FlattenedConv2d(4, 6, k, 2, 0),
    ):
        with counted_macs(monkeypatch) as calls:
            layer(torch.zeros(2, 4, 7, 6))
        assert layer.flops((2, 4, 7, 6)).macs == sum(calls)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="order must be 'hw'"):
        SpatiallySeparableConv2d(2, 2, 3, order="vh")
    with pytest.raises(ValueError, match="got 2, 3 and 3"):
        SpatiallySeparableConv2d(2, 3, 3, depthwise=True)
    with pytest.raises(ValueError, match=r"first weight of order 'hw' must be \[.., k, 1\]"):
        spatially_separable_conv2d(draw(1, 2, 4, 4), draw(2, 2, 1, 3), draw(2, 2, 3, 1))
    with pytest.raises(ValueError, match="vertical weight must be"):
        flattened_conv2d(draw(1, 2, 4, 4), draw(2, 2, 1, 1), draw(2, 1, 1, 3), draw(2, 1, 1, 3))
    with pytest.raises(ValueError, match="num_sets"):
        FlattenedConv2d(2, 2, 3, num_sets=0)
