"""On a full grid each 2D twin equals its dense layer, values and gradients, with the dense layer's state."""

from __future__ import annotations

import pytest
import torch
from tolerance import assert_close
from variant_layers import full_grid, layer_class

import sparseconv
from sparseconv import dense_ops
from sparseconv import functional as F
from sparseconv.nn import from_dense_state

C = 8
PATTERNS = {"(0, 0)": 2, "(0, 1)": 2, "(1, 2)": 2}

# Name without family and dimension, and the arguments of both layers.
TWINS = {
    "central": ("CentralDifferenceConv", (C, 6), {"bias": True}),
    "central_dilated": ("CentralDifferenceConv", (C, 6, 3), {"dilation": 2, "padding": 2, "groups": 2}),
    "cross_hv": ("CrossCentralDifferenceConv", (C, 6), {"theta": 0.8}),
    "cross_dg": ("CrossCentralDifferenceConv", (C, 6), {"direction": "dg", "bias": True}),
    "cpdc": ("PixelDifferenceConv", (C, 6), {"kind": "CPDC"}),
    "apdc": ("PixelDifferenceConv", (C, 6), {"kind": "APDC", "theta": 0.7}),
    "rpdc": ("PixelDifferenceConv", (C, 6), {"kind": "RPDC", "theta": 0.7}),
    "rpdc_dilated": ("PixelDifferenceConv", (C, 6), {"kind": "rd", "dilation": 2}),
    "circle_3": ("CircleConv", (C, 6, 3), {"padding": 1, "radius": 0.8}),
    "circle_5": ("CircleConv", (C, 6, 5), {"padding": 2, "angles": "even"}),
    "circle_7": ("CircleConv", (C, 6, 7), {"padding": 3, "radius": {2: 1.5, 4: 3.7}}),
    "coord": ("CoordConv", (C, 6, 3), {"padding": 1, "with_r": True}),
    "coord_yx": ("CoordConv", (C, 6, 3), {"padding": 1, "order": "yx"}),
    "separable": ("SpatiallySeparableConv", (C, 6, 3, 5), {}),
    "separable_wh": ("SpatiallySeparableConv", (C, 6, (3, 5), 5), {"order": "wh"}),
    "separable_depthwise": ("SpatiallySeparableConv", (C, C, 3), {"depthwise": True}),
    "flattened": ("FlattenedConv", (C, 6, 3), {"num_sets": 2}),
    "depthwise": ("DepthwiseSeparableConv", (C, 6), {"multiplier": 2}),
    "inception": ("ICConv", (PATTERNS, C, 6, 3), {"bias": True, "groups": 2}),
    "cond": ("CondConv", (C, 6), {"padding": 1, "bias": True, "groups": 2}),
    "dynamic": ("DynamicConv", (C, 6, 3), {"padding": 1}),
    "dynet": ("DyNetConv", (C, 6, 3), {"padding": 1, "group_size": 3, "hidden": 5}),
    "omni": ("ODConv", (C, 6, 3), {"padding": 1, "kernel_num": 3, "groups": 2}),
    "omni_layer": ("ODConv", (C, 6, 3), {"padding": 1, "norm": "layer"}),
    "involution": ("Involution", (C, 3), {"group_channels": 4}),
    "deform": ("DeformConv", (C, 6, 3), {"padding": 1, "offset_groups": 2, "groups": 2}),
    "deform_modulated": ("DeformConv", (C, 6, 3), {"padding": 2, "dilation": 2, "modulated": True}),
}
STRIDED = {
    "central": ("CentralDifferenceConv", (C, 6, 3, 2), {}),
    "cross": ("CrossCentralDifferenceConv", (C, 6, 3, 2), {"direction": "dg"}),
    "rpdc": ("PixelDifferenceConv", (C, 6, 3, 2), {"kind": "RPDC"}),
    "circle": ("CircleConv", (C, 6, 5, 2, 2), {}),
    "coord": ("CoordConv", (C, 6, 3, 2, 1), {}),
    "separable": ("SpatiallySeparableConv", (C, 6, 3, 5, 2), {}),
    "flattened": ("FlattenedConv", (C, 6, 3, 2), {}),
    "depthwise": ("DepthwiseSeparableConv", (C, 6, 3, (2, 1)), {}),
    "inception": ("ICConv", (PATTERNS, C, 6, 3, 2), {}),
    "cond": ("CondConv", (C, 6, 3, 2, 1), {}),
    "dynamic": ("DynamicConv", (C, 6, 3, 0.25, 2, 1), {}),
    "dynet": ("DyNetConv", (C, 6, 3, 2, 1), {}),
    "omni": ("ODConv", (C, 6, 3, 2, 1), {}),
    "involution": ("Involution", (C, 3, 2), {"group_channels": 4}),
    "valid": ("CircleConv", (C, 6, 3), {}),
    "full": ("CentralDifferenceConv", (C, 6, 3), {"padding": 2}),
}


