"""What variants say about arguments that cannot work, at construction where that is possible."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from variant_layers import scene

import sparseconv
from sparseconv import SparseTensor, dense_ops
from sparseconv import functional as F

CASES: dict[str, tuple[Callable[[SparseTensor], object], type[Exception], str]] = {
    "search: no dilation": (
        lambda x: F.search_dilation(torch.ones(4, 1, 1, 1, 8), x, 0),
        ValueError,
        r"max_dilation must lie in 1 \.\. 1024, got 0",
    ),
    "search: half a dilation": (
        lambda x: F.search_dilation(torch.ones(4, 4, 4, 4, 8), x, 1.5),  # type: ignore[arg-type]
        TypeError,
        "max_dilation must hold integers",
    ),
    "search: groups": (
        lambda x: F.search_dilation(torch.ones(4, 5, 5, 5, 8), x, 2, groups=3),
        ValueError,
        "4 x 8 channels in 3 groups reads 24 channels, and the inputs have 8",
    ),
    "search: channels": (
        lambda x: F.search_dilation(torch.ones(4, 5, 5, 5, 9), x, 2),
        ValueError,
        "reads 9 channels, and the inputs have 8",
    ),
    "search on images: channels": (
        lambda x: dense_ops.search_dilation(torch.ones(4, 9, 5, 5), torch.ones(1, 8, 6, 6), 2),
        ValueError,
        "reads 9 channels, and the inputs have 8",
    ),
    "patterns in a list": (
        lambda x: sparseconv.SubMICConv3d([(0, 0, 0)], 8, 6),  # type: ignore[arg-type]
        TypeError,
        r"such as \{\(0, 0, 0\): 6\}, got list",
    ),
    "patterns of images in a list": (
        lambda x: dense_ops.ICConv2d([(0, 0)], 8, 6),  # type: ignore[arg-type]
        TypeError,
        r"such as \{\(0, 0\): 6\}, got list",
    ),
    "a base": (
        lambda x: sparseconv.nn.Involution(16),
        TypeError,
        "without a number of axes: use SubMInvolution3d or SparseInvolution3d, or those of 1, 2 or 4 axes",
    ),
    "sides of a circle": (
        lambda x: sparseconv.SubMCircleConv3d(8, 6, (3, 3, 5)),
        ValueError,
        r"equal sides, got kernel_size \(3, 3, 5\): give one integer",
    ),
    "sides of a circle on images": (
        lambda x: dense_ops.CircleConv2d(8, 6, (3, 5)),
        ValueError,
        r"equal sides, got kernel_size \(3, 5\)",
    ),
    "stride of a deformable layer": (
        lambda x: sparseconv.SubMDeformConv3d(8, 6, stride=(1, 2, 2)),
        ValueError,
        r"stride must be 1, got \(1, 2, 2\)\. Put a SparseConv layer",
    ),
    "no region": (
        lambda x: sparseconv.SubMDRConv3d(8, 6, region_num=0),
        ValueError,
        r"region_num must lie in 1 \.\. 65536, got 0",
    ),
    "no hidden unit": (lambda x: sparseconv.SubMDyNetConv3d(8, 6, hidden=0), ValueError, "hidden must lie in 1"),
    "a negative ratio": (
        lambda x: sparseconv.SubMDynamicConv3d(8, 6, ratio=-1),
        ValueError,
        "ratio must not be negative, got -1",
    ),
    "no cell": (lambda x: F.pool_cells(x, 0), ValueError, r"factor must lie in 1 \.\. 1024, got 0"),
    "a tensor of routing weights": (
        lambda x: sparseconv.SubMCondConv3d(8, 6)(x, x),  # type: ignore[arg-type]
        TypeError,
        r"mixture must be a tensor \[3, 4\], got SparseTensor",
    ),
    "an involution of other axes": (
        lambda x: sparseconv.SparseInvolution2d(8, 3, 2, group_channels=4)(x),
        ValueError,
        "takes 2 spatial axes, got a tensor with 3: use a layer whose name ends in 3d",
    ),
}

# Layers that run a linear layer on the means of samples first.
BY_SAMPLE = ("SubMCondConv3d", "SubMDynamicConv3d", "SubMDyNetConv3d", "SparseODConv3d", "SubMDRConv3d")


@pytest.mark.parametrize("name", BY_SAMPLE)
def test_features_that_do_not_fit_are_refused_before_the_means(name: str) -> None:
    layer = getattr(sparseconv, name)(8, 6).eval()
    with pytest.raises(ValueError, match=r"channels, got features with 9|features have 9 channels"):
        layer(scene(3, channels=9).float())
    with pytest.raises(TypeError, match=r"features are torch\.float64 .*torch\.autocast"):
        layer(scene(3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(scene(3).float().bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("case", CASES)
def test_the_error_says_what_came_and_what_was_expected(case: str) -> None:
    call, kind, message = CASES[case]
    with pytest.raises(kind, match=message):
        call(scene(3).float())


def test_a_circle_takes_its_side_for_every_axis_too() -> None:
    assert sparseconv.SubMCircleConv3d(8, 6, (5, 5, 5)).kernel_size == [5, 5, 5]
    assert dense_ops.CircleConv2d(8, 6, (5, 5)).kernel_size == (5, 5)
