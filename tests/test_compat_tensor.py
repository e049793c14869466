"""What programs do to spconv's tensor: assign, change in place, replace, copy, keep under a name."""

from __future__ import annotations

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from oracle import coarse_sites, conv_pairs, convolve, swap_pairs
from scans import random_sites
from tolerance import assert_close
from torch import Tensor

import sparseconv
import sparseconv.compat.spconv as version1
import sparseconv.compat.spconv.pytorch as spconv

SHAPE = [6, 7, 8]


def tensor(
    count: int = 60, channels: int = 4, batches: tuple[int, ...] = (0, 1), shuffled: bool = True
) -> spconv.SparseConvTensor:
    indices = random_sites(count, SHAPE, batches, shuffled=shuffled)
    return spconv.SparseConvTensor(torch.randn(count, channels), indices, SHAPE, len(batches))


def expected_subm(x: spconv.SparseConvTensor, conv: spconv.SparseConvolution, indices: Tensor) -> Tensor:
    sites = indices.numpy()
    pairs = conv_pairs(sites, sites, conv.kernel_size, [1] * 3, [k // 2 for k in conv.kernel_size], [1] * 3)
    bias = None if conv.bias is None else conv.bias.detach().numpy()
    found = convolve(x.features.detach().numpy(), conv.weight.detach().numpy(), bias, pairs, len(sites))
    return torch.from_numpy(found)


def test_constructor_takes_spconvs_eleven_arguments() -> None:
    indices = random_sites(5, SHAPE)
    names: dict = {}
    grid, voxel_num = torch.zeros(1), torch.tensor(5)
    x = spconv.SparseConvTensor(
        torch.zeros(5, 2), indices, SHAPE, 1, grid, voxel_num, names, True, False, False, spconv.ConvAlgo.Native
    )
    assert x.indices is indices and x.indice_dict is names and x.grid is grid and x.voxel_num is voxel_num
    assert x.benchmark is True and x.benchmark_record == {} and x.force_algo is spconv.ConvAlgo.Native
    assert (x.thrust_allocator, x._timer, x.int8_scale, x.is_quantized) == (None, None, None, False)
    assert x.spatial_size == 6 * 7 * 8 and repr(x) == "SparseConvTensor[shape=torch.Size([5, 2])]"
    assert x.sparity == pytest.approx(5 / 336) and bool(x) and x.dequantize() is x
    assert "replace_feature" in x.__dir__()


def test_constructor_refuses_what_cannot_be() -> None:
    indices = random_sites(5, SHAPE)
    with pytest.raises(ValueError, match=r"features must have shape \[N, C\]"):
        spconv.SparseConvTensor(torch.zeros(5), indices, SHAPE, 1)
    with pytest.raises(ValueError, match=r"indices must have shape \[N, 3\]"):
        spconv.SparseConvTensor(torch.zeros(5, 2), indices, SHAPE[:2], 1)
    with pytest.raises(TypeError, match=r"indices must be int32.*float32"):
        spconv.SparseConvTensor(torch.zeros(5, 2), indices.float(), SHAPE, 1)


def test_features_are_assignable_in_version_1_only() -> None:
    x = tensor()
    with pytest.raises(ValueError, match="replace_feature"):
        x.features = x.features + 1
    old = version1.SparseConvTensor(x.features, x.indices, SHAPE, 2)
    old.features = old.features * 2
    y = version1.SparseSequential(version1.SubMConv3d(4, 8, 3), torch.nn.ReLU())(old)
    assert type(y) is version1.SparseConvTensor and isinstance(y, spconv.SparseConvTensor)
    y.features = y.features + 1
    assert torch.equal(old.features, x.features * 2)


def test_replaced_features_are_counted_when_they_are_used() -> None:
    x = tensor()
    longer = x.replace_feature(torch.randn(70, 4))
    assert longer.features.shape == (70, 4) and len(x.features) == 60
    with pytest.raises(ValueError, match=r"features have 70 rows and indices 60.*assign indices"):
        spconv.SubMConv3d(4, 8, 3)(longer)
    longer.indices = random_sites(70, SHAPE, (0, 1))
    assert spconv.SubMConv3d(4, 8, 3)(longer).features.shape == (70, 8)
    assert len(x.indices) == 60


def test_indices_changed_in_place_never_meet_an_old_map() -> None:
    x = tensor()
    conv = spconv.SubMConv3d(4, 8, 3, indice_key="subm")
    before = conv(x)
    assert_close(before.features, expected_subm(x, conv, x.indices), 27 * 4)
    assert x.find_indice_pair("subm") is not None
    x.indices[:, 2] = (x.indices[:, 2] + 3) % 7
    assert x.find_indice_pair("subm") is None, "the entry is dropped"
    after = conv(x)
    assert not torch.equal(before.features, after.features)
    assert_close(after.features, expected_subm(x, conv, x.indices), 27 * 4)
    # The same tensor of indices: as in spconv, a layer that keeps its sites shares it.
    assert after.indices is x.indices and before.indices is x.indices


@pytest.mark.parametrize("how", ["numpy", "data", "inference", "assigned", "resized"])
def test_no_way_of_changing_indices_is_missed(how: str) -> None:
    x = tensor()
    conv = spconv.SubMConv3d(4, 8, 3, indice_key="subm")
    if how == "inference":
        with torch.inference_mode():
            x = spconv.SparseConvTensor(x.features, x.indices.clone(), SHAPE, 2)
            conv(x)
            x.indices[:, 1] = (x.indices[:, 1] + 2) % 6
    else:
        conv(x)
        moved = x.indices.clone()
        moved[:, 1] = (moved[:, 1] + 2) % 6
        if how == "numpy":
            x.indices.numpy()[:] = moved.numpy()
        elif how == "data":
            x.indices.data[:] = moved
        elif how == "resized":
            x.indices.data = moved[:30]
            x = x.replace_feature(x.features[:30])
        else:
            x.indices = moved
    found = conv(x).features
    assert_close(found, expected_subm(x, conv, x.indices), 27 * 4)


def test_an_inverse_convolution_refuses_sites_that_moved() -> None:
    x = tensor()
    down = spconv.SparseConv3d(4, 8, 3, 2, 1, indice_key="down")
    up = spconv.SparseInverseConv3d(8, 4, 3, indice_key="down")
    y = down(x)
    assert up(y).indices is x.indices
    y.indices[:, 3] = 3 - y.indices[:, 3]
    with pytest.raises(ValueError, match="no layer that led to this tensor has indice_key 'down'"):
        up(y)
    y = down(x)
    x.indices[:, 1] = (x.indices[:, 1] + 1) % 6
    with pytest.raises(ValueError, match="indice_key 'down'"):
        up(y)
    assert_inverse(x, down(x), up)


def assert_inverse(x: spconv.SparseConvTensor, y: spconv.SparseConvTensor, up: spconv.SparseConvolution) -> None:
    fine, coarse = x.indices.numpy(), y.indices.numpy()
    pairs = swap_pairs(conv_pairs(fine, coarse, [3] * 3, [2] * 3, [1] * 3, [1] * 3))
    expected = convolve(
        y.features.detach().numpy(), up.weight.detach().numpy(), up.bias.detach().numpy(), pairs, len(fine)
    )
    assert_close(up(y).features, torch.from_numpy(expected), 27 * 8)


def test_outgrown_grid_is_refused_where_a_layer_uses_it() -> None:
    x = tensor()
    y = spconv.SparseConv3d(4, 8, 3, 2, 1)(x)
    y.indices[:, 1:] *= 4
    with pytest.raises(ValueError, match="indices leave the grid"):
        y.dense()
    y.spatial_shape = [4 * size for size in y.spatial_shape]
    assert spconv.SubMConv3d(8, 8, 3)(y).features.shape == y.features.shape
    # The layer's next run on the same input is not disturbed.
    assert int(spconv.SparseConv3d(4, 8, 3, 2, 1)(x).indices[:, 1:].max()) <= 3


def test_tensors_on_one_indices_tensor_share_their_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    build = sparseconv.Coordinates._build
    monkeypatch.setattr(sparseconv.Coordinates, "_build", staticmethod(lambda *a: built.append(1) or build(*a)))
    x = tensor()
    conv = spconv.SubMConv3d(4, 4, 3)
    y = conv(conv(x))
    conv(spconv.SparseConvTensor(torch.randn(60, 4), x.indices, SHAPE, 2))
    conv(y.shadow_copy().minus())
    assert len(built) == 1


def test_select_by_index_leaves_the_names_of_its_source_alone() -> None:
    x = tensor()
    spconv.SparseConv3d(4, 8, 3, 2, 1, indice_key="down")(x)
    mask = x.features[:, 0] > 0
    some = x.select_by_index(mask)
    assert torch.equal(some.features, x.features[mask]) and torch.equal(some.indices, x.indices[mask])
    assert some.indice_dict == {} and set(x.indice_dict) == {"down"}
    assert torch.equal(x.select_by_index(torch.tensor([3, 1])).indices, x.indices[[3, 1]])


def test_sums() -> None:
    x = tensor()
    y = x.replace_feature(torch.randn(60, 4))
    assert torch.equal((x + y).features, x.features + y.features)
    assert torch.equal((x + y.features).features, x.features + y.features)
    assert torch.equal((y.features[:1] + x.minus().features), y.features[:1] - x.features)
    before, total = x.features, x
    total += y
    assert torch.equal(total.features, before + y.features) and x.features is before
    other = spconv.SparseConvTensor(x.features, x.indices.flip(0), SHAPE, 2)
    with pytest.raises(ValueError, match="different sites"):
        _ = x + other


def test_dense_and_back() -> None:
    x = tensor(shuffled=False)
    dense = x.dense()
    assert dense.shape == (2, 4, *SHAPE)
    batch, *cells = x.indices.long().T
    assert torch.equal(dense[batch, :, cells[0], cells[1], cells[2]], x.features)
    assert torch.equal(x.dense(channels_first=False), dense.movedim(1, -1))
    back = spconv.SparseConvTensor.from_dense(x.dense(channels_first=False))
    assert torch.equal(back.indices, x.indices) and torch.equal(back.features, x.features)
    assert back.spatial_shape == SHAPE and back.batch_size == 2
    assert spconv.ToDense()(x).equal(dense) and spconv.RemoveGrid()(x).grid is None


def test_between_the_two_kinds_of_tensors() -> None:
    x = tensor()
    inner = x.to_sparse_tensor()
    assert isinstance(inner, sparseconv.SparseTensor) and torch.equal(inner.indices, x.indices)
    again = spconv.SparseConvTensor.from_sparse_tensor(inner)
    assert torch.equal(again.indices, x.indices) and again.features is x.features
    unbounded = sparseconv.SparseTensor(x.features, x.indices)
    with pytest.raises(ValueError, match="bounded"):
        spconv.SparseConvTensor.from_sparse_tensor(unbounded)
    # A layer of the drop-in takes the engine's tensor too, and nothing else.
    assert isinstance(spconv.SubMConv3d(4, 8, 3)(inner), sparseconv.SparseTensor)
    with pytest.raises(TypeError, match="takes a SparseTensor"):
        spconv.SubMConv3d(4, 8, 3)(x.features)


def test_copies_and_pickles_keep_names_and_sites() -> None:
    x = tensor()
    y = spconv.SparseConv3d(4, 8, 3, 2, 1, indice_key="down")(x).replace_feature(torch.randn(0, 8))
    y = spconv.SparseConv3d(4, 8, 3, 2, 1, indice_key="down")(x)
    y = y.replace_feature(y.features.detach())
    up = spconv.SparseInverseConv3d(8, 4, 3, indice_key="down")
    expected = up(y).features
    for other in (copy.copy(y), copy.deepcopy(y), pickle.loads(pickle.dumps(y)), _saved(y)):
        assert torch.equal(other.indices, y.indices)
        assert torch.equal(up(other).features, expected)
    other = copy.deepcopy(y)
    other.indices[:, 1:] = 0
    assert not torch.equal(other.indices, y.indices) and torch.equal(up(y).features, expected)


def _saved(value: object) -> object:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def test_names_are_shared_down_the_chain_and_across_branches() -> None:
    x = tensor()
    left = spconv.SparseConv3d(4, 8, 3, 2, 1, indice_key="a")(x)
    right = spconv.SparseConv3d(4, 8, 2, 2, indice_key="b")(x)
    assert left.indice_dict is x.indice_dict is right.indice_dict and set(x.indice_dict) == {"a", "b"}
    entry = left.find_indice_pair("a")
    assert entry is not None and right.find_indice_pair(None) is None and right.find_indice_pair("c") is None
    assert (entry.ksize, entry.stride, entry.padding, entry.dilation) == ([3] * 3, [2] * 3, [1] * 3, [1] * 3)
    assert entry.spatial_shape == SHAPE and entry.out_spatial_shape == [3, 4, 4] and not entry.is_subm
    assert entry.indices is x.indices and entry.out_indices is left.indices
    pairs, counts = entry.indice_pairs, entry.indice_pair_num
    assert pairs.shape == (2, 27, 60) and pairs.dtype == counts.dtype == torch.int32
    coarse = coarse_sites(x.indices.numpy(), [3] * 3, [2] * 3, [1] * 3, [1] * 3, [3, 4, 4])
    assert np.array_equal(coarse, left.indices.numpy())
    for tap, wanted in enumerate(conv_pairs(x.indices.numpy(), coarse, [3] * 3, [2] * 3, [1] * 3, [1] * 3)):
        number = int(counts[tap])
        assert pairs[:, tap, :number].T.tolist() == [list(pair) for pair in wanted]
        assert (pairs[:, tap, number:] == -1).all()


def test_a_name_stands_for_one_map() -> None:
    x = tensor()
    spconv.SubMConv3d(4, 8, 3, indice_key="a")(x)
    assert spconv.SubMConv3d(4, 8, 3, indice_key="a")(x).features.shape == (60, 8)
    # No layer looks for a submanifold map by its name, so kernels of two sizes may share one.
    conv = spconv.SubMConv3d(4, 8, (1, 3, 5), indice_key="a")
    assert_close(conv(x).features, expected_subm(x, conv, x.indices), 15 * 4)
    with pytest.raises(ValueError, match="already names the map"):
        spconv.SparseConv3d(4, 8, 3, 2, indice_key="a")(x)
    # A pointwise layer needs no map, so that its name collides with nothing.
    assert spconv.SubMConv3d(4, 8, 1, indice_key="a")(x).features.shape == (60, 8)
    with pytest.raises(ValueError, match="submanifold"):
        spconv.SparseInverseConv3d(4, 8, 3, indice_key="a")(x)


def test_the_first_of_repeated_rows_answers_for_its_site(backend: str) -> None:
    indices = torch.tensor([[0, 1], [0, 1], [0, 2]], dtype=torch.int32)
    features = torch.tensor([[1.0], [10.0], [100.0]], requires_grad=True)
    x = spconv.SparseConvTensor(features, indices, [5], 1)
    conv = spconv.SubMConv1d(1, 1, 3, bias=False)
    torch.nn.init.ones_(conv.weight)
    y = conv(x)
    # Row by row: its own features at the centre, the first row's of each neighbour.
    assert y.features.flatten().tolist() == [101.0, 110.0, 101.0]
    y.features.sum().backward()
    assert features.grad is not None and features.grad.flatten().tolist() == [2.0, 1.0, 3.0]
    assert x.dense().flatten().tolist() == [0.0, 1.0, 100.0, 0.0, 0.0]
    assert spconv.SparseMaxPool1d(2)(x).features.flatten().tolist() == [1.0, 100.0]
    assert spconv.SparseGlobalMaxPool()(x).tolist() == [[100.0]]
    assert spconv.SparseGlobalAvgPool()(x).tolist() == [[37.0]]
    down = spconv.SparseConv1d(1, 1, 3, 2, 1, bias=False, indice_key="down")
    up = spconv.SparseInverseConv1d(1, 1, 3, indice_key="down", bias=False)
    torch.nn.init.ones_(down.weight)
    torch.nn.init.ones_(up.weight)
    coarse = down(x)
    assert coarse.indices.tolist() == [[0, 0], [0, 1]]
    assert coarse.features.flatten().tolist() == [1.0, 101.0]
    assert up(coarse).features.flatten().tolist() == [102.0, 102.0, 101.0] and up(coarse).indices is indices
    assert x.find_indice_pair("down").indice_pairs[0].max() == 2  # type: ignore[union-attr]


def test_repeated_rows_with_groups_and_many_channels() -> None:
    indices = random_sites(40, SHAPE)
    doubled = torch.cat([indices, indices[::2]])
    conv = spconv.SubMConv3d(4, 6, 3, groups=2)
    features = torch.randn(60, 4)
    found = conv(spconv.SparseConvTensor(features, doubled, SHAPE, 1)).features
    plain = spconv.SparseConvTensor(features[:40], indices, SHAPE, 1)
    assert_close(found[:40], conv(plain).features.double(), 54)
    # A repeated row sees the plain tensor with its own features in the first row's place.
    for row in (3, 11):
        changed = features[:40].clone()
        changed[2 * row] = features[40 + row]
        alone = conv(plain.replace_feature(changed)).features[2 * row]
        assert_close(found[40 + row], alone.double(), 54)


def test_empty_tensors_pass_every_layer(backend: str) -> None:
    x = spconv.SparseConvTensor(torch.zeros(0, 4), torch.zeros(0, 4, dtype=torch.int32), SHAPE, 2)
    net = spconv.SparseSequential(
        spconv.SubMConv3d(4, 8, 3, indice_key="s"),
        torch.nn.BatchNorm1d(8),
        torch.nn.ReLU(),
        spconv.SparseConv3d(8, 16, 3, 2, 1, indice_key="d"),
        spconv.SparseMaxPool3d(2),
        torch.nn.Linear(16, 5),
    )
    y = net(x)
    assert y.features.shape == (0, 5) and y.spatial_shape == [1, 2, 2]
    assert spconv.SparseGlobalAvgPool()(y).tolist() == [[0.0] * 5] * 2
    assert y.dense().shape == (2, 5, 1, 2, 2) and not y.dense().any()
    y.features.sum().backward()
