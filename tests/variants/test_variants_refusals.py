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
}


@pytest.mark.parametrize("case", CASES)
def test_the_error_says_what_came_and_what_was_expected(case: str) -> None:
    call, kind, message = CASES[case]
    with pytest.raises(kind, match=message):
        call(scene(3).float())
