"""spconv's steps on its CPU wheel, in its own API. It has no backward pass without a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import spconv.pytorch as spconv
import torch
from cumm import tensorview
from spconv.pytorch import ops
from spconv.utils import Point2VoxelCPU3d
from torch import Tensor, nn

PACKAGES = ("spconv", "cumm", "torch", "numpy")

Arrays = dict[str, Any]
Step = tuple[Callable[[], Any], Callable[[Any], Arrays]]


def _tensor(arrays: Arrays, features: Tensor) -> Any:
    return spconv.SparseConvTensor(features, torch.from_numpy(arrays["indices"]), arrays["shape"].tolist(), 1)


def _rows(output: Any) -> Arrays:
    return {"indices": output.indices.numpy(), "features": output.features.numpy()}


def _layer(layer: Any, arrays: Arrays, cached: bool) -> Step:
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(arrays["weight"]))
    features = torch.from_numpy(arrays["features"])
    kept = _tensor(arrays, features)

    def run() -> Any:
        with torch.no_grad():
            return layer(kept if cached else _tensor(arrays, features))

    return run, _rows


def subm(arrays: Arrays, options: Arrays) -> Step:
    """One submanifold 3x3x3 layer; a tensor keeps the map under the layer's key."""
    if options["backward"]:
        raise NotImplementedError("the CPU wheel has no backward pass")
    channels = arrays["features"].shape[1]
    layer = spconv.SubMConv3d(channels, len(arrays["weight"]), 3, bias=False, indice_key="layer")
    return _layer(layer, arrays, options["cached"])


def strided(arrays: Arrays, options: Arrays) -> Step:
    """One 3x3x3 layer of stride 2 with its map."""
    channels = arrays["features"].shape[1]
    layer = spconv.SparseConv3d(channels, len(arrays["weight"]), 3, 2, 1, bias=False)
    return _layer(layer, arrays, cached=False)


def _block(conv: nn.Module, channels: int, eps: float = 1e-3, momentum: float = 0.01) -> nn.Module:
    return spconv.SparseSequential(conv, nn.BatchNorm1d(channels, eps=eps, momentum=momentum), nn.ReLU())


class VoxelBackBone8x(nn.Module):
    """SECOND's backbone as OpenPCDet builds it."""

    def __init__(self, input_channels: int) -> None:
        super().__init__()
        self.conv_input = self._subm(input_channels, 16, 1)
        self.conv1 = spconv.SparseSequential(self._subm(16, 16, 1))
        self.conv2 = self._stage(16, 32, 2, 1)
        self.conv3 = self._stage(32, 64, 3, 1)
        self.conv4 = self._stage(64, 64, 4, (0, 1, 1))
        last = spconv.SparseConv3d(64, 128, (3, 1, 1), (2, 1, 1), bias=False, indice_key="spconv_down2")
        self.conv_out = _block(last, 128)

    @staticmethod
    def _subm(c_in: int, c_out: int, level: int) -> nn.Module:
        return _block(spconv.SubMConv3d(c_in, c_out, 3, padding=1, bias=False, indice_key=f"subm{level}"), c_out)

    def _stage(self, c_in: int, c_out: int, level: int, padding: Any) -> nn.Module:
        strided = spconv.SparseConv3d(c_in, c_out, 3, 2, padding, bias=False, indice_key=f"spconv{level}")
        return spconv.SparseSequential(
            _block(strided, c_out), self._subm(c_out, c_out, level), self._subm(c_out, c_out, level)
        )

    def forward(self, x: Any) -> Any:
        """The encoded tensor."""
        for stage in (self.conv_input, self.conv1, self.conv2, self.conv3, self.conv4, self.conv_out):
            x = stage(x)
        return x


class ResidualBlock(nn.Module):
    """Two submanifold convolutions and a skip."""

    def __init__(self, c_in: int, c_out: int, key: str) -> None:
        super().__init__()
        self.conv1 = spconv.SubMConv3d(c_in, c_out, 3, bias=False, indice_key=key)
        self.bn1 = nn.BatchNorm1d(c_out)
        self.conv2 = spconv.SubMConv3d(c_out, c_out, 3, bias=False, indice_key=key)
        self.bn2 = nn.BatchNorm1d(c_out)
        self.downsample = None
        if c_in != c_out:
            projection = spconv.SubMConv3d(c_in, c_out, 1, bias=False)
            self.downsample = spconv.SparseSequential(projection, nn.BatchNorm1d(c_out))

    def forward(self, x: Any) -> Any:
        """``[N, C_in]`` to ``[N, C_out]``."""
        skip = x if self.downsample is None else self.downsample(x)
        inner = self.conv1(x)
        inner = self.conv2(inner.replace_feature(torch.relu(self.bn1(inner.features))))
        return inner.replace_feature(torch.relu(self.bn2(inner.features) + skip.features))


