"""Every dense variant written in plain torch, with a layer's own parameters: what users would write without us.

Convolutions are ``torch.nn.functional.conv2d``; what is none is ``unfold``, ``grid_sample`` and ``einsum``. Each
program takes the layer of ``dense_ops.catalogue`` and a batch of images ``[N, C, H, W]``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Program = Callable[[Any, Tensor], Tensor]


def _standard(layer: Any, x: Tensor) -> Tensor:
    if layer.padding_mode != "zeros":
        # As torch.nn.Conv2d does; sides from the last axis to the first.
        sides = [pad for pad in reversed(layer.padding) for _ in (0, 1)]
        x = F.pad(x, sides, layer.padding_mode)
        return F.conv2d(x, layer.weight, layer.bias, layer.stride, 0, layer.dilation, layer.groups)
    return F.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups)


def _transposed(layer: Any, x: Tensor) -> Tensor:
    return F.conv_transpose2d(x, layer.weight, layer.bias, layer.stride, layer.padding)


def _spatially_separable(layer: Any, x: Tensor) -> Tensor:
    return _standard(layer.second, _standard(layer.first, x))


def _depthwise_separable(layer: Any, x: Tensor) -> Tensor:
    return _standard(layer.pointwise, _standard(layer.depthwise, x))


def _flattened(layer: Any, x: Tensor) -> Tensor:
    for one in layer.sets:
        x = _standard(one.horizontal, _standard(one.vertical, _standard(one.lateral, x)))
    return x


def _inception(layer: Any, x: Tensor) -> Tensor:
    weights = layer.weight.split([count for _, count in layer.patterns])
    parts = [
        F.conv2d(x, weight, None, layer.stride, dilation, dilation)
        for weight, (dilation, _) in zip(weights, layer.patterns, strict=True)
    ]
    return torch.cat(parts, 1)


def _coord(layer: Any, x: Tensor) -> Tensor:
    y = torch.linspace(-1, 1, x.shape[2], dtype=x.dtype)[:, None].expand(x.shape[2:])
    column = torch.linspace(-1, 1, x.shape[3], dtype=x.dtype).expand(x.shape[2:])
    extra = torch.stack([column, y, (column**2 + y**2).sqrt()])
    return _standard(layer, torch.cat([x, extra.expand(len(x), -1, -1, -1)], 1))


def _central_difference(layer: Any, x: Tensor) -> Tensor:
    """As the authors' code: a convolution less ``theta`` times a 1x1 convolution with the kernel's sum."""
    total = layer.weight.sum((2, 3), keepdim=True)
    return _standard(layer, x) - layer.theta * F.conv2d(x, total, None, layer.stride)


def _cross(layer: Any, x: Tensor) -> Tensor:
    taps = {"hv": (1, 3, 4, 5, 7), "dg": (0, 2, 4, 6, 8)}[layer.direction]
    kernel = layer.weight.new_zeros(*layer.weight.shape[:2], 9)
    kernel = kernel.index_copy(2, torch.tensor(taps), layer.weight.flatten(2)).unflatten(2, (3, 3))
    total = layer.weight.sum((2, 3))[:, :, None, None]
    return F.conv2d(x, kernel, layer.bias, 1, layer.padding) - layer.theta * F.conv2d(x, total)


def _pixel_difference(layer: Any, x: Tensor) -> Tensor:
    """As the authors convert their kernels."""
    w = layer.weight.flatten(2)
    if layer.kind == "cd":
        kernel = w.index_add(2, torch.tensor([4]), -w.sum(2, keepdim=True))
    elif layer.kind == "ad":
        kernel = w - w[:, :, [3, 0, 1, 6, 4, 2, 7, 8, 5]]
    else:
        zeros = w.new_zeros(*w.shape[:2], 25)
        outer, inner = [0, 2, 4, 10, 14, 20, 22, 24], [6, 7, 8, 11, 13, 16, 17, 18]
        both = torch.cat([w[:, :, 1:], -w[:, :, 1:]], 2)
        kernel = zeros.index_copy(2, torch.tensor(outer + inner), both)
    side = 5 if layer.kind == "rd" else 3
    return F.conv2d(x, kernel.unflatten(2, (side, side)), layer.bias, 1, side // 2)


def _circle(layer: Any, x: Tensor) -> Tensor:
    kernel = (layer.weight.flatten(2) @ layer.folding().to(layer.weight)).view_as(layer.weight)
    return F.conv2d(x, kernel, layer.bias, layer.stride, layer.padding)


def _octave(layers: Any, x: Tensor) -> Tensor:
    first, last = layers
    high, low = _standard(first.conv_hh, x), _standard(first.conv_hl, F.avg_pool2d(x, 2))
    up = F.interpolate(_standard(last.conv_lh, low), scale_factor=2.0, mode="nearest")
    return _standard(last.conv_hh, high) + up


def _of_each_sample(layer: Any, x: Tensor, kernels: Tensor, bias: Tensor | None) -> Tensor:
    """One kernel for each sample, ``[N, O, C, k, k]``, as groups of one image: the known trick."""
    image = x.reshape(1, -1, *x.shape[2:])
    flat = None if bias is None else bias.reshape(-1)
    out = F.conv2d(image, kernels.flatten(0, 1), flat, layer.stride, layer.padding, layer.dilation, len(x))
    return out.reshape(len(x), -1, *out.shape[2:])


def _mixed(layer: Any, x: Tensor, shares: Tensor) -> Tensor:
    kernels = torch.einsum("ne,eocuv->nocuv", shares, layer.weight)
    return _of_each_sample(layer, x, kernels, None if layer.bias is None else shares @ layer.bias)


def _condconv(layer: Any, x: Tensor) -> Tensor:
    return _mixed(layer, x, torch.sigmoid(layer.routing(x.mean((2, 3)))))


def _dynamic(layer: Any, x: Tensor) -> Tensor:
    scores = layer.fc2(F.relu(layer.fc1(x.mean((2, 3)))))
    return _mixed(layer, x, torch.softmax(scores / layer.temperature, 1))


def _dynet(layer: Any, x: Tensor) -> Tensor:
    shape = (layer.out_channels, layer.group_size)
    eta = torch.sigmoid(layer.coefficients(x.mean((2, 3)))).unflatten(1, shape)
    kernels = torch.einsum("noi,oicuv->nocuv", eta, layer.weight.unflatten(0, shape))
    return _of_each_sample(layer, x, kernels, layer.bias.expand(len(x), -1))


def _odconv(layer: Any, x: Tensor) -> Tensor:
    kernels, channels, filters, spatial = layer.attention(x)
    mixed = torch.einsum("nk,kocuv->nocuv", kernels, layer.weight) * spatial[:, None, None]
    out = _of_each_sample(layer, x * channels[:, :, None, None], mixed, None)
    return out * filters[:, :, None, None]


def _involution(layer: Any, x: Tensor) -> Tensor:
    hidden = torch.relu(layer.norm(F.conv2d(x, layer.conv1.weight)))
    kernel = F.conv2d(hidden, layer.conv2.weight, layer.conv2.bias)
    kernel = kernel.reshape(len(x), layer.n_groups, 1, layer.kernel_size**2, *x.shape[2:])
    patches = F.unfold(x, layer.kernel_size, padding=layer.kernel_size // 2)
    patches = patches.reshape(len(x), layer.n_groups, -1, layer.kernel_size**2, *x.shape[2:])
    return (kernel * patches).sum(3).flatten(1, 2)


def _deformable(layer: Any, x: Tensor) -> Tensor:
    """Every tap's samples by ``grid_sample``, then one ``einsum`` with the kernel."""
    height, width = x.shape[2:]
    taps = layer.kernel_size[0] * layer.kernel_size[1]
    out = F.conv2d(x, layer.offset_conv.weight, layer.offset_conv.bias, layer.stride, layer.padding)
    offset = out[:, : 2 * taps].unflatten(1, (taps, 2))
    mask = torch.sigmoid(out[:, 2 * taps :]) if layer.modulated else None
    rows, columns = (torch.arange(size, dtype=x.dtype) for size in (height, width))
    samples = []
    for tap in range(taps):
        y = offset[:, tap, 0] + rows[:, None] + (tap // layer.kernel_size[1] - layer.padding[0])
        z = offset[:, tap, 1] + columns + (tap % layer.kernel_size[1] - layer.padding[1])
        grid = torch.stack([2 * z / (width - 1) - 1, 2 * y / (height - 1) - 1], -1)
        sampled = F.grid_sample(x, grid, "bilinear", "zeros", align_corners=True)
        samples.append(sampled if mask is None else sampled * mask[:, tap : tap + 1])
    out = torch.einsum("nkchw,ock->nohw", torch.stack(samples, 1), layer.weight.flatten(2))
    return out if layer.bias is None else out + layer.bias[:, None, None]


def _dynamic_region(layer: Any, x: Tensor) -> Tensor:
    """Every region's output everywhere, then the chosen one: straight through backward."""
    if layer.generator == "paper":
        guide = _standard(layer.guide, x)
        pooled = torch.sigmoid(_standard(layer.reduce, F.adaptive_avg_pool2d(x, layer.kernel_size)))
        kernels = _standard(layer.expand, pooled).unflatten(
            1, (layer.region_num, layer.out_channels, layer.in_channels)
        )
    else:
        guide = _standard(layer.guide, x)
        shares = layer.routing(x.mean((2, 3))).unflatten(1, (layer.region_num, -1))
        shares = 2 * torch.sigmoid(shares) / len(layer.weight)
        kernels = torch.einsum("njw,wocuv->njocuv", shares, layer.weight)
    soft = torch.softmax(guide, 1)
    hard = F.one_hot(guide.argmax(1), layer.region_num).permute(0, 3, 1, 2).to(x)
    choice = hard + soft - soft.detach()
    # The kernels of all regions are those of one sample, side by side.
    every = _of_each_sample(layer, x, kernels.flatten(1, 2), None).unflatten(1, (layer.region_num, -1))
    out = (every * choice[:, :, None]).sum(1)
    return out if layer.bias is None else out + layer.bias[:, None, None]


PROGRAMS: dict[str, Program] = {
    "standard": _standard,
    "reflect": _standard,
    "strided": _standard,
    "dilated": _standard,
    "grouped": _standard,
    "depthwise": _standard,
    "pointwise": _standard,
    "transposed": _transposed,
    "spatially_separable": _spatially_separable,
    "depthwise_separable": _depthwise_separable,
    "flattened": _flattened,
    "inception": _inception,
    "coord": _coord,
    "central_difference": _central_difference,
    "cross_hv": _cross,
    "cross_dg": _cross,
    "cpdc": _pixel_difference,
    "apdc": _pixel_difference,
    "rpdc": _pixel_difference,
    "circle": _circle,
    "octave": _octave,
    "condconv": _condconv,
    "dynamic": _dynamic,
    "dynet": _dynet,
    "odconv": _odconv,
    "involution": _involution,
    "deformable": _deformable,
    "deformable_modulated": _deformable,
    "dynamic_region": _dynamic_region,
    "dynamic_region_mix": _dynamic_region,
}
