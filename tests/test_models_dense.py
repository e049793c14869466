"""Each network against the same network on dense grids, written again with torch's dense convolutions.

Absent sites are zeros. A submanifold convolution is a dense one, masked to the active sites. A strided one is
active where a convolution of the occupancy with ones is positive. An inverse one is a dense transposed
convolution, masked to the sites before the stride. Layers are read for their parameters only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracle import dense_conv, dense_conv_transpose, to_dense
from test_models_inputs import assert_close, crop, network_tolerance, settle
from torch import Tensor

from sparseconv import SparseTensor
from sparseconv.functional import prune
from sparseconv.models import (
    MinkUNet,
    MinkUNet14,
    MinkUNet34,
    UNetV2,
    VoxelBackBone8x,
    VoxelNeXtBackbone,
    VoxelResBackBone8x,
)

SECOND_CROP = [41, 64, 64]


@dataclass(frozen=True)
class Grid:
    """Values ``[B, C, *shape]`` and the active sites ``[B, 1, *shape]``, where alone values are not zero."""

    values: Tensor
    active: Tensor

    @classmethod
    def of(cls, x: SparseTensor) -> Grid:
        shape = x.spatial_shape or []
        ones = x.features.new_ones((len(x), 1))
        grids = (to_dense(rows, x.indices, shape, x.batch_size) for rows in (x.features, ones))
        return cls(*grids)

    def with_values(self, values: Tensor) -> Grid:
        return replace(self, values=values * self.active)

    def plus(self, other: Grid) -> Grid:
        return self.with_values(self.values + other.values)

    def join(self, other: Grid) -> Grid:
        return self.with_values(torch.cat([self.values, other.values], 1))


def convolve(conv: Any, x: Grid) -> Grid:
    """A submanifold or strided convolution."""
    if conv.subm:
        padding = [size // 2 for size in conv.kernel_size]
        ones = [1] * len(padding)
        return x.with_values(dense_conv(x.values, conv.weight, conv.bias, ones, padding, ones))
    sizes = conv.stride, conv.padding, conv.dilation
    box = conv.weight.new_ones((1, *conv.kernel_size, 1))
    active = (dense_conv(x.active, box, None, *sizes) > 0.5).to(x.active)
    return Grid(dense_conv(x.values, conv.weight, conv.bias, *sizes) * active, active)


def undo(conv: Any, strided: Any, x: Grid, before: Grid) -> Grid:
    """The inverse of ``strided``, onto the sites of ``before``."""
    extra = [
        (fine + 2 * p - k) % s
        for fine, k, s, p in zip(
            before.active.shape[2:], strided.kernel_size, strided.stride, strided.padding, strict=True
        )
    ]
    sizes = strided.stride, strided.padding, strided.dilation, extra
    return before.with_values(dense_conv_transpose(x.values, conv.weight, conv.bias, *sizes))


def normalise(norm: Any, x: Grid) -> Grid:
    statistics = norm.running_mean, norm.running_var
    return x.with_values(F.batch_norm(x.values, *statistics, norm.weight, norm.bias, False, 0, norm.eps))


def finish(block: Any, x: Grid) -> Grid:
    """The norm and ReLU of a block whose convolution is done."""
    y = normalise(block[1], x)
    return y.with_values(y.values.relu())


def run_block(block: Any, x: Grid) -> Grid:
    return finish(block, convolve(block[0], x))


def run_residual(block: Any, x: Grid) -> Grid:
    skip = x
    if block.downsample is not None:
        skip = normalise(block.downsample[1], convolve(block.downsample[0], x))
    y = normalise(block.bn1, convolve(block.conv1, x))
    y = normalise(block.bn2, convolve(block.conv2, y.with_values(y.values.relu())))
    y = y.plus(skip)
    return y.with_values(y.values.relu())


def run_stage(stage: Iterable[Any], x: Grid) -> Grid:
    for block in stage:
        x = run_residual(block, x) if hasattr(block, "conv2") else run_block(block, x)
    return x


def run_levels(model: Any, x: Grid, levels: int) -> list[Grid]:
    x = run_block(model.conv_input, x)
    grids = []
    for level in range(1, levels + 1):
        x = run_stage(getattr(model, f"conv{level}"), x)
        grids.append(x)
    return grids


def dense_second(model: Any, x: Grid) -> Grid:
    return run_block(model.conv_out, run_levels(model, x, 4)[-1])


def dense_unet(model: UNetV2, x: Grid) -> Grid:
    levels = run_levels(model, x, 4)
    below = levels[3]
    for level in (4, 3, 2, 1):
        lateral = levels[level - 1]
        both = below.join(run_residual(getattr(model, f"conv_up_t{level}"), lateral))
        merged = run_block(getattr(model, f"conv_up_m{level}"), both)
        summed = both.values[:, 0::2] + both.values[:, 1::2]
        below = merged.with_values(merged.values + summed)
        if level > 1:
            inverse, strided = getattr(model, f"inv_conv{level}"), getattr(model, f"conv{level}")[0][0]
            below = finish(inverse, undo(inverse[0], strided, below, levels[level - 2]))
    return run_stage(model.conv5, below)


def dense_voxelnext(model: VoxelNeXtBackbone, x: Grid) -> Grid:
    _, _, _, fine, *coarse = run_levels(model, x, 6)
    values, active = fine.values.clone(), fine.active.clone()
    for grid, step in zip(coarse, (2, 4), strict=True):
        depth, height, width = (step * size for size in grid.active.shape[2:])
        values[:, :, :depth:step, :height:step, :width:step] += grid.values
        active[:, :, :depth:step, :height:step, :width:step] += grid.active
    flat = Grid(values.sum(2), (active.sum(2) > 0).to(active))
    return run_block(model.shared_conv, run_block(model.conv_out, flat))


def dense_minkunet(model: MinkUNet, x: Grid) -> Grid:
    x = run_block(model.stem, x)
    skips = []
    for down, stage in zip(model.down, model.encoder, strict=True):
        skips.append(x)
        x = run_stage(stage, run_block(down, x))  # type: ignore[arg-type]
    strided = [down[0] for down in model.down]  # type: ignore[index]
    for up, stage in zip(model.up, model.decoder, strict=True):
        skip = skips.pop()
        undone = finish(up, undo(up[0], strided.pop(), x, skip))  # type: ignore[index]
        x = run_stage(stage, undone.join(skip))  # type: ignore[arg-type]
    scores = F.linear(x.values.movedim(1, -1), model.final.weight, model.final.bias)
    return x.with_values(scores.movedim(-1, 1))


Dense = Callable[[Any, Grid], Grid]
CASES: list[tuple[Callable[[], Any], Dense, list[int]]] = [
    (VoxelBackBone8x, dense_second, SECOND_CROP),
    (VoxelResBackBone8x, dense_second, SECOND_CROP),
    (UNetV2, dense_unet, SECOND_CROP),
    (VoxelNeXtBackbone, dense_voxelnext, [41, 96, 64]),
    (MinkUNet14, dense_minkunet, [32, 32, 32]),
    (MinkUNet34, dense_minkunet, [32, 32, 32]),
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("build", "dense", "shape"), CASES, ids=[case[0].__name__ for case in CASES])
def test_equals_the_dense_network(
    build: Callable[[], Any], dense: Dense, shape: list[int], dtype: torch.dtype
) -> None:
    x = crop(shape).to(dtype)
    # The far part of the window stays empty, so that coarse levels too have sites that must stay absent.
    x = prune(x, x.indices[:, 2] < shape[1] // 3)
    model = settle(build().to(dtype), x)
    with torch.no_grad():
        expected = dense(model, Grid.of(x))
        output = model(x)
    result = output.voxels if isinstance(model, UNetV2) else output.encoded
    got = Grid.of(result)
    assert 20 < len(result) < got.active.numel()
    assert torch.equal(got.active, expected.active)
    assert_close(got.values, expected.values, network_tolerance(model, expected.values))
