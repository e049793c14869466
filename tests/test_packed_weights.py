"""Packed weights are reused while a weight is unchanged, and never when it is not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from tolerance import assert_close

import sparseconv as sc
from sparseconv import functional as F
from sparseconv.backends import use_backend
from sparseconv.backends.cpu import packed_weights


@pytest.fixture(autouse=True)
def _small_weights_are_kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(packed_weights, "_SMALLEST", 1)
    packed_weights._forget()
    yield
    packed_weights._forget()


@pytest.fixture
def packings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with each packing."""
    from sparseconv.backends.cpu import conv

    made: list[int] = []
    take = packed_weights.packed_weight

    def count(weight: Any, layout: Any, pack: Any) -> Any:
        return take(weight, layout, lambda: (made.append(1), pack())[1])

    monkeypatch.setattr(conv, "packed_weight", count)
    return made


def layer(c_in: int = 8, c_out: int = 12) -> tuple[sc.SparseTensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    indices = torch.nonzero(torch.rand(1, 7, 6, 5, generator=generator) < 0.4).int()
    features = torch.randn(len(indices), c_in, generator=generator)
    return sc.SparseTensor(features, indices, [7, 6, 5], 1), torch.randn(c_out, 3, 3, 3, c_in, generator=generator)


def run(x: sc.SparseTensor, weight: torch.Tensor, groups: int = 1) -> torch.Tensor:
    with torch.no_grad():
        return F.subm_conv(x, weight, groups=groups).features


def check(x: sc.SparseTensor, weight: torch.Tensor, groups: int = 1) -> None:
    with use_backend("reference"):
        expected = run(x.replace_feature(x.features.double()), weight.double(), groups)
    assert_close(run(x, weight, groups), expected, 27 * x.features.shape[1])


def test_the_third_call_reuses_what_the_second_kept(packings: list[int]) -> None:
    x, weight = layer()
    outputs = [run(x, weight) for _ in range(5)]
    assert len(packings) == 2
    assert all(torch.equal(output, outputs[0]) for output in outputs)
    check(x, weight)


@pytest.mark.parametrize("way", ["in place", "data", "numpy", "one value", "last value", "sign of zero"])
def test_an_edit_is_seen_however_it_is_made(way: str, packings: list[int]) -> None:
    x, weight = layer()
    weight.view(-1)[7] = 0.0
    for _ in range(3):
        run(x, weight)
    before = len(packings)
    if way == "in place":
        weight.mul_(2)
    elif way == "data":
        weight.data.add_(1)
    elif way == "numpy":
        weight.numpy()[:] *= -1
    elif way == "one value":
        weight.data.view(-1)[len(weight.view(-1)) // 2] += 3
    elif way == "last value":
        weight.data.view(-1)[-1] += 3
    else:
        weight.numpy().reshape(-1)[7] = -0.0
    check(x, weight)
    assert len(packings) == before + 1
    for _ in range(3):
        check(x, weight)
    assert len(packings) <= before + 3


def test_another_weight_at_the_same_address() -> None:
    x, first = layer()
    memory = torch.empty(first.numel())
    narrow, _ = layer(4)
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        memory.copy_(torch.randn(first.numel(), generator=generator))
        for _ in range(3):
            check(x, memory.view(12, 3, 3, 3, 8))
        # The same shape for one group and for two.
        for _ in range(3):
            check(x, memory.view(24, 3, 3, 3, 4), 2)
        for _ in range(3):
            check(narrow, memory.view(24, 3, 3, 3, 4), 1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_other_types(dtype: torch.dtype) -> None:
    x, weight = layer()
    x, weight = x.replace_feature(x.features.to(dtype)), weight.to(dtype)
    outputs = [run(x, weight) for _ in range(4)]
    assert all(torch.equal(output, outputs[0]) for output in outputs)
    weight.data.neg_()
    assert torch.equal(run(x, weight), -outputs[0])


def test_an_edit_while_packing_is_not_kept() -> None:
    weight = np.ones((8, 27, 8), np.float32)

    def pack() -> Any:
        packed = weight.copy()
        weight[0, 0, 0] += 1
        return packed

    for _ in range(3):
        packed_weights.packed_weight(weight, (), pack)
    np.testing.assert_array_equal(packed_weights.packed_weight(weight, (), weight.copy), weight)


def test_weights_that_are_not_contiguous(packings: list[int]) -> None:
    x, weight = layer(8, 8)
    turned = weight.transpose(0, 4)
    for _ in range(4):
        check(x, turned)
    assert len(packings) == 4


def test_not_a_number_is_reused_and_given_back(packings: list[int]) -> None:
    x, weight = layer()
    weight[0, 1, 1, 1, 0] = torch.nan
    outputs = [run(x, weight) for _ in range(4)]
    assert len(packings) == 2
    assert all(bool(output[:, 0].isnan().all()) for output in outputs)


def test_training_keeps_no_copies() -> None:
    x, weight = layer()
    weight.requires_grad_()
    optimizer = torch.optim.SGD([weight], lr=0.1)
    for _ in range(6):
        optimizer.zero_grad()
        F.subm_conv(x, weight).features.square().sum().backward()
        optimizer.step()
    assert packed_weights._kept and all(entry.copy is None for entry in packed_weights._kept.values())


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = layer()
    monkeypatch.setattr(packed_weights, "_MOST_BYTES", 5 * weight.numel() * weight.element_size())
    weights = [weight + number for number in range(6)]
    for each in weights * 2:
        for _ in range(3):
            check(x, each)
    kept = packed_weights._kept.values()
    assert 0 < sum(entry.nbytes for entry in kept) <= packed_weights._MOST_BYTES
    monkeypatch.setattr(packed_weights, "_MOST_WEIGHTS", 4)
    for each in weights:
        run(x, each)
    assert len(packed_weights._kept) <= 4


def test_threads_that_share_and_change_weights() -> None:
    x, weight = layer()
    failures: list[str] = []

    def work(seed: int) -> None:
        own = weight.clone() if seed % 2 else weight
        for step in range(30):
            if seed % 2:
                own.data.mul_(-1)
            with use_backend("reference"):
                expected = run(x, own)
            difference = float((run(x, own) - expected).abs().max())
            if not difference < 1e-3:
                failures.append(f"thread {seed}, step {step}: {difference}")

    threads = [threading.Thread(target=work, args=(seed,), daemon=True) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads) and not failures


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.uint64])
@pytest.mark.parametrize("count", [1, 63, 4096, 4097, 9000])
def test_comparison_sees_every_value(dtype: type, count: int) -> None:
    values = np.random.default_rng(0).integers(0, 1 << 16, count).astype(dtype)
    assert packed_weights._is_equal(values, values.copy())
    for at in {0, count // 2, count - 1, min(4095, count - 1), min(4096, count - 1)}:
        other = values.copy()
        other[at] ^= dtype(1)
        assert not packed_weights._is_equal(values, other)
