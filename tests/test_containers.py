"""Chains, branches, sums, concatenations, pruning and the way to dense tensors."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import sparseconv
from sparseconv import (
    Add,
    BatchNorm,
    Concatenate,
    Prune,
    ReLU,
    Sequential,
    SparseConv2d,
    SparseInverseConv2d,
    SparseTensor,
    SubMConv2d,
    ToDense,
)
from sparseconv import functional as F


def sample(seed: int = 0, channels: int = 4, dtype: torch.dtype = torch.float32) -> SparseTensor:
    rng = np.random.default_rng(seed)
    cells = np.argwhere(rng.random((3, 8, 9)) < 0.4)
    cells = rng.permutation(cells[cells[:, 0] != 1])
    features = torch.from_numpy(rng.normal(size=(len(cells), channels))).to(dtype)
    return SparseTensor(features, torch.from_numpy(cells), [8, 9], 3)


def lexicographic(indices: torch.Tensor) -> bool:
    order = np.lexsort(indices.numpy().T[::-1])
    return order.tolist() == list(range(len(indices)))


def test_a_chain_of_sparse_plain_and_nested_modules() -> None:
    x = sample()
    conv, linear, norm, inner = SubMConv2d(4, 6, 3), nn.Linear(6, 5), nn.BatchNorm1d(5), SubMConv2d(5, 3, 3)
    model = Sequential(conv, linear, norm, nn.ReLU(), nn.Sequential(inner, ReLU()), nn.Identity())
    norm.eval()
    expected = torch.relu(norm(linear(conv(x).features)))
    expected = torch.relu(inner(x.replace_feature(expected)).features)
    got = model(x)
    assert torch.equal(got.features, expected)
    assert got.coordinates is x.coordinates


def test_a_chain_goes_on_with_plain_tensors() -> None:
    x = sample()
    model = Sequential(SubMConv2d(4, 2, 1), ToDense(), nn.Conv2d(2, 3, 3, padding=1), nn.Flatten())
    assert model(x).shape == (3, 3 * 8 * 9)
    head = Sequential(sparseconv.SparseGlobalMaxPool(), nn.Linear(4, 2))
    assert torch.equal(head(x), head[1](F.global_max_pool(x)))


def test_custom_modules_see_the_sparse_tensor_where_they_hold_a_sparse_layer() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = SubMConv2d(4, 4, 3)

        def forward(self, input: SparseTensor) -> SparseTensor:
            return F.add(input, self.conv(input))

    x = sample()
    block = Residual()
    expected = x.features + block.conv(x).features
    assert torch.equal(Sequential(block)(x).features, expected)
    assert torch.equal(nn.Sequential(block, ReLU())(x).features, expected.relu())


def test_names_of_modules() -> None:
    ordered = Sequential(OrderedDict(a=ReLU(), b=nn.Linear(4, 4)), c=BatchNorm(4))
    assert list(dict(ordered.named_children())) == ["a", "b", "c"]
    assert set(ordered.state_dict()) >= {"b.weight", "c.running_mean"}
    mixed = Sequential(ReLU(), last=ReLU())
    assert list(dict(mixed.named_children())) == ["0", "last"]
    mixed.add(nn.Linear(4, 4))
    mixed.add(BatchNorm(4), "norm")
    assert list(dict(mixed.named_children())) == ["0", "last", "2", "norm"]
    for name in ("norm", "2"):
        with pytest.raises(KeyError, match=f"the module name '{name}' is taken"):
            mixed.add(ReLU(), name)
    with pytest.raises(ValueError, match="the module name 'a' is taken"):
        Sequential(OrderedDict(a=ReLU()), a=ReLU())
    with pytest.raises(TypeError, match="either modules or one OrderedDict"):
        Sequential(ReLU(), OrderedDict(a=ReLU()))  # type: ignore[arg-type]


def test_length_iteration_positions_and_slices() -> None:
    parts = [SubMConv2d(4, 4, 3), BatchNorm(4), ReLU(), nn.Linear(4, 2)]
    model = Sequential(*parts)
    assert len(model) == 4 and len(Sequential()) == 0
    assert list(model) == parts
    assert [model[i] for i in range(4)] == parts and model[-1] is parts[3]
    with pytest.raises(IndexError):
        model[4]
    part = model[1:3]
    assert isinstance(part, Sequential) and list(part) == parts[1:3]
    assert list(model[::-2]) == [parts[3], parts[1]]
    x = sample().replace_feature(sample().features)
    assert torch.equal(model.eval()(x).features, model[2:](model[:2](x)).features)
    assert torch.equal(Sequential()(x).features, x.features)


def test_a_slice_can_be_added_to() -> None:
    part = Sequential(ReLU(), ReLU(), ReLU())[1:]
    assert isinstance(part, Sequential)
    last = BatchNorm(4)
    part.add(last)
    assert len(part) == 3 and part[-1] is last


def test_a_slice_keeps_modules_that_are_empty_containers() -> None:
    model = Sequential(ReLU(), Sequential(), nn.Identity())
    assert list(model[:]) == list(model)  # type: ignore[call-overload]


def test_to_dense() -> None:
    x = sample()
    assert torch.equal(ToDense()(x), x.dense())
    assert torch.equal(Sequential(ReLU(), ToDense())(x), x.dense().relu())


@pytest.mark.parametrize("count", [1, 2, 3])
def test_on_the_same_sites_order_is_kept(count: int) -> None:
    x = sample(1)
    assert not lexicographic(x.indices)
    rebuilt = SparseTensor(x.features * 2, x.indices.clone(), [8, 9], 3)
    tensors = [x, rebuilt, x.replace_feature(x.features + 1)][:count]
    total, joined = Add()(*tensors), Concatenate()(*tensors)
    for got in (total, joined):
        assert torch.equal(got.indices, x.indices)
    assert torch.equal(total.features, sum((t.features for t in tensors[1:]), x.features))
    assert torch.equal(joined.features, torch.cat([t.features for t in tensors], 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_on_different_sites_the_union_is_sorted(backend: str, dtype: torch.dtype) -> None:
    tensors = [sample(seed, dtype=dtype) for seed in (2, 3, 4)]
    leaves = [t.features.clone().requires_grad_() for t in tensors]
    with_leaves = [t.replace_feature(leaf) for t, leaf in zip(tensors, leaves, strict=True)]
    total, joined = F.add(*with_leaves), F.cat(*with_leaves)
    union = {tuple(site) for t in tensors for site in t.indices.tolist()}
    for got in (total, joined):
        assert got.dtype == dtype
        assert got.indices.tolist() == [list(site) for site in sorted(union)]
        assert (got.spatial_shape, got.batch_size) == ([8, 9], 3)
    dense = [t.dense() for t in tensors]
    assert torch.equal(total.dense(), dense[0] + dense[1] + dense[2])
    assert torch.equal(joined.dense(), torch.cat(dense, 1))
    (total.features.sum() + 2 * joined.features.sum()).backward()
    for leaf in leaves:
        assert leaf.grad is not None and bool((leaf.grad == 3).all())


def test_the_same_sites_in_another_order_are_a_union() -> None:
    x = sample(5)
    turned = SparseTensor(x.features.flip(0), x.indices.flip(0), [8, 9], 3)
    got = F.add(x, turned)
    assert lexicographic(got.indices) and len(got) == len(x)
    assert torch.equal(got.dense(), 2 * x.dense())


def test_with_an_empty_tensor_or_other_channels() -> None:
    x = sample(6)
    none = SparseTensor(torch.zeros(0, 4), x.indices[:0], [8, 9], 3)
    assert torch.equal(F.add(x, none).dense(), x.dense())
    assert torch.equal(F.add(none, none).features, none.features)
    other = sample(7, channels=2)
    assert torch.equal(F.cat(x, other).dense(), torch.cat([x.dense(), other.dense()], 1))
    with pytest.raises(ValueError, match=r"equal channels, got \[2, 4\]"):
        F.add(x, other)


@pytest.mark.parametrize("combine", [F.add, F.cat])
def test_mixed_types_are_promoted_as_torch_does(combine: Any) -> None:
    """Under autocast a branch of convolutions is half and the branch beside it is not."""
    same = sample(8)
    for other in (same, sample(9)):
        got = combine(same, other.half())
        assert got.dtype == torch.float32
        swapped = combine(same.half(), other)
        assert swapped.dtype == torch.float32
        assert len(got) == len(swapped) == len({tuple(s) for t in (same, other) for s in t.indices.tolist()})


@pytest.mark.parametrize("combine", [F.add, F.cat])
def test_tensors_of_different_grids_do_not_mix(combine: Any) -> None:
    x = sample(10)
    others = [
        SparseTensor(x.features, x.indices, [8, 10], 3),
        SparseTensor(x.features, x.indices, None, 3),
        SparseTensor(x.features, x.indices, [8, 9], 4),
        SparseTensor(torch.ones(1, 4), torch.zeros(1, 4, dtype=torch.int32), [8, 9, 2], 3),
    ]
    for other in others:
        with pytest.raises(ValueError, match="needs tensors of one grid and batch, got"):
            combine(x, other)
    with pytest.raises(ValueError, match="at least one tensor"):
        combine()


def test_names_of_maps_survive_sums_so_that_an_inverse_finds_them() -> None:
    x = sample(11)
    down, up = SparseConv2d(4, 4, 3, 2, 1, indice_key="down"), SparseInverseConv2d(8, 4, 3, "down")
    coarse = down(x)
    joined = F.cat(coarse, SubMConv2d(4, 4, 3, indice_key="sub")(coarse))
    assert set(joined.named_maps) == {"down", "sub"}
    assert torch.equal(up(joined).indices, x.indices)


def test_prune_keeps_rows_in_order() -> None:
    x = sample(12)
    features = x.features.clone().requires_grad_()
    keep = torch.arange(len(x)) % 3 != 0
    got = Prune()(x.replace_feature(features), keep)
    assert torch.equal(got.indices, x.indices[keep]) and torch.equal(got.features, x.features[keep])
    assert (got.spatial_shape, got.batch_size) == ([8, 9], 3)
    got.features.sum().backward()
    assert features.grad is not None and torch.equal(features.grad[:, 0] == 1, keep)
    layer = SubMConv2d(4, 3, 3)
    fresh = SparseTensor(x.features[keep], x.indices[keep], [8, 9], 3)
    assert torch.equal(layer(got).features, layer(fresh).features)
    none = Prune()(x, torch.zeros(len(x), dtype=torch.bool))
    assert len(none) == 0 and layer(none).features.shape == (0, 3)
    for bad, error in ((keep.int(), TypeError), (keep[:-1], ValueError), (keep[:, None], ValueError)):
        with pytest.raises(error, match="keep must"):
            Prune()(x, bad)


def test_pruned_tensors_forget_names() -> None:
    x = SparseConv2d(4, 4, 3, 2, 1, indice_key="down")(sample(13))
    pruned = F.prune(x, torch.ones(len(x), dtype=torch.bool))
    with pytest.raises(ValueError, match="no layer that led to this tensor has indice_key 'down'"):
        SparseInverseConv2d(4, 4, 3, "down")(pruned)
