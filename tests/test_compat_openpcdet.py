"""OpenPCDet's backbones in their own words, written from a description of what they call, on a real scan.

Each is compared with `sparseconv.models` under the same weights: results and gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from compat_scan import GRID, TERMS, assert_same_gradients, gradients, voxels
from tolerance import assert_close
from torch import Tensor, nn

import sparseconv
import sparseconv.compat.spconv as spconv_top
import sparseconv.compat.spconv.pytorch as spconv
from sparseconv import models

norm_fn = partial(nn.BatchNorm1d, eps=1e-3, momentum=0.01)


# OpenPCDet


def replace_feature(out: Any, new_features: Tensor) -> Any:
    if "replace_feature" in out.__dir__():
        return out.replace_feature(new_features)
    out.features = new_features
    return out


def post_act_block(
    in_channels: int,
    out_channels: int,
    kernel_size: Any,
    indice_key: str | None = None,
    stride: Any = 1,
    padding: Any = 0,
    conv_type: str = "subm",
) -> Any:
    if conv_type == "subm":
        conv = spconv.SubMConv3d(in_channels, out_channels, kernel_size, bias=False, indice_key=indice_key)
    elif conv_type == "spconv":
        conv = spconv.SparseConv3d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            bias=False,
            indice_key=indice_key,
        )
    else:
        conv = spconv.SparseInverseConv3d(
            in_channels, out_channels, kernel_size, indice_key=indice_key, bias=False
        )
    return spconv.SparseSequential(conv, norm_fn(out_channels), nn.ReLU())


class SparseBasicBlock(spconv.SparseModule):
    def __init__(self, inplanes: int, planes: int, bias: bool, indice_key: str) -> None:
        super().__init__()
        self.conv1 = spconv.SubMConv3d(
            inplanes, planes, kernel_size=3, stride=1, padding=1, bias=bias, indice_key=indice_key
        )
        self.bn1 = norm_fn(planes)
        self.relu = nn.ReLU()
        self.conv2 = spconv.SubMConv3d(
            planes, planes, kernel_size=3, stride=1, padding=1, bias=bias, indice_key=indice_key
        )
        self.bn2 = norm_fn(planes)

    def forward(self, x: Any) -> Any:
        out = self.conv1(x)
        out = replace_feature(out, self.bn1(out.features))
        out = replace_feature(out, self.relu(out.features))
        out = self.conv2(out)
        out = replace_feature(out, self.bn2(out.features))
        out = replace_feature(out, out.features + x.features)
        return replace_feature(out, self.relu(out.features))


class VoxelBackBone8x(nn.Module):
    def __init__(self, input_channels: int, grid_size: np.ndarray) -> None:
        super().__init__()
        self.sparse_shape = grid_size[::-1] + [1, 0, 0]  # noqa: RUF005 - arrays
        self.conv_input = spconv.SparseSequential(
            spconv.SubMConv3d(input_channels, 16, 3, padding=1, bias=False, indice_key="subm1"),
            norm_fn(16),
            nn.ReLU(),
        )
        self.stages()

    def stages(self) -> None:
        block = post_act_block
        self.conv1 = spconv.SparseSequential(block(16, 16, 3, padding=1, indice_key="subm1"))
        for level, (cin, cout, padding) in {2: (16, 32, 1), 3: (32, 64, 1), 4: (64, 64, (0, 1, 1))}.items():
            stage = spconv.SparseSequential(
                block(cin, cout, 3, stride=2, padding=padding, indice_key=f"spconv{level}", conv_type="spconv"),
                block(cout, cout, 3, padding=1, indice_key=f"subm{level}"),
                block(cout, cout, 3, padding=1, indice_key=f"subm{level}"),
            )
            setattr(self, f"conv{level}", stage)
        self.tail(64)

    def tail(self, channels: int) -> None:
        self.conv_out = spconv.SparseSequential(
            spconv.SparseConv3d(
                channels, 128, (3, 1, 1), stride=(2, 1, 1), padding=0, bias=False, indice_key="spconv_down2"
            ),
            norm_fn(128),
            nn.ReLU(),
        )

    def forward(self, batch_dict: dict[str, Any]) -> dict[str, Any]:
        input_sp_tensor = spconv.SparseConvTensor(
            features=batch_dict["voxel_features"],
            indices=batch_dict["voxel_coords"].int(),
            spatial_shape=self.sparse_shape,
            batch_size=batch_dict["batch_size"],
        )
        x = self.conv_input(input_sp_tensor)
        stages = {}
        for level in (1, 2, 3, 4):
            x = stages[f"x_conv{level}"] = getattr(self, f"conv{level}")(x)
        out = self.conv_out(x)
        batch_dict.update(
            encoded_spconv_tensor=out, encoded_spconv_tensor_stride=8, multi_scale_3d_features=stages
        )
        encoded = out.dense()
        n, c, d, h, w = encoded.shape
        batch_dict["spatial_features"] = encoded.view(n, c * d, h, w)
        return batch_dict


class VoxelResBackBone8x(VoxelBackBone8x):
    def stages(self) -> None:
        self.conv1 = spconv.SparseSequential(*(SparseBasicBlock(16, 16, True, "res1") for _ in range(2)))
        for level, (cin, cout, padding) in {2: (16, 32, 1), 3: (32, 64, 1), 4: (64, 128, (0, 1, 1))}.items():
            stage = spconv.SparseSequential(
                post_act_block(
                    cin, cout, 3, stride=2, padding=padding, indice_key=f"spconv{level}", conv_type="spconv"
                ),
                *(SparseBasicBlock(cout, cout, True, f"res{level}") for _ in range(2)),
            )
            setattr(self, f"conv{level}", stage)
        self.tail(128)


class UNetV2(VoxelBackBone8x):
    def tail(self, channels: int) -> None:
        super().tail(channels)
        block = post_act_block
        for level, c, below in ((4, 64, 64), (3, 64, 32), (2, 32, 16)):
            setattr(self, f"conv_up_t{level}", SparseBasicBlock(c, c, False, f"subm{level}"))
            setattr(self, f"conv_up_m{level}", block(2 * c, c, 3, padding=1, indice_key=f"subm{level}"))
            inverse = block(c, below, 3, indice_key=f"spconv{level}", conv_type="inverseconv")
            setattr(self, f"inv_conv{level}", inverse)
        self.conv_up_t1 = SparseBasicBlock(16, 16, False, "subm1")
        self.conv_up_m1 = block(32, 16, 3, indice_key="subm1")
        self.conv5 = spconv.SparseSequential(block(16, 16, 3, padding=1, indice_key="subm1"))

    def up(self, lateral: Any, bottom: Any, conv_t: nn.Module, conv_m: nn.Module, conv_inv: nn.Module) -> Any:
        x_trans = conv_t(lateral)
        x = replace_feature(x_trans, torch.cat((bottom.features, x_trans.features), dim=1))
        x_m = conv_m(x)
        n, c = x.features.shape
        out_channels = x_m.features.shape[1]
        x = replace_feature(x, x.features.view(n, out_channels, c // out_channels).sum(dim=2))
        x = replace_feature(x, x_m.features + x.features)
        return conv_inv(x)

    def forward(self, batch_dict: dict[str, Any]) -> dict[str, Any]:
        batch_dict = super().forward(batch_dict)
        stages = batch_dict["multi_scale_3d_features"]
        x = stages["x_conv4"]
        for level in (4, 3, 2):
            parts = (getattr(self, f"{name}{level}") for name in ("conv_up_t", "conv_up_m", "inv_conv"))
            x = self.up(stages[f"x_conv{level}"], x, *parts)
        x = self.up(stages["x_conv1"], x, self.conv_up_t1, self.conv_up_m1, self.conv5)
        batch_dict["point_features"] = x.features
        return batch_dict


def batch() -> dict[str, Any]:
    features, indices, batch_size = voxels()
    return {"voxel_features": features.clone(), "voxel_coords": indices.float(), "batch_size": batch_size}


GRID_XYZ = np.array([GRID[2], GRID[1], GRID[0] - 1])


def engine_input() -> sparseconv.SparseTensor:
    features, indices, batch_size = voxels()
    return sparseconv.SparseTensor(features, indices, GRID, batch_size)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [(VoxelBackBone8x, models.VoxelBackBone8x), (VoxelResBackBone8x, models.VoxelResBackBone8x)],
)
def test_openpcdet_second(theirs: Callable[..., nn.Module], ours: Callable[..., nn.Module]) -> None:
    model, twin = theirs(4, GRID_XYZ).double(), ours(4).double()
    twin.load_state_dict(model.state_dict())
    found = model(batch())
    expected = twin(engine_input())
    assert torch.equal(found["encoded_spconv_tensor"].indices, expected.encoded.indices)
    assert_close(found["encoded_spconv_tensor"].features, expected.encoded.features.double(), TERMS)
    assert_close(found["spatial_features"], models.to_bev(expected.encoded).double(), TERMS)
    assert found["encoded_spconv_tensor"].spatial_shape == expected.encoded.spatial_shape
    found["spatial_features"].square().mean().backward()
    models.to_bev(expected.encoded).square().mean().backward()
    assert_same_gradients(gradients(model), gradients(twin))


def test_openpcdet_unet_with_inverse_convolutions() -> None:
    model, twin = UNetV2(4, GRID_XYZ).double(), models.UNetV2(4).double()
    twin.load_state_dict(model.state_dict())
    found = model(batch())["point_features"]
    expected = twin(engine_input()).voxels.features
    assert_close(found, expected.double(), TERMS)
    found.square().mean().backward()
    expected.square().mean().backward()
    # The head's last layer takes no part in the points' features.
    del model.conv_out, twin.conv_out
    assert_same_gradients(gradients(model), gradients(twin))


def test_openpcdet_finds_and_converts_old_weights() -> None:
    model = VoxelBackBone8x(4, GRID_XYZ)

    def find_all_spconv_keys(module: nn.Module, prefix: str = "") -> set[str]:
        found: set[str] = set()
        for name, child in module.named_children():
            path = f"{prefix}.{name}" if prefix != "" else name
            if isinstance(child, spconv.conv.SparseConvolution):
                found.add(f"{path}.weight")
            found |= find_all_spconv_keys(child, path)
        return found

    keys = find_all_spconv_keys(model)
    assert len(keys) == 12
    assert float(spconv_top.__version__[2:]) >= 2.2
    spconv_top.constants.SPCONV_USE_DIRECT_TABLE = False
    old = {k: v.permute(1, 2, 3, 4, 0) if k in keys else v for k, v in model.state_dict().items()}
    fresh = VoxelBackBone8x(4, GRID_XYZ)
    state = fresh.state_dict()
    for key, value in old.items():
        if key in keys and state[key].shape != value.shape:
            native = value.transpose(-1, -2)
            value = native.contiguous() if native.shape == state[key].shape else value.permute(4, 0, 1, 2, 3)
        state[key] = value
    fresh.load_state_dict(state)
    for key, value in model.state_dict().items():
        assert torch.equal(value, fresh.state_dict()[key])


class VoxelNeXt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        channels = [16, 32, 64, 128, 128, 128]
        self.conv_input = spconv.SparseSequential(
            spconv.SubMConv3d(4, 16, 3, padding=1, bias=False, indice_key="subm1"), norm_fn(16), nn.ReLU()
        )
        self.conv1 = spconv.SparseSequential(*(SparseBasicBlock(16, 16, True, "res1") for _ in range(2)))
        for level in range(2, 7):
            cin, cout = channels[level - 2 : level]
            stage = spconv.SparseSequential(
                post_act_block(cin, cout, 3, f"spconv{level}", stride=2, padding=1, conv_type="spconv"),
                *(SparseBasicBlock(cout, cout, True, f"res{level}") for _ in range(2)),
            )
            setattr(self, f"conv{level}", stage)
        self.conv_out = spconv.SparseSequential(
            spconv.SparseConv2d(128, 128, 3, stride=1, padding=1, bias=False, indice_key="spconv_down2"),
            norm_fn(128),
            nn.ReLU(),
        )
        self.shared_conv = spconv.SparseSequential(
            spconv.SubMConv2d(128, 128, 3, stride=1, padding=1, bias=True), nn.BatchNorm1d(128), nn.ReLU(True)
        )

    def bev_out(self, x_conv: Any) -> Any:
        indices_cat = x_conv.indices[:, [0, 2, 3]]
        indices_unique, inverse = torch.unique(indices_cat, dim=0, return_inverse=True)
        features_unique = x_conv.features.new_zeros((indices_unique.shape[0], x_conv.features.shape[1]))
        features_unique.index_add_(0, inverse, x_conv.features)
        return spconv.SparseConvTensor(
            features=features_unique,
            indices=indices_unique,
            spatial_shape=x_conv.spatial_shape[1:],
            batch_size=x_conv.batch_size,
        )

    def forward(self, x: Any) -> Any:
        x = self.conv_input(x)
        stages = []
        for level in range(1, 7):
            x = getattr(self, f"conv{level}")(x)
            stages.append(x)
        x_conv4, x_conv5, x_conv6 = stages[3:]
        x_conv5.indices[:, 1:] *= 2
        x_conv6.indices[:, 1:] *= 4
        x_conv4 = x_conv4.replace_feature(torch.cat([x_conv4.features, x_conv5.features, x_conv6.features]))
        x_conv4.indices = torch.cat([x_conv4.indices, x_conv5.indices, x_conv6.indices])
        return self.shared_conv(self.conv_out(self.bev_out(x_conv4)))


class SeparateHead(nn.Module):
    def __init__(self, input_channels: int, sep_head_dict: dict[str, int], kernel_size: int = 3) -> None:
        super().__init__()
        self.sep_head_dict = sep_head_dict
        for cur_name, output_channels in sep_head_dict.items():
            fc = nn.Sequential(
                spconv.SparseSequential(
                    spconv.SubMConv2d(
                        input_channels,
                        input_channels,
                        kernel_size,
                        padding=kernel_size // 2,
                        bias=False,
                        indice_key=cur_name,
                    ),
                    nn.BatchNorm1d(input_channels),
                    nn.ReLU(),
                ),
                spconv.SubMConv2d(input_channels, output_channels, 1, bias=True, indice_key=cur_name + "out"),
            )
            fc[-1].bias.data.fill_(-2.19)
            for m in fc.modules():
                if isinstance(m, spconv.SubMConv2d):
                    nn.init.kaiming_normal_(m.weight.data)
            setattr(self, cur_name, fc)

    def forward(self, x: Any) -> dict[str, Tensor]:
        return {name: getattr(self, name)(x).features for name in self.sep_head_dict}


def test_voxelnext_changes_indices_in_place() -> None:
    model, twin = VoxelNeXt().double(), models.VoxelNeXtBackbone(4).double()
    twin.load_state_dict(model.state_dict())
    features, indices, batch_size = voxels()
    tensor = spconv.SparseConvTensor(features, indices, GRID, batch_size)
    found = model(tensor)
    expected = twin(engine_input()).encoded
    assert torch.equal(found.indices, expected.indices)
    assert_close(found.features, expected.features.double(), TERMS, "VoxelNeXt")
    # A second pass on the same tensor meets none of the changed indices.
    model.eval()
    first, second = model(tensor), model(tensor)
    assert torch.equal(first.features, second.features) and torch.equal(first.indices, second.indices)
    head = SeparateHead(128, {"hm": 3, "center": 2}).double()
    scores = head(found)
    assert {name: tuple(value.shape) for name, value in scores.items()} == {
        "hm": (len(found.features), 3),
        "center": (len(found.features), 2),
    }
    sum(value.square().mean() for value in scores.values()).backward()
    gradients(head)
    assert model.conv_input[0].weight.grad is not None and model.conv_input[0].weight.grad.any()
