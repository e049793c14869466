"""Counts of layers, against counts by hand and by the definition."""

from __future__ import annotations

import math

import pytest
import torch
from scans import random_sites
from torch.utils.checkpoint import checkpoint

from sparseconv import (
    BatchNorm,
    Linear,
    ReLU,
    Sequential,
    SparseConv2d,
    SparseConv3d,
    SparseConvTranspose2d,
    SparseConvTranspose3d,
    SparseGlobalAvgPool,
    SparseInverseConv2d,
    SparseInverseConv3d,
    SparseMaxPool3d,
    SparseTensor,
    SubMConv2d,
    SubMConv3d,
)
from sparseconv.flops import count_forward, count_training


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


def scattered(count: int = 60, batches: tuple[int, ...] = (0, 2), channels: int = 3) -> SparseTensor:
    """Unsorted sites, with an empty sample in the middle."""
    sites = random_sites(count, (6, 9, 7), batches, seed=1, shuffled=True)
    return SparseTensor(torch.randn(count, channels), sites, [6, 9, 7], 3)


@pytest.mark.parametrize(("kernel", "dilation"), [(3, 1), ((1, 3, 5), (1, 2, 1)), (5, 3), (1, 1)])
@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize("count", [0, 1, 60])
def test_dilating_counts_are_those_of_the_sparse_convolution_itself(
    kernel: int | tuple[int, ...], dilation: int | tuple[int, ...], bounded: bool, count: int
) -> None:
    full = scattered()
    x = SparseTensor(full.features[:count], full.indices[:count], full.spatial_shape if bounded else None, 3)
    subm = SubMConv3d(3, 4, kernel, dilation=dilation)
    sparse = SparseConv3d(3, 4, kernel, padding=subm.padding, dilation=dilation)
    (ours,) = count_forward(subm, x).layers
    (theirs,) = count_forward(sparse, SparseTensor(x.features, x.indices, x.spatial_shape, 3)).layers
    assert (ours.dilated_macs, ours.dilated_n_out) == (theirs.macs, theirs.n_out)
    assert (theirs.dilated_macs, theirs.dilated_n_out) == (theirs.macs, theirs.n_out)
    one_tap = kernel == 1
    assert ours.family == ("pointwise" if one_tap else "submanifold")
    assert theirs.family == ("pointwise" if one_tap else "dilating")


def test_every_family_and_its_share() -> None:
    model = Sequential(
        SubMConv3d(3, 4, 3),
        SparseConv3d(4, 4, 3, stride=2, padding=1, indice_key="down"),
        SparseInverseConv3d(4, 4, 3, indice_key="down"),
        SparseConvTranspose3d(4, 4, 2, stride=2),
        SparseMaxPool3d(2),
        Linear(4, 5),
        torch.nn.Linear(5, 6),
        SparseGlobalAvgPool(),
    )
    x = scattered()
    count = count_forward(model, x)
    assert [layer.family for layer in count.layers] == [
        *("submanifold", "strided", "inverse", "transposed", "pooling", "linear", "linear", "pooling")
    ]
    linear = count.layers[5]
    assert (linear.macs, linear.c_in, linear.c_out) == (linear.n_in * 20, 4, 5)
    # On the dense grid a linear layer visits every cell; and the last sparse tensor names the grid of a plain one.
    assert linear.dense_macs == 3 * 6 * 9 * 7 * 20
    assert count.layers[6].dense_macs == 3 * 6 * 9 * 7 * 30
    pool = count.layers[4]
    assert (pool.macs, pool.dense_macs) == (0, 0) and pool.pairs == pool.n_in
    assert count.layers[-1].pairs == pool.n_out and count.layers[-1].n_out == 3
    shares = count.family_macs()
    assert sum(shares.values()) == count.macs and shares["linear"] == linear.macs + count.layers[6].macs
    assert count.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert sum(layer.parameters for layer in count.layers) == count.parameters


def test_memory_by_hand() -> None:
    # Three sites in a row of a 5 x 5 grid: the 3 x 3 map has 3 centres and 2 pairs each to the left and right.
    sites = torch.tensor([[0, 2, 1], [0, 2, 2], [0, 2, 3]], dtype=torch.int32)
    x = SparseTensor(torch.ones(3, 2, dtype=torch.float64), sites, [5, 5], 1)
    count = count_forward(Sequential(SubMConv2d(2, 4, 3), SubMConv2d(4, 3, 3)).double(), x)
    first, second = count.layers
    assert first.pairs == 3 + 2 + 2
    assert count.input_bytes == 3 * 2 * 8 + 3 * 3 * 4
    assert first.feature_bytes == 3 * 4 * 8 and second.feature_bytes == 3 * 3 * 8
    # Two int32 columns; the second layer and the output sites need nothing new.
    assert first.map_bytes == 7 * 2 * 4 and second.map_bytes == 0
    assert count.sparse_bytes == count.input_bytes + 3 * 7 * 8 + 7 * 2 * 4
    assert first.dense_bytes == 25 * 4 * 8 and count.dense_input_bytes == 25 * 2 * 8
    assert count.dense_bytes == 25 * (2 + 4 + 3) * 8


