"""Deformable convolution, against its definition by bilinear hats over the image, and plain convolutions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from dense_checks import F64, assert_equal, assert_gradients_equal, counted_macs, draw, gradcheck

from sparseconv.dense_ops import DeformConv2d, conv2d, deform_conv2d, row_chunks


def defined(x, offset, weight, bias, mask, stride, padding, dilation, groups, offset_groups):
    """Every sample as a sum over the whole image of bilinear hats."""
    batch, channels, height, width = x.shape
    kh, kw = weight.shape[2:]
    out_h, out_w = offset.shape[2:]
    d = offset.reshape(batch, offset_groups, kh * kw, 2, out_h, out_w)
    samples = []
    for t in range(kh * kw):
        base_y = torch.arange(out_h, dtype=F64)[:, None] * stride[0] - padding[0] + t // kw * dilation[0]
        base_x = torch.arange(out_w, dtype=F64) * stride[1] - padding[1] + t % kw * dilation[1]
        parts = []
        for g, part in enumerate(x.chunk(offset_groups, 1)):
            py, px = base_y + d[:, g, t, 0], base_x + d[:, g, t, 1]
            hat_y = (1 - (py[..., None] - torch.arange(height)).abs()).clamp(min=0)
            hat_x = (1 - (px[..., None] - torch.arange(width)).abs()).clamp(min=0)
            value = torch.einsum("nhwy,nhwx,ncyx->nchw", hat_y, hat_x, part)
            if mask is not None:
                value = value * mask[:, g * kh * kw + t, None]
            parts.append(value)
        samples.append(torch.cat(parts, 1))
    stacked = torch.stack(samples, 2).reshape(batch, groups, channels // groups, kh * kw, out_h, out_w)
    taps = weight.reshape(groups, -1, channels // groups, kh * kw)
    out = torch.einsum("ngcthw,goct->ngohw", stacked, taps).reshape(batch, -1, out_h, out_w)
    return out if bias is None else out + bias[:, None, None]


CASES = [
    # kernel, stride, padding, dilation, groups, offset groups
    ((3, 3), (1, 1), (1, 1), (1, 1), 1, 1),
    ((3, 3), (2, 1), (1, 2), (1, 2), 2, 2),
    ((2, 5), (1, 3), (0, 1), (2, 1), 1, 4),
    ((1, 1), (1, 1), (0, 0), (1, 1), 4, 2),
]


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation", "groups", "offset_groups"), CASES)
@pytest.mark.parametrize("chunk_bytes", [9000, 64 << 20])
def test_values_and_gradients_equal_the_definition(
    kernel, stride, padding, dilation, groups, offset_groups, modulated, chunk_bytes, monkeypatch
) -> None:
    monkeypatch.setattr(row_chunks, "CHUNK_BYTES", chunk_bytes)
    x, weight, bias = draw(2, 4, 7, 8), draw(8, 4 // groups, *kernel), draw(8)
    shape = conv2d(x, weight, None, stride, padding, dilation, groups).shape[2:]
    taps = kernel[0] * kernel[1]
    # Far enough to leave the image on every side.
    offset = 3 * draw(2, 2 * offset_groups * taps, *shape)
    tensors = [x, offset, weight, bias] + (
        [torch.rand(2, offset_groups * taps, *shape, dtype=F64)] if modulated else []
    )
    assert_gradients_equal(
        lambda x, o, w, b, m=None: deform_conv2d(x, o, w, b, stride, padding, dilation, m),
        lambda x, o, w, b, m=None: defined(x, o, w, b, m, stride, padding, dilation, groups, offset_groups),
        tuple(tensors),
    )


def test_offset_zero_and_mask_one_are_a_plain_convolution() -> None:
    x, weight = draw(2, 4, 6, 7), draw(3, 4, 3, 3)
    zero, one = torch.zeros(2, 18, 3, 4, dtype=F64), torch.ones(2, 9, 3, 4, dtype=F64)
    expected = F.conv2d(x, weight, None, 2, 1)
    assert_equal(deform_conv2d(x, zero, weight, None, 2, 1, 1, one), expected)
    assert_equal(deform_conv2d(x, zero, weight, None, 2, 1, 1, 0.3 * one), 0.3 * expected)


def test_whole_offsets_shift_down_and_across_in_that_order() -> None:
    x, weight = draw(1, 2, 8, 9), draw(3, 2, 3, 3)
    offset = torch.zeros(1, 18, 6, 7, dtype=F64)
    offset[:, 0::2], offset[:, 1::2] = 2, -1
    shifted = F.pad(x, (1, 0, 0, 2))[:, :, 2:, :-1]
    assert_equal(deform_conv2d(x, offset, weight), F.conv2d(shifted, weight))


def test_far_offsets_read_nothing() -> None:
    x, weight = draw(1, 2, 5, 5), draw(3, 2, 3, 3)
    for far in (1e4, -1e4, 1e30, -1e30):
        out = deform_conv2d(x, torch.full((1, 18, 3, 3), far, dtype=F64), weight)
        assert (out == 0).all()


def test_an_offset_that_is_no_number_gives_none_where_it_is_read_and_nowhere_else() -> None:
    x, weight = draw(1, 2, 5, 5), draw(3, 2, 3, 3)
    offset = torch.zeros(1, 18, 3, 3, dtype=F64)
    offset[0, 5, 1, 2] = float("nan")
    out = deform_conv2d(x, offset, weight)
    lost = torch.zeros(3, 3, dtype=torch.bool)
    lost[1, 2] = True
    assert torch.equal(out.isnan(), lost.expand(1, 3, 3, 3))


def test_second_derivatives() -> None:
    offset = torch.rand(1, 18, 2, 2, dtype=F64) * 0.8 + 0.1
    leaves = draw(1, 2, 4, 4), offset, draw(2, 2, 3, 3)
    assert torch.autograd.gradgradcheck(deform_conv2d, tuple(leaf.requires_grad_() for leaf in leaves))


def test_module_starts_as_a_convolution() -> None:
    x = draw(2, 4, 7, 6)
    first = DeformConv2d(4, 6, 3, 2, 1, offset_groups=2).double()
    plain = F.conv2d(x, first.weight, first.bias, 2, 1)
    assert_equal(first(x), plain)
    second = DeformConv2d(4, 6, 3, 2, 1, offset_groups=2, modulated=True).double()
    half = 0.5 * F.conv2d(x, second.weight, None, 2, 1) + second.bias[:, None, None]
    assert_equal(second(x), half)
    # Called with offsets, it is torchvision's layer.
    offset = draw(2, 36, 4, 3)
    assert_equal(second(x, offset), deform_conv2d(x, offset, second.weight, second.bias, 2, 1))


@pytest.mark.parametrize("modulated", [False, True])
def test_module_predicts_offsets_then_mask(modulated) -> None:
    layer = DeformConv2d(4, 6, 3, padding=1, offset_groups=2, modulated=modulated).double()
    torch.nn.init.normal_(layer.offset_conv.weight, std=0.3)
    x = draw(2, 4, 6, 5)
    out = F.conv2d(x, layer.offset_conv.weight, layer.offset_conv.bias, padding=1)
    mask = torch.sigmoid(out[:, 36:]) if modulated else None
    expected = defined(x, out[:, :36], layer.weight, layer.bias, mask, (1, 1), (1, 1), (1, 1), 1, 2)
    assert_equal(layer(x), expected)
    layer(x).square().sum().backward()
    assert layer.offset_conv.weight.grad.abs().max() > 0


def test_derivatives(monkeypatch) -> None:
    # Away from whole positions, where the gradient has one side only.
    offset = torch.rand(1, 18, 2, 3, dtype=F64) * 0.8 + 0.1 + torch.randint(-2, 2, (1, 18, 2, 3))
    tensors = draw(1, 2, 3, 4), offset, draw(2, 1, 3, 3), draw(2), torch.rand(1, 9, 2, 3, dtype=F64)

    def run(x, o, w, b, m):
        return (
            deform_conv2d(x, o, w, b, (2, 1), (1, 0), 1, m)
            if o.shape[3] != 3
            else deform_conv2d(F.pad(x, (0, 1)), o, w, b, (2, 1), (1, 0), 1, m)
        )

    gradcheck(run, *tensors)
    monkeypatch.setattr(row_chunks, "CHUNK_BYTES", 4000)
    gradcheck(run, *tensors)


def test_half_precision_and_autocast() -> None:
    layer = DeformConv2d(4, 5, 3, padding=1, modulated=True)
    x = torch.randn(2, 4, 7, 6)
    expected = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(x)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), expected, rtol=0, atol=0.1)
    half = layer.bfloat16()(x.bfloat16())
    torch.testing.assert_close(half.float(), expected, rtol=0, atol=0.1)


@pytest.mark.parametrize("modulated", [False, True])
def test_flops(modulated, monkeypatch) -> None:
    layer = DeformConv2d(4, 6, 3, groups=2, offset_groups=2, modulated=modulated)
    pixels, kinds = 5 * 6, 3 if modulated else 2
    conv, offsets = pixels * 6 * 2 * 9, pixels * kinds * 18 * 4 * 9
    sampling = (5 if modulated else 4) * pixels * 9 * 4
    parameters = 6 * 2 * 9 + 6 + kinds * 18 * (4 * 9 + 1)
    assert layer.flops((2, 4, 7, 8)) == (2 * (conv + offsets + sampling), parameters)
    with counted_macs(monkeypatch) as calls:
        layer(torch.zeros(2, 4, 7, 8))
    assert sum(calls) == 2 * (conv + offsets)


@pytest.mark.parametrize("infinite", [float("inf"), -float("inf")])
@pytest.mark.parametrize("axis", [0, 1])
def test_an_infinite_offset_gives_no_gradient(axis, infinite) -> None:
    """It reads nothing, so nothing depends on the offset along the other axis, nor on the mask."""
    x, offset, mask = draw(1, 2, 4, 4), torch.full((1, 2, 4, 4), 0.5, dtype=F64), draw(1, 1, 4, 4)
    offset[0, axis, 1, 2] = infinite
    leaves = [leaf.requires_grad_() for leaf in (x, offset, mask)]
    out = deform_conv2d(x, offset, draw(3, 2, 1, 1), mask=mask)
    assert (out[..., 1, 2] == 0).all()
    grads = torch.autograd.grad(out.square().sum(), leaves)
    assert all(torch.isfinite(grad).all() for grad in grads)
    assert (grads[1][..., 1, 2] == 0).all() and (grads[2][..., 1, 2] == 0).all()
    assert (grads[1][..., 1, 1] != 0).any()


def test_a_mask_without_offsets_is_refused() -> None:
    layer, x = DeformConv2d(2, 3, 3, modulated=True), torch.randn(1, 2, 5, 5)
    with pytest.raises(ValueError, match="mask needs its offsets"):
        layer(x, mask=torch.ones(1, 9, 3, 3))


def test_no_image_and_bad_input() -> None:
    layer = DeformConv2d(4, 6, 3)
    assert layer(torch.zeros(0, 4, 5, 5)).shape == (0, 6, 3, 3)
    with pytest.raises(ValueError, match="2 G K = 2 x G x 9"):
        deform_conv2d(draw(1, 4, 5, 5), draw(1, 16, 3, 3), draw(6, 4, 3, 3))
    with pytest.raises(ValueError, match=r"offset must have shape \[1, 18, 3, 3\]"):
        deform_conv2d(draw(1, 4, 5, 5), draw(1, 18, 5, 5), draw(6, 4, 3, 3))
    with pytest.raises(ValueError, match=r"mask must have shape \[1, 9, 3, 3\]"):
        deform_conv2d(draw(1, 4, 5, 5), draw(1, 18, 3, 3), draw(6, 4, 3, 3), mask=draw(1, 18, 3, 3))
    with pytest.raises(ValueError, match="offset_groups = 3"):
        DeformConv2d(4, 6, 3, offset_groups=3)
    with pytest.raises(TypeError, match="depend on the input"):
        layer.to_conv2d()
