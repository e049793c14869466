"""Segmentation networks in their own words: Pointcept's SpUNet, Point Transformer V3's positional layer, TRELLIS.

Compared with plain torch: dense convolutions read at the active sites.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Any

import pytest
import torch
from compat_scan import gradients, points
from oracle import at_sites, dense_conv, dense_conv_transpose, to_dense
from tolerance import assert_close
from torch import Tensor, nn

import sparseconv.compat.spconv.pytorch as spconv


class BasicBlock(spconv.SparseModule):
    def __init__(self, in_channels: int, embed_channels: int, norm_fn: Any, indice_key: str) -> None:
        super().__init__()
        if in_channels == embed_channels:
            self.proj = spconv.SparseSequential(nn.Identity())
        else:
            self.proj = spconv.SparseSequential(
                spconv.SubMConv3d(in_channels, embed_channels, kernel_size=1, bias=False), norm_fn(embed_channels)
            )
        self.conv1 = spconv.SubMConv3d(
            in_channels, embed_channels, kernel_size=3, stride=1, padding=1, bias=False, indice_key=indice_key
        )
        self.bn1 = norm_fn(embed_channels)
        self.relu = nn.ReLU()
        self.conv2 = spconv.SubMConv3d(
            embed_channels, embed_channels, kernel_size=3, stride=1, padding=1, bias=False, indice_key=indice_key
        )
        self.bn2 = norm_fn(embed_channels)

    def forward(self, x: Any) -> Any:
        out = self.conv1(x)
        out = out.replace_feature(self.bn1(out.features))
        out = out.replace_feature(self.relu(out.features))
        out = self.conv2(out)
        out = out.replace_feature(self.bn2(out.features))
        out = out.replace_feature(out.features + self.proj(x).features)
        return out.replace_feature(self.relu(out.features))


class SpUNet(nn.Module):
    """Two levels of SpUNet-v1m1."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        norm_fn = partial(nn.BatchNorm1d, eps=1e-3, momentum=0.01)
        # padding=1 under a kernel of 5 is ignored by a submanifold layer.
        self.conv_input = spconv.SparseSequential(
            spconv.SubMConv3d(in_channels, 8, kernel_size=5, padding=1, bias=False, indice_key="stem"),
            norm_fn(8),
            nn.ReLU(),
        )
        self.down, self.enc, self.up, self.dec = (nn.ModuleList() for _ in range(4))
        for s, (cin, cout) in enumerate(((8, 16), (16, 24))):
            self.down.append(
                spconv.SparseSequential(
                    spconv.SparseConv3d(
                        cin, cout, kernel_size=2, stride=2, bias=False, indice_key=f"spconv{s + 1}"
                    ),
                    norm_fn(cout),
                    nn.ReLU(),
                )
            )
            block = BasicBlock(cout, cout, norm_fn, f"subm{s + 1}")
            self.enc.append(spconv.SparseSequential(OrderedDict([("block0", block)])))
            self.up.append(
                spconv.SparseSequential(
                    spconv.SparseInverseConv3d(cout, cin, kernel_size=2, bias=False, indice_key=f"spconv{s + 1}"),
                    norm_fn(cin),
                    nn.ReLU(),
                )
            )
            block = BasicBlock(2 * cin, cin, norm_fn, f"subm{s}")
            self.dec.append(spconv.SparseSequential(OrderedDict([("block0", block)])))
        self.final = spconv.SubMConv3d(8, num_classes, kernel_size=1, padding=1, bias=True)

    def forward(self, input_dict: dict[str, Any]) -> Tensor:
        grid_coord, feat, offset = input_dict["grid_coord"], input_dict["feat"], input_dict["offset"]
        batch = torch.arange(len(offset)).repeat_interleave(torch.diff(offset, prepend=offset.new_zeros(1)))
        x = spconv.SparseConvTensor(
            features=feat,
            indices=torch.cat([batch.unsqueeze(-1).int(), grid_coord.int()], dim=1).contiguous(),
            spatial_shape=torch.add(torch.max(grid_coord, dim=0).values, 96).tolist(),
            batch_size=batch[-1].tolist() + 1,
        )
        x = self.conv_input(x)
        skips = [x]
        for down, enc in zip(self.down, self.enc, strict=True):
            x = enc(down(x))
            skips.append(x)
        x = skips.pop(-1)
        for s in reversed(range(2)):
            x = self.up[s](x)
            skip = skips.pop(-1)
            x = x.replace_feature(torch.cat((x.features, skip.features), dim=1))
            x = self.dec[s](x)
        return self.final(x).features


