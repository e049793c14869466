"""What holds for each sparse variant: order, place, samples, empty inputs, backends, saving, precision."""

from __future__ import annotations

import copy
import inspect
import io

import pytest
import torch
from tolerance import assert_close
from variant_layers import CHANNELS, LAYERS, SHAPES, WIDTH, layer_class, scene, settled, with_features

import sparseconv
from sparseconv import SparseTensor, nn
from sparseconv.circle_taps import _matrix
from sparseconv.nn import variants

KEEPS_SITES = [name for name in LAYERS if name.startswith(("subm", "octave"))]
DIMENSIONS = [(name, 3) for name in LAYERS] + [(name, 2) for name in LAYERS]
FOUR_AND_ONE = [(name, ndim) for name in LAYERS for ndim in (1, 4) if not (name == "subm_apdc" and ndim == 1)]


def results(layer: torch.nn.Module, x: SparseTensor) -> list[torch.Tensor]:
    """Output, its sites and every gradient."""
    rows = x.features.detach().clone().requires_grad_()
    out = layer(with_features(x, rows))
    weights = torch.linspace(-1, 1, out.features.numel(), dtype=rows.dtype).reshape(out.features.shape)
    grads = torch.autograd.grad((out.features * weights).sum(), [rows, *layer.parameters()])
    return [out.features, out.indices, *grads]


@pytest.mark.parametrize(("name", "ndim"), DIMENSIONS + FOUR_AND_ONE)
def test_both_backends_agree_in_every_dimension(name: str, ndim: int) -> None:
    layer, x = settled(name, ndim), scene(ndim, count=30)
    found = []
    for backend in ("cpu", "reference"):
        with sparseconv.use_backend(backend):
            found.append(results(layer, x))
    assert torch.equal(found[0][1], found[1][1])
    for one, other in zip(found[0], found[1], strict=True):
        assert_close(one, other, 2000)
    assert float(found[0][0].detach().abs().max()) > 0.01


@pytest.mark.parametrize(("name", "ndim"), DIMENSIONS)
def test_the_order_of_the_rows_does_not_matter(name: str, ndim: int) -> None:
    layer, x = settled(name, ndim), scene(ndim)
    order = torch.randperm(len(x))
    permuted = SparseTensor(x.features[order], x.indices[order], x.spatial_shape, x.batch_size)
    out, other = layer(x), layer(permuted)
    if name in KEEPS_SITES:
        assert torch.equal(out.indices, x.indices)
        assert_close(other.features, out.features[order], 2000)
    else:
        assert torch.equal(other.indices, out.indices)
        assert_close(other.features, out.features, 2000)


@pytest.mark.parametrize(("name", "ndim"), DIMENSIONS)
def test_a_shift_of_the_input_shifts_the_output(name: str, ndim: int) -> None:
    """By 4 or 8, multiples of every stride and level."""
    layer, x = settled(name, ndim), scene(ndim, bounded=False)
    shift = torch.tensor([0, -8, 4, 12][: ndim + 1], dtype=torch.int32)
    moved = SparseTensor(x.features, x.indices + shift, None, x.batch_size)
    out, other = layer(x), layer(moved)
    step = 1 if name in KEEPS_SITES else 2
    assert torch.equal(other.indices, out.indices + shift // step)
    assert_close(other.features, out.features, 2000)


@pytest.mark.parametrize("name", LAYERS)
def test_samples_do_not_see_each_other(name: str) -> None:
    """The middle one is empty, and one by one the others come out the same."""
    layer, x = settled(name), scene(3)
    out = layer(x)
    assert out.batch_size == 3 and set(out.indices[:, 0].tolist()) == {0, 2}
    for sample in range(3):
        mine = x.indices[:, 0] == sample
        sites = x.indices[mine].clone()
        sites[:, 0] = 0
        alone = layer(SparseTensor(x.features[mine], sites, x.spatial_shape, 1))
        here = out.indices[:, 0] == sample
        assert torch.equal(alone.indices[:, 1:], out.indices[here][:, 1:])
        assert_close(alone.features, out.features[here], 2000)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("training", [False, True])
def test_no_site_and_one_site(backend: str, name: str, training: bool) -> None:
    layer = settled(name).train(training)
    width = CHANNELS if "involution" in name else WIDTH
    for count in (0, 1):
        if training and count == 1 and (name == "subm_omni" or "involution" in name):
            with pytest.raises(ValueError, match="batch"):  # a batch norm of one has no variance
                layer(scene(3, count=1))
            continue
        x = scene(3, count=count)
        rows = x.features.clone().requires_grad_()
        out = layer(x.replace_feature(rows))
        assert out.features.shape[1] == width and (count == 1 or len(out) == 0)
        assert out.batch_size == 3
        grads = torch.autograd.grad(out.features.sum(), [rows, *layer.parameters()], allow_unused=True)
        assert grads[0] is not None
        assert all(grad is None or grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_can_be_copied_saved_and_loaded(name: str) -> None:
    layer, x = settled(name), scene(3, count=30)
    expected = layer(x).features
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    fresh = LAYERS[name](3).double().eval()
    fresh.load_state_dict(torch.load(file))
    assert torch.equal(fresh(x).features, expected)
    assert torch.equal(copy.deepcopy(layer)(x).features, expected)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(x).features, expected)
    assert repr(fresh) == repr(layer) and "(" in repr(layer)


@pytest.mark.parametrize("name", LAYERS)
def test_autocast_and_half_precision(backend: str, name: str) -> None:
    layer, x = settled(name, dtype=torch.float32).train("omni" in name), scene(3, dtype=torch.float32)
    expected = layer(x).features
    scale = float(expected.detach().abs().max())
    rows = x.features.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(x.replace_feature(rows)).features
    grads = torch.autograd.grad(out.float().sum(), [rows, *layer.parameters()])
    assert all(grad.isfinite().all() and grad.dtype == torch.float32 for grad in grads)
    half = copy.deepcopy(layer).bfloat16()(x.bfloat16()).features
    assert half.dtype == torch.bfloat16
    # A region for which two guides nearly tie, or a voxel at the edge of a place's reach, may come or go.
    jumps = "region" in name or name == "subm_deform"
    for rounded in (out, half):
        error = (rounded.float() - expected).detach().abs()
        assert rounded.isfinite().all()
        assert float(error.median() if jumps else error.max()) < 0.1 * max(1.0, scale)


@pytest.mark.parametrize("name", LAYERS)
def test_an_evaluation_in_inference_mode_does_not_stop_training(name: str) -> None:
    layer, x = settled(name), scene(3)
    with torch.inference_mode():
        layer(x)
    layer(x).features.sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())


