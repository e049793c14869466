"""Circle convolution: the matrix, and the kernel that it folds to."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from dense_checks import F64, assert_equal, assert_folds, draw, gradcheck

from sparseconv.dense_ops import CircleConv2d, circle_conv2d, circle_matrix, deform_conv2d


def test_the_corner_of_3x3_by_hand() -> None:
    a = 1 / math.sqrt(2)
    matrix = circle_matrix(3)
    corner = torch.zeros(9, dtype=F64)
    corner[0], corner[1], corner[3], corner[4] = a * a, a * (1 - a), a * (1 - a), (1 - a) ** 2
    assert_equal(matrix[0], corner)
    assert_equal(corner[[0, 1, 4]], torch.tensor([0.5, 0.20710678118, 0.08578643763], dtype=F64))
    for tap in (1, 3, 4, 5, 7):
        assert_equal(matrix[tap], torch.eye(9, dtype=F64)[tap])


@pytest.mark.parametrize("kernel", [1, 3, 5, 7, 9])
def test_rows_sum_to_one_and_flips_change_nothing(kernel) -> None:
    matrix = circle_matrix(kernel)
    assert_equal(matrix.sum(1), torch.ones(kernel**2, dtype=F64))
    cube = matrix.reshape((kernel,) * 4)
    for flips in ((0, 2), (1, 3), (0, 1, 2, 3)):
        assert_equal(cube.flip(flips), cube)
    assert_equal(cube.permute(1, 0, 3, 2), cube)


@pytest.mark.parametrize("kernel", [5, 7])
@pytest.mark.parametrize("angles", ["grid", "even"])
def test_each_tap_samples_its_place_on_the_circle(kernel, angles) -> None:
    """The matrix applied to the coordinates gives the place: bilinear weights are exact on linear functions."""
    half = kernel // 2
    matrix = circle_matrix(kernel, angles=angles)
    pixels = [(gx, gy) for gy in range(-half, half + 1) for gx in range(-half, half + 1)]
    places = matrix @ torch.tensor(pixels, dtype=F64)
    even = {(2, 1): 22.5, (1, 2): 67.5, (3, 1): 15, (1, 3): 75, (3, 2): 30, (2, 3): 60}
    for (gx, gy), (x, y) in zip(pixels, places.tolist(), strict=True):
        ring = int(math.sqrt(gx * gx + gy * gy))
        assert math.hypot(x, y) == pytest.approx(ring if gx and gy else abs(gx + gy), abs=1e-12)
        if gx and gy:
            angle = math.degrees(math.atan2(abs(y), abs(x)))
            wanted = math.degrees(math.atan2(abs(gy), abs(gx)))
            if angles == "even":
                wanted = even.get((abs(gx), abs(gy)), wanted)
            assert angle == pytest.approx(wanted, abs=1e-9)
            assert (x > 0) == (gx > 0) and (y > 0) == (gy > 0)


def test_radii() -> None:
    assert_equal(circle_matrix(3, math.sqrt(2)), torch.eye(9, dtype=F64))
    centre = circle_matrix(3, 0.0)
    assert_equal(centre[0], torch.eye(9, dtype=F64)[4])
    assert_equal(circle_matrix(3, math.sqrt(2) / 2)[0], torch.tensor([1, 1, 0, 1, 1, 0, 0, 0, 0], dtype=F64) / 4)
    assert_equal(circle_matrix(5, {1: 1.0, 2: 2.0}), circle_matrix(5))
    assert (circle_matrix(5, {2: 1.5}) != circle_matrix(5)).any()


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("arguments", [{}, {"stride": 2, "groups": 2}, {"dilation": 2, "angles": "even"}])
def test_it_folds(kernel, arguments) -> None:
    layer = CircleConv2d(4, 6, kernel, padding=kernel // 2, **arguments).double()
    x = draw(2, 4, 15, 13)
    assert_folds(layer, x)
    if kernel == 1:
        assert_equal(layer(x), F.conv2d(x, layer.weight, layer.bias, layer.stride, 0, 1, layer.groups))
    assert layer.flops((4, 15, 13)).macs == layer.to_conv2d().flops((4, 15, 13)).macs


def test_3x3_is_a_deformable_convolution_with_constant_offsets() -> None:
    x, weight = draw(1, 2, 7, 8), draw(3, 2, 3, 3)
    inward = 1 - 1 / math.sqrt(2)
    offset = torch.zeros(9, 2, dtype=F64)
    for tap, (dy, dx) in {0: (1, 1), 2: (1, -1), 6: (-1, 1), 8: (-1, -1)}.items():
        offset[tap] = torch.tensor([dy * inward, dx * inward], dtype=F64)
    offsets = offset.reshape(1, 18, 1, 1).expand(1, 18, 7, 8)
    assert_equal(circle_conv2d(x, weight, padding=1), deform_conv2d(x, offsets, weight, padding=1))


def test_the_gradient_goes_through_the_transposed_matrix() -> None:
    weight = draw(3, 2, 5, 5).requires_grad_()
    x = draw(1, 2, 6, 6)
    circle_conv2d(x, weight, padding=2).square().sum().backward()
    folded = (weight.detach().flatten(2) @ circle_matrix(5)).reshape(3, 2, 5, 5).requires_grad_()
    F.conv2d(x, folded, padding=2).square().sum().backward()
    assert_equal(weight.grad, (folded.grad.flatten(2) @ circle_matrix(5).T).reshape(3, 2, 5, 5), 10)
    gradcheck(lambda *t: circle_conv2d(*t, 2, 1), draw(1, 1, 4, 5), draw(2, 1, 3, 3), draw(2))


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="must be odd"):
        CircleConv2d(1, 1, 4)
    with pytest.raises(ValueError, match="mapping from ring"):
        CircleConv2d(1, 1, 5, radius=1.0)
    with pytest.raises(ValueError, match="radius must give rings"):
        circle_matrix(3, 2.0)
    with pytest.raises(ValueError, match="angles"):
        circle_matrix(3, angles="round")
    with pytest.raises(ValueError, match="up to 7x7"):
        circle_matrix(9, angles="even")
    with pytest.raises(ValueError, match=r"k, k\]"):
        circle_conv2d(draw(1, 1, 4, 4), draw(1, 1, 3, 1))
