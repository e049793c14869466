"""bfloat16 products by the processor's dot instruction, where it has one."""

from __future__ import annotations

import pytest
import torch
from oracle import conv_pairs, convolve
from scans import random_sites
from tolerance import tolerance

from sparseconv import Coordinates, SparseTensor, functional
from sparseconv.backends.cpu import conv
from sparseconv.backends.cpu.vector_unit import HAS_BFLOAT16_DOT

needs_instruction = pytest.mark.skipif(not HAS_BFLOAT16_DOT, reason="this processor has no bfloat16 dot product")


@needs_instruction
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
    ],
)
def test_products_of_pairs_are_exact(monkeypatch: pytest.MonkeyPatch, c_in: int, c_out: int, groups: int) -> None:
    monkeypatch.setattr(conv, "PREFERS_BFLOAT16_DOT", True)
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


@needs_instruction
def test_both_ways_of_multiplying_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    sites = random_sites(700, (9, 9, 9))
    tensor = SparseTensor(torch.randn(len(sites), 32).bfloat16(), sites, [9, 9, 9], 1)
    weight = torch.randn(48, 3, 3, 3, 32).bfloat16().requires_grad_()
    results = []
    for preferred in (False, True):
        monkeypatch.setattr(conv, "PREFERS_BFLOAT16_DOT", preferred)
        out = functional.subm_conv(tensor, weight).features
        results.append((out.detach(), *torch.autograd.grad(out.float().square().sum(), weight)))
    bound = 3 * tolerance(torch.bfloat16, 27 * 32, float(results[0][0].abs().max()))
    assert (results[0][0].float() - results[1][0].float()).abs().max() <= bound
    scale = float(results[0][1].abs().max())
    assert (results[0][1].float() - results[1][1].float()).abs().max() <= 3 * tolerance(torch.bfloat16, 900, scale)
