"""Inception convolution and its search, against dilated convolutions and direct evaluation."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from dense_checks import F64, assert_equal, assert_folds, counted_macs, draw, gradcheck

from sparseconv.dense_ops import ICConv2d, ic_conv2d, search_dilation

PATTERNS = {"(0, 0)": 2, "(0, 2)": 4, "(1, 3)": 0, "(3, 1)": 2}


@pytest.mark.parametrize("kernel", [3, 5, (3, 5)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("groups", [1, 2])
def test_it_is_dilated_convolutions_side_by_side(kernel, stride, groups) -> None:
    layer = ICConv2d(PATTERNS, 4, 8, kernel, stride, groups, bias=True).double()
    x = draw(2, 4, 13, 12)
    kh, kw = layer.kernel_size
    parts, start = [], 0
    for (dy, dx), count in (((1, 1), 2), ((1, 3), 4), ((4, 2), 2)):
        rows = slice(start, start + count)
        padding = (dy * (kh // 2), dx * (kw // 2))
        parts.append(F.conv2d(x, layer.weight[rows], layer.bias[rows], stride, padding, (dy, dx), groups))
        start += count
    assert_equal(layer(x), torch.cat(parts, 1))
    assert_folds(layer, x)


def test_one_pattern_is_a_plain_convolution() -> None:
    layer = ICConv2d({(0, 0): 5}, 3, 5, 3).double()
    x = draw(1, 3, 6, 7)
    assert_equal(layer(x), F.conv2d(x, layer.weight, padding=1))


def test_derivatives_and_cost(monkeypatch) -> None:
    patterns = [((1, 2), 1), ((2, 1), 1)]
    gradcheck(lambda x, w, b: ic_conv2d(x, w, patterns, b, 2), draw(1, 2, 4, 5), draw(2, 2, 3, 3), draw(2))
    layer = ICConv2d(PATTERNS, 4, 8, 3, groups=2)
    assert layer.flops((2, 4, 7, 6)) == (2 * 42 * 8 * 2 * 9, 8 * 2 * 9)
    with counted_macs(monkeypatch) as calls:
        layer(torch.zeros(2, 4, 40, 40))
    # Padding apart, these are the multiply-adds that run.
    assert 0.8 < sum(calls) / layer.flops((2, 4, 40, 40)).macs < 1


@pytest.mark.parametrize("groups", [1, 2])
def test_expectation_is_direct_evaluation_on_constant_channels(groups) -> None:
    """With channels that are constant, E[y_i - y_i(d)] in the interior needs no statistics."""
    weight, means = draw(4, 4 // groups, 7, 7), draw(4)
    inputs = means[None, :, None, None].expand(2, 4, 9, 9)
    found = search_dilation(weight, inputs, 3, groups=groups)
    for dy, dx in itertools.product((1, 2, 3), (1, 2, 3)):
        kept = torch.zeros_like(weight)
        down, across = slice(3 - dy, 4 + dy, dy), slice(3 - dx, 4 + dx, dx)
        kept[:, :, down, across] = weight[:, :, down, across]
        lost = F.conv2d(inputs, weight - kept, groups=groups)
        assert_equal(found.errors[:, dy - 1, dx - 1], lost.mean((0, 2, 3)).abs())


@pytest.mark.parametrize("criterion", ["expectation", "mean_abs"])
def test_a_supernet_that_is_dilated_is_found(criterion) -> None:
    true = [(3, 1), (1, 1), (2, 3), (3, 1), (1, 2), (2, 2)]
    small = draw(6, 2, 3, 3)
    weight = torch.zeros(6, 2, 7, 7, dtype=F64)
    for i, (dy, dx) in enumerate(true):
        weight[i][:, 3 - dy : 4 + dy : dy, 3 - dx : 4 + dx : dx] = small[i]
    inputs = draw(2, 2, 11, 10) + 0.5
    found = search_dilation(weight, inputs, 3, criterion=criterion)
    assert found.dilations == true
    assert all(found.errors[i, dy - 1, dx - 1] == 0 for i, (dy, dx) in enumerate(true))
    # The found layer gives the supernet's channels in the found order.
    layer = ICConv2d(found.pattern_dist, 2, 6, 3).double()
    with torch.no_grad():
        layer.weight.copy_(found.weight)
    assert_equal(layer(inputs), F.conv2d(inputs, weight, padding=3)[:, found.order])


def test_ties_and_the_smallest_search() -> None:
    zero = torch.zeros(2, 3, 7, 7, dtype=F64)
    assert search_dilation(zero, draw(1, 3, 5, 5), 3).dilations == [(1, 1)] * 2
    found = search_dilation(draw(2, 3, 3, 3), draw(1, 3, 5, 5), 1)
    assert found.dilations == [(1, 1)] * 2 and (found.errors == 0).all()
    # Only taps of (1, 2), (2, 1) and (2, 2) differ from (1, 1): of (1, 2) and (2, 1) the smaller dy wins.
    weight = torch.zeros(1, 1, 5, 5, dtype=F64)
    weight[0, 0, 1, 1], weight[0, 0, 3, 3] = 1, 1
    weight[0, 0, 2, 0] = weight[0, 0, 0, 2] = -1
    assert search_dilation(weight, torch.ones(1, 1, 5, 5, dtype=F64), 2).dilations[0] == (1, 2)


def test_the_default_device_does_not_matter() -> None:
    """A program may have called ``torch.set_default_device("cuda")``; here, a device that computes nothing."""
    layer, inputs = ICConv2d({"(0, 0)": 2, "(0, 1)": 2}, 4, 4, 3, groups=2), draw(1, 4, 9, 9)
    plain, found = layer.to_conv2d(), search_dilation(draw(4, 4, 5, 5), inputs, 2)
    with torch.device("meta"):
        again = layer.to_conv2d()
        order = search_dilation(torch.zeros(4, 4, 5, 5, device="cpu", dtype=F64), inputs, 2).order
    assert torch.equal(again.weight, plain.weight)
    assert order.device == found.order.device == inputs.device


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="sum to planes = 8, got 6"):
        ICConv2d({"(0, 0)": 6}, 4, 8, 3)
    with pytest.raises(ValueError, match="dilation 1 is 0"):
        ICConv2d({"(-1, 0)": 8}, 4, 8, 3)
    with pytest.raises(ValueError, match="must be odd"):
        ICConv2d({"(0, 0)": 8}, 4, 8, 4)
    with pytest.raises(ValueError, match="divide by groups = 2"):
        ICConv2d({"(0, 0)": 3, "(1, 1)": 5}, 4, 8, 3, groups=2)
    with pytest.raises(ValueError, match="7, 7"):
        search_dilation(draw(2, 2, 5, 5), draw(1, 2, 5, 5), 3)
    with pytest.raises(ValueError, match="criterion"):
        search_dilation(draw(2, 2, 3, 3), draw(1, 2, 5, 5), 1, criterion="l1")
