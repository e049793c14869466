"""bfloat16 products by the processor's dot instruction and by its matrix tiles, where it has them."""

from __future__ import annotations

import pytest
import torch
from oracle import conv_pairs, convolve
from scans import random_sites
from tolerance import tolerance

from sparseconv import Coordinates, SparseTensor, functional
from sparseconv.backends.cpu import amx, conv
from sparseconv.backends.cpu.vector_unit import HAS_BFLOAT16_DOT

# Each way of multiplying, and whether this processor has it.
WAYS = [
    pytest.param("widened"),
    pytest.param(
        "pairs",
        marks=pytest.mark.skipif(not HAS_BFLOAT16_DOT, reason="this processor has no bfloat16 dot product"),
    ),
    pytest.param(
        "tiles",
        marks=pytest.mark.skipif(not amx.is_usable(), reason="this processor has no bfloat16 matrix tiles"),
    ),
]


def take(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let convolutions of bfloat16 multiply in this way only."""
    monkeypatch.setattr(conv, "PREFERS_BFLOAT16_DOT", way == "pairs")
    monkeypatch.setattr(amx, "is_usable", lambda: way == "tiles")
    monkeypatch.setattr(conv, "_TILE_CHANNELS", 2)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("c_in", "c_out", "groups"),
    [
        (1, 4, 1),
        (2, 1, 1),
        (3, 5, 1),
        (4, 16, 1),
        (17, 33, 1),
        (64, 64, 1),
        (100, 20, 1),
        (12, 24, 3),
        (9, 9, 3),
        (6, 6, 6),
        (8, 4, 4),
        (4, 8, 4),
    ],
)
def test_products_of_bfloat16_are_exact(
    monkeypatch: pytest.MonkeyPatch, way: str, c_in: int, c_out: int, groups: int
) -> None:
    take(way, monkeypatch)
    sites = random_sites(600, (7, 8, 9), batches=(0, 1))
    x = torch.randn(len(sites), c_in).bfloat16()
    weight = torch.randn(c_out, 3, 3, 3, c_in // groups).bfloat16()
    bias = torch.randn(c_out).bfloat16()
    tensor = SparseTensor.from_coordinates(x, Coordinates(sites, (7, 8, 9), 2))
    found = functional.subm_conv(tensor, weight, bias, groups=groups).features
    rows = sites.numpy()
    pairs = conv_pairs(rows, rows, (3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1))
    exact = convolve(x.double().numpy(), weight.double().numpy(), bias.double().numpy(), pairs, len(sites), groups)
    assert found.dtype == torch.bfloat16
    error = (found.double() - torch.from_numpy(exact)).abs().max()
    assert error <= tolerance(torch.bfloat16, 27 * c_in, float(abs(exact).max()))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("c_in", [31, 32, 64, 65])
def test_epilogue_gradients_and_threads(monkeypatch: pytest.MonkeyPatch, way: str, c_in: int) -> None:
    """Bias, residual and ReLU, unsorted rows, rows without a neighbour; the same bits on any number of threads."""
    sites = random_sites(1300, (19, 19, 19), batches=(0, 2), shuffled=True)
    coordinates = Coordinates(sites, (19, 19, 19), 3)
    rows = len(sites)
    x = torch.randn(rows, c_in).bfloat16()
    weight, bias = torch.randn(48, 3, 3, 3, c_in).bfloat16(), torch.randn(48).bfloat16()
    added = SparseTensor.from_coordinates(torch.randn(rows, 48).bfloat16(), coordinates)
    results = []
    for used, threads in (("widened", 1), (way, 1), (way, 3)):
        take(used, monkeypatch)
        x.grad = weight.grad = None
        leaf, kernel = x.clone().requires_grad_(), weight.clone().requires_grad_()
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        monkeypatch.setattr(conv, "_WORTH_A_THREAD", 1)
        try:
            tensor = SparseTensor.from_coordinates(leaf, coordinates)
            with torch.no_grad():
                fused = functional.subm_conv(tensor, kernel, bias, residual=added, relu=True).features
            out = functional.subm_conv(tensor, kernel, bias).features
            gradients = torch.autograd.grad(out, (leaf, kernel), torch.ones_like(out))
        finally:
            torch.set_num_threads(before)
        results.append((fused, out.detach(), *gradients))
    names = ("fused", "output", "gradient of features", "gradient of weight")
    terms = (27 * c_in, 27 * c_in, 27 * 48, rows)
    for name, count, widened, one, three in zip(names, terms, *results, strict=True):
        assert torch.equal(one, three), f"{name}: another result on three threads"
        bound = 3 * tolerance(torch.bfloat16, count, float(widened.abs().max()))
        assert (widened.float() - one.float()).abs().max() <= bound, name


@pytest.mark.parametrize("way", WAYS)
def test_a_row_of_nan_stays_by_itself(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    take(way, monkeypatch)
    sites = torch.tensor([[0, 0, 0, x] for x in (0, 9, 10, 11, 30)], dtype=torch.int32)
    features = torch.randn(5, 40).bfloat16()
    features[4] = float("nan")
    tensor = SparseTensor(features, sites, [1, 1, 40], 1)
    out = functional.subm_conv(tensor, torch.randn(16, 3, 3, 3, 40).bfloat16()).features
    assert out.isnan().any(1).tolist() == [False, False, False, False, True]
    features[4] = 0
    clean = functional.subm_conv(tensor.replace_feature(features), torch.ones(16, 3, 3, 3, 40).bfloat16()).features
    assert not clean.isnan().any()
