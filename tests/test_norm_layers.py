"""Normalisation layers against torch's on the rows of each sample; empty tensors in training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tolerance import tolerance
from torch import Tensor, nn

import sparseconv
from sparseconv import BatchNorm, GroupNorm, InstanceNorm, LayerNorm, SparseTensor, SubMConv2d, SyncBatchNorm
from sparseconv import functional as F


def sample(seed: int = 0, channels: int = 6, dtype: torch.dtype = torch.float32) -> SparseTensor:
    """Unsorted sites in a batch of 3 whose middle sample is empty."""
    rng = np.random.default_rng(seed)
    cells = np.argwhere(rng.random((3, 8, 9)) < 0.4)
    cells = rng.permutation(cells[cells[:, 0] != 1])
    features = torch.from_numpy(rng.normal(1.0, 3.0, (len(cells), channels))).to(dtype)
    return SparseTensor(features, torch.from_numpy(cells), [8, 9], 3)


def empty(channels: int = 6) -> SparseTensor:
    return SparseTensor(torch.zeros(0, channels), torch.zeros(0, 3, dtype=torch.int32), [8, 9], 2)


def by_sample(x: SparseTensor, features: Tensor, norm: nn.Module) -> Tensor:
    """A torch norm on each sample's ``[1, C, n]``."""
    out = torch.zeros_like(features)
    for number in range(x.batch_size):
        rows = torch.nonzero(x.indices[:, 0] == number)[:, 0]
        if len(rows):
            out = out.index_copy(0, rows, norm(features[rows].T[None])[0].T)
    return out


@pytest.mark.parametrize(
    "arguments",
    [{}, {"eps": 1e-2, "momentum": 0.4}, {"affine": False}, {"momentum": None}, {"track_running_stats": False}],
)
def test_batch_norm_is_torchs_on_the_features(arguments: dict[str, Any], backend: str) -> None:
    ours, theirs = BatchNorm(6, **arguments), nn.BatchNorm1d(6, **arguments).double()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for step in range(3):
        x = sample(step)
        first, second = x.features.clone().requires_grad_(), x.features.double().requires_grad_()
        got, expected = ours(x.replace_feature(first)), theirs(second)
        close = tolerance(torch.float32, len(x), 10.0)
        torch.testing.assert_close(got.features.double(), expected, rtol=0, atol=close)
        got.features.pow(3).sum().backward()
        expected.pow(3).sum().backward()
        assert first.grad is not None and second.grad is not None
        scale = float(second.grad.abs().max())
        torch.testing.assert_close(first.grad.double(), second.grad, rtol=0, atol=10 * close * scale)
        assert got.coordinates is x.coordinates
        for name, value in ours.state_dict().items():
            torch.testing.assert_close(value.double(), theirs.state_dict()[name].double(), rtol=0, atol=close)
    ours.eval(), theirs.eval()
    x = sample(9)
    torch.testing.assert_close(ours(x).features.double(), theirs(x.features.double()), rtol=0, atol=close)
    plain = nn.BatchNorm1d(6, **arguments).eval()
    plain.load_state_dict(ours.state_dict())
    assert torch.equal(ours(x.features), plain(x.features))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_batch_norm_takes_sums_of_halves_in_float32(dtype: torch.dtype) -> None:
    x = sample(2, dtype=dtype)
    got, exact = BatchNorm(6)(x), nn.BatchNorm1d(6).double()(x.features.double())
    assert got.dtype == dtype
    torch.testing.assert_close(got.features.double(), exact, rtol=0, atol=tolerance(dtype, len(x), 10.0))


def test_batch_norm_is_the_same_on_any_number_of_threads() -> None:
    rows = 40_000
    sites = torch.stack([torch.zeros(rows), torch.arange(rows)], 1).int()
    features = torch.randn(rows, 19)
    results = []
    before = torch.get_num_threads()
    try:
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            norm, leaf = BatchNorm(19), features.clone().requires_grad_()
            out = norm(SparseTensor(leaf, sites)).features
            gradients = torch.autograd.grad(out, (leaf, norm.weight, norm.bias), features.sin())
            results.append((out, *gradients, norm.running_mean, norm.running_var))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for first, second in zip(results[0], other, strict=True):
            assert torch.equal(first, second)


