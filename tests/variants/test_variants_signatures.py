"""One signature for each variant: sparse in every dimension and family, and dense."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import nn
from variant_layers import WIDTH, scene

import sparseconv
from sparseconv import dense_ops
from sparseconv.nn import variants

NAMES = sorted(name for name in variants.__all__ if name[-2:] in ("1d", "2d", "3d", "4d"))
# On pixels there are two axes with names; on voxels the default is the order of the indices, which is the same.
DIFFERENT = {("SpatiallySeparableConv", "order")}


def stem(name: str) -> str:
    return name[:-2].removeprefix("SubM").removeprefix("Sparse")


def defaults(layer: type) -> dict[str, Any]:
    parameters = inspect.signature(layer).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD}


@pytest.mark.parametrize("name", NAMES)
def test_a_kernel_has_three_taps_an_axis_unless_another_size_is_given(name: str) -> None:
    assert defaults(getattr(sparseconv, name))["kernel_size"] == 3


@pytest.mark.parametrize("name", sorted({stem(name) for name in NAMES}))
def test_the_dense_twin_has_the_same_arguments_in_the_same_order(name: str) -> None:
    dense = defaults(getattr(dense_ops, f"{name}2d"))
    assert dense["kernel_size"] == 3
    for family in ("SubM", "Sparse"):
        if not hasattr(sparseconv, f"{family}{name}2d"):
            continue
        sparse = defaults(getattr(sparseconv, f"{family}{name}2d"))
        shared = [argument for argument in sparse if argument in dense]
        assert shared == [argument for argument in dense if argument in sparse]
        for argument in shared:
            assert (name, argument) in DIFFERENT or sparse[argument] == dense[argument], argument


def build(name: str, **factory: Any) -> nn.Module:
    kind = getattr(sparseconv, name, None) or getattr(dense_ops, name)
    axes = int(name[-2])
    leading = ({(0,) * axes: WIDTH},) if "ICConv" in name else ()
    return kind(*leading, *((16,) if "Involution" in name else (16, WIDTH)), **factory)


# An octave layer in the middle of a network takes a pair.
@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("3d") and "Octave" not in name])
def test_channels_alone_make_a_layer(name: str) -> None:
    out = build(name).double().eval()(scene(3, channels=16))
    assert out.features.shape[1] == (16 if "Involution" in name else WIDTH)
    assert float(out.features.detach().abs().max()) > 0


@pytest.mark.parametrize(
    "name", [n for n in NAMES if n.endswith("3d")] + sorted({f"{stem(name)}2d" for name in NAMES})
)
def test_a_device_and_a_dtype_reach_every_parameter(name: str) -> None:
    double, usual = build(name, dtype=torch.float64), build(name)
    assert {p.dtype for p in double.parameters()} == {torch.float64}
    assert {p.dtype for p in usual.parameters()} == {torch.float32}
    meta = build(name, device="meta")
    assert {t.device.type for t in (*meta.parameters(), *meta.buffers())} == {"meta"}
    assert [n for n, _ in meta.named_parameters()] == [n for n, _ in usual.named_parameters()]
