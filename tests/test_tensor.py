"""SparseTensor: attributes, dense round trips, conversion, immutability, copies and refusals."""

from __future__ import annotations

import copy
import io
import operator
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sparseconv import SparseConv2d, SparseInverseConv2d, SparseTensor, SubMConv2d
from sparseconv import functional as F

SHAPES = {1: [11], 2: [5, 7], 3: [4, 5, 6], 4: [3, 4, 2, 5]}


def sample(ndim: int = 2, seed: int = 0, dtype: torch.dtype = torch.float32, channels: int = 3) -> SparseTensor:
    """Unsorted sites in a batch of 3 whose middle sample is empty."""
    rng = np.random.default_rng(seed)
    cells = np.argwhere(rng.random((3, *SHAPES[ndim])) < 0.4)
    cells = rng.permutation(cells[cells[:, 0] != 1]).astype(np.int32)
    features = torch.from_numpy(rng.normal(size=(len(cells), channels))).to(dtype)
    return SparseTensor(features, torch.from_numpy(cells), SHAPES[ndim], 3)


def dense_by_hand(x: SparseTensor) -> np.ndarray:
    assert x.spatial_shape is not None
    grid = np.zeros((x.batch_size, x.features.shape[1], *x.spatial_shape))
    for site, row in zip(x.indices.tolist(), x.features.detach().double().numpy(), strict=True):
        grid[(site[0], slice(None), *site[1:])] = row
    return grid


@pytest.mark.parametrize("ndim", [1, 2, 3, 4])
def test_attributes(ndim: int) -> None:
    x = sample(ndim, dtype=torch.float64)
    assert (x.ndim, x.batch_size, x.spatial_shape) == (ndim, 3, SHAPES[ndim])
    assert (x.dtype, x.device, len(x)) == (torch.float64, torch.device("cpu"), len(x.features))
    assert x.indices.dtype == torch.int32
    assert x.spatial_size == np.prod(SHAPES[ndim])
    assert x.occupancy == pytest.approx(len(x) / (3 * np.prod(SHAPES[ndim])))
    assert x.coordinates.indices is x.indices
    assert dict(x.named_maps) == {}
    assert f"[{len(x)}, 3]" in repr(x) and str(SHAPES[ndim]) in repr(x) and "batch_size=3" in repr(x)


