"""Turns of phrase of other programs: Cylinder3D, PointGroup, SoftGroup, focal convolutions, mmdetection3d.

Written from a description of what they call.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from oracle import conv_pairs, convolve
from scans import random_sites
from tolerance import assert_close
from torch import Tensor, nn

import sparseconv.compat.spconv as version1
import sparseconv.compat.spconv.pytorch as spconv

SHAPE = [6, 7, 8]


def features_and_indices(count: int = 60, channels: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    return torch.randn(count, channels), random_sites(count, SHAPE, (0, 1), seed=seed, shuffled=True)


def subm_by_oracle(features: Tensor, indices: Tensor, conv: Any) -> Tensor:
    sites = indices.numpy()
    padding = [k // 2 for k in conv.kernel_size]
    pairs = conv_pairs(sites, sites, conv.kernel_size, [1] * 3, padding, [1] * 3)
    bias = None if conv.bias is None else conv.bias.detach().numpy()
    found = convolve(features.detach().numpy(), conv.weight.detach().numpy(), bias, pairs, len(sites))
    return torch.from_numpy(found)


def test_cylinder3d_gives_one_name_to_two_kernels() -> None:
    """Version 1 ran the second kernel on the map of the first."""
    features, indices = features_and_indices()
    conv1x3 = version1.SubMConv3d(
        4, 6, kernel_size=(1, 3, 3), stride=1, padding=(0, 1, 1), bias=False, indice_key="b"
    )
    conv3x1 = version1.SubMConv3d(
        6, 6, kernel_size=(3, 1, 3), stride=1, padding=(1, 0, 1), bias=False, indice_key="b"
    )
    pool = version1.SparseConv3d(6, 6, kernel_size=3, stride=(2, 2, 1), padding=1, indice_key="down", bias=False)
    unpool = version1.SparseInverseConv3d(6, 6, kernel_size=3, indice_key="down", bias=False)
    act, bn = nn.LeakyReLU(), nn.BatchNorm1d(6)
    ret = version1.SparseConvTensor(features, indices, np.array(SHAPE), 2)
    shortcut = conv1x3(ret)
    shortcut.features = act(shortcut.features)
    shortcut.features = bn(shortcut.features)
    result = conv3x1(shortcut)
    assert_close(result.features, subm_by_oracle(shortcut.features, indices, conv3x1), 9 * 6)
    result.features = result.features + shortcut.features
    up = unpool(pool(result))
    up.features = torch.cat((up.features, result.features), 1)
    assert up.features.shape == (60, 12) and up.indices is indices
    up.features.square().mean().backward()
    assert all(conv.weight.grad is not None for conv in (conv1x3, conv3x1, pool, unpool))


class Custom1x1Subm3d(spconv.SparseConv3d):
    """SoftGroup's workaround for a layer of kernel size 1."""

    def forward(self, input: Any) -> Any:  # type: ignore[override]
        features = torch.mm(input.features, self.weight.view(self.out_channels, self.in_channels).permute(1, 0))
        if self.bias is not None:
            features += self.bias
        out_tensor = spconv.SparseConvTensor(features, input.indices, input.spatial_shape, input.batch_size)
        out_tensor.indice_dict = input.indice_dict
        out_tensor.grid = input.grid
        return out_tensor


class UBlock(nn.Module):
    """PointGroup's recursive block in version 2."""

    def __init__(self, planes: list[int], key: int) -> None:
        super().__init__()
        self.planes = planes
        self.blocks = spconv.SparseSequential(
            spconv.SubMConv3d(planes[0], planes[0], 3, padding=1, bias=False, indice_key=f"subm{key}"), nn.ReLU()
        )
        self.branch = spconv.SparseSequential(Custom1x1Subm3d(planes[0], planes[0], kernel_size=1, bias=False))
        if len(planes) > 1:
            self.conv = spconv.SparseSequential(
                spconv.SparseConv3d(planes[0], planes[1], 2, stride=2, bias=False, indice_key=f"spconv{key}")
            )
            self.u = UBlock(planes[1:], key + 1)
            self.deconv = spconv.SparseSequential(
                spconv.SparseInverseConv3d(planes[1], planes[0], 2, bias=False, indice_key=f"spconv{key}")
            )
            self.tail = spconv.SubMConv3d(2 * planes[0], planes[0], 3, padding=1, indice_key=f"subm{key}")

    def forward(self, input: Any) -> Any:
        identity = spconv.SparseConvTensor(input.features, input.indices, input.spatial_shape, input.batch_size)
        output = self.blocks(input)
        out_feats = output.features + self.branch(identity).features
        output = output.replace_feature(out_feats)
        if len(self.planes) > 1:
            decoder = self.deconv(self.u(self.conv(output)))
            output = output.replace_feature(torch.cat((output.features, decoder.features), dim=1))
            output = self.tail(output)
        return output


