"""torch's own counter, ``FlopCounterMode``, on the engine's ops: exact from the pairs, forward and backward."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scans import GRID, random_sites, scan_sites
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

import sparseconv as sc
from sparseconv import functional as F
from sparseconv.flops import count_forward, count_training
from sparseconv.models import build_model


def scattered(channels: int) -> sc.SparseTensor:
    """Unsorted sites, with an empty sample in the middle."""
    sites = random_sites(80, (7, 9, 6), (0, 2), seed=3, shuffled=True)
    return sc.SparseTensor(torch.randn(80, channels), sites, [7, 9, 6], 3)


def flops_of(run: Callable[[], Any]) -> dict[str, int]:
    """FLOPs by op as torch's counter gives them."""
    with FlopCounterMode(display=False) as counter:
        run()
    return {str(op): flops for op, flops in counter.get_flop_counts().get("Global", {}).items()}


LAYERS: dict[str, Callable[[], sc.nn.SparseConvolution]] = {
    "submanifold": lambda: sc.SubMConv3d(6, 9, 3),
    "pointwise": lambda: sc.SubMConv3d(6, 5, 1),
    "groups": lambda: sc.SubMConv3d(6, 9, 3, groups=3, bias=False),
    "depthwise": lambda: sc.SubMConv3d(6, 12, 5, groups=6),
    "dilated": lambda: sc.SubMConv3d(6, 1, (1, 3, 5), dilation=2),
    "strided": lambda: sc.SparseConv3d(6, 8, 3, stride=2, padding=1, groups=2),
    "even": lambda: sc.SparseConv3d(6, 17, 2, stride=2),
    "transposed": lambda: sc.SparseConvTranspose3d(6, 4, 3, stride=2, padding=1, groups=2),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_forward_and_backward(name: str, backend: str) -> None:
    layer = LAYERS[name]()
    x = scattered(6)
    macs = layer.kernel_map(x).macs(layer.in_channels, layer.out_channels, layer.groups)
    assert macs > 0
    assert flops_of(lambda: layer(x)) == {"sparseconv.convolve": 2 * macs}
    # The input needs no gradient: the weight's alone. A bias counts nothing, as in torch.
    assert flops_of(lambda: layer(x).features.sum().backward()) == {
        "sparseconv.convolve": 2 * macs,
        "sparseconv.convolve_weight_gradient": 2 * macs,
    }
    x.features.requires_grad_()
    assert flops_of(lambda: layer(x).features.sum().backward()) == {
        "sparseconv.convolve": 2 * 2 * macs,
        "sparseconv.convolve_weight_gradient": 2 * macs,
    }


def test_a_full_grid_counts_what_torch_counts_for_the_dense_layer_without_padding() -> None:
    dense = torch.rand(2, 3, 8, 7, 6) + 1
    ours, theirs = sc.SparseConv3d(3, 5, 3), torch.nn.Conv3d(3, 5, 3)
    x = sc.SparseTensor.from_dense(dense, channels_first=True)
    (expected,) = flops_of(lambda: theirs(dense)).values()
    assert flops_of(lambda: ours(x)) == {"sparseconv.convolve": expected}


def test_inverse_and_given_sites() -> None:
    down = sc.SparseConv3d(6, 4, 3, stride=2, padding=1, indice_key="down")
    up = sc.SparseInverseConv3d(4, 5, 3, indice_key="down")
    x = scattered(6)
    coarse = down(x)
    macs = up.kernel_map(coarse).macs(4, 5)
    assert flops_of(lambda: up(coarse)) == {"sparseconv.convolve": 2 * macs}
    target = scattered(1)
    on_target = x.coordinates.map_onto(target.coordinates, LAYERS["submanifold"]().geometry)
    assert flops_of(lambda: LAYERS["submanifold"]().onto(x, target)) == {
        "sparseconv.convolve": 2 * on_target.macs(6, 9)
    }


def test_fused_inference_counts_the_same() -> None:
    layer = sc.SubMConv3d(6, 6, 3, groups=2)
    x = scattered(6)
    macs = layer.kernel_map(x).macs(6, 6, 2)
    with torch.no_grad():
        run = lambda: F.subm_conv(x, layer.weight, layer.bias, groups=2, residual=x, relu=True)  # noqa: E731
        assert flops_of(run) == {"sparseconv.convolve_epilogue": 2 * macs}


def test_pooling_and_norms_count_nothing_and_linear_layers_what_torch_counts() -> None:
    model = sc.Sequential(sc.SparseMaxPool3d(2), sc.BatchNorm(6), sc.SparseAvgPool3d(2), sc.SparseGlobalSumPool())
    x = scattered(6)
    x.features.requires_grad_()
    assert flops_of(lambda: model(x).sum().backward()) == {}
    assert flops_of(lambda: sc.Linear(6, 7)(x)) == {"aten.addmm": 2 * 80 * 6 * 7}


@pytest.mark.parametrize("name", ["VoxelBackBone8x", "MinkUNet14"])
def test_backbones_agree_with_our_own_count(name: str) -> None:
    torch.manual_seed(0)
    sites = scan_sites()
    if name == "MinkUNet14":
        sites = sites[(sites[:, 2] - 800).abs() < 60]
    features = torch.randn(len(sites), 4)

    def fresh() -> sc.SparseTensor:
        return sc.SparseTensor(features, sites, GRID, 1)

    model = build_model(name, 4).train()
    ours = count_training(model, fresh())
    assert count_forward(model, fresh()).macs == ours.macs
    forward = flops_of(lambda: model(fresh()))
    assert sum(forward.values()) == 2 * ours.macs
    both = flops_of(lambda: model(fresh()).encoded.features.sum().backward())
    assert sum(both.values()) == 2 * (ours.macs + ours.backward_macs)
    # Both gradients of every layer, but for the network's own input.
    assert ours.backward_macs == 2 * ours.macs - ours.layers[0].macs


@pytest.mark.parametrize("groups", [1, 2])
def test_fake_tensors_count_the_same(groups: int) -> None:
    layer = sc.SubMConv3d(6, 8, 3, groups=groups)
    x = scattered(6)
    kernel_map = layer.kernel_map(x)
    back = kernel_map.transposed()
    arguments = (
        *(x.features, layer.weight.detach().flatten(1, -2), layer.bias, kernel_map.in_rows, kernel_map.out_rows),
        *(kernel_map.tap_offsets, back.in_rows, back.out_rows),
    )
    expected = {"sparseconv.convolve": 2 * kernel_map.macs(6, 8, groups)}
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fakes = [mode.from_tensor(argument.detach()) for argument in arguments if argument is not None]
        assert flops_of(lambda: torch.ops.sparseconv.convolve(*fakes, len(x), groups)) == expected
    metas = [argument.detach().to("meta") for argument in arguments if argument is not None]
    assert flops_of(lambda: torch.ops.sparseconv.convolve(*metas, len(x), groups)) == expected


def test_an_empty_tensor_counts_nothing() -> None:
    x = sc.SparseTensor(torch.ones(0, 6, requires_grad=True), torch.zeros(0, 4, dtype=torch.int32), [7, 9, 6], 3)
    run = lambda: sc.SubMConv3d(6, 9, 3)(x).features.sum().backward()  # noqa: E731
    assert sum(flops_of(run).values()) == 0


@pytest.mark.parametrize("counter_first", [False, True])
def test_registration_needs_no_import_of_the_counter(counter_first: bool) -> None:
    script = f"""
import sys
if {counter_first}:
    import torch.utils.flop_counter
before = list(sys.meta_path)
import sparseconv
assert {counter_first} or "torch.utils.flop_counter" not in sys.modules
import torch
import torch.utils.flop_counter as counter
assert all(getattr(torch.ops.sparseconv, name) in counter.flop_registry for name in
           ("convolve", "convolve_epilogue", "convolve_weight_gradient"))
assert torch.ops.aten.mm in counter.flop_registry
assert not [finder for finder in sys.meta_path if type(finder).__module__.startswith("sparseconv")]
assert type(counter.__spec__.loader).__module__.startswith("_frozen"), counter.__spec__
"""
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("look_first", [False, True])
def test_a_mere_look_for_the_counter_does_not_lose_the_formulas(look_first: bool) -> None:
    script = f"""
import sys
import importlib.util
{"" if look_first else "import sparseconv"}
assert importlib.util.find_spec("torch.utils.flop_counter") is not None
import sparseconv
assert importlib.util.find_spec("torch.utils.flop_counter") is not None
assert "torch.utils.flop_counter" not in sys.modules
import torch
import torch.utils.flop_counter as counter
assert torch.ops.sparseconv.convolve in counter.flop_registry
assert not [finder for finder in sys.meta_path if type(finder).__module__.startswith("sparseconv")]
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_weighted_pairs_count_what_is_present() -> None:
    from sparseconv import ops

    rows = torch.tensor([0, -1, 2, 1, 1], dtype=torch.int32)
    out_rows = torch.tensor([-1, 0, 0, 2, 2], dtype=torch.int32)
    features, coefficients = torch.randn(3, 6, requires_grad=True), torch.randn(5, 2, requires_grad=True)
    run = lambda: ops.weighted_sum(features, coefficients, rows, out_rows, 3)  # noqa: E731
    # Three of the five pairs have both rows; each does one multiply-add a channel.
    assert flops_of(run) == {"sparseconv.weighted_sum": 2 * 3 * 6}
    assert flops_of(lambda: run().sum().backward()) == {
        "sparseconv.weighted_sum": 2 * 2 * 3 * 6,
        "sparseconv.pair_dots": 2 * 3 * 6,
    }
    dots = lambda: torch.ops.sparseconv.pair_dots(features.detach(), features.detach(), rows, out_rows, 2)  # noqa: E731
    assert flops_of(dots) == {"sparseconv.pair_dots": 2 * 3 * 6}
    metas = [tensor.detach().to("meta") for tensor in (features, coefficients, rows, out_rows)]
    # Without data every pair counts.
    assert flops_of(lambda: torch.ops.sparseconv.weighted_sum(*metas, 3)) == {"sparseconv.weighted_sum": 2 * 5 * 6}