@pytest.mark.parametrize("ndim", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_dense_and_back(ndim: int, dtype: torch.dtype) -> None:
    x = sample(ndim, 1, dtype)
    expected = dense_by_hand(x)
    first, last = x.dense(), x.dense(channels_first=False)
    assert first.dtype == last.dtype == dtype
    np.testing.assert_array_equal(first.double().numpy(), expected)
    np.testing.assert_array_equal(last.double().numpy(), np.moveaxis(expected, 1, -1))
    back = SparseTensor.from_dense(last)
    assert (back.batch_size, back.spatial_shape) == (3, SHAPES[ndim])
    order = np.lexsort(x.indices.numpy().T[::-1])
    assert torch.equal(back.indices, x.indices[order])
    assert torch.equal(back.features, x.features[order])
    assert torch.equal(back.dense(), first)


@pytest.mark.parametrize("channels_first", [True, False])
def test_gradients_through_dense_and_back(channels_first: bool) -> None:
    x = sample(3, 2, torch.float64)
    features = x.features.clone().requires_grad_()
    grid = x.replace_feature(features).dense(channels_first)
    weights = torch.randn(grid.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (grid * weights).sum().backward()
    at = tuple(x.indices.long().T)
    last = weights.movedim(1, -1) if channels_first else weights
    assert features.grad is not None
    assert torch.equal(features.grad, last[at])
    leaf = grid.detach().movedim(1, -1 if channels_first else 1).clone().requires_grad_()
    sparse = SparseTensor.from_dense(leaf)
    sparse.features.sum().backward()
    assert leaf.grad is not None
    assert torch.equal(leaf.grad, (leaf.detach() != 0).any(-1, keepdim=True).expand_as(leaf).double())


def test_from_dense_keeps_a_cell_with_one_channel_set_or_nan() -> None:
    grid = torch.zeros(1, 4, 2)
    grid[0, 1, 0], grid[0, 3, 1] = 5.0, float("nan")
    x = SparseTensor.from_dense(grid)
    assert x.indices.tolist() == [[0, 1], [0, 3]]
    assert x.features[0].tolist() == [5.0, 0.0]
    assert len(SparseTensor.from_dense(torch.zeros(2, 4, 3))) == 0
    for bad in (torch.zeros(4, 4), torch.zeros(1, 1, 1, 1, 1, 1, 1)):
        with pytest.raises(ValueError, match="1 to 4 spatial axes, got"):
            SparseTensor.from_dense(bad)


@pytest.mark.parametrize(
    "shape",
    [
        [5, 7],
        (5, 7),
        np.array([5, 7]),
        np.array([4, 7]) + np.array([1, 0]),
        torch.tensor([5, 7]),
        torch.Size([5, 7]),
    ],
)
def test_spatial_shapes_of_every_type(shape: Any) -> None:
    x = sample()
    got = SparseTensor(x.features, x.indices, shape, 3)
    assert got.spatial_shape == [5, 7]
    assert all(type(side) is int for side in got.spatial_shape)


def test_batch_sizes_of_every_type() -> None:
    x = sample()
    for size in (3, np.int64(3), torch.tensor(3)):
        assert SparseTensor(x.features, x.indices, [5, 7], size).batch_size == 3  # type: ignore[arg-type]
    assert SparseTensor(x.features, x.indices, [5, 7]).batch_size == 3
    assert SparseTensor(x.features, x.indices, [5, 7], 9).batch_size == 9
    assert SparseTensor(torch.zeros(0, 1), torch.zeros(0, 3, dtype=torch.int32), [5, 7]).batch_size == 1


def test_unbounded_grids_take_negative_sites_and_refuse_density() -> None:
    x = SparseTensor(torch.ones(2, 1), torch.tensor([[0, -5, 3], [0, 2_000_000_000, -9]]))
    assert x.spatial_shape is None
    for use in (x.dense, lambda: x.spatial_size, lambda: x.occupancy):
        with pytest.raises(ValueError, match="bounded grid, and this tensor has spatial_shape=None: give"):
            use()


def test_a_dense_grid_that_cannot_be_wished_for() -> None:
    side = 2**31 - 1
    x = SparseTensor(torch.ones(1, 2), torch.tensor([[0, side - 1, 0, 5]]), [side] * 3, 1)
    with pytest.raises(ValueError, match=r"would need .* TB: keep it sparse, or use a smaller spatial_shape"):
        x.dense()


def test_replace_feature_shares_the_sites() -> None:
    x = sample()
    y = x.replace_feature(torch.zeros(len(x), 8, dtype=torch.float64))
    assert y.coordinates is x.coordinates
    assert (y.features.shape[1], y.dtype, x.features.shape[1]) == (8, torch.float64, 3)
    for bad in (torch.zeros(len(x) + 1, 3), torch.zeros(len(x) - 1, 3), torch.zeros(0, 3)):
        with pytest.raises(ValueError, match=rf"one row for each of the {len(x)} rows of indices, got"):
            x.replace_feature(bad)


@pytest.mark.parametrize("name", ["iadd", "isub", "imul", "itruediv", "iand", "ior"])
def test_no_operator_changes_a_tensor_in_place(name: str) -> None:
    x = sample()
    features, before = x.features, x.features.clone()
    for other in (sample(), before, 2.0):
        y = x
        with pytest.raises(TypeError):
            getattr(operator, name)(y, other)
        assert x.features is features
        assert torch.equal(features, before)


@pytest.mark.parametrize(
    "name", ["features", "indices", "spatial_shape", "batch_size", "named_maps", "coordinates"]
)
def test_attributes_cannot_be_set(name: str) -> None:
    x = sample()
    with pytest.raises(AttributeError):
        setattr(x, name, getattr(x, name))
    with pytest.raises(TypeError):
        x.named_maps["key"] = None  # type: ignore[index]
    x.spatial_shape.append(9)  # type: ignore[union-attr]
    assert x.spatial_shape == [5, 7]


@pytest.mark.parametrize(
    ("convert", "dtype"),
    [
        (SparseTensor.half, torch.float16),
        (SparseTensor.bfloat16, torch.bfloat16),
        (SparseTensor.float, torch.float32),
        (SparseTensor.double, torch.float64),
        (lambda x: x.to(torch.float64), torch.float64),
        (lambda x: x.to("cpu", torch.float16), torch.float16),
        (lambda x: x.to(dtype=torch.bfloat16, copy=True), torch.bfloat16),
    ],
)
def test_dtype_conversion_keeps_sites_and_names(
    convert: Callable[[SparseTensor], SparseTensor], dtype: torch.dtype
) -> None:
    x = SparseConv2d(3, 3, 2, 2, indice_key="down")(sample())
    y = convert(x)
    assert y.dtype == dtype
    assert y.coordinates is x.coordinates
    assert set(y.named_maps) == {"down"}
    assert torch.equal(y.features, x.features.to(dtype))
    assert x.dtype == torch.float32


def test_detach_cpu_and_to_another_device() -> None:
    x = sample().replace_feature(sample().features.requires_grad_())
    assert not x.detach().features.requires_grad and x.features.requires_grad
    assert x.cpu().coordinates is x.coordinates
    away = x.to("meta")
    assert away.device == away.indices.device == away.coordinates.device == torch.device("meta")
    assert (away.spatial_shape, away.batch_size, len(away)) == (x.spatial_shape, x.batch_size, len(x))
    assert dict(away.named_maps) == {}


def test_devices_must_agree() -> None:
    x = sample()
    with pytest.raises(ValueError, match=r"features are on meta and indices on cpu: move one of them"):
        SparseTensor(x.features.to("meta"), x.indices, [5, 7], 3)
    with pytest.raises(ValueError, match="features are on meta and indices on cpu"):
        x.replace_feature(x.features.to("meta"))
    with pytest.raises(ValueError, match="on one device, got cpu and meta"):
        F.add(x, x.to("meta"))


def test_views_of_any_stride_are_valid() -> None:
    x = sample(channels=4)
    wide = torch.zeros(len(x) * 2, 9)
    wide[::2, 1:9:2] = x.features
    sites = torch.zeros(3, len(x) * 3, dtype=torch.int64)
    sites[:, ::3] = x.indices.T
    y = SparseTensor(wide[::2, 1:9:2], sites[:, ::3].T, [5, 7], 3)
    assert not y.features.is_contiguous()
    layers = [SubMConv2d(4, 6, 3), SparseConv2d(4, 6, 3, 2, 1)]
    assert torch.equal(y.dense(), x.dense())
    for layer in layers:
        assert torch.equal(layer(y).features, layer(x).features)
    for pool in (F.max_pool, F.avg_pool):
        assert torch.equal(pool(y, 2).features, pool(x, 2).features)
    transposed = x.replace_feature(x.features.T.contiguous().T)
    assert torch.equal(layers[0](transposed).features, layers[0](x).features)
    expanded = x.replace_feature(torch.ones(1, 1).expand(len(x), 4))
    assert torch.equal(layers[0](expanded).features, layers[0](x.replace_feature(torch.ones(len(x), 4))).features)


def test_changing_the_given_indices_or_the_own_ones() -> None:
    given = sample().indices.long()
    x = SparseTensor(torch.ones(len(given), 3), given, [5, 7], 3)
    given[0, 1] = 99
    assert int(x.indices[:, 1].max()) < 5  # int64 input was copied
    y = SparseTensor(torch.ones(2, 1), torch.tensor([[0, 0, 1], [0, 0, 3]], dtype=torch.int32), [5, 7], 1)
    layer = SubMConv2d(1, 1, (1, 3), bias=False)
    torch.nn.init.ones_(layer.weight)
    assert layer(y).features.flatten().tolist() == [1.0, 1.0]
    y.indices[1, 2] = 2
    assert layer(y).features.flatten().tolist() == [2.0, 2.0]


@pytest.mark.parametrize("use", [SparseTensor.dense, lambda x: F.add(x, sample()).dense(), SubMConv2d(3, 3, 3)])
def test_indices_moved_off_the_grid_in_place_are_noticed(use: Callable[[SparseTensor], Any]) -> None:
    """Neither does a site past the end of its line come out at the start of the next one."""
    x = SparseTensor(torch.ones(2, 3), torch.tensor([[0, 0, 1], [1, 0, 3]], dtype=torch.int32), [5, 7], 3)
    x.indices[0, 2] = 8
    with pytest.raises(ValueError, match="leave the grid"):
        use(x)


def test_named_maps_travel_and_can_be_cleared() -> None:
    x = sample(channels=2)
    down, up = SparseConv2d(2, 4, 3, 2, 1, indice_key="down"), SparseInverseConv2d(4, 2, 3, "down")
    y = SubMConv2d(4, 4, 3, indice_key="sub")(down(x))
    assert set(y.named_maps) == {"down", "sub"} and not x.named_maps
    record = y.named_maps["down"]
    assert (record.kind, record.geometry.kernel_size, record.geometry.stride) == ("convolution", (3, 3), (2, 2))
    assert record.inputs is x.coordinates and record.outputs is y.coordinates
    assert torch.equal(up(y).indices, x.indices)
    bare = y.clear_maps()
    assert not bare.named_maps and torch.equal(bare.features, y.features)
    with pytest.raises(ValueError, match=r"has indice_key 'down' \(known: none\)"):
        up(bare)
    assert torch.equal(down(x.clear_maps()).features, down(x).features)


def pickled(x: SparseTensor) -> SparseTensor:
    return pickle.loads(pickle.dumps(x))


def saved(x: SparseTensor) -> SparseTensor:
    file = io.BytesIO()
    torch.save(x, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("duplicate", [pickled, saved, copy.deepcopy, copy.copy])
@pytest.mark.parametrize("named", [False, True])
def test_copies(duplicate: Callable[[SparseTensor], SparseTensor], named: bool) -> None:
    x = sample()
    if named:
        x = SparseConv2d(3, 3, 3, 2, 1, indice_key="down")(x).detach()
    y = duplicate(x)
    assert torch.equal(y.features, x.features) and torch.equal(y.indices, x.indices)
    assert (y.spatial_shape, y.batch_size) == (x.spatial_shape, x.batch_size)
    layer = SubMConv2d(3, 2, 3)
    assert torch.equal(layer(y).features, layer(x).features)


def test_nothing_and_one_site() -> None:
    none = SparseTensor(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int32), [5, 7], 2)
    assert (len(none), none.occupancy, none.ndim) == (0, 0.0, 2)
    assert not none.dense().any() and none.dense().shape == (2, 3, 5, 7)
    assert none.dense(channels_first=False).shape == (2, 5, 7, 3)
    one = SparseTensor(torch.ones(1, 3), torch.tensor([[1, 4, 6]]), [5, 7], 2)
    assert one.dense().sum() == 3 and one.dense()[1, :, 4, 6].tolist() == [1, 1, 1]


def test_zero_channels() -> None:
    x = SparseTensor(torch.zeros(4, 0), sample().indices[:4], [5, 7], 3)
    assert x.dense().shape == (3, 0, 5, 7)
    assert F.max_pool(x, 2).features.shape[1] == 0


def test_dense_in_a_graph_of_plain_torch() -> None:
    x = sample()

    def total(features: Tensor) -> Tensor:
        return (x.replace_feature(features).dense() ** 2).sum()

    leaf = x.features.clone().requires_grad_()
    total(leaf).backward()
    assert leaf.grad is not None
    torch.testing.assert_close(leaf.grad, 2 * x.features)
