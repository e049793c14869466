"""Counts of layers, against counts by hand and by the definition."""

from __future__ import annotations

import math

import torch

from sparseconv import (
    Sequential,
    SparseConv2d,
    SparseConvTranspose2d,
    SparseInverseConv2d,
    SparseTensor,
    SubMConv2d,
)
from sparseconv.flops import count_forward


def full_grid(size: int, channels: int) -> SparseTensor:
    """Every cell occupied: the sparse layer does what the dense one does, padding left out."""
    return SparseTensor.from_dense(torch.rand(1, size, size, channels) + 1)


def test_counts_on_a_full_grid_are_the_dense_ones_without_padding() -> None:
    model = Sequential(
        SubMConv2d(4, 8, 3),
        SparseConv2d(8, 16, 3, stride=2, padding=1, indice_key="down"),
        SparseInverseConv2d(16, 8, 3, indice_key="down"),
        SparseConvTranspose2d(8, 4, 2, stride=2, groups=2),
    )
    count = count_forward(model, full_grid(8, 4))
    subm, down, inverse, up = count.layers
    # 3 taps over 8 cells with one cell of padding: 22 pairs an axis.
    assert subm.pairs == 22 * 22 and subm.macs == 22 * 22 * 4 * 8
    assert subm.dense_macs == 64 * 9 * 4 * 8
    # Stride 2: outputs 0, 2, 4, 6, of which only the first misses its left tap: 4 * 3 - 1 an axis.
    assert down.pairs == 11 * 11 and down.macs == 121 * 8 * 16
    assert (down.n_in, down.n_out) == (64, 16)
    assert inverse.pairs == down.pairs and (inverse.n_in, inverse.n_out) == (16, 64)
    assert inverse.dense_macs == 16 * 9 * 16 * 8
    assert up.pairs == 64 * 4 and up.macs == 64 * 4 * (8 // 2) * 4
    assert [layer.name for layer in count.layers] == ["0", "1", "2", "3"]
    assert [layer.kind for layer in count.layers][1] == "SparseConv2d"
    assert count.macs == sum(layer.macs for layer in count.layers)
    assert count.output.features.shape == (256, 4)


def test_hooks_are_removed_and_no_gradient_is_kept() -> None:
    model = Sequential(SubMConv2d(1, 1, 3))
    calls = []
    count = count_forward(model, full_grid(3, 1), on_layer=lambda: calls.append(1))
    assert calls == [1]
    assert not count.output.features.requires_grad
    assert not model[0]._forward_hooks and not model[0]._forward_pre_hooks


def test_unbounded_grids_count_the_occupied_box() -> None:
    indices = torch.tensor([[0, -2, 5], [0, 1, 7]])
    count = count_forward(SubMConv2d(2, 3, 3), SparseTensor(torch.ones(2, 2), indices))
    (layer,) = count.layers
    assert layer.pairs == 2
    assert layer.dense_macs == math.prod((4, 3)) * 9 * 2 * 3
    empty = SparseTensor(torch.ones(0, 2), torch.zeros(0, 3, dtype=torch.int32))
    assert count_forward(SubMConv2d(2, 3, 3), empty).dense_macs == 0
