"""CenterPoint (spconv 1.x) and mmdetection3d in their own words, written from a description of what they call.

Each is compared with `sparseconv.models` under the same weights: results and gradients.
"""

from __future__ import annotations

import itertools
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from compat_scan import GRID, TERMS, copy_by_order, gradients, voxels
from tolerance import assert_close
from torch import Tensor, nn

import sparseconv
import sparseconv.compat.spconv as spconv_top
import sparseconv.compat.spconv.pytorch as spconv
from sparseconv import models

norm_fn = partial(nn.BatchNorm1d, eps=1e-3, momentum=0.01)

GRID_XYZ = np.array([GRID[2], GRID[1], GRID[0] - 1])


def engine_input() -> sparseconv.SparseTensor:
    features, indices, batch_size = voxels()
    return sparseconv.SparseTensor(features, indices, GRID, batch_size)


# CenterPoint, spconv 1.x


def conv3x3(
    in_planes: int, out_planes: int, stride: int = 1, indice_key: str | None = None, bias: bool = True
) -> Any:
    return spconv_top.SubMConv3d(
        in_planes, out_planes, kernel_size=3, stride=stride, padding=1, bias=bias, indice_key=indice_key
    )


class CenterPointBlock(spconv_top.SparseModule):
    def __init__(self, planes: int, indice_key: str) -> None:
        super().__init__()
        self.conv1 = conv3x3(planes, planes, indice_key=indice_key)
        self.bn1 = norm_fn(planes)
        self.relu = nn.ReLU()
        self.conv2 = conv3x3(planes, planes, indice_key=indice_key)
        self.bn2 = norm_fn(planes)

    def forward(self, x: Any) -> Any:
        identity = x
        out = self.conv1(x)
        out.features = self.bn1(out.features)
        out.features = self.relu(out.features)
        out = self.conv2(out)
        out.features = self.bn2(out.features)
        out.features += identity.features
        out.features = self.relu(out.features)
        return out


