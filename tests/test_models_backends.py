"""Each network on a whole LiDAR scan: the CPU backend against the reference backend, gradients included."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from test_models_inputs import assert_close, crop, network_tolerance, second_voxels, settle, whole_scan
from torch import Tensor, nn

import sparseconv
from sparseconv import SparseTensor
from sparseconv.backends import reference
from sparseconv.models import MODELS, BackboneOutput, UNetOutput, build_model

CROP = [41, 32, 32]


def outputs(output: BackboneOutput) -> dict[str, SparseTensor]:
    """What a head may read, by name."""
    voxels = {"voxels": output.voxels} if isinstance(output, UNetOutput) else {}
    return {"encoded": output.encoded, **voxels, **output.stages}


@pytest.fixture
def reference_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of output rows of each convolution that the reference backend executes."""
    calls: list[int] = []
    convolve = reference.convolve

    def counted(*args: object) -> Tensor:
        out = convolve(*args)  # type: ignore[arg-type]
        calls.append(len(out))
        return out

    monkeypatch.setattr(reference, "convolve", counted)
    return calls


@pytest.mark.parametrize("scan", [second_voxels, whole_scan], ids=["second", "whole"])
@pytest.mark.parametrize("name", MODELS)
def test_a_whole_scan(name: str, scan: Callable[[], SparseTensor], reference_calls: list[int]) -> None:
    model = settle(build_model(name, 4), scan())
    with torch.no_grad():
        fast = outputs(model(scan()))
        assert not reference_calls
        with sparseconv.use_backend("reference"):
            expected = outputs(model(scan()))
    assert len(scan()) in reference_calls
    assert fast.keys() == expected.keys()
    for key, want in expected.items():
        assert torch.equal(fast[key].indices, want.indices), key
        assert fast[key].spatial_shape == want.spatial_shape, key
        assert_close(fast[key].features, want.features, network_tolerance(model, want.features))


def gradients(model: nn.Module, bounded: bool) -> dict[str, Tensor]:
    """Gradients of a random projection of everything that a head may read."""
    sites = crop(CROP, bounded)
    x = sites.replace_feature(sites.features.clone().requires_grad_())
    model.zero_grad()
    generator = torch.Generator().manual_seed(2)
    loss = x.features.new_zeros(())
    for result in outputs(model(x)).values():
        weights = torch.randn(result.features.shape, dtype=torch.float64, generator=generator)
        loss = loss + (result.features * weights).sum()
    loss.backward()
    found = {"input": x.features.grad, **{key: value.grad for key, value in model.named_parameters()}}
    return {key: value.clone() for key, value in found.items() if value is not None}


@pytest.mark.parametrize("bounded", [True, False], ids=["bounded", "unbounded"])
@pytest.mark.parametrize("name", MODELS)
def test_gradients_on_a_crop(name: str, bounded: bool, reference_calls: list[int]) -> None:
    sites = crop(CROP, bounded)
    model = settle(build_model(name, 4).double(), sites)
    fast = gradients(model, bounded)
    assert not reference_calls
    with sparseconv.use_backend("reference"):
        expected = gradients(model, bounded)
    assert reference_calls
    assert fast.keys() == expected.keys() == {"input", *dict(model.named_parameters())}
    for key, want in expected.items():
        assert want.any(), key
        assert_close(fast[key], want, network_tolerance(model, want, more_terms=len(sites)))