def test_a_strided_layer_makes_new_sites_and_its_inverse_none() -> None:
    model = Sequential(
        SparseConv3d(3, 4, 3, stride=2, padding=1, indice_key="down"),
        SparseInverseConv3d(4, 4, 3, indice_key="down"),
    )
    sites = random_sites(50, (6, 9, 7), seed=2)
    down, up = count_forward(model, SparseTensor(torch.randn(50, 3), sites, [6, 9, 7], 1)).layers
    assert down.map_bytes == down.pairs * 2 * 4 + down.n_out * 4 * 4
    assert up.map_bytes == 0 and up.n_out == 50


def test_functions_and_spconv_programs_count_too() -> None:
    from sparseconv import functional
    from sparseconv.compat.spconv import pytorch as spconv

    class Own(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(4, 3, 3, 3, 3))

        def forward(self, x: SparseTensor) -> SparseTensor:
            return functional.subm_conv(x, self.weight)

    x = scattered()
    (own,) = count_forward(Own(), x).layers
    (layer,) = count_forward(SubMConv3d(3, 4, 3), x).layers
    assert (own.macs, own.dense_macs, own.kind) == (layer.macs, layer.dense_macs, "Own")
    theirs = spconv.SubMConv3d(3, 4, 3, indice_key="a")
    (compat,) = count_forward(theirs, spconv.SparseConvTensor(x.features, x.indices, [6, 9, 7], 3)).layers
    assert (compat.macs, compat.dense_macs, compat.dilated_macs, compat.family) == (
        *(layer.macs, layer.dense_macs, layer.dilated_macs, "submanifold"),
    )


def test_the_gradients_of_each_layer_by_hand() -> None:
    model = Sequential(
        SubMConv3d(3, 4, 3), ReLU(), SparseConv3d(4, 6, 3, stride=2, groups=2), Linear(6, 5), SparseMaxPool3d(2)
    )
    model[2].weight.requires_grad_(False)
    count = count_training(model, scattered())
    first, frozen, linear, pool = count.layers
    assert first.backward_macs == first.macs, "the network's input needs no gradient"
    assert frozen.backward_macs == frozen.macs, "a frozen weight needs none"
    assert linear.backward_macs == 2 * linear.macs
    assert pool.backward_macs == 0
    assert count.backward_macs == first.macs + frozen.macs + 2 * linear.macs
    x = scattered()
    x.features.requires_grad_()
    assert count_training(model, x).layers[0].backward_macs == 2 * first.macs
    assert all(parameter.grad is None for parameter in model.parameters()) and x.features.grad is None


def test_the_gradients_of_dense_layers_by_hand() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.Conv2d(5, 2, 3, bias=False))
    first, second = count_training(model, torch.rand(2, 3, 9, 8)).layers
    assert (first.macs, second.macs) == (2 * 7 * 6 * 9 * 15, 2 * 5 * 4 * 9 * 10)
    assert first.backward_macs == first.macs, "the network's input needs no gradient"
    assert second.backward_macs == 2 * second.macs


def test_recomputed_layers_are_counted_again() -> None:
    class Checkpointed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = SubMConv3d(3, 4, 3), SubMConv3d(4, 4, 3)

        def forward(self, x: SparseTensor) -> SparseTensor:
            inner = self.first(x)
            again = checkpoint(
                lambda features: self.second(inner.replace_feature(features)).features,
                inner.features,
                use_reentrant=False,
            )
            return inner.replace_feature(again)

    count = count_training(Checkpointed(), scattered())
    first, second = count.layers[:2]
    assert count.macs == first.macs + second.macs
    assert count.backward_macs == first.macs + 3 * second.macs


def test_counting_leaves_the_model_as_it_is() -> None:
    model = Sequential(SubMConv3d(3, 4, 3), BatchNorm(4)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    count_forward(model, scattered())
    count_training(model, scattered())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert model.training and not any(module._forward_hooks for module in model.modules())
    with pytest.raises(ValueError, match="requires gradients"):
        count_training(ReLU(), scattered())
    with pytest.raises(ValueError, match="2 channels"):
        count_forward(model, scattered(channels=3).replace_feature(torch.ones(60, 2)))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_variants_count_by_their_ops() -> None:
    from sparseconv.nn.variants import SubMCondConv3d, SubMCrossCentralDifferenceConv3d, SubMDeformConv3d

    x = scattered(channels=8)
    plain = count_forward(SubMConv3d(8, 8, 3), x).layers[0]
    # One kernel for each sample: the pairs and the dense twin of one convolution.
    mixed = count_forward(SubMCondConv3d(8, 8, 3), x)
    kernel = next(layer for layer in mixed.layers if layer.family == "submanifold")
    assert (kernel.macs, kernel.dense_macs, kernel.dilated_macs) == (
        *(plain.macs, plain.dense_macs, plain.dilated_macs),
    )
    assert [layer.name for layer in mixed.layers if layer.kind == "Linear"] == ["routing"]
    cross = next(layer for layer in count_forward(SubMCrossCentralDifferenceConv3d(8, 8, 3), x).layers[1:])
    assert cross.pairs < plain.pairs and cross.dilated_macs == cross.macs
    deformable = count_forward(SubMDeformConv3d(8, 8, 3), x)
    (samples,) = [layer for layer in deformable.layers if layer.family == "weighted"]
    assert samples.macs == samples.pairs * samples.c_in
