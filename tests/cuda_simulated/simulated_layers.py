"""Layers and functions as users call them, forward and backward, under ``use_backend("cuda")``."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from made_sites import make_sites
from tolerance import assert_close
from torch import Tensor

import sparseconv
from sparseconv import SparseTensor, nn, use_backend
from sparseconv import functional as F
from sparseconv.backends.cuda.implicit_gemm_table import map_tables
from sparseconv.backends.cuda.launch import KERNELS, Kernel

SHAPE = (4, 5, 9)


def tensor(count: int, channels: int, is_sorted: bool, dtype: torch.dtype = torch.float64) -> SparseTensor:
    generator = torch.Generator().manual_seed(3)
    sites = make_sites(count, is_sorted, SHAPE)
    sites[:, 1:] += 3
    features = torch.randn(count, channels, dtype=dtype, generator=generator)
    return SparseTensor(features.requires_grad_(), sites, SHAPE, 3)


def both(run: Callable[[], list[Tensor]]) -> None:
    """What ``run`` returns is the same on the reference backend, row for row."""
    results = []
    for backend in ("cuda", "reference"):
        torch.manual_seed(5)
        with use_backend(backend):
            results.append(run())
    for number, (found, expected) in enumerate(zip(*results, strict=True)):
        assert found.dtype == expected.dtype
        assert_close(found.detach(), expected.detach(), 400, f"result {number}")


def network(c_in: int) -> nn.Sequential:
    return nn.Sequential(
        nn.SubMConv3d(c_in, 5, 3, bias=True),
        nn.BatchNorm(5),
        nn.ReLU(),
        nn.SparseConv3d(5, 6, 3, stride=2, padding=1, groups=1),
        nn.SubMConv3d(6, 6, (1, 3, 3), groups=6, bias=False),
    ).double()


@pytest.mark.parametrize("count", [1, 29])
def test_network(count: int, is_sorted: bool) -> None:
    def run() -> list[Tensor]:
        model = network(3)
        if count == 1:
            model.eval()
        x = tensor(count, 3, is_sorted)
        y = model(x)
        (y.features**2).sum().backward()
        return [y.features, y.indices.double(), x.features.grad, *(p.grad for p in model.parameters())]

    both(run)


def test_decoder_and_pools(is_sorted: bool) -> None:
    def run() -> list[Tensor]:
        x = tensor(25, 2, is_sorted)
        weight = torch.randn(3, 2, 2, 2, 2, dtype=torch.float64, requires_grad=True)
        up = torch.randn(2, 2, 2, 2, 3, dtype=torch.float64, requires_grad=True)
        down = F.sparse_conv(x, weight, stride=2, indice_key="down")
        back = F.inverse_conv(down, up, indice_key="down")
        wide = F.sparse_conv_transpose(down, up, stride=2)
        outputs = [
            down,
            back,
            wide,
            F.max_pool(x, 3, 2, 1),
            F.avg_pool(x, 2),
            F.sum_pool(x, 2),
            F.upsample(down, 2),
        ]
        sums = [F.global_max_pool(x), F.global_avg_pool(x), F.global_sum_pool(x)]
        results = [y.features for y in outputs] + sums
        sum((y**2).sum() for y in results).backward()
        indices = [y.indices.double() for y in outputs]
        return [*results, *indices, x.features.grad, weight.grad, up.grad]

    both(run)


def test_no_sites_at_all() -> None:
    def run() -> list[Tensor]:
        x = tensor(0, 3, True)
        y = network(3).eval()(x)
        y.features.sum().backward()
        pooled = F.global_max_pool(F.max_pool(x, 2))
        return [y.features, y.indices.double(), pooled, x.features.grad]

    both(run)


@pytest.mark.parametrize("reduce", ["mean", "max"])
def test_voxels(reduce: str) -> None:
    def run() -> list[Tensor]:
        clouds = [torch.rand(23, 4), torch.rand(0, 4), torch.rand(11, 4)]
        voxels = sparseconv.voxelize(clouds, 0.3, [0, 0, 0, 0.9, 0.9, 0.8], reduce)  # type: ignore[arg-type]
        hard = sparseconv.hard_voxelize(clouds, 0.3, max_points=2, max_voxels=9)
        return [
            voxels.features,
            voxels.indices.double(),
            voxels.point_rows.double(),
            voxels.num_points.double(),
            hard.points,
            hard.indices.double(),
            hard.num_points.double(),
        ]

    both(run)


def test_half_precision_and_epilogue() -> None:
    def run() -> list[Tensor]:
        with torch.no_grad():
            x = tensor(20, 4, True, torch.float32)
            layer = nn.SubMConv3d(4, 4, 3)
            x16 = x.replace_feature(x.features.bfloat16())
            fused = sparseconv.fuse(nn.Sequential(layer, nn.ReLU()).eval())
            return [layer.bfloat16()(x16).features.float(), fused.float()(x).features]

    both(run)


def test_warm_up_launches_every_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str] = set()
    launch = Kernel.launch

    def noted(self: Kernel, threads: int, *args: object) -> None:
        seen.add(self.name)
        launch(self, threads, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Kernel, "launch", noted)
    with use_backend("cuda"):
        sparseconv.warm_up()
    assert seen == set(KERNELS)


def test_maps_are_grouped_once_for_all_passes() -> None:
    with use_backend("cuda"):
        x = tensor(15, 4, True)
        weight = torch.randn(4, 3, 3, 3, 4, dtype=torch.float64, requires_grad=True)

        def step() -> int:
            F.subm_conv(x, weight).features.sum().backward()
            return len(map_tables)

        first = step()
        assert step() == step() == first
