"""Weights of other libraries: each convention written out here as a loop, from the library's description alone.

The oracles import nothing of the package: a dictionary of sites, the library's order of offsets, a sum. A
converted weight must give the same numbers in this engine's layers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from scans import random_sites
from tolerance import assert_close
from torch import Tensor, nn

import sparseconv as sc
from sparseconv import checkpoints
from sparseconv.weight_layouts import convert_weight

Offsets = list[tuple[int, ...]]
SHAPE = [12, 11, 10]


# What each library says of its offsets: the position of an input minus that of the (scaled) output, by weight row.


def minkowski_offsets(kernel: Sequence[int]) -> Offsets:
    """Index to coordinate by repeated division, first axis first; odd sides are centred, even ones begin at 0."""
    found = []
    for index in range(math.prod(kernel)):
        offset = []
        for side in kernel:
            offset.append(index % side - (side // 2 if side % 2 else 0))
            index //= side
        found.append(tuple(offset))
    return found


def torchsparse_offsets(kernel: Sequence[int]) -> Offsets:
    """``arange(-k // 2 + 1, k // 2 + 1)`` on each axis; an odd volume runs x fastest, an even one z fastest."""
    axes = [np.arange(-k // 2 + 1, k // 2 + 1).tolist() for k in kernel]
    if math.prod(kernel) % 2 == 1:
        return [offset[::-1] for offset in itertools.product(*axes[::-1])]
    return list(itertools.product(*axes))


def sparseconvnet_offsets(kernel: Sequence[int], subm: bool) -> Offsets:
    """A rectangular region with the last axis fastest; a submanifold region begins at the site minus k // 2."""
    low = [k // 2 if subm else 0 for k in kernel]
    return [tuple(i - l for i, l in zip(place, low, strict=True)) for place in np.ndindex(*kernel)]


def by_taps(
    x: Tensor, inputs: Tensor, outputs: Tensor, weights: Tensor, offsets: Offsets, stride: int, swap: bool = False
) -> Tensor:
    """``out[o] = sum over k of x[at stride * o + offset k] @ weights[k]``; swapped: coarse in, fine out.

    ``weights`` is ``[K, C_in, C_out]``.
    """
    row_of = {tuple(site): row for row, site in enumerate(inputs.tolist())}
    out = torch.zeros(len(outputs), weights.shape[2], dtype=torch.float64)
    for row, (batch, *place) in enumerate(outputs.tolist()):
        for k, offset in enumerate(offsets):
            if swap:
                back = [p - o for p, o in zip(place, offset, strict=True)]
                if any(b % stride for b in back):
                    continue
                site = (batch, *(b // stride for b in back))
            else:
                site = (batch, *(stride * p + o for p, o in zip(place, offset, strict=True)))
            if site in row_of:
                out[row] += x[row_of[site]].double() @ weights[k].double()
    return out


def input_tensor(channels: int, shape: Sequence[int] = SHAPE, count: int = 90) -> sc.SparseTensor:
    sites = random_sites(count, shape, (0, 1), shuffled=True)
    return sc.SparseTensor(torch.randn(count, channels), sites, list(shape), 2)


def centre(kernel: Sequence[int]) -> list[int]:
    return [k // 2 if k % 2 else 0 for k in kernel]


OFFSETS: dict[str, Callable[..., Offsets]] = {
    "minkowski": minkowski_offsets,
    "torchsparse": torchsparse_offsets,
}


@pytest.mark.parametrize("source", ["minkowski", "torchsparse"])
@pytest.mark.parametrize("kernel", [(3, 3, 3), (5, 5, 5), (3, 1, 5), (1, 1, 3)])
def test_odd_kernels_on_the_inputs_own_sites(source: str, kernel: tuple[int, ...]) -> None:
    x = input_tensor(4)
    stored = torch.randn(math.prod(kernel), 4, 6)
    layer = sc.SubMConv3d(4, 6, kernel, bias=False)
    layer.load_state_dict({"weight": convert_weight(stored, source, kernel)})
    expected = by_taps(x.features, x.indices, x.indices, stored, OFFSETS[source](kernel), 1)
    assert_close(layer(x).features, expected, len(stored) * 4, source)


@pytest.mark.parametrize("source", ["minkowski", "torchsparse"])
@pytest.mark.parametrize(("kernel", "stride"), [((2, 2, 2), 2), ((3, 3, 3), 2), ((2, 2, 3), 2), ((3, 3, 3), 3)])
def test_strided_and_transposed(source: str, kernel: tuple[int, ...], stride: int) -> None:
    """The stride-2 kernels of both libraries in either direction, odd and even sides."""
    x = input_tensor(4)
    offsets = OFFSETS[source](kernel)
    padding = [-min(o[axis] for o in offsets) for axis in range(3)]
    assert padding == centre(kernel)
    stored, back = torch.randn(math.prod(kernel), 4, 6), torch.randn(math.prod(kernel), 6, 5)
    down = sc.SparseConv3d(4, 6, kernel, stride, padding, bias=False, indice_key="down")
    up = sc.SparseInverseConv3d(6, 5, kernel, "down", bias=False)
    net = nn.Sequential(down, up)
    state = checkpoints.convert({"0.kernel": stored, "1.kernel": back}, source, model=net)  # type: ignore[arg-type]
    net.load_state_dict(state)
    y = down(x)
    expected = by_taps(x.features, x.indices, y.indices, stored, offsets, stride)
    assert_close(y.features, expected, len(stored) * 4, source)
    expected = by_taps(y.features.detach(), y.indices, x.indices, back, offsets, stride, swap=True)
    assert_close(up(y).features, expected, len(stored) * 6, source)


def test_torchsparse_turns_its_order_with_the_parity() -> None:
    """Of two even and odd kernels, each read in the other's order would be wrong."""
    assert torchsparse_offsets((3, 3, 3))[:2] == [(-1, -1, -1), (0, -1, -1)]
    assert torchsparse_offsets((2, 2, 2))[:2] == [(0, 0, 0), (0, 0, 1)]
    assert minkowski_offsets((2, 2, 2))[:2] == [(0, 0, 0), (1, 0, 0)]
    stored = torch.randn(8, 2, 3)
    assert not torch.equal(
        convert_weight(stored, "torchsparse", (2, 2, 2)), convert_weight(stored, "minkowski", (2, 2, 2))
    )
    stored = torch.randn(27, 2, 3)
    assert torch.equal(
        convert_weight(stored, "torchsparse", (3, 3, 3)), convert_weight(stored, "minkowski", (3, 3, 3))
    )


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("kernel", "subm"), [((3, 3, 3), True), ((2, 2, 2), False), ((3, 2, 1), False)])
def test_sparseconvnet(kernel: tuple[int, ...], subm: bool, groups: int) -> None:
    x = input_tensor(4)
    stored = torch.randn(math.prod(kernel), groups, 4 // groups, 6 // groups)
    if subm:
        layer: sc.SparseConvolution = sc.SubMConv3d(4, 6, kernel, groups=groups, bias=False)
    else:
        layer = sc.SparseConv3d(4, 6, kernel, 2, groups=groups, bias=False)
    net = nn.Sequential(layer)
    net.load_state_dict(checkpoints.convert({"0.weight": stored}, "sparseconvnet", model=net))
    y = layer(x)
    offsets = sparseconvnet_offsets(kernel, subm)
    parts = []
    for group in range(groups):
        ins = slice(group * 4 // groups, (group + 1) * 4 // groups)
        stride = 1 if subm else 2
        parts.append(by_taps(x.features[:, ins], x.indices, y.indices, stored[:, group], offsets, stride))
    assert_close(y.features, torch.cat(parts, 1), len(stored) * 4)
    if groups == 1:  # as it was before groups came
        assert torch.equal(convert_weight(stored[:, 0], "sparseconvnet", kernel), layer.weight)


@pytest.mark.parametrize("source", ["spconv1", "mmcv", "spconv2", "spconv2_native"])
@pytest.mark.parametrize(("kernel", "stride"), [((3, 3, 3), 1), ((2, 2, 2), 2), ((3, 1, 2), 2)])
def test_spconv_in_all_its_layouts(source: str, kernel: tuple[int, ...], stride: int) -> None:
    """Cross-correlation as torch's, the last axis fastest: compared with the dense convolution."""
    x = input_tensor(4)
    as_torch = torch.randn(6, 4, *kernel)
    stored = {
        "spconv1": as_torch.permute(2, 3, 4, 1, 0),
        "mmcv": as_torch.permute(2, 3, 4, 1, 0),
        "spconv2": as_torch.permute(0, 2, 3, 4, 1),
        "spconv2_native": as_torch.permute(2, 3, 4, 0, 1),
    }[source].contiguous()
    if stride == 1:
        net = nn.Sequential(sc.SubMConv3d(4, 6, kernel))
    else:
        net = nn.Sequential(sc.SparseConv3d(4, 6, kernel, stride))
    bias = torch.randn(6)
    for model in (net, None):
        state = checkpoints.convert({"0.weight": stored, "0.bias": bias}, source, model=model)  # type: ignore[arg-type]
        net.load_state_dict(state)
        padding = 1 if stride == 1 else 0
        dense = nn.functional.conv3d(x.dense().double(), as_torch.double(), bias.double(), stride, padding)
        y = net(x)
        batch, *cells = y.indices.long().T
        assert_close(y.features, dense[batch, :, cells[0], cells[1], cells[2]], math.prod(kernel) * 4 + 1)


def test_spconv_1_inverse_convolution() -> None:
    x = input_tensor(4)
    net = nn.Sequential(
        sc.SparseConv3d(4, 6, 3, 2, 1, bias=False, indice_key="down"),
        sc.SparseInverseConv3d(6, 5, 3, "down", bias=False),
    )
    as_torch = torch.randn(5, 6, 3, 3, 3)  # of the inverse: out, in
    down = torch.randn(3, 3, 3, 4, 6)
    stored = {"0.weight": down, "1.weight": as_torch.permute(2, 3, 4, 1, 0)}
    net.load_state_dict(checkpoints.convert(stored, "spconv1", model=net))
    y = net[0](x)
    grown = nn.functional.conv_transpose3d(
        y.dense().double(), as_torch.double().transpose(0, 1), None, 2, 1, [1, 0, 1]
    )
    batch, *cells = x.indices.long().T
    assert_close(net[1](y).features, grown[batch, :, cells[0], cells[1], cells[2]], 27 * 6)


def test_axes_in_reverse_order() -> None:
    """A network on x, y, z of another library as one on z, y, x here."""
    kernel = (3, 1, 5)
    stored = torch.randn(15, 4, 6)
    x = input_tensor(4)
    sites_zyx = x.indices[:, [0, 3, 2, 1]]
    turned = sc.SparseTensor(x.features, sites_zyx.contiguous(), SHAPE[::-1], 2)
    net = nn.Sequential(sc.SubMConv3d(4, 6, kernel[::-1], bias=False))
    expected = by_taps(x.features, x.indices, x.indices, stored, minkowski_offsets(kernel), 1)
    for arguments in ({"model": net}, {"kernel_sizes": {"0": kernel}}):
        state = checkpoints.convert({"0.kernel": stored}, "minkowski", reverse_axes=True, **arguments)  # type: ignore[arg-type]
        net.load_state_dict(state)
        assert_close(net(turned).features, expected, 60)


def test_channelwise_kernels() -> None:
    """MinkowskiEngine's channelwise convolution keeps ``[K, C]``."""
    depthwise = nn.Sequential(sc.SubMConv3d(5, 5, 3, groups=5, bias=False))
    kernel = torch.randn(27, 5)
    depthwise.load_state_dict(checkpoints.convert({"0.kernel": kernel}, "minkowski", model=depthwise))
    x = input_tensor(5)
    columns = [
        by_taps(x.features[:, [c]], x.indices, x.indices, kernel[:, [c], None], minkowski_offsets((3, 3, 3)), 1)
        for c in range(5)
    ]
    assert_close(depthwise(x).features, torch.cat(columns, 1), 27)