def test_batch_norm_has_derivatives_of_every_order() -> None:
    x = sample(7, 3, torch.float64)
    norm = BatchNorm(3).double()

    def run(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.batch_norm(x.replace_feature(features), None, None, weight, bias, True).features

    leaves = (x.features.clone().requires_grad_(), norm.weight, norm.bias)
    assert torch.autograd.gradcheck(run, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, leaves, fast_mode=True)


def test_batch_norm_refuses_one_site_in_training() -> None:
    one = SparseTensor(torch.ones(1, 6), torch.zeros(1, 3, dtype=torch.int32), [8, 9], 1)
    with pytest.raises(ValueError, match="more than one site in training"):
        BatchNorm(6)(one)
    assert BatchNorm(6).eval()(one).features.shape == (1, 6)
    with pytest.raises(ValueError, match="features of 6 channels"):
        BatchNorm(5)(sample())


def test_layer_norm_is_torchs_on_the_features() -> None:
    ours, theirs = LayerNorm(6, eps=1e-3), nn.LayerNorm(6, eps=1e-3)
    assert torch.equal(ours(sample(1)).features, theirs(sample(1).features))
    assert torch.equal(ours(sample(1).features), theirs(sample(1).features))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("groups", [1, 2, 3, 6])
@pytest.mark.parametrize("affine", [True, False])
def test_group_norm_is_torchs_for_each_sample(groups: int, affine: bool, dtype: torch.dtype) -> None:
    x = sample(2, dtype=dtype)
    ours, theirs = GroupNorm(groups, 6, 1e-3, affine).to(dtype), nn.GroupNorm(groups, 6, 1e-3, affine).double()
    if affine:
        weights = torch.randn(2, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
        ours.load_state_dict({"weight": weights[0], "bias": weights[1]})
        theirs.load_state_dict({"weight": weights[0], "bias": weights[1]})
    first, second = x.features.clone().requires_grad_(), x.features.double().requires_grad_()
    got, expected = ours(x.replace_feature(first)), by_sample(x, second, theirs)
    assert got.dtype == dtype
    atol = tolerance(dtype, 60, 10.0)
    torch.testing.assert_close(got.features.double(), expected, rtol=0, atol=atol)
    cotangent = torch.randn(x.features.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    got.features.backward(cotangent)
    expected.backward(cotangent.double())
    assert first.grad is not None and second.grad is not None
    torch.testing.assert_close(first.grad.double(), second.grad, rtol=0, atol=atol)


def test_group_norm_does_not_lose_a_large_mean() -> None:
    x = sample(3)
    far = x.replace_feature(x.features + 3000.0)
    got, exact = GroupNorm(2, 6)(far), GroupNorm(2, 6).double()(far.double())
    # Values of 3000 are stored to 2.4e-4, a spread of 3 makes that 1e-4 of the result.
    torch.testing.assert_close(got.features, exact.features.float(), rtol=0, atol=2e-3)


@pytest.mark.parametrize("affine", [True, False])
def test_instance_norm_is_torchs_for_each_sample(affine: bool) -> None:
    x = sample(4, dtype=torch.float64)
    ours, theirs = InstanceNorm(6, 1e-3, affine).double(), nn.InstanceNorm1d(6, 1e-3, affine=affine).double()
    if affine:
        nn.init.normal_(theirs.weight)
        ours.load_state_dict(theirs.state_dict())
    got = ours(x).features
    torch.testing.assert_close(
        got, by_sample(x, x.features, theirs), rtol=0, atol=tolerance(torch.float64, 60, 10.0)
    )
    assert torch.equal(F.instance_norm(x, ours.weight, ours.bias, 1e-3).features, got)
    assert not InstanceNorm(6).affine  # as in torch


def test_gradcheck_of_the_per_sample_norms() -> None:
    x = sample(5, 4, torch.float64)
    weights = torch.randn(2, 4, dtype=torch.float64).requires_grad_()

    def run(features: Tensor, scale: Tensor) -> Tensor:
        return F.group_norm(x.replace_feature(features), 2, scale[0], scale[1]).features

    leaf = x.features.clone().requires_grad_()
    assert torch.autograd.gradcheck(run, (leaf, weights), fast_mode=True)
    assert torch.autograd.gradgradcheck(run, (leaf, weights), fast_mode=True)


NORMS = [
    BatchNorm(6),
    LayerNorm(6),
    GroupNorm(3, 6),
    InstanceNorm(6),
    InstanceNorm(6, affine=True),
    SyncBatchNorm(6),
]


@pytest.mark.parametrize("norm", NORMS, ids=lambda norm: type(norm).__name__)
def test_nothing_in_training(norm: nn.Module) -> None:
    norm.train()
    state = {name: value.clone() for name, value in norm.state_dict().items()}
    assert norm(empty()).features.shape == (0, 6)
    for name, value in norm.state_dict().items():
        assert torch.equal(value, state[name])


@pytest.mark.parametrize(
    "inner",
    [
        nn.BatchNorm1d(6),
        nn.SyncBatchNorm(6),
        nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU()),
        nn.LayerNorm(6),
        nn.Linear(6, 6),
    ],
    ids=lambda inner: type(inner).__name__,
)
def test_nothing_in_training_through_plain_modules(inner: nn.Module) -> None:
    model = sparseconv.Sequential(SubMConv2d(6, 6, 3), inner, sparseconv.ReLU()).train()
    got = model(empty())
    assert got.features.shape == (0, 6)
    got.features.sum().backward()
    for value in model.state_dict().values():
        assert bool(torch.isfinite(value.double()).all())


def test_a_plain_batch_norm_in_a_chain_is_torchs() -> None:
    x = sample(6)
    plain, ours = sparseconv.Sequential(nn.BatchNorm1d(6)), BatchNorm(6)
    close = tolerance(torch.float32, len(x), 10.0)
    torch.testing.assert_close(plain(x).features, ours(x).features, rtol=0, atol=close)
    torch.testing.assert_close(plain[0].running_var, ours.running_var, rtol=0, atol=close)


def trained_model() -> sparseconv.Sequential:
    model = sparseconv.Sequential(
        SubMConv2d(6, 6, 3),
        BatchNorm(6, eps=1e-2, momentum=0.3),
        nn.Sequential(nn.BatchNorm1d(6), nn.ReLU()),
        sparseconv.Sequential(BatchNorm(6, affine=False), sparseconv.ReLU()),
    )
    model(sample(7))
    return model


def test_convert_sync_batchnorm_and_its_eval_forward() -> None:
    model = trained_model().eval()
    x = sample(8)
    expected = model(x).features
    synced = SyncBatchNorm.convert_sync_batchnorm(model)
    assert synced is model
    kinds = [type(part) for part in synced.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    assert kinds == [SyncBatchNorm, nn.SyncBatchNorm, SyncBatchNorm]
    assert (synced[1].eps, synced[1].momentum, synced[3][0].affine) == (1e-2, 0.3, False)
    assert not any(part.training for part in synced.modules())
    torch.testing.assert_close(synced(x).features, expected, rtol=1e-6, atol=1e-6)
    assert synced[1](empty()).features.shape == (0, 6)
    assert isinstance(SyncBatchNorm.convert_sync_batchnorm(BatchNorm(6)), SyncBatchNorm)


def test_convert_sync_batchnorm_keeps_type_and_frozen_parameters() -> None:
    norm = BatchNorm(6).double()
    assert norm.weight is not None
    norm.weight.requires_grad_(False)
    optimised = norm.bias
    synced = SyncBatchNorm.convert_sync_batchnorm(norm)
    reference = nn.SyncBatchNorm.convert_sync_batchnorm(norm)
    assert synced.weight.dtype == reference.weight.dtype == torch.float64
    assert synced.running_mean.dtype == torch.float64
    assert not synced.weight.requires_grad and not reference.weight.requires_grad
    # An optimiser made before the conversion still trains the parameters of the model.
    assert reference.bias is optimised
    assert synced.bias is optimised


def test_an_empty_process_takes_part_in_the_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one process has no sites, the others wait for its statistics: it may not leave early."""
    calls: list[int] = []

    def record(self: nn.SyncBatchNorm, features: Tensor) -> Tensor:
        calls.append(len(features))
        return features

    monkeypatch.setattr(nn.SyncBatchNorm, "forward", record)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    norm = SyncBatchNorm(6).train()
    norm(sample())
    norm(empty())
    assert calls == [len(sample()), 0]


def test_groups_must_divide_the_channels() -> None:
    for groups in (0, 4, -1):
        with pytest.raises(ValueError, match=f"must divide num_channels, got {groups} groups and 6 channels"):
            GroupNorm(groups, 6)
    with pytest.raises(ValueError, match="the 6 channels cannot be cut into 4 groups"):
        F.group_norm(sample(), 4)
    with pytest.raises(ValueError, match="groups"):
        F.group_norm(sample(), 0)


@pytest.mark.parametrize("affine", [True, False])
def test_a_norm_of_other_channels_is_refused(affine: bool) -> None:
    for norm in (GroupNorm(2, 8, affine=affine), InstanceNorm(12, affine=affine)):
        with pytest.raises(ValueError, match="channels"):
            norm(sample())


def test_batch_norm_refuses_running_statistics_that_cannot_normalise() -> None:
    """Without them nothing would be normalised, and one alone would be passed over."""
    x, zeros, ones = sample(), torch.zeros(6), torch.ones(6)
    with pytest.raises(ValueError, match="no statistics to normalise by: pass running_mean and running_var, or"):
        F.batch_norm(x, None, None)
    for mean, variance in ((zeros, None), (None, ones)):
        for training in (False, True):
            with pytest.raises(ValueError, match="running_mean and running_var together"):
                F.batch_norm(x, mean, variance, training=training)
    with pytest.raises(ValueError, match=r"running_var of shape \[5\]: it must have shape \[6\]"):
        F.batch_norm(x, zeros, ones[:5])


@pytest.mark.parametrize("shape", [(1,), (3,), (1, 6)])
def test_group_norm_refuses_weights_of_another_shape(shape: tuple[int, ...]) -> None:
    for name in ("weight", "bias"):
        with pytest.raises(ValueError, match=rf"a {name} of shape .* must have shape \[6\]"):
            F.group_norm(sample(), 2, **{name: torch.ones(shape)})
    with pytest.raises(ValueError, match="a weight of shape"):
        F.instance_norm(sample(), torch.ones(shape))


@pytest.mark.parametrize("kind", [GroupNorm, InstanceNorm])
def test_per_sample_norms_take_a_device_and_a_dtype(kind: type[GroupNorm]) -> None:
    channels = (3, 6) if kind is GroupNorm else (6,)
    norm = kind(*channels, affine=True, dtype=torch.float64)
    assert norm.weight.dtype == norm.bias.dtype == torch.float64
    assert kind(*channels, affine=True, device="meta").weight.device.type == "meta"
    assert (norm.weight == 1).all() and (norm.bias == 0).all()
    norm.weight.data.fill_(3)
    norm.reset_parameters()
    assert (norm.weight == 1).all()


def test_arguments_of_torchs_norms_in_other_places_are_refused() -> None:
    """torch's third argument of an instance norm is its momentum."""
    with pytest.raises(TypeError, match=r"affine must be True or False, got 0\.1: there is no momentum"):
        InstanceNorm(6, 1e-5, 0.1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="num_groups must be an integer"):
        GroupNorm(2.0, 6)  # type: ignore[arg-type]