class DenseTwin:
    """The same network on dense grids in float64: absent sites are zero, and stay so."""

    def __init__(self, model: SpUNet, shape: list[int], batch_size: int) -> None:
        self.model, self.batch_size = model, batch_size
        # What a stride of 2 drops at the end of an odd axis holds no site.
        self.shapes = [shape, [n // 2 for n in shape], [n // 2 // 2 for n in shape]]

    def subm(self, conv: Any, x: Tensor, sites: Tensor, level: int) -> Tensor:
        dense = to_dense(x, sites, self.shapes[level], self.batch_size)
        kernel = conv.kernel_size
        y = dense_conv(dense, conv.weight.double(), None, [1] * 3, [k // 2 for k in kernel], [1] * 3)
        y = at_sites(y, sites)
        return y if conv.bias is None else y + conv.bias.double()

    def norm(self, bn: nn.BatchNorm1d, x: Tensor) -> Tensor:
        y = (x - x.mean(0)) / torch.sqrt(x.var(0, unbiased=False) + bn.eps)
        return y * bn.weight.double() + bn.bias.double()

    def block(self, block: BasicBlock, x: Tensor, sites: Tensor, level: int) -> Tensor:
        y = self.norm(block.bn1, self.subm(block.conv1, x, sites, level)).relu()
        y = self.norm(block.bn2, self.subm(block.conv2, y, sites, level))
        skip = x
        if len(block.proj) == 2:
            skip = self.norm(block.proj[1], self.subm(block.proj[0], x, sites, level))
        return (y + skip).relu()

    def __call__(self, x: Tensor, indices: Tensor) -> Tensor:
        model = self.model
        sites = [indices]
        x = self.norm(model.conv_input[1], self.subm(model.conv_input[0], x, indices, 0)).relu()
        skips = [x]
        for level in (0, 1):
            conv, norm = model.down[level][0], model.down[level][1]
            dense = to_dense(x, sites[level], self.shapes[level], self.batch_size)
            y = dense_conv(dense, conv.weight.double(), None, [2] * 3, [0] * 3, [1] * 3)
            fine = sites[level].long()
            sites.append(torch.unique(torch.cat([fine[:, :1], fine[:, 1:] // 2], 1), dim=0))
            x = self.norm(norm, at_sites(y, sites[-1])).relu()
            x = self.block(model.enc[level][0], x, sites[-1], level + 1)
            skips.append(x)
        x = skips.pop()
        for level in (1, 0):
            conv, norm = model.up[level][0], model.up[level][1]
            dense = to_dense(x, sites[level + 1], self.shapes[level + 1], self.batch_size)
            y = dense_conv_transpose(dense, conv.weight.double(), None, [2] * 3, [0] * 3, [1] * 3, [0] * 3)
            x = torch.cat([self.norm(norm, at_sites(y, sites[level])).relu(), skips.pop()], 1)
            x = self.block(model.dec[level][0], x, sites[level], level)
        return self.subm(model.final, x, indices, 0)


@pytest.fixture(scope="module")
def scene() -> dict[str, Any]:
    """Two small crops of the scan at 0.2 m, one behind the other as Pointcept stacks them."""
    cloud = torch.from_numpy(points())
    samples = []
    for low in ((5.0, -3.2, -2.4), (8.0, -1.0, -2.4)):
        place = torch.floor((cloud[:, :3] - torch.tensor(low)) / 0.2).long()
        inside = ((place >= 0) & (place < torch.tensor([20, 24, 14]))).all(1)
        samples.append(torch.unique(place[inside], dim=0))
    grid_coord = torch.cat(samples)
    offset = torch.tensor([len(sample) for sample in samples]).cumsum(0)
    generator = torch.Generator().manual_seed(0)
    feat = torch.randn(len(grid_coord), 6, generator=generator)
    # Pointcept's points come in no order.
    order = torch.cat([torch.randperm(len(samples[0]), generator=generator), torch.arange(offset[0], offset[1])])
    return {"grid_coord": grid_coord[order], "feat": feat[order], "offset": offset}


def test_pointcept_spunet(scene: dict[str, Any]) -> None:
    model = SpUNet(6, 5)
    found = model(scene)
    batch = torch.tensor([0, 1]).repeat_interleave(scene["offset"].diff(prepend=torch.zeros(1, dtype=torch.long)))
    indices = torch.cat([batch[:, None], scene["grid_coord"]], 1)
    assert len(indices) > 300
    expected = DenseTwin(model, [22, 26, 16], 2)(scene["feat"].double(), indices)
    assert_close(found, expected, 125 * 6 + 27 * 24 * 20, "SpUNet")
    found.square().mean().backward()
    mine = gradients(model)
    model.zero_grad()
    expected.square().mean().backward()
    for name, gradient in gradients(model).items():
        error = float((gradient - mine[name]).abs().max())
        assert error < 1e-3 * float(gradient.abs().max()), name


def test_point_transformer_positional_layer(scene: dict[str, Any]) -> None:
    channels = 6

    class PointSequential(nn.Module):
        def __init__(self, *modules: nn.Module) -> None:
            super().__init__()
            self.inner = nn.ModuleList(modules)

        def forward(self, point: dict[str, Any]) -> dict[str, Any]:
            for module in self.inner:
                if spconv.modules.is_spconv_module(module):
                    point["sparse_conv_feat"] = module(point["sparse_conv_feat"])
                    point["feat"] = point["sparse_conv_feat"].features
                else:
                    point["feat"] = module(point["feat"])
                    if point["sparse_conv_feat"].indices.shape[0]:
                        point["sparse_conv_feat"] = point["sparse_conv_feat"].replace_feature(point["feat"])
            return point

    cpe = PointSequential(
        spconv.SubMConv3d(channels, channels, kernel_size=3, bias=True, indice_key="stage0"),
        nn.Linear(channels, channels),
        nn.LayerNorm(channels),
    )
    batch = torch.arange(2).repeat_interleave(scene["offset"].diff(prepend=torch.zeros(1, dtype=torch.long)))
    indices = torch.cat([batch.unsqueeze(-1).int(), scene["grid_coord"].int()], dim=1).contiguous()
    sparse_shape = torch.add(torch.max(scene["grid_coord"], dim=0).values, 96).tolist()
    tensor = spconv.SparseConvTensor(
        features=scene["feat"], indices=indices, spatial_shape=sparse_shape, batch_size=2
    )
    point = cpe({"sparse_conv_feat": tensor, "feat": scene["feat"]})
    conv, linear, norm = cpe.inner
    dense = to_dense(scene["feat"].double(), indices, [22, 26, 16], 2)
    expected = dense_conv(dense, conv.weight.double(), conv.bias.double(), [1] * 3, [1] * 3, [1] * 3)
    expected = at_sites(expected, indices) @ linear.weight.double().T + linear.bias.double()
    expected = nn.functional.layer_norm(expected, (channels,), norm.weight.double(), norm.bias.double(), norm.eps)
    assert_close(point["feat"], expected, 27 * channels * 20, "positional layer")
    point["feat"].square().mean().backward()


def test_mix3d_puts_two_scenes_into_one_sample(scene: dict[str, Any]) -> None:
    """Scenes merged into one sample repeat sites; the first row then answers for its site."""
    mixed = dict(scene, offset=scene["offset"][-1:])
    model = SpUNet(6, 5)
    indices = torch.cat([torch.zeros(len(mixed["feat"]), 1, dtype=torch.long), mixed["grid_coord"]], 1)
    distinct = len(torch.unique(indices, dim=0))
    assert distinct < len(indices), "the crops overlap"
    scores = model(mixed)
    assert scores.shape == (len(indices), 5)
    assert torch.isfinite(scores).all()
    scores.square().mean().backward()
    gradients(model)


def test_trellis_keeps_private_members_and_sorts_what_a_stride_made() -> None:
    indices = torch.tensor([[0, 1, 2, 3], [0, 1, 2, 4], [1, 0, 0, 0]], dtype=torch.int32)
    data = spconv.SparseConvTensor(torch.randn(3, 4), indices, [8, 8, 8], 2)
    same = spconv.SubMConv3d(4, 8, 3, dilation=1, bias=True, indice_key="a", algo=spconv.ConvAlgo.Native)
    assert same(data).features.shape == (3, 8)

    def replace(old: Any, feats: Tensor) -> Any:
        new_data = spconv.SparseConvTensor(
            old.features.reshape(old.features.shape[0], -1),
            old.indices,
            old.spatial_shape,
            old.batch_size,
            old.grid,
            old.voxel_num,
            old.indice_dict,
        )
        new_data._features = feats
        for name in ("benchmark", "benchmark_record", "thrust_allocator", "_timer", "force_algo", "int8_scale"):
            setattr(new_data, name, getattr(old, name))
        return new_data

    heads = replace(data, data.features.reshape(3, 2, 2))
    assert heads.features.shape == (3, 2, 2)
    again = replace(heads, heads.features.reshape(3, 4))
    assert torch.equal(same(again).features, same(data).features)

    down = spconv.SparseConv3d(
        4, 8, 3, stride=2, dilation=1, padding=1, bias=True, indice_key="d", algo=spconv.ConvAlgo.MaskImplicitGemm
    )
    up = spconv.SparseInverseConv3d(8, 4, 3, bias=True, indice_key="d")
    unsorted = down(again)
    fwd = unsorted.indices[:, 0].argsort(descending=True)
    bwd = torch.zeros_like(fwd).scatter_(0, fwd, torch.arange(fwd.shape[0]))
    moved = spconv.SparseConvTensor(
        unsorted.features[fwd], unsorted.indices[fwd], unsorted.spatial_shape, unsorted.batch_size
    )
    moved = moved.replace_feature(moved.features * 2)
    back = up(unsorted.replace_feature(moved.features[bwd]))
    assert torch.equal(back.features, up(unsorted.replace_feature(unsorted.features * 2)).features)
    assert back.indices is again.indices
