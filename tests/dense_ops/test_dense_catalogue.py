"""The catalogue of variants: complete, equal to plain torch, and the pictures of what each one reads."""

from __future__ import annotations

import inspect

import pytest
import torch
from dense_checks import F64, assert_equal, draw
from torch import nn

from sparseconv import dense_ops
from sparseconv.dense_ops.catalogue import VARIANTS
from sparseconv.scripts.variant_pictures import find_pattern, influence_of
from sparseconv.scripts.variant_programs import PROGRAMS


def test_no_layer_is_left_out() -> None:
    exported = {
        value for value in vars(dense_ops).values() if inspect.isclass(value) and issubclass(value, nn.Module)
    }
    # It appends coordinates for another layer; CoordConv2d is that with a convolution.
    exported.remove(dense_ops.AddCoords2d)
    shown = {type(module) for variant in VARIANTS.values() for module in variant.make(8).modules()}
    assert exported <= shown, exported - shown
    assert list(PROGRAMS) == list(VARIANTS)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("shape", [(2, 10, 12), (1, 8, 8)])
def test_a_layer_equals_its_plain_torch_program(name: str, shape: tuple[int, ...]) -> None:
    """Values and all gradients, with parameters away from special values."""
    layer = VARIANTS[name].make(8).double().eval()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    x = draw(shape[0], 8, *shape[1:]).requires_grad_()
    leaves = [x, *layer.parameters()]
    ours, theirs = layer(x), PROGRAMS[name](layer, x)
    assert_equal(ours, theirs)
    for one, other in zip(
        torch.autograd.grad(ours.square().sum(), leaves),
        torch.autograd.grad(theirs.square().sum(), leaves),
        strict=True,
    ):
        assert_equal(one, other, 100)


# Pixels that have influence and the box round them; None for all.
READS: dict[str, tuple[int, tuple[int, int]] | None] = {
    "standard": (9, (3, 3)),
    "reflect": (4, (2, 2)),  # in the corner: each of the other five is a copy of one of these
    "strided": (9, (3, 3)),
    "dilated": (9, (5, 5)),
    "grouped": (9, (3, 3)),
    "depthwise": (9, (3, 3)),
    "pointwise": (1, (1, 1)),
    "transposed": (4, (2, 2)),
    "spatially_separable": (9, (3, 3)),
    "depthwise_separable": (9, (3, 3)),
    "flattened": (25, (5, 5)),
    "inception": (25, (5, 5)),
    "coord": (9, (3, 3)),
    "central_difference": (9, (3, 3)),
    "cross_hv": (5, (3, 3)),
    "cross_dg": (5, (3, 3)),
    "cpdc": (9, (3, 3)),
    "apdc": (8, (3, 3)),
    "rpdc": (16, (5, 5)),
    "circle": (25, (5, 5)),
    "octave": (100, (10, 10)),  # two layers on pixels of twice the side
    "involution": (49, (7, 7)),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_pictures_show_what_is_read(name: str) -> None:
    pattern = find_pattern(name)
    if name in READS:
        assert (pattern.pixels, pattern.hull) == READS[name]
    elif name.startswith("deformable"):
        # Offsets of about a pixel: some samples lie outside the plain 3x3 window, and none far away.
        assert 9 < pattern.pixels <= 36 and max(pattern.hull) <= 9
    else:
        # The kernels come from the whole image.
        assert pattern.pixels == pattern.influence.size and "all pixels" in pattern.caption
    assert VARIANTS[name].title in pattern.caption


def test_influence_is_the_norm_of_the_derivatives() -> None:
    layer = dense_ops.Conv2d(3, 2, 3, padding=1).double()
    influence = influence_of(layer, torch.zeros(1, 3, 7, 8, dtype=F64), (2, 5))
    wanted = layer.weight.detach().square().sum((0, 1)).sqrt()
    assert_equal(torch.from_numpy(influence)[1:4, 4:7], wanted)
    assert (influence > 0).sum() == 9
