"""Folding for inference, and the epilogue that it runs on."""

from __future__ import annotations

import copy

import pytest
import torch
from tolerance import tolerance
from torch import nn

from sparseconv import (
    BatchNorm,
    GroupNorm,
    ReLU,
    Sequential,
    SparseConv3d,
    SparseInverseConv3d,
    SparseTensor,
    SubMConv3d,
    functional,
    fuse,
    use_backend,
)
from sparseconv.models import MODELS, build_model
from sparseconv.nn import SparseConvolution
from sparseconv.ops import convolve_epilogue


def sample(channels: int = 5, rows: int = 700, dtype: torch.dtype = torch.float64) -> SparseTensor:
    """Unsorted sites in two of three samples."""
    cells = torch.randperm(2 * 9 * 11 * 13)[:rows]
    columns = [cells // (9 * 11 * 13) * 2, cells // (11 * 13) % 9, cells // 13 % 11, cells % 13]
    return SparseTensor(torch.randn(rows, channels, dtype=dtype), torch.stack(columns, 1), [9, 11, 13], 3)


def trained(model: nn.Module) -> nn.Module:
    """The model in eval mode with norms that do something."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.running_mean, 0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.3)
    return model.eval()


def features_of(output: object) -> torch.Tensor:
    return output.features if isinstance(output, SparseTensor) else output.encoded.features  # type: ignore[attr-defined]


@pytest.mark.parametrize("groups", [1, 5])
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_epilogue_is_bias_then_residual_then_relu(
    backend: str, dtype: torch.dtype, with_residual: bool, groups: int
) -> None:
    x = sample(dtype=dtype)
    weight = torch.randn(20, 3, 3, 3, 5 // groups, dtype=dtype)
    bias = torch.randn(20, dtype=dtype)
    residual = x.replace_feature(torch.randn(len(x), 20, dtype=dtype)) if with_residual else None
    plain = functional.subm_conv(x.double(), weight.double(), bias.double(), groups=groups).features
    expected = (plain + residual.features.double() if residual else plain).relu()
    found = functional.subm_conv(x, weight, bias, groups=groups, residual=residual, relu=True).features
    assert found.dtype == dtype
    bound = tolerance(dtype, 27 * 5, float(expected.abs().max()))
    assert (found.double() - expected).abs().max() <= bound
    assert (found >= 0).all() and (found == 0).any()


def test_epilogue_keeps_nan_and_has_gradients() -> None:
    x = sample()
    weight = torch.randn(7, 3, 3, 3, 5, dtype=torch.float64, requires_grad=True)
    added = x.replace_feature(torch.randn(len(x), 7, dtype=torch.float64, requires_grad=True))
    out = functional.subm_conv(x, weight, residual=added, relu=True).features
    expected = (functional.subm_conv(x, weight).features + added.features).relu()
    cotangent = torch.randn_like(out)
    for ours, theirs in zip(
        torch.autograd.grad(out, (weight, added.features), cotangent),
        torch.autograd.grad(expected, (weight, added.features), cotangent),
        strict=True,
    ):
        assert torch.equal(ours, theirs)
    features = x.features.clone()
    features[3, 2] = float("nan")
    with torch.no_grad():
        assert functional.subm_conv(x.replace_feature(features), weight, relu=True).features[3].isnan().all()


def test_a_residual_on_other_sites_is_refused() -> None:
    x = sample()
    other = functional.max_pool(x, 2)
    with pytest.raises(ValueError, match=r"the residual lies on .*add tensors on different sites"):
        functional.subm_conv(x, torch.randn(5, 3, 3, 3, 5, dtype=torch.float64), residual=other)
    wrong = x.replace_feature(torch.randn(len(x), 4, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"residual must have shape \[700, 5\].*got \[700, 4\]"):
        functional.subm_conv(x, torch.randn(5, 3, 3, 3, 5, dtype=torch.float64), residual=wrong)
    with pytest.raises(TypeError, match="residual takes a SparseTensor, got Tensor"):
        functional.subm_conv(x, torch.randn(5, 3, 3, 3, 5, dtype=torch.float64), residual=x.features)


def test_epilogue_op_has_a_fake() -> None:
    rows = torch.arange(6, dtype=torch.int32)
    arguments = (torch.randn(6, 3), torch.randn(4, 1, 3), torch.randn(4), torch.randn(6, 4), True)
    torch.library.opcheck(convolve_epilogue.overload, (*arguments, rows, rows, torch.tensor([0, 6]), 6, 1))


def layers() -> Sequential:
    return Sequential(
        SubMConv3d(5, 8, 3),
        BatchNorm(8),
        ReLU(),
        SparseConv3d(8, 12, 3, 2, 1, bias=False, indice_key="down"),
        nn.BatchNorm1d(12),
        nn.ReLU(),
        nn.Sequential(SubMConv3d(12, 12, 3, groups=4), BatchNorm(12, affine=False)),
        SubMConv3d(12, 12, 1),
        GroupNorm(3, 12),
        SparseInverseConv3d(12, 6, 3, indice_key="down"),
        ReLU(),
    )


def test_fused_chain_computes_the_same_in_fewer_modules(backend: str) -> None:
    model = trained(layers().double())
    before = copy.deepcopy(model.state_dict())
    fused = fuse(model)
    x = sample()
    with torch.no_grad():
        expected, found = model(x), fused(x)
    assert torch.equal(found.indices, expected.indices)
    bound = tolerance(torch.float64, 27 * 12 * 4, 50.0)
    torch.testing.assert_close(found.features, expected.features, rtol=bound, atol=bound)
    left = [type(module).__name__ for module in fused.modules()]
    assert "ReLU" not in left and "BatchNorm" not in left and "BatchNorm1d" not in left
    assert "GroupNorm" in left
    assert [conv.fused_relu for conv in fused.modules() if isinstance(conv, SparseConvolution)] == [
        True,
        True,
        False,
        False,
        True,
    ]
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), f"fuse changed {name} of the original"


@pytest.mark.parametrize("name", sorted(MODELS))
def test_fused_models_compute_the_same(name: str) -> None:
    torch.manual_seed(0)
    model = trained(build_model(name, 4).double())
    fused = fuse(model)
    cells = torch.randperm(48 * 48 * 48)[:900]
    indices = torch.stack([cells * 0, cells // (48 * 48), cells // 48 % 48, cells % 48], 1)
    x = SparseTensor(torch.randn(900, 4, dtype=torch.float64), indices, [48, 48, 48], 1)
    with torch.no_grad():
        expected, found = features_of(model(x)), features_of(fused(x))
    scale = float(expected.abs().max())
    assert scale > 0
    # Rounding grows by a small factor through each of up to 60 layers.
    assert (found - expected).abs().max() <= 100 * tolerance(torch.float64, 27 * 256, scale)
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in fused.modules())


def test_what_cannot_be_folded_stays() -> None:
    with pytest.raises(ValueError, match=r"call model\.eval\(\) first"):
        fuse(layers())
    shared = SubMConv3d(4, 4, 3)
    model = trained(Sequential(shared, BatchNorm(4), Sequential(shared, BatchNorm(4))))
    assert sum(isinstance(module, BatchNorm) for module in fuse(model).modules()) == 2
    untracked = Sequential(SubMConv3d(4, 4, 3), BatchNorm(4, track_running_stats=False)).eval()
    assert isinstance(fuse(untracked)[1], BatchNorm)
    late = trained(Sequential(SubMConv3d(4, 4, 3), ReLU(), BatchNorm(4)))
    x = sample(4, dtype=torch.float32)
    with torch.no_grad(), use_backend("reference"):
        torch.testing.assert_close(fuse(late)(x).features, late(x).features)
