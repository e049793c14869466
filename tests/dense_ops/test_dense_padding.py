"""Padding names and modes of the dense convolution, against torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from dense_checks import F64, assert_equal, assert_gradients_equal, counted_macs, draw, gradcheck
from torch import nn

from sparseconv.dense_ops import Conv2d, conv2d
from sparseconv.dense_ops.padding import source_positions
from sparseconv.dense_ops.window import Window

# torch warns that its own way to pad an even kernel copies the image.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")

MODES = ["zeros", "reflect", "replicate", "circular"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "groups"),
    [
        (3, 1, 1, 1, 1),
        (3, 2, 2, 2, 2),
        ((2, 5), (1, 3), (1, 4), (2, 1), 1),
        (4, 1, "same", 1, 4),
        (3, 1, "same", 3, 1),
    ],
)
def test_padding_modes_and_their_gradients_equal_torch(mode, kernel, stride, padding, dilation, groups) -> None:
    ours = Conv2d(4, 8, kernel, stride, padding, dilation, groups, padding_mode=mode, dtype=F64)
    theirs = nn.Conv2d(4, 8, kernel, stride, padding, dilation, groups, padding_mode=mode, dtype=F64)
    theirs.load_state_dict(ours.state_dict())
    assert_gradients_equal(ours, theirs, (draw(2, 4, 9, 11),))
    x = draw(2, 4, 9, 11)
    ours(x).square().sum().backward()
    theirs(x).square().sum().backward()
    assert_equal(ours.weight.grad, theirs.weight.grad)
    assert_equal(ours.bias.grad, theirs.bias.grad)


@pytest.mark.parametrize("mode", MODES)
def test_derivatives_of_padding_modes(mode) -> None:
    def run(x, weight, bias):
        return conv2d(x, weight, bias, 2, 2, 1, 2, mode)

    tensors = draw(1, 2, 3, 4), draw(2, 1, 3, 2), draw(2)
    gradcheck(run, *tensors)
    leaves = tuple(tensor.requires_grad_() for tensor in tensors)
    assert torch.autograd.gradgradcheck(run, leaves)


def test_repeated_sources_accumulate() -> None:
    """Replicate with three pixels of padding reads the corner pixel sixteen times."""
    x = torch.zeros(1, 1, 2, 3, dtype=F64, requires_grad=True)
    conv2d(x, torch.ones(1, 1, 1, 1, dtype=F64), None, 1, 3, padding_mode="replicate").sum().backward()
    assert x.grad[0, 0].tolist() == [[16, 4, 16], [16, 4, 16]]


def test_index_maps_by_hand() -> None:
    assert source_positions(4, (3, 2), "reflect").tolist() == [3, 2, 1, 0, 1, 2, 3, 2, 1]
    assert source_positions(3, (2, 1), "replicate").tolist() == [0, 0, 0, 1, 2, 2]
    assert source_positions(3, (2, 3), "circular").tolist() == [1, 2, 0, 1, 2, 0, 1, 2]
    assert source_positions(1, (0, 0), "reflect").tolist() == [0]


@pytest.mark.parametrize("size", [1, 2, 5, 7, 8])
@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
def test_padding_names(size, kernel, stride, dilation) -> None:
    """same gives ceil(n / s) outputs with the smaller half before; full reaches every overlap."""
    x, weight = draw(1, 1, size, size), draw(1, 1, kernel, kernel)
    reach = dilation * (kernel - 1)
    count = -(-size // stride)
    total = max((count - 1) * stride + reach + 1 - size, 0)
    before = total // 2
    padded = F.pad(x, (before, total - before) * 2)
    same = conv2d(x, weight, None, stride, "same", dilation)
    assert same.shape[2:] == (count, count)
    assert_equal(same, F.conv2d(padded, weight, None, stride, 0, dilation))
    if stride == 1:
        assert_equal(same, F.conv2d(x, weight, None, 1, "same", dilation))
        assert conv2d(x, weight, None, 1, "full", dilation).shape[2] == size + reach
    full = conv2d(x, weight, None, stride, "full", dilation)
    assert_equal(full, F.conv2d(x, weight, None, stride, reach, dilation))
    if size > reach:
        assert_equal(
            conv2d(x, weight, None, stride, "valid", dilation), F.conv2d(x, weight, None, stride, 0, dilation)
        )


def test_circular_padding_is_translation_equivariant() -> None:
    x, weight = draw(1, 2, 7, 6), draw(3, 2, 3, 3)
    moved = conv2d(x.roll((2, 1), (2, 3)), weight, padding=1, padding_mode="circular")
    still = conv2d(x, weight, padding=1, padding_mode="circular")
    assert_equal(moved, still.roll((2, 1), (2, 3)))


def test_convolution_is_im2col() -> None:
    x, weight = draw(2, 3, 8, 7), draw(5, 3, 3, 2)
    columns = F.unfold(x, (3, 2), dilation=2, padding=1, stride=(2, 1))
    expected = torch.einsum("ok,nkp->nop", weight.flatten(1), columns)
    ours = conv2d(x, weight, None, (2, 1), 1, 2)
    assert_equal(ours.flatten(2), expected)


def test_dilation_is_a_kernel_with_zeros_and_interleaved_convolutions() -> None:
    x, weight = draw(1, 2, 10, 8), draw(3, 2, 3, 3)
    dilated = conv2d(x, weight, None, 1, 2, 2)
    stuffed = torch.zeros(3, 2, 5, 5, dtype=F64)
    stuffed[:, :, ::2, ::2] = weight
    assert_equal(dilated, conv2d(x, stuffed, None, 1, 2))
    for i in (0, 1):
        for j in (0, 1):
            assert_equal(dilated[:, :, i::2, j::2], conv2d(x[:, :, i::2, j::2], weight, None, 1, 1))


def test_groups_are_a_block_diagonal_kernel() -> None:
    x, weight = draw(2, 6, 5, 5), draw(4, 3, 3, 3)
    full = torch.zeros(4, 6, 3, 3, dtype=F64)
    full[:2, :3], full[2:, 3:] = weight[:2], weight[2:]
    assert_equal(conv2d(x, weight, None, 1, 1, 1, 2), conv2d(x, full, None, 1, 1))


def test_no_image_and_one_pixel() -> None:
    weight = draw(2, 3, 3, 3)
    for mode in MODES:
        assert conv2d(draw(0, 3, 5, 5), weight, None, 1, 1, padding_mode=mode).shape == (0, 2, 5, 5)
    one = draw(1, 3, 1, 1)
    assert_equal(conv2d(one, weight, None, 1, 1), F.conv2d(one, weight, None, 1, 1))
    assert_equal(
        conv2d(one, weight, None, 1, 1, padding_mode="circular"),
        (weight.sum((2, 3)) @ one[0, :, 0, 0])[None, :, None, None],
    )


def test_maps_built_in_inference_mode_serve_training() -> None:
    layer = Conv2d(2, 3, 3, padding=2, padding_mode="reflect")
    x = torch.randn(1, 2, 13, 17)
    with torch.inference_mode():
        layer(x)
    layer(x).sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast(dtype) -> None:
    layer = Conv2d(4, 5, 3, padding=1, padding_mode="replicate")
    x = torch.randn(2, 4, 7, 6)
    with torch.autocast("cpu", dtype=dtype):
        assert layer(x).dtype == dtype
    expected = layer(x)
    half = layer.to(dtype)(x.to(dtype))
    torch.testing.assert_close(half.float(), expected, rtol=0, atol=20 * torch.finfo(dtype).eps)


def test_strided_views_are_valid_inputs() -> None:
    x = draw(2, 9, 8, 3).permute(0, 3, 1, 2)[:, :, ::2]
    weight = draw(2, 3, 3, 3)
    assert_equal(conv2d(x, weight, padding=1), F.conv2d(x, weight, padding=1))


@pytest.mark.parametrize("padding", [0, 1, (2, 0)])
def test_flops_are_those_of_the_map_on_the_padded_image(padding, monkeypatch) -> None:
    layer = Conv2d(4, 6, 3, 2, padding, groups=2)
    down, across = (padding, padding) if isinstance(padding, int) else padding
    with counted_macs(monkeypatch) as calls:
        Conv2d(4, 6, 3, 2, groups=2)(torch.zeros(2, 4, 9 + 2 * down, 8 + 2 * across))
    assert layer.flops((2, 4, 9, 8)) == (sum(calls), 6 * 2 * 9 + 6)
    assert layer.flops((4, 9, 8)).macs * 2 == sum(calls)


def test_wrong_padding_is_named() -> None:
    x, weight = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 3, 3)
    with pytest.raises(ValueError, match="'mirror'"):
        conv2d(x, weight, padding_mode="mirror")
    with pytest.raises(ValueError, match="at most 3, got 4"):
        conv2d(x, weight, None, 1, 4, padding_mode="reflect")
    with pytest.raises(ValueError, match="at most 4, got 5"):
        conv2d(x, weight, None, 1, 5, padding_mode="circular")
    with pytest.raises(ValueError, match="one of valid, same, full, got 'half'"):
        Conv2d(1, 1, 3, padding="half")
    with pytest.raises(ValueError, match="padding must lie in"):
        conv2d(x, weight, None, 1, -1)
    with pytest.raises(ValueError, match="larger than the grid"):
        Window.create((2, 2), 3)
    with pytest.raises(TypeError, match=r"torch\.float64.*torch\.float32"):
        conv2d(x.double(), weight)
    with pytest.raises(ValueError, match=r"\[N, 1, H, W\]"):
        Conv2d(1, 1, 3).flops((1, 2, 4, 4))