def test_pointgroup_builds_tensors_on_the_same_indices() -> None:
    features, indices = features_and_indices()
    block = UBlock([4, 6, 8], 1)
    x = spconv.SparseConvTensor(features, indices, [8, 8, 8], 2)
    y = block(x)
    assert y.features.shape == (60, 4) and y.indices is indices
    assert set(x.indice_dict) == {"subm1", "subm2", "subm3", "spconv1", "spconv2"}
    y.features.sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in block.parameters())
    pointwise = Custom1x1Subm3d(4, 5, 1)
    assert_close(pointwise(x).features, subm_by_oracle(features, indices, pointwise), 5)


def test_focal_convolution_grows_its_own_sites() -> None:
    """Important voxels spread to neighbours: longer features, then longer indices, on the layer's own output."""
    features, indices = features_and_indices()
    conv = spconv.SubMConv3d(4, 4, 3, padding=1, bias=False, indice_key="focal")
    x = conv(spconv.SparseConvTensor(features, indices, SHAPE, 2))
    grown = indices[:20].clone()
    grown[:, 3] = (grown[:, 3] + 1) % SHAPE[2]
    together = torch.cat([x.indices, grown])
    merged, rows = torch.unique(together, dim=0, return_inverse=True)
    summed = torch.zeros(len(merged), 4).index_add(0, rows, torch.cat([x.features, x.features[:20] * 0.5]))
    x = x.replace_feature(summed)
    x.indices = merged
    after = spconv.SubMConv3d(4, 6, 3, padding=1, bias=False, indice_key="focal")
    y = after(x)
    assert_close(y.features, subm_by_oracle(summed, merged, after), 27 * 4)
    assert len(y.features) == len(merged) > 60
    y.features.sum().backward()
    assert conv.weight.grad is not None and conv.weight.grad.any()


def test_a_block_of_two_bases_as_mmdetection3d_derives_it() -> None:
    class BaseModule(nn.Module):
        def __init__(self, init_cfg: Any = None) -> None:
            super().__init__()
            self.init_cfg = init_cfg

    class BasicBlock(BaseModule):
        def __init__(self, inplanes: int, planes: int, make: Any) -> None:
            super().__init__(None)
            self.conv1, self.conv2 = make(inplanes, planes), make(planes, planes)
            self.add_module("bn1", nn.BatchNorm1d(planes))
            self.relu = nn.ReLU(inplace=True)

        @property
        def norm1(self) -> nn.Module:
            return self.bn1

    class SparseBasicBlock(BasicBlock, spconv.SparseModule):
        def __init__(self, inplanes: int, planes: int, indice_key: str) -> None:
            spconv.SparseModule.__init__(self)
            make = lambda cin, cout: spconv.SubMConv3d(  # noqa: E731
                cin, cout, 3, stride=1, padding=1, dilation=1, bias=False, indice_key=indice_key
            )
            BasicBlock.__init__(self, inplanes, planes, make)

        def forward(self, x: Any) -> Any:
            identity = x.features
            assert x.features.dim() == 2, f"x.features.dim()={x.features.dim()}"
            out = self.conv1(x)
            out = out.replace_feature(self.norm1(out.features))
            out = out.replace_feature(self.relu(out.features))
            out = self.conv2(out)
            return out.replace_feature(self.relu(out.features + identity))

    features, indices = features_and_indices()
    block = SparseBasicBlock(4, 4, "res")
    net = spconv.SparseSequential(block, nn.Linear(4, 3))
    y = net(spconv.SparseConvTensor(features, indices, torch.tensor(SHAPE), 2))
    assert y.features.shape == (60, 3) and set(block.state_dict()) >= {
        "conv1.weight",
        "conv2.weight",
        "bn1.weight",
    }
    y.features.sum().backward()
    assert block.conv1.weight.grad is not None and block.conv1.weight.grad.any()


def test_plain_modules_see_features_whatever_they_hold() -> None:
    """As in spconv, a module that is no SparseModule is handed features, whatever it builds inside."""
    _, indices = features_and_indices()

    class Inside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = spconv.SubMConv3d(6, 6, 3)

        def forward(self, features: Tensor) -> Tensor:
            assert isinstance(features, Tensor)
            return self.conv(spconv.SparseConvTensor(features, indices, SHAPE, 2)).features

    features, _ = features_and_indices()
    net = spconv.SparseSequential(spconv.SubMConv3d(4, 6, 3), Inside())
    assert net(spconv.SparseConvTensor(features, indices, SHAPE, 2)).features.shape == (60, 6)