@pytest.mark.parametrize("name", ["subm_cond", "sparse_region", "subm_involution", "subm_deform", "octave"])
def test_results_are_equal_to_the_bit_on_any_number_of_threads(name: str) -> None:
    layer, x = settled(name), scene(3, count=300)
    seen = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        seen.append(results(layer, x))
    for one, two in zip(*seen, strict=True):
        assert torch.equal(one, two)


def test_sites_changed_in_place_give_new_maps() -> None:
    """Nothing derived from a map outlives it."""
    for name in LAYERS:
        layer = settled(name)
        x = scene(3, count=20)
        layer(x)
        x.indices[:, 1] = (x.indices[:, 1] + 1) % SHAPES[3][0]
        fresh = SparseTensor(x.features, x.indices.clone(), x.spatial_shape, x.batch_size)
        assert_close(layer(x).features, layer(fresh).features, 2000, name)


def test_a_named_map_can_be_undone() -> None:
    x = scene(3)
    for name, args, kwargs in (
        ("SparseCentralDifferenceConv", (CHANNELS, 4, 3, 2), {}),
        ("SparseCircleConv", (CHANNELS, 4, 3, 2, 1), {}),
        ("SparseCoordConv", (CHANNELS, 4, 3, 2, 1), {}),
        ("SparseCondConv", (CHANNELS, 4, 3, 2, 1), {}),
        ("SparseDyNetConv", (CHANNELS, 4, 3, 2, 1), {}),
        ("SparseODConv", (CHANNELS, 4, 3, 2, 1), {}),
        ("SparseDRConv", (CHANNELS, 4, 3, 2, 2, 1), {}),
        ("SparseDepthwiseSeparableConv", (CHANNELS, 4, 3, 2), {}),
    ):
        layer = layer_class(name, 3)(*args, **kwargs, indice_key="down").double()
        back = sparseconv.SparseInverseConv3d(4, 5, 3, "down").double()
        assert torch.equal(back(layer(x)).indices, x.indices), name
        assert "indice_key='down'" in repr(layer)


def test_every_named_layer_is_one_of_a_family() -> None:
    """Each base has its four dimensions, in the families that it has, and stands in the package's namespace."""
    for name in variants.__all__:
        assert getattr(sparseconv, name) is getattr(nn, name)
    named = [n for n in variants.__all__ if n[-2:] in ("1d", "2d", "3d", "4d")]
    stems = {n[:-2] for n in named}
    assert len(named) == 4 * len(stems) == 4 * 32
    for name in named:
        kind = getattr(nn, name)
        assert (kind._ndim, kind._subm) == (int(name[-2]), name.startswith("SubM"))
        assert (
            issubclass(kind, nn.SparseModule)
            and kind.__doc__
            and kind.__module__.startswith("sparseconv.nn.variants")
        )
        parent = kind.__mro__[1]
        assert f":class:`{parent.__name__}`" in kind.__doc__


def test_the_docstring_of_every_layer_is_whole() -> None:
    """Its own line, then its base's: shapes, types, paper, arguments, parameters and errors."""
    for name in variants.__all__:
        kind = getattr(nn, name)
        if not inspect.isclass(kind):
            continue
        text = inspect.getdoc(kind)
        assert "[N, C" in text.splitlines()[0] or "high, low" in text.splitlines()[0], name
        sections = ["Args:", "Raises:"] if kind is nn.SparseAddCoords else ["Args:", "Attributes:", "Raises:"]
        assert [line for line in text.splitlines() if line in sections] == sections, name
        assert "arXiv" in text or "ICLR 2022" in text, name
        assert kind is nn.SparseAddCoords or "float16 or bfloat16" in " ".join(text.split()), name
        arguments = text.partition("Args:")[2].partition("Raises:")[0]
        for argument in inspect.signature(kind).parameters:
            assert f"    {argument}:" in arguments or f"    **{argument}:" in arguments, (name, argument)


def test_a_layer_refuses_other_dimensions_and_channels() -> None:
    for name in LAYERS:
        layer = settled(name, 2)
        with pytest.raises(ValueError, match=r"axes|dimension|shape"):
            layer(scene(3))
        with pytest.raises((ValueError, RuntimeError), match=r"channels|shape|mat1"):
            settled(name)(scene(3, channels=CHANNELS + 1))
        with pytest.raises(TypeError, match="takes a SparseTensor"):
            settled(name)(scene(3).features)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("count", [40, 0])
def test_results_do_not_depend_on_the_default_device(name: str, count: int) -> None:
    """A program may have called ``torch.set_default_device("cuda")``; here, a device that computes nothing."""
    layer, x, again = settled(name), scene(3, count=count), scene(3, count=count)
    expected = layer(x).features
    _matrix.cache_clear()
    with torch.device("meta"):
        found = layer(again).features
    assert torch.equal(found, expected)