class SpMiddleResNetFHD(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        from sparseconv.compat.spconv import SparseConv3d, SubMConv3d

        self.conv_input = spconv_top.SparseSequential(
            SubMConv3d(4, 16, 3, bias=False, indice_key="res0"), norm_fn(16), nn.ReLU(inplace=True)
        )
        self.conv1 = spconv_top.SparseSequential(CenterPointBlock(16, "res0"), CenterPointBlock(16, "res0"))
        for level, (cin, cout, padding) in {2: (16, 32, 1), 3: (32, 64, 1), 4: (64, 128, [0, 1, 1])}.items():
            stage = spconv_top.SparseSequential(
                SparseConv3d(cin, cout, 3, 2, padding=padding, bias=False),
                norm_fn(cout),
                nn.ReLU(inplace=True),
                CenterPointBlock(cout, f"res{level}"),
                CenterPointBlock(cout, f"res{level}"),
            )
            setattr(self, f"conv{level}", stage)
        self.extra_conv = spconv_top.SparseSequential(
            SparseConv3d(128, 128, (3, 1, 1), (2, 1, 1), bias=False), norm_fn(128), nn.ReLU()
        )

    def forward(self, voxel_features: Tensor, coors: Tensor, batch_size: int, input_shape: np.ndarray) -> Tensor:
        sparse_shape = np.array(input_shape[::-1]) + [1, 0, 0]  # noqa: RUF005 - arrays
        ret = spconv_top.SparseConvTensor(voxel_features, coors.int(), sparse_shape, batch_size)
        x = self.conv_input(ret)
        for level in (1, 2, 3, 4):
            x = getattr(self, f"conv{level}")(x)
        out = self.extra_conv(x).dense()
        n, c, d, h, w = out.shape
        return out.view(n, c * d, h, w)


def test_centerpoint_in_the_spelling_of_version_1() -> None:
    model, twin = SpMiddleResNetFHD().double(), models.VoxelResBackBone8x(4).double()
    # The twin registers conv_out first; the order of its state dict is put right here.
    state = twin.state_dict()
    in_order = [k for k in state if not k.startswith("conv_out")] + [k for k in state if k.startswith("conv_out")]
    twin.load_state_dict(dict(zip(in_order, model.state_dict().values(), strict=True)))
    features, indices, batch_size = voxels()
    found = model(features, indices.long(), batch_size, GRID_XYZ)
    expected = models.to_bev(twin(engine_input()).encoded)
    assert_close(found, expected.double(), TERMS)
    found.square().mean().backward()
    gradients(model)


def test_centerpoint_pads_a_pointwise_submanifold_layer() -> None:
    features, indices, batch_size = voxels()
    x = spconv_top.SparseConvTensor(features, indices, GRID, batch_size)
    conv = spconv_top.SubMConv3d(4, 8, kernel_size=1, stride=1, padding=1, bias=True, indice_key="res0").double()
    y = conv(x)
    expected = features.double() @ conv.weight.double().reshape(8, 4).T + conv.bias.double()
    assert_close(y.features, expected, 5)
    assert y.indices is x.indices


# mmdetection3d


def test_mmdetection3d_builds_from_a_registry_and_patches_the_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = {
        name: getattr(spconv, name)
        for name in ("SubMConv3d", "SparseConv3d", "SparseInverseConv3d", "SparseConvTranspose3d", "SubMConv2d")
    }

    def build(cfg: dict[str, Any], *args: Any, **kwargs: Any) -> nn.Module:
        cfg = dict(cfg)
        return registry[cfg.pop("type")](*args, **kwargs, **cfg)

    def block(
        cin: int, cout: int, kernel: Any, conv_type: str, indice_key: str, stride: Any = 1, padding: Any = 0
    ):
        cfg = {"type": conv_type, "indice_key": indice_key}
        conv = build(cfg, cin, cout, kernel, stride=stride, padding=padding, bias=False)
        return spconv.SparseSequential(conv, norm_fn(cout), nn.ReLU(inplace=True))

    class SparseEncoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv_input = block(4, 16, 3, "SubMConv3d", "subm1", padding=1)
            self.encoder_layers = spconv.SparseSequential()
            channels = ((16,), (32, 32, 32), (64, 64, 64), (64, 64, 64))
            paddings = ((1,), (1, 1, 1), (1, 1, 1), ((0, 1, 1), 1, 1))
            cin = 16
            for i, widths in enumerate(channels):
                stage = []
                for j, width in enumerate(widths):
                    if i != 0 and j == 0:
                        key, kind, stride = f"spconv{i + 1}", "SparseConv3d", 2
                    else:
                        key, kind, stride = f"subm{i + 1}", "SubMConv3d", 1
                    stage.append(block(cin, width, 3, kind, key, stride, paddings[i][j]))
                    cin = width
                self.encoder_layers.add_module(f"encoder_layer{i + 1}", spconv.SparseSequential(*stage))
            self.conv_out = block(64, 128, (3, 1, 1), "SparseConv3d", "spconv_down2", stride=(2, 1, 1))

        @torch.autocast("cpu", enabled=False)
        def forward(self, voxel_features: Tensor, coors: Tensor, batch_size: int) -> Tensor:
            x = spconv.SparseConvTensor(voxel_features, coors.int(), GRID, batch_size)
            x = self.conv_input(x)
            for encoder_layer in self.encoder_layers:
                x = encoder_layer(x)
            spatial = self.conv_out(x).dense()
            n, c, d, h, w = spatial.shape
            return spatial.view(n, c * d, h, w)

    def load(self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs):
        version = local_metadata.get("version", None)
        for hook in self._load_state_dict_pre_hooks.values():
            hook(state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        named = itertools.chain(self._parameters.items(), self._buffers.items())
        for name, param in ((k, v.data) for k, v in named if v is not None):
            value = state_dict.get(prefix + name)
            if value is None:
                missing_keys.append(prefix + name)
                continue
            if version != 2:
                dims = [value.dim() - 1, *range(value.dim() - 1)]
                value = value.permute(*dims)
            if value.shape != param.shape:
                error_msgs.append(f"size mismatch for {prefix + name}")
                continue
            param.copy_(value)

    model, twin = SparseEncoder().double(), models.VoxelBackBone8x(4).double()
    copy_by_order_of_stages(model, twin)
    features, indices, batch_size = voxels()
    found = model(features, indices, batch_size)
    assert_close(found, models.to_bev(twin(engine_input()).encoded).double(), TERMS)
    found.square().mean().backward()
    gradients(model)

    # The library's own checkpoints of version 1, through its own patch; ours carry the version that it sets.
    monkeypatch.setattr(spconv.SparseModule, "_version", 2, raising=False)
    monkeypatch.setattr(spconv.SparseModule, "_load_from_state_dict", load)
    old = model.state_dict()
    again = SparseEncoder().double()
    again.load_state_dict(old)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in old.items())
    for key in old:
        if old[key].dim() == 5:
            old[key] = old[key].permute(1, 2, 3, 4, 0)
    for metadata in old._metadata.values():
        metadata["version"] = 1
    fresh = SparseEncoder().double()
    fresh.load_state_dict(old)
    for key, value in model.state_dict().items():
        assert torch.equal(value, fresh.state_dict()[key]), key


def copy_by_order_of_stages(model: nn.Module, twin: nn.Module) -> None:
    ordered = nn.ModuleList(
        [twin.conv_input, twin.conv1, twin.conv2, twin.conv3, twin.conv4, twin.conv_out]  # type: ignore[list-item]
    )
    copy_by_order(model, ordered)


def test_an_ndarray_a_tensor_and_a_list_name_the_same_grid() -> None:
    features, indices, batch_size = voxels()
    conv = spconv.SparseConv3d(4, 8, 3, 2, 1, bias=False).double()
    shapes = [GRID, tuple(GRID), np.array(GRID), torch.tensor(GRID), SimpleNamespace(v=np.array(GRID, np.int32)).v]
    results = [conv(spconv.SparseConvTensor(features, indices, shape, batch_size)) for shape in shapes]
    assert all(torch.equal(result.features, results[0].features) for result in results)
    assert all(result.spatial_shape == [21, 64, 64] for result in results)
