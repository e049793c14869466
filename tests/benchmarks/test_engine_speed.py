"""Speed on a real scan: this engine's CPU kernels beside plain torch gather-GEMM-scatter, in one run.

Under ``make test`` each benchmark runs once, as a check that it works; no speed is asserted. With
``pytest tests/benchmarks --benchmark-enable --benchmark-only`` they are timed; the peers are in ``make bench``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from scans import scan as read_scan

from sparseconv import ConvGeometry, Coordinates, SparseTensor, functional, use_backend, voxelize
from sparseconv.models import build_model

SECOND_RANGE = (0.0, -40.0, -3.0, 70.4, 40.0, 1.0)
BACKENDS = ("cpu", "reference")
CHANNELS = (16, 32, 64, 128)

Benchmark = Callable[..., Any]


@pytest.fixture(scope="module")
def scan() -> SparseTensor:
    """The whole scan at 0.1 m."""
    return voxelize(read_scan(), 0.1).to_sparse()


@pytest.fixture(scope="module")
def detector_input() -> SparseTensor:
    """The scan in SECOND's grid."""
    voxels = voxelize(read_scan(), (0.05, 0.05, 0.1), SECOND_RANGE)
    return SparseTensor(voxels.features, voxels.indices, [41, 1600, 1408], 1)


def fresh(tensor: SparseTensor) -> SparseTensor:
    """The tensor without index and maps."""
    return SparseTensor(tensor.features, tensor.indices, tensor.spatial_shape, tensor.batch_size)


@pytest.mark.benchmark(group="voxelize a scan at 0.1 m")
@pytest.mark.parametrize("backend", BACKENDS)
def test_voxelize(benchmark: Benchmark, backend: str) -> None:
    points = read_scan()
    with use_backend(backend):
        voxels = benchmark(voxelize, points, 0.1)
    assert len(voxels.indices) > 1000


@pytest.mark.benchmark(group="submanifold map 3x3x3, index included")
@pytest.mark.parametrize("backend", BACKENDS)
def test_submanifold_map(benchmark: Benchmark, backend: str, scan: SparseTensor) -> None:
    geometry = ConvGeometry.submanifold(3, 3)
    with use_backend(backend):
        built = benchmark(lambda: Coordinates(scan.indices).submanifold_map(geometry))
    assert built.n_pairs > len(scan)


@pytest.mark.benchmark(group="strided map 3x3x3 / 2, output sites included")
@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_map(benchmark: Benchmark, backend: str, scan: SparseTensor) -> None:
    geometry = ConvGeometry.create(3, 3, 2, 1)
    with use_backend(backend):
        _, built = benchmark(lambda: Coordinates(scan.indices).downsample(geometry))
    assert built.n_in == len(scan)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("direction", ["forward", "forward and backward"])
def test_submanifold_convolution(
    benchmark: Any, direction: str, channels: int, backend: str, scan: SparseTensor
) -> None:
    benchmark.group = f"submanifold 3x3x3, {channels:3d} channels, cached map, {direction}"
    backward = direction != "forward"
    weight = torch.randn(channels, 3, 3, 3, channels, requires_grad=backward)
    features = torch.randn(len(scan), channels, requires_grad=backward)
    tensor = scan.replace_feature(features)

    def step() -> torch.Tensor:
        out = functional.subm_conv(tensor, weight).features
        if backward:
            torch.autograd.grad(out, (features, weight), out)
        return out

    with use_backend(backend):
        assert benchmark(step).shape == features.shape


@pytest.mark.benchmark(group="VoxelBackBone8x inference, maps included")
@pytest.mark.parametrize("backend", BACKENDS)
def test_backbone(benchmark: Benchmark, backend: str, detector_input: SparseTensor) -> None:
    model = build_model("VoxelBackBone8x", detector_input.features.shape[1]).eval()
    with use_backend(backend), torch.no_grad():
        output = benchmark(lambda: model(fresh(detector_input)))
    assert output.encoded.features.shape[1] == 128
