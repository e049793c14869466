"""The drop-in's layers: spconv's signatures, results against the oracle and dense torch, and spconv's faults."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from typing import Any

import pytest
import torch
from oracle import at_sites, coarse_sites, conv_pairs, dense_conv, max_pool, to_dense
from scans import random_sites
from tolerance import assert_close
from torch import nn

import sparseconv
import sparseconv.compat.spconv as version1
import sparseconv.compat.spconv.pytorch as spconv
from sparseconv.compat.cumm.tensorview import gemm

SHAPES = {1: [40], 2: [9, 11], 3: [6, 7, 8], 4: [4, 5, 4, 5]}
CONV = "in_channels out_channels kernel_size stride padding dilation groups bias indice_key algo fp32_accum"


def tensor(ndim: int = 3, count: int = 25, channels: int = 4) -> spconv.SparseConvTensor:
    indices = random_sites(count, SHAPES[ndim], (0, 1), shuffled=True)
    return spconv.SparseConvTensor(torch.randn(count, channels), indices, SHAPES[ndim], 2)


def positional(layer: Any) -> list[str]:
    kinds = inspect.signature(layer.__init__).parameters.values()
    return [kind.name for kind in kinds if kind.kind is kind.POSITIONAL_OR_KEYWORD][1:]


@pytest.mark.parametrize("ndim", [1, 2, 3, 4])
def test_positional_signatures_are_spconvs(ndim: int) -> None:
    tail = ["large_kernel_fast_algo", "name"]
    assert positional(getattr(spconv, f"SubMConv{ndim}d")) == CONV.split() + tail
    for family in ("SparseConv", "SparseConvTranspose"):
        layer = getattr(spconv, f"{family}{ndim}d")
        assert positional(layer) == [*CONV.split(), "record_voxel_count", *tail]
    inverse = ["in_channels", "out_channels", "kernel_size", "indice_key", "bias", "algo", "fp32_accum"]
    assert positional(getattr(spconv, f"SparseInverseConv{ndim}d")) == inverse + tail
    pool = ["kernel_size", "stride", "padding", "dilation", "indice_key", "algo", "record_voxel_count", "name"]
    assert positional(getattr(spconv, f"SparseMaxPool{ndim}d")) == pool
    assert positional(getattr(spconv, f"SparseAvgPool{ndim}d")) == pool
    generic = (
        "ndim in_channels out_channels kernel_size stride padding dilation groups bias subm output_padding "
        "transposed inverse indice_key algo fp32_accum record_voxel_count act_type act_alpha act_beta "
        "large_kernel_fast_algo name device dtype"
    )
    assert positional(spconv.SparseConvolution) == generic.split()
    assert positional(spconv.SparseMaxPool)[:7] == (
        ["ndim", "kernel_size", "stride", "padding", "dilation", "indice_key", "subm"]
    )


@pytest.mark.parametrize("ndim", [1, 2, 3, 4])
def test_layers_equal_dense_torch(ndim: int, backend: str) -> None:
    x = tensor(ndim)
    ones, shape = [1] * ndim, SHAPES[ndim]
    dense = to_dense(x.features.double(), x.indices, shape, 2)
    subm = getattr(spconv, f"SubMConv{ndim}d")(4, 6, 3, 7, 5)
    y = subm(x)
    expected = dense_conv(dense, subm.weight.double(), subm.bias.double(), ones, ones, ones)
    assert_close(y.features, at_sites(expected, x.indices), 3**ndim * 4)
    assert y.indices is x.indices and (subm.stride, subm.padding) == (ones, ones)
    conv = getattr(spconv, f"SparseConv{ndim}d")(4, 6, 3, 2, 1, bias=False)
    y = conv(x)
    expected = dense_conv(dense, conv.weight.double(), None, [2] * ndim, ones, ones)
    assert_close(y.dense(), expected, 3**ndim * 4)
    assert y.spatial_shape == list(expected.shape[2:])
    grown = getattr(spconv, f"SparseConvTranspose{ndim}d")(6, 5, 3, 2, 1, bias=False)
    z = grown(y)
    weight = grown.weight.double().movedim(-1, 0)
    if ndim < 4:
        function = getattr(nn.functional, f"conv_transpose{ndim}d")
        expected = function(y.dense().double(), weight, None, 2, 1)
        assert_close(z.dense(), expected, 3**ndim * 6)
    y.features.sum().backward()
    assert conv.weight.grad is not None and conv.weight.grad.any()


def test_version_1_accepts_its_own_arguments() -> None:
    x = version1.SparseConvTensor(torch.randn(25, 4), tensor().indices, SHAPES[3], 2)
    conv = version1.SparseConv3d(4, 8, 3, 2, padding=1, bias=False, indice_key="a", use_hash=True)
    pool = version1.SparseMaxPool3d(2)
    assert pool.stride == [1, 1, 1] and spconv.SparseMaxPool3d(2).stride == [2, 2, 2]
    assert type(pool(conv(x))) is version1.SparseConvTensor
    assert version1.SparseConv3d is spconv.SparseConv3d and version1.SparseModule is spconv.SparseModule


def test_a_pointwise_layer_keeps_its_rows() -> None:
    x = tensor()
    conv = spconv.SparseConv3d(4, 6, 1, bias=True, indice_key="a")
    y = conv(x)
    assert y.indices is x.indices and not x.indice_dict
    expected = x.features.double() @ conv.weight.double().reshape(6, 4).T + conv.bias.double()
    assert_close(y.features, expected, 5)


def test_isinstance_and_predicates() -> None:
    conv = spconv.SubMConv2d(3, 4, 3)
    assert isinstance(conv, spconv.conv.SparseConvolution) and isinstance(conv, spconv.SparseModule)
    assert isinstance(conv, sparseconv.nn.SparseConvolution)
    for module in (
        conv,
        spconv.SparseBatchNorm(3),
        spconv.SparseReLU(),
        spconv.Identity(),
        spconv.SparseMaxPool2d(2),
    ):
        assert spconv.modules.is_spconv_module(module)
    assert spconv.modules.is_sparse_conv(conv) and not spconv.modules.is_sparse_conv(spconv.Identity())
    assert not spconv.modules.is_spconv_module(nn.Linear(2, 2))
    assert (conv.ndim, conv.in_channels, conv.out_channels, conv.kernel_size) == (2, 3, 4, [3, 3])
    assert (conv.subm, conv.inverse, conv.transposed, conv.conv1x1) == (True, False, False, False)
    assert conv.algo is spconv.ConvAlgo.Native and conv.name is None
    assert set(conv.state_dict()) == {"weight", "bias"} and conv.weight.shape == (4, 3, 3, 3)
    net = spconv.SparseSequential(conv, spconv.SparseSequential(spconv.SubMConv2d(4, 4, 3)))
    spconv.assign_name_for_sparse_modules(net)
    assert net[1][0]._sparse_unique_name == "1.0"


def test_initial_values_are_torchs() -> None:
    conv = spconv.SparseConv3d(16, 32, 3)
    bound = 1 / (27 * 16) ** 0.5
    assert 0.9 * bound < conv.weight.abs().max() <= bound and conv.bias.abs().max() <= bound


def test_containers() -> None:
    x = tensor(2)
    net = spconv.SparseSequential(
        conv=spconv.SubMConv2d(4, 6, 3), norm=nn.BatchNorm1d(6), act=nn.ReLU(), last=spconv.SparseIdentity()
    )
    net.add(nn.Sequential(spconv.SubMConv2d(6, 6, 3), spconv.SparseReLU()))
    net.add(nn.Sequential(nn.Linear(6, 3), nn.ReLU()), "head")
    assert len(net) == 6 and isinstance(net[-1], nn.Sequential) and isinstance(net[4], nn.Sequential)
    assert net(x).features.shape == (25, 3)
    assert torch.equal(net[:2](x).features, net.norm(net.conv(x).features))
    with pytest.raises(KeyError):
        net.add(nn.ReLU(), "head")
    # Dense behind sparse.
    dense = spconv.SparseSequential(spconv.SparseConv2d(4, 6, 3, 2), spconv.ToDense(), nn.Conv2d(6, 2, 1))
    assert dense(x).shape == (2, 2, 4, 5)
    joined = spconv.SparseSequential(
        spconv.ConcatTable().add(spconv.SubMConv2d(4, 6, 3)).add(spconv.Identity()), spconv.JoinTable()
    )
    assert joined(x).features.shape == (25, 10)
    added = spconv.SparseSequential(spconv.ConcatTable().add(spconv.Identity()).add(spconv.Identity()))
    assert torch.equal(spconv.AddTable()(added(x)).features, 2 * x.features)


def test_misaligned_sums_lie_on_the_union() -> None:
    left, right = tensor(3, 20), tensor(3, 25)
    right.indices = random_sites(25, SHAPES[3], (0, 1), seed=5)
    for total in (
        spconv.functional.sparse_add(left, right),
        spconv.functional.sparse_add_hash_based(left, right),
        spconv.tables.AddTableMisaligned()([left, right]),
    ):
        assert_close(total.dense(), left.dense().double() + right.dense().double(), 2)
        assert len(total.indices) == len(torch.unique(torch.cat([left.indices, right.indices]), dim=0))
        assert spconv.SubMConv3d(4, 4, 3)(total).features.shape == total.features.shape
    wide = left.replace_feature(torch.randn(20, 5))
    with pytest.raises(ValueError, match="equal channels"):
        spconv.functional.sparse_add(left, wide)


def test_max_pooling_takes_true_maxima_unless_told() -> None:
    x = tensor()
    x = x.replace_feature(x.features - 3)
    sites = x.indices.numpy()
    coarse = coarse_sites(sites, [2] * 3, [2] * 3, [0] * 3, [1] * 3, [3, 3, 4])
    pairs = conv_pairs(sites, coarse, [2] * 3, [2] * 3, [0] * 3, [1] * 3)
    expected = torch.from_numpy(max_pool(x.features.numpy(), pairs, len(coarse)))
    pool = spconv.SparseMaxPool3d(2, 2)
    assert torch.equal(pool(x).features.double(), expected) and (expected < 0).any()
    with spconv.strict_max_pool():
        assert torch.equal(pool(x).features.double(), expected.clamp(min=0))
        with spconv.strict_max_pool(False):
            assert torch.equal(pool(x).features.double(), expected)
        leaf = x.features.clone().requires_grad_()
        pool(x.replace_feature(leaf)).features.sum().backward()
        assert leaf.grad is not None and (leaf.grad != 0).sum() == (expected > 0).sum()
    assert torch.equal(pool(x).features.double(), expected)
    version1.strict_max_pool(True)
    assert (pool(x).features >= 0).all()
    version1.strict_max_pool(False)
    assert torch.equal(pool(x).features.double(), expected)


def test_what_spconv_gets_wrong() -> None:
    x = tensor()
    mean = spconv.SparseGlobalAvgPool()(x)
    expected = torch.stack([x.features[x.indices[:, 0] == b].double().mean(0) for b in (0, 1)])
    assert_close(mean, expected, 25)
    top = torch.stack([x.features[x.indices[:, 0] == b].max(0).values for b in (0, 1)])
    assert torch.equal(spconv.SparseGlobalMaxPool()(x), top)
    grown = spconv.SparseConvTranspose3d(4, 4, 3, 1, 0, 2)
    assert grown(x).spatial_shape == [size + 4 for size in SHAPES[3]]
    assert spconv.ops.get_deconv_output_size(SHAPES[3], [3] * 3, [1] * 3, [0] * 3, [2] * 3, [0] * 3) == [
        10,
        11,
        12,
    ]
    # Columns of a wider array, and rows with a step.
    wide = torch.zeros(50, 8, dtype=torch.int32)
    wide[::2, 1:5] = x.indices
    strided = spconv.SparseConvTensor(x.features, wide[::2, 1:5], SHAPES[3], 2)
    conv = spconv.SubMConv3d(4, 4, 3)
    assert not strided.indices.is_contiguous() and torch.equal(conv(strided).features, conv(x).features)
    # Bias and backward on the CPU, in evaluation too.
    conv.eval()(x).features.sum().backward()
    assert conv.bias.grad is not None and conv.weight.grad is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types(dtype: torch.dtype) -> None:
    x = tensor()
    conv = spconv.SubMConv3d(4, 6, 3, dtype=dtype)
    y = conv(x.replace_feature(x.features.to(dtype)))
    assert y.features.dtype == dtype
    with torch.autocast("cpu", torch.bfloat16):
        assert spconv.SubMConv3d(4, 6, 3)(x).features.dtype == torch.bfloat16


def test_added_input_and_activation() -> None:
    x, skip = tensor(), torch.randn(25, 6)
    plain = spconv.SubMConv3d(4, 6, 3)
    y = plain(x, add_input=x.replace_feature(skip))
    assert torch.equal(y.features, plain(x).features + skip)
    for kind, function in (
        (gemm.Activation.ReLU, torch.relu),
        (gemm.Activation.Sigmoid, torch.sigmoid),
        (gemm.Activation.LeakyReLU, lambda v: nn.functional.leaky_relu(v, 0.25)),
    ):
        conv = spconv.SparseConvolution(3, 4, 6, subm=True, act_type=kind, act_alpha=0.25)
        conv.load_state_dict(plain.state_dict())
        assert torch.equal(conv(x).features, function(plain(x).features))


def test_recorded_voxel_counts() -> None:
    conv = spconv.SparseConv3d(4, 6, 3, 2, 1, record_voxel_count=True)
    assert set(conv.state_dict()) == {"weight", "bias", "max_num_voxels_during_training"}
    small, large = tensor(count=10), tensor(count=25)
    most = len(conv(large).features)
    conv(small)
    assert conv.get_max_num_voxels().tolist() == [most]
    conv.eval()(tensor(count=60))
    assert conv.get_max_num_voxels().tolist() == [most]
    assert spconv.SubMConv3d(4, 6, 3).get_max_num_voxels() is None


def test_modules_copy_pickle_and_save() -> None:
    x = tensor()
    net = spconv.SparseSequential(
        spconv.SubMConv3d(4, 6, 3, indice_key="s"),
        spconv.SparseBatchNorm(6),
        spconv.SparseReLU(),
        spconv.SparseConv3d(6, 8, 3, 2, 1, indice_key="d"),
        spconv.SparseInverseConv3d(8, 3, 3, indice_key="d"),
    ).eval()
    expected = net(x).features
    average = copy.deepcopy(net)
    with torch.no_grad():
        for mine, theirs in zip(average.parameters(), net.parameters(), strict=True):
            mine.mul_(0.9).add_(theirs, alpha=0.1)
    assert_close(average(x).features, expected.double(), 27 * 8)
    assert torch.equal(pickle.loads(pickle.dumps(net))(x).features, expected)
    buffer = io.BytesIO()
    torch.save(net.state_dict(), buffer)
    buffer.seek(0)
    fresh = copy.deepcopy(net)
    for parameter in fresh.parameters():
        nn.init.zeros_(parameter)
    fresh.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(fresh(x).features, expected)
    # The engine's own layers read the same state dict.
    twin = sparseconv.Sequential(
        sparseconv.SubMConv3d(4, 6, 3),
        sparseconv.BatchNorm(6),
        sparseconv.ReLU(),
        sparseconv.SparseConv3d(6, 8, 3, 2, 1, indice_key="d"),
        sparseconv.SparseInverseConv3d(8, 3, 3, indice_key="d"),
    ).eval()
    twin.load_state_dict(net.state_dict())
    assert torch.equal(twin(x.to_sparse_tensor()).features, expected)


def test_tables_of_pairs_run_through_the_functions() -> None:
    x = tensor()
    conv = spconv.SparseConv3d(4, 6, 3, 2, 1)
    y = conv(x)
    sites, pairs, counts = spconv.ops.get_indice_pairs(
        x.indices, 2, SHAPES[3], spconv.ConvAlgo.Native, [3] * 3, [2] * 3, [1] * 3, [1] * 3, [0] * 3
    )
    assert torch.equal(sites, y.indices)
    found = spconv.functional.indice_conv(x.features, conv.weight, pairs, counts, len(sites), bias=conv.bias)
    assert torch.equal(found, y.features)
    up = spconv.SparseConvTranspose3d(6, 4, 3, 2, 1, bias=False)
    back = spconv.functional.indice_inverse_conv(y.features, up.weight, pairs, counts, len(x.features))
    fine = up(y)
    rows = sparseconv.CoordinateHash(fine.indices).query(x.indices)
    assert (rows >= 0).any()
    # The transposed layer's grid is [5, 7, 7], a cell smaller on two axes than the one inverted.
    assert_close(back[rows >= 0], fine.features[rows[rows >= 0]].double(), 27 * 6)
    pooled = spconv.functional.indice_maxpool(x.features, pairs, counts, len(sites))
    assert torch.equal(pooled, spconv.SparseMaxPool3d(3, 2, 1)(x).features)
    same, pairs, counts = spconv.ops.get_indice_pairs(x.indices, 2, SHAPES[3], ksize=3, subm=True)
    subm = spconv.SubMConv3d(4, 6, 3, bias=False)
    found = spconv.functional.indice_subm_conv(x.features, subm.weight, pairs, counts, len(same))
    assert torch.equal(found, subm(x).features)
    grown = spconv.SparseConvTranspose3d(4, 6, 2, 2, bias=False)
    sites, pairs, counts = spconv.ops.get_indice_pairs(x.indices, 2, SHAPES[3], ksize=2, stride=2, transpose=True)
    found = spconv.functional.indice_conv(x.features, grown.weight, pairs, counts, len(sites))
    assert torch.equal(found, grown(x).features)
    with pytest.raises(ValueError, match="occurs twice in one tap"):
        pairs[1, 0, :2] = pairs[1, 0, 0]
        spconv.functional.indice_conv(x.features, grown.weight, pairs, counts, len(sites))


@pytest.mark.parametrize("count", [25, 0])
def test_tables_of_pairs_do_not_follow_the_default_device(count: int) -> None:
    """A program may have called ``torch.set_default_device("cuda")``; here, a device that computes nothing."""
    indices = tensor().indices[:count]

    def run() -> list[torch.Tensor]:
        sites, pairs, counts = spconv.ops.get_indice_pairs(indices, 2, SHAPES[3], ksize=3, subm=True)
        features = torch.ones(count, 2, device="cpu")
        weight = torch.ones(3, 3, 3, 3, 2, device="cpu")
        return [pairs, counts, spconv.functional.indice_subm_conv(features, weight, pairs, counts, len(sites))]

    expected = run()
    with torch.device("meta"):
        found = run()
    assert all(torch.equal(one, two) for one, two in zip(expected, found, strict=True))


def test_output_sizes() -> None:
    size = spconv.ops.get_conv_output_size
    assert size([41, 1600, 1408], [3] * 3, [2] * 3, [1] * 3, [1] * 3) == [21, 800, 704]
    assert size([5, 200, 176], [-1, 3, 3], [1] * 3, [0, 1, 1], [1] * 3) == [1, 200, 176]
    with pytest.raises(ValueError, match="larger than the grid"):
        size([2, 9, 9], [3] * 3, [1] * 3, [0] * 3, [1] * 3)


@pytest.mark.parametrize("key_dtype", [torch.int32, torch.int64])
def test_hash_table(key_dtype: torch.dtype) -> None:
    table = spconv.hash.HashTable(torch.device("cpu"), key_dtype, torch.int64, max_size=20)
    keys = torch.tensor([5, 3, 7, 4, 3], dtype=key_dtype)
    values, is_empty = table.query(keys)
    assert is_empty.tolist() == [1] * 5 and is_empty.dtype == torch.uint8
    table.insert(keys, torch.tensor([50, 30, 70, 40, 31]))
    table.insert(torch.tensor([-9, 5], dtype=key_dtype), torch.tensor([90, 51]))
    values, is_empty = table.query(torch.tensor([3, 8, -9, 5], dtype=key_dtype))
    assert values.tolist() == [30, 0, 90, 50] and is_empty.tolist() == [0, 1, 0, 0]
    missing = table.insert_exist_keys(torch.tensor([8, 4], dtype=key_dtype), torch.tensor([80, 41]))
    assert missing.tolist() == [1, 0]
    found, values, count = table.items()
    assert found.tolist() == [-9, 3, 4, 5, 7] and values.tolist() == [90, 30, 41, 50, 70] and count.item() == 5
    assert table.assign_arange_().item() == 5 and table.items()[1].tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="exceed max_size"):
        table.insert(torch.arange(100, 120, dtype=key_dtype))


# Dynamo looks at the grad attribute of every input, leaf or not, and warns of it itself.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_compiled_layers_equal_eager_ones() -> None:
    torch.compiler.reset()
    x = tensor()
    net = spconv.SparseSequential(spconv.SubMConv3d(4, 6, 3, indice_key="a"), nn.ReLU(), spconv.SparseMaxPool3d(2))
    compiled = torch.compile(net, backend="eager")
    assert torch.equal(compiled(x).features, net(x).features)


def test_flops_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    from sparseconv.flops import count_forward

    x = tensor()
    net = spconv.SparseSequential(
        spconv.SubMConv3d(4, 6, 3), spconv.SparseConv3d(6, 8, 3, 2, 1), spconv.PrintTensorMeta()
    )
    counted = count_forward(net, x)
    assert [layer.kind for layer in counted.layers] == ["SubMConv3d", "SparseConv3d"] and counted.macs > 0
    assert "torch.float32" in capsys.readouterr().out