class MinkUNet18(nn.Module):
    """Four levels down, four up, two residual blocks on each."""

    PLANES = (32, 64, 128, 256, 128, 128, 96, 96)

    def __init__(self, in_channels: int, out_channels: int = 20) -> None:
        super().__init__()
        width = 32
        stem = spconv.SubMConv3d(in_channels, width, 5, bias=False, indice_key="stem")
        self.stem = _block(stem, width, 1e-5, 0.1)
        self.down, self.encoder = nn.ModuleList(), nn.ModuleList()
        self.up, self.decoder = nn.ModuleList(), nn.ModuleList()
        skips = []
        for level in range(4):
            skips.append(width)
            strided = spconv.SparseConv3d(width, width, 2, 2, bias=False, indice_key=f"down{level}")
            self.down.append(_block(strided, width, 1e-5, 0.1))
            self.encoder.append(self._stage(width, self.PLANES[level], f"level{level + 1}"))
            width = self.PLANES[level]
        for level, planes in zip((3, 2, 1, 0), self.PLANES[4:], strict=True):
            inverse = spconv.SparseInverseConv3d(width, planes, 2, f"down{level}", bias=False)
            self.up.append(_block(inverse, planes, 1e-5, 0.1))
            self.decoder.append(self._stage(planes + skips[level], planes, f"level{level}"))
            width = planes
        self.final = nn.Linear(width, out_channels)

    @staticmethod
    def _stage(c_in: int, c_out: int, key: str) -> nn.Sequential:
        return nn.Sequential(ResidualBlock(c_in, c_out, key), ResidualBlock(c_out, c_out, key))

    def forward(self, x: Any) -> Any:
        """Scores of every voxel."""
        x = self.stem(x)
        skips = []
        for down, encoder in zip(self.down, self.encoder, strict=True):
            skips.append(x)
            x = encoder(down(x))
        for up, decoder in zip(self.up, self.decoder, strict=True):
            x = up(x)
            x = decoder(x.replace_feature(torch.cat([x.features, skips.pop().features], 1)))
        return x.replace_feature(self.final(x.features))


MODELS = {"VoxelBackBone8x": VoxelBackBone8x, "MinkUNet18": MinkUNet18}


def network(arrays: Arrays, options: Arrays) -> Step:
    """A backbone: inference."""
    if options["backward"]:
        raise NotImplementedError("the CPU wheel has no backward pass")
    model = MODELS[options["model"]](arrays["features"].shape[1]).eval()
    prefix = "state."
    state = {key[len(prefix) :]: torch.from_numpy(a) for key, a in arrays.items() if key.startswith(prefix)}
    # spconv reads the weight of a 1x1x1 layer as [C_in, C_out], whatever its shape says.
    for name, value in state.items():
        if value.dim() == 5 and value.shape[1:4].numel() == 1:
            state[name] = value.flatten(1).T.reshape(value.shape)
    model.load_state_dict(state)
    features = torch.from_numpy(arrays["features"])

    def run() -> Any:
        with torch.no_grad():
            return model(_tensor(arrays, features))

    return run, _rows


def submanifold_map(arrays: Arrays, options: Arrays) -> Step:
    """The pairs of a submanifold 3x3x3 layer."""
    indices, shape = torch.from_numpy(arrays["indices"]), arrays["shape"].tolist()
    one, algo = [1, 1, 1], spconv.ConvAlgo.Native

    def run() -> Any:
        return ops.get_indice_pairs(indices, 1, shape, algo, [3, 3, 3], one, one, one, [0, 0, 0], subm=True)

    def collect(result: Any) -> Arrays:
        """Only 13 taps are listed: the last ones are their mirror images, the middle one is the identity."""
        _, pairs, counts = result
        rows = np.arange(len(indices))
        triples = [np.stack([np.full(len(rows), 13), rows, rows], 1)]
        for tap in range(13):
            in_rows, out_rows = pairs[:, tap, : counts[tap]].numpy()
            triples.append(np.stack([np.full(len(in_rows), tap), in_rows, out_rows], 1))
            triples.append(np.stack([np.full(len(in_rows), 26 - tap), out_rows, in_rows], 1))
        return {"indices": np.concatenate(triples)}

    return run, collect


def hard_voxels(arrays: Arrays, options: Arrays) -> Step:
    """Voxelization: the first points of each voxel, padded."""
    points, (max_points, max_voxels) = arrays["points"], (options["max_points"], options["max_voxels"])
    voxelizer = Point2VoxelCPU3d(options["voxel"], options["range"], points.shape[1], max_voxels, max_points)

    def run() -> Any:
        return [array.numpy() for array in voxelizer.point_to_voxel(tensorview.from_numpy(points))]

    def collect(result: Any) -> Arrays:
        voxels, indices, counts = result
        flat = np.concatenate([voxels.reshape(len(voxels), -1), counts[:, None]], 1)
        return {"indices": np.pad(indices, ((0, 0), (1, 0))), "features": flat}

    return run, collect


STEPS: dict[str, Callable[[Arrays, Arrays], Step]] = {
    "subm": subm,
    "strided": strided,
    "network": network,
    "map": submanifold_map,
    "hard voxels": hard_voxels,
}
