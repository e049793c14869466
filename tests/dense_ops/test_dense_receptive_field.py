"""The receptive field's formula, against the gradient of a stack of all-ones convolutions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparseconv.dense_ops import Conv2d, ReceptiveField, WindowLayer, conv2d, receptive_field

STACKS = [
    [WindowLayer(3, 1, 1)],
    [WindowLayer(3), WindowLayer(3)],
    [WindowLayer(3, dilation=2), WindowLayer(3, dilation=2)],
    [WindowLayer(3, 2, 1), WindowLayer(2, 2), WindowLayer(5, 1, 2, 2)],
    [WindowLayer(1), WindowLayer(4, 3, 1), WindowLayer(3, 1, "full"), WindowLayer(3, 1, "same", 3)],
]


@pytest.mark.parametrize("layers", STACKS)
def test_field_is_the_extent_of_the_gradient(layers) -> None:
    image = torch.zeros(1, 1, 121, 9, dtype=torch.float64, requires_grad=True)
    x = image
    for layer in layers:
        padding = layer.padding
        pads = (padding, 0) if isinstance(padding, int) else padding
        ones = torch.ones(1, 1, layer.kernel_size, 1, dtype=torch.float64)
        x = conv2d(x, ones, None, (layer.stride, 1), pads, (layer.dilation, 1))
    middle = x.shape[2] // 2
    x[0, 0, middle, 4].backward()
    seen = image.grad[0, 0, :, 4].nonzero().flatten()
    field = receptive_field(layers)
    first, last = int(seen.min()), int(seen.max())
    assert field.size == last - first + 1
    assert field.span(middle) == (first, last)
    assert field.coverage == len(seen) / field.size


def test_known_stacks() -> None:
    assert receptive_field([]) == ReceptiveField(1, 1.0, 0.0, 1.0, True)
    assert receptive_field([WindowLayer(3)] * 2).size == receptive_field([WindowLayer(5)]).size == 5
    assert receptive_field([WindowLayer(3, dilation=2)] * 2).coverage == 5 / 9
    # Hybrid dilation 1, 2, 3 leaves no hole.
    hybrid = receptive_field([WindowLayer(3, dilation=d) for d in (1, 2, 3)])
    assert (hybrid.size, hybrid.coverage) == (13, 1.0)


def test_axes_and_modules() -> None:
    stack = [Conv2d(1, 2, (3, 5), (2, 1), (1, 2)), nn.MaxPool2d(2), nn.Conv2d(2, 2, 3, padding="same", dilation=2)]
    height, width = receptive_field(stack, axis=0), receptive_field(stack, axis=1)
    assert (height.size, height.stride) == (3 + 2 + 4 * 4, 4)
    assert (width.size, width.stride) == (5 + 1 + 4 * 2, 2)


def test_transposed_layers_give_a_bound() -> None:
    layers = [WindowLayer(3, 2, 1), WindowLayer(3, 2, 1, transposed=True), WindowLayer(3, 1, 1)]
    field = receptive_field(layers)
    assert not field.exact and field.coverage is None and field.stride == 1
    image = torch.zeros(1, 1, 41, 1, dtype=torch.float64, requires_grad=True)
    down = nn.functional.conv2d(image, torch.ones(1, 1, 3, 1).double(), None, (2, 1), (1, 0))
    up = nn.functional.conv_transpose2d(down, torch.ones(1, 1, 3, 1).double(), None, (2, 1), (1, 0))
    out = nn.functional.conv2d(up, torch.ones(1, 1, 3, 1).double(), None, 1, (1, 0))
    for index in (20, 21):
        (gradient,) = torch.autograd.grad(out[0, 0, index, 0], image, retain_graph=True)
        seen = gradient[0, 0, :, 0].nonzero().flatten()
        first, last = field.span(index)
        assert first <= seen.min() and seen.max() <= last


def test_bad_layers_are_named() -> None:
    with pytest.raises(TypeError, match="ReLU"):
        receptive_field([nn.ReLU()])
    with pytest.raises(ValueError, match="depends on the image size"):
        receptive_field([WindowLayer(3, 2, "same")])
    with pytest.raises(ValueError, match="must be positive"):
        receptive_field([WindowLayer(0)])