def agree(family: str, name: str, args: tuple, kwargs: dict) -> None:
    torch.manual_seed(2)
    dense = getattr(dense_ops, f"{name}2d")(*args, **kwargs).double()
    with torch.no_grad():
        for parameter in dense.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    sparse = layer_class(family + name, 2)(*args, **kwargs).double()
    sparse.load_state_dict(from_dense_state(dense.state_dict()))
    image = torch.randn(2, C, 8, 10, dtype=torch.float64, requires_grad=True)
    expected, found = dense(image), sparse(full_grid(image)).dense()
    assert_close(found, expected, 1000, "output")
    cotangent = torch.randn_like(expected)
    theirs = torch.autograd.grad(expected, [image, *dense.parameters()], cotangent)
    ours = torch.autograd.grad(found, [image, *sparse.parameters()], cotangent)
    wanted = {"image": theirs[0]}
    wanted |= from_dense_state(dict(zip(dict(dense.named_parameters()), theirs[1:], strict=True)))
    for (key, grad), own in zip(wanted.items(), ours, strict=True):
        assert_close(own, grad, 5000, key)


@pytest.mark.parametrize("twin", TWINS)
def test_submanifold_twins_equal_the_dense_layer(backend: str, twin: str) -> None:
    agree("SubM", *TWINS[twin])


@pytest.mark.parametrize("twin", STRIDED)
def test_sparse_twins_equal_the_dense_layer(backend: str, twin: str) -> None:
    agree("Sparse", *STRIDED[twin])


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("missing", ["ignore", "zero"])
def test_octave_equals_the_dense_layer(backend: str, stride: int, missing: str) -> None:
    args = {"padding": 1, "bias": True}
    alphas = ((0, 0.5, 1), (0.5, 0.25, stride), (0.25, 0, 1))
    dense = [dense_ops.OctaveConv2d(C, C, 3, a, b, s, **args).double() for a, b, s in alphas]
    args["missing"] = missing
    sparse = [sparseconv.SparseOctaveConv2d(C, C, 3, a, b, s, **args).double() for a, b, s in alphas]
    image = torch.randn(2, C, 8, 16, dtype=torch.float64)
    y, x = image, full_grid(image)
    for theirs, ours in zip(dense, sparse, strict=True):
        ours.load_state_dict(from_dense_state(theirs.state_dict()))
        y, x = theirs(y), ours(x)
    assert_close(x.dense(), y, 1000)


def test_only_low_frequencies_equal_the_dense_layer() -> None:
    dense = dense_ops.OctaveConv2d(C, C, 3, 1, 0.5, padding=1).double()
    sparse = sparseconv.SparseOctaveConv2d(C, C, 3, 1, 0.5).double()
    sparse.load_state_dict(from_dense_state(dense.state_dict()))
    image = torch.randn(1, C, 4, 5, dtype=torch.float64)
    for ours, theirs in zip(sparse(full_grid(image)), dense((None, image)), strict=True):
        assert_close(ours.dense(), theirs, 1000)


@pytest.mark.parametrize("stride", [1, 2])
def test_region_aware_convolution_equals_the_dense_function(backend: str, stride: int) -> None:
    """The dense layer's guide is another convolution, so the functions are compared, gradients included."""
    image = torch.randn(2, C, 8, 10, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 3, 6, C, 3, 3, dtype=torch.float64, requires_grad=True)
    shape = (8 // stride, 10 // stride)
    guide = torch.randn(2, 3, *shape, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(6, dtype=torch.float64, requires_grad=True)
    expected = dense_ops.dr_conv2d(image, guide, weight, bias, stride, 1)
    found = F.dr_conv(
        full_grid(image), full_grid(guide), weight.movedim(3, -1), bias, stride, 1, subm=stride == 1
    ).dense()
    assert_close(found, expected, 1000)
    leaves = (image, guide, weight, bias)
    cotangent = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(found, leaves, cotangent),
        torch.autograd.grad(expected, leaves, cotangent),
        strict=True,
    ):
        assert float(theirs.abs().max()) > 0
        assert_close(ours, theirs, 5000)


def test_initial_values_have_the_dense_layers_spread() -> None:
    """Equal in role: every parameter's spread is that of its dense twin (large layers, so that samples tell)."""
    for name, args, kwargs in (
        ("CentralDifferenceConv", (64, 64), {"bias": True}),
        ("CrossCentralDifferenceConv", (64, 64), {}),
        ("CondConv", (64, 64), {"bias": True}),
        ("DynamicConv", (64, 64, 3), {}),
        ("DyNetConv", (64, 64, 3), {}),
        ("ODConv", (64, 64, 3), {}),
        ("DeformConv", (64, 64, 3), {"bias": True}),
        ("Involution", (64, 3), {}),
        ("FlattenedConv", (64, 64, 3), {}),
    ):
        dense = from_dense_state(getattr(dense_ops, f"{name}2d")(*args, **kwargs).state_dict())
        layer = layer_class("SubM" + name, 2)(*args, **kwargs)
        for sparse in (layer.state_dict(), (layer.reset_parameters(), layer.state_dict())[1]):
            assert list(sparse) == list(dense)
            for key, value in sparse.items():
                assert value.shape == dense[key].shape, (name, key)
                if value.numel() > 100:
                    spread, wanted = float(value.std()), float(dense[key].std())
                    assert spread == pytest.approx(wanted, rel=0.25, abs=1e-9), (name, key)
