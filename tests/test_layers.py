"""Layers: constructors as spconv spells them, parameters, refusals at construction, activations, precision."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import sparseconv
from sparseconv import (
    SparseConv2d,
    SparseConv3d,
    SparseConvolution,
    SparseConvTranspose2d,
    SparseConvTranspose3d,
    SparseInverseConv2d,
    SparseInverseConv3d,
    SparseMaxPool2d,
    SparseTensor,
    SubMConv2d,
    SubMConv3d,
)

CONV = (
    "in_channels out_channels kernel_size stride=1 padding=0 dilation=1 groups=1 bias=True indice_key=None "
    "algo=None fp32_accum=None record_voxel_count=False large_kernel_fast_algo=False name=None"
)
SUBM = (
    "in_channels out_channels kernel_size stride=1 padding=0 dilation=1 groups=1 bias=True indice_key=None "
    "algo=None fp32_accum=None large_kernel_fast_algo=False name=None"
)
INVERSE = (
    "in_channels out_channels kernel_size indice_key bias=True algo=None fp32_accum=None "
    "large_kernel_fast_algo=False name=None"
)
POOL = "kernel_size stride=None padding=0 dilation=1 indice_key=None algo=None record_voxel_count=False name=None"
# spconv 2.3.8; what we add stands behind.
SIGNATURES = {
    "SubMConv": SUBM,
    "SparseConv": CONV,
    "SparseConvTranspose": CONV,
    "SparseInverseConv": INVERSE,
    "SparseMaxPool": POOL,
    "SparseAvgPool": POOL,
    "SparseSumPool": POOL,
}


def sample(seed: int = 0, channels: int = 4, dtype: torch.dtype = torch.float32) -> SparseTensor:
    rng = np.random.default_rng(seed)
    cells = rng.permutation(np.argwhere(rng.random((2, 8, 9)) < 0.4))
    features = torch.from_numpy(rng.normal(size=(len(cells), channels))).to(dtype)
    return SparseTensor(features, torch.from_numpy(cells), [8, 9], 2)


@pytest.mark.parametrize("ndim", [1, 2, 3, 4])
@pytest.mark.parametrize("family", SIGNATURES)
def test_signatures_are_spconvs_positionally(family: str, ndim: int) -> None:
    layer = getattr(sparseconv, f"{family}{ndim}d")
    got = list(inspect.signature(layer).parameters.values())
    for expected, parameter in zip(SIGNATURES[family].split(), got, strict=False):
        name, _, default = expected.partition("=")
        assert parameter.name == name
        assert parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        assert ("" if parameter.default is parameter.empty else repr(parameter.default)) == default
    for added in got[len(SIGNATURES[family].split()) :]:
        assert added.default is not added.empty


def test_the_common_base_is_spconvs_up_to_its_first_fused_activation() -> None:
    names = (
        "ndim in_channels out_channels kernel_size stride padding dilation groups bias subm output_padding "
        "transposed inverse indice_key algo fp32_accum record_voxel_count"
    )
    expected = names.split()
    assert list(inspect.signature(SparseConvolution).parameters)[: len(expected)] == expected
    assert isinstance(SubMConv2d(1, 1, 1), SparseConvolution)


def test_positional_arguments_land_where_they_should() -> None:
    layer = SparseConv2d(4, 6, (3, 5), (2, 1), (1, 0), (1, 2), 2, False, "k", None, True, False, True, "name")
    assert (layer.in_channels, layer.out_channels, layer.groups, layer.indice_key) == (4, 6, 2, "k")
    assert (layer.kernel_size, layer.stride, layer.padding, layer.dilation) == ([3, 5], [2, 1], [1, 0], [1, 2])
    assert layer.bias is None and not layer.subm and not layer.transposed and not layer.inverse
    up = SparseConvTranspose2d(4, 6, 3, 2, 1, 1, 1, True, "k", output_padding=1)
    assert (up.output_padding, up.transposed, up.subm) == ([1, 1], True, False)
    inverse = SparseInverseConv2d(4, 6, 3, "k", False)
    assert (inverse.indice_key, inverse.bias, inverse.inverse) == ("k", None, True)
    pool = SparseMaxPool2d(3, None, 1, 2, "k")
    assert (pool.stride, pool.padding, pool.dilation, pool.indice_key) == ([3, 3], [1, 1], [2, 2], "k")


@pytest.mark.parametrize("ndim", [1, 2, 3, 4])
@pytest.mark.parametrize("family", ["SubMConv", "SparseConv", "SparseConvTranspose", "SparseInverseConv"])
def test_weight_shape_and_initial_values(family: str, ndim: int) -> None:
    kernel = [3, 1, 5, 3][:ndim]
    layer = getattr(sparseconv, f"{family}{ndim}d")(16, 24, kernel, indice_key="k", groups=4)
    assert tuple(layer.weight.shape) == (24, *kernel, 4)
    assert tuple(layer.bias.shape) == (24,)
    bound = 1 / np.sqrt(np.prod(kernel) * 4)
    for values in (layer.weight, layer.bias):
        assert float(values.detach().abs().max()) <= bound
        assert float(values.detach().abs().max()) > 0.8 * bound
        assert abs(float(values.detach().mean())) < bound / 2
    assert layer.ndim == ndim
    torch.manual_seed(5)
    layer.reset_parameters()
    first = layer.weight.detach().clone()
    torch.manual_seed(5)
    layer.reset_parameters()
    assert torch.equal(layer.weight, first)


def test_device_and_dtype_of_parameters() -> None:
    layer = SubMConv3d(2, 3, 3, device="meta", dtype=torch.float64)
    assert layer.bias is not None
    for values in (layer.weight, layer.bias):
        assert (values.device.type, values.dtype) == ("meta", torch.float64)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (SubMConv2d(4, 8, 3, 2, 1), "SubMConv2d(4, 8, kernel_size=[3, 3])"),
        (
            SparseConv2d(4, 8, (3, 1), 2, 1, 2, 2, False, "a"),
            "SparseConv2d(4, 8, kernel_size=[3, 1], stride=[2, 2], padding=[1, 1], dilation=[2, 2], groups=2, "
            "bias=False, indice_key='a')",
        ),
        (
            SparseConvTranspose2d(4, 8, 3, 2, 1, output_padding=1),
            "SparseConvTranspose2d(4, 8, kernel_size=[3, 3], stride=[2, 2], padding=[1, 1], "
            "output_padding=[1, 1])",
        ),
        (SparseInverseConv2d(4, 8, 3, "a"), "SparseInverseConv2d(4, 8, kernel_size=[3, 3], indice_key='a')"),
        (SparseMaxPool2d(3, 2, 1), "SparseMaxPool2d(kernel_size=[3, 3], stride=[2, 2], padding=[1, 1])"),
        (sparseconv.SparseUpsample(2), "SparseUpsample(scale=2)"),
        (sparseconv.SparseUnpool("a"), "SparseUnpool(indice_key='a')"),
        (sparseconv.GroupNorm(2, 4), "GroupNorm(2, 4, eps=1e-05, affine=True)"),
        (sparseconv.ReLU(inplace=True), "ReLU(inplace=True)"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_repr(layer: nn.Module, expected: str) -> None:
    assert repr(layer) == expected


def test_repr_tells_windows_that_differ_apart() -> None:
    windows: list[dict[str, Any]] = [{}, {"dilation": 2}, {"indice_key": "k"}, {"subm": True, "stride": 1}]
    assert len({repr(SparseMaxPool2d(3, **window)) for window in windows}) == len(windows)


CONVS = (SubMConv3d, SparseConv3d, SparseConvTranspose3d)


SIZES = ("kernel_size", "stride", "padding", "dilation", "in_channels", "groups")
BAD_SIZES = [
    (layer, name, value)
    for layer in CONVS
    for name in SIZES
    for value in (-1, 0, True, 2.0, "3", None, (1, 2), (3, 3, 2.0))
    if not (name == "padding" and value == 0)  # a valid value
    if not (layer is SubMConv3d and name in ("stride", "padding"))  # ignored there
]


@pytest.mark.parametrize(("layer", "name", "value"), BAD_SIZES)
def test_sizes_that_cannot_work_are_refused_at_construction(layer: Any, name: str, value: Any) -> None:
    arguments = {"in_channels": 4, "out_channels": 4, "kernel_size": 3, name: value}
    with pytest.raises((TypeError, ValueError), match=f"^{name} must "):
        layer(**arguments)


@pytest.mark.parametrize("layer", [SparseMaxPool2d, sparseconv.SparseAvgPool2d, sparseconv.SparseSumPool2d])
@pytest.mark.parametrize("name", ["kernel_size", "stride", "padding", "dilation"])
@pytest.mark.parametrize("value", [-1, True, 2.0, "3", (1, 2, 3), (2, 0.5)])
def test_windows_that_cannot_work_are_refused_at_construction(layer: Any, name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{name} must "):
        layer(**{"kernel_size": 3, name: value})


@pytest.mark.parametrize("kernel", [2, (3, 3, 4), (2, 3, 3)])
def test_even_submanifold_kernels(kernel: Any) -> None:
    with pytest.raises(
        ValueError, match=r"needs an odd kernel_size on every axis, got .* Use an odd size, or SparseConv"
    ):
        SubMConv3d(2, 2, kernel)


@pytest.mark.parametrize(("c_in", "c_out", "groups"), [(4, 6, 4), (6, 4, 4), (3, 3, 2)])
def test_groups_must_divide_both(c_in: int, c_out: int, groups: int) -> None:
    text = f"groups must divide both channel numbers, got groups {groups} with {c_in} in and {c_out} out"
    for layer in CONVS:
        with pytest.raises(ValueError, match=text):
            layer(c_in, c_out, 3, groups=groups)


def test_output_padding_is_below_stride_or_dilation() -> None:
    assert SparseConvTranspose2d(1, 1, 3, 2, dilation=3, output_padding=2).output_padding == [2, 2]
    for stride, dilation, bad in ((2, 1, 2), (1, 1, 1), ((2, 3), 1, (1, 3)), ((2, 3), 1, (2, 2)), (2, 1, -1)):
        with pytest.raises(ValueError, match="output_padding must"):
            SparseConvTranspose2d(1, 1, 3, stride, dilation=dilation, output_padding=bad)


def test_an_inverse_convolution_needs_a_key() -> None:
    for key in ("", None):
        with pytest.raises(ValueError, match="needs the indice_key of the layer that it undoes"):
            SparseInverseConv3d(2, 2, 3, key)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        SparseInverseConv3d(2, 2, 3)  # type: ignore[call-arg]


def test_which_layers_can_be_undone() -> None:
    assert SparseConv2d(1, 1, 3, indice_key="k").is_inverseable()
    assert not SparseConv2d(1, 1, 3).is_inverseable()
    assert not SubMConv2d(1, 1, 3, indice_key="k").is_inverseable()


@pytest.mark.parametrize(("stride", "padding"), [(2, 1), (3, 0), (1, 5), ((2, 1), (0, 4))])
def test_submanifold_layers_ignore_stride_and_padding(stride: Any, padding: Any) -> None:
    x = sample()
    plain, other = SubMConv2d(4, 5, 3), SubMConv2d(4, 5, 3, stride, padding)
    other.load_state_dict(plain.state_dict())
    assert torch.equal(other(x).features, plain(x).features)
    assert torch.equal(other(x).indices, x.indices)
    assert other(x).spatial_shape == [8, 9]


ACTIVATIONS: list[tuple[str, dict[str, Any]]] = [
    ("Identity", {}),
    ("ReLU", {}),
    ("ReLU6", {}),
    ("LeakyReLU", {"negative_slope": 0.3}),
    ("PReLU", {"num_parameters": 4, "init": 0.4}),
    ("ELU", {"alpha": 0.7}),
    ("GELU", {"approximate": "tanh"}),
    ("SiLU", {}),
    ("Hardswish", {}),
    ("Softplus", {"beta": 2.0}),
    ("Sigmoid", {}),
    ("Tanh", {}),
]


@pytest.mark.parametrize(("name", "arguments"), ACTIVATIONS)
def test_activations_are_torchs(name: str, arguments: dict[str, Any]) -> None:
    x = sample(1)
    x = x.replace_feature(8 * x.features)
    ours, theirs = getattr(sparseconv, name)(**arguments), getattr(nn, name)(**arguments)
    assert isinstance(ours, type(theirs)) and isinstance(ours, sparseconv.SparseModule)
    expected = theirs(x.features)
    got = ours(x)
    assert got.coordinates is x.coordinates
    assert torch.equal(got.features, expected)
    assert torch.equal(ours(x.features), expected)
    empty = SparseTensor(torch.zeros(0, 4), x.indices[:0], [8, 9], 2)
    assert ours(empty).features.shape == (0, 4)


def test_linear_and_dropout_are_torchs() -> None:
    x = sample(2)
    ours, theirs = sparseconv.Linear(4, 7), nn.Linear(4, 7)
    ours.load_state_dict(theirs.state_dict())
    assert torch.equal(ours(x).features, theirs(x.features))
    dropout = sparseconv.Dropout(0.5)
    torch.manual_seed(3)
    got = dropout(x).features
    torch.manual_seed(3)
    assert torch.equal(got, nn.functional.dropout(x.features, 0.5))
    assert bool((got == 0).any())
    assert torch.equal(dropout.eval()(x).features, x.features)


def network() -> sparseconv.Sequential:
    torch.manual_seed(0)
    return sparseconv.Sequential(
        SubMConv2d(4, 8, 3, indice_key="s"),
        sparseconv.BatchNorm(8),
        sparseconv.ReLU(),
        SparseConv2d(8, 6, 3, 2, 1, indice_key="d"),
        sparseconv.GroupNorm(2, 6),
        SparseInverseConv2d(6, 4, 3, "d"),
        sparseconv.Dropout(0.2),
    )


def test_copies_and_saved_states_compute_the_same() -> None:
    model, x = network().eval(), sample(3)
    expected = model(x).features
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x).features, expected)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    fresh = network()
    nn.init.zeros_(fresh[0].weight)  # type: ignore[arg-type]
    assert not torch.equal(fresh.eval()(x).features, expected)
    fresh.load_state_dict(state, strict=True)
    assert torch.equal(fresh(x).features, expected)
    assert list(state) == list(model.state_dict())
    assert all(key.rsplit(".", 1)[1] in ("weight", "bias") or key.startswith("1.") for key in state)


def test_train_and_eval() -> None:
    model, x = network(), sample(4)
    assert not torch.equal(model(x).features, model(x).features)  # dropout
    assert torch.equal(model.eval()(x).features, model(x).features)
    assert all(not part.training for part in model.modules())


def test_double() -> None:
    model, x = network().eval(), sample(5)
    wide = copy.deepcopy(model).double()(x.double())
    assert wide.dtype == torch.float64
    torch.testing.assert_close(wide.features.float(), model(x).features, rtol=1e-4, atol=1e-5)
    with pytest.raises(TypeError, match=r"features are torch.float64 and the weight is torch.float32: convert"):
        model(x.double())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    model, x = network(), sample(6)
    leaf = x.features.clone().requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        convolved = model[0](x)
        got = model(x.replace_feature(leaf))
    assert convolved.dtype == got.dtype == dtype
    expected = model[0](x).features
    size = float(expected.detach().abs().max())
    limit = 37 * torch.finfo(dtype).eps * size  # operands and result rounded once each
    assert float((convolved.features.float() - expected).detach().abs().max()) <= limit
    got.features.float().sum().backward()
    assert leaf.grad is not None and leaf.grad.dtype == torch.float32
    for parameter in model.parameters():
        assert parameter.grad is not None and parameter.grad.dtype == torch.float32


@pytest.mark.parametrize(
    "layer",
    [
        SubMConv2d(4, 4, 3),
        SparseConv2d(4, 4, 3, 2, 1),
        SparseConvTranspose2d(4, 4, 2, 2),
        SparseMaxPool2d(2),
        sparseconv.SparseAvgPool2d(2),
        sparseconv.SparseSumPool2d(2),
        sparseconv.SparseUpsample(2),
    ],
    ids=lambda layer: type(layer).__name__,
)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_maps_that_an_evaluation_left_behind_serve_training(mode: Any, layer: nn.Module) -> None:
    x = sample(7)
    expected = layer(sample(7)).features
    with mode():
        layer(x)
    leaf = x.features.clone().requires_grad_()
    got = layer(x.replace_feature(leaf)).features
    assert torch.equal(got, expected)
    got.sum().backward()
    assert leaf.grad is not None and bool((leaf.grad != 0).any())


@pytest.mark.parametrize("family", ["SubMConv", "SparseConv", "SparseConvTranspose", "SparseInverseConv"])
@pytest.mark.parametrize("ndim", [1, 2, 3, 4])
def test_the_docstring_of_a_named_layer_explains_every_argument(family: str, ndim: int) -> None:
    text = inspect.getdoc(getattr(sparseconv, f"{family}{ndim}d"))
    assert f"in {ndim}D" in text.splitlines()[0]
    arguments = text.partition("Args:")[2].partition("Attributes:")[0]
    for name in inspect.signature(getattr(sparseconv, f"{family}{ndim}d")).parameters:
        assert f"\n    {name}: " in arguments, name
    assert "weight: ``[C_out, *kernel, C_in / groups]``" in text and "Raises:" in text


@pytest.mark.parametrize("name", ["SparseMaxPool3d", "SparseAvgPool2d", "SparseSumPool4d"])
def test_the_docstring_of_a_pooling_layer_explains_every_argument(name: str) -> None:
    text = inspect.getdoc(getattr(sparseconv, name))
    for argument in inspect.signature(getattr(sparseconv, name)).parameters:
        assert f"\n    {argument}: " in text, argument
