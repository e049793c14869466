"""What holds for each dense variant: both backends, any number of threads, saving, copying."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from dense_checks import F64, assert_equal, draw
from dense_layers import CHANNELS, LAYERS

import sparseconv
from sparseconv.circle_taps import _matrix
from sparseconv.dense_ops import functional, index_map


def settled(name):
    """A layer in evaluation mode whose parameters are all away from special values."""
    torch.manual_seed(1)
    layer = LAYERS[name]().double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return layer.eval()


def results(layer, x):
    """Output and every gradient."""
    leaf = x.clone().requires_grad_()
    out = layer(leaf)
    return [out, *torch.autograd.grad(out.square().sum(), [leaf, *layer.parameters()])]


@pytest.mark.parametrize("name", LAYERS)
def test_both_backends_agree(name) -> None:
    layer, x = settled(name), draw(2, CHANNELS, 6, 8)
    ours = results(layer, x)
    with sparseconv.use_backend("reference"):
        theirs = results(layer, x)
    for one, other in zip(ours, theirs, strict=True):
        assert_equal(one, other, 10)


@pytest.mark.parametrize("name", LAYERS)
def test_samples_do_not_see_each_other(name) -> None:
    layer, x = settled(name), draw(3, CHANNELS, 6, 8)
    assert_equal(torch.cat([layer(x[n : n + 1]) for n in range(3)]), layer(x))
    assert layer(x[:0]).shape == (0, *layer(x).shape[1:])


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_can_be_copied_and_saved(name) -> None:
    layer, x = settled(name), draw(1, CHANNELS, 6, 8)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    fresh = LAYERS[name]().double().eval()
    fresh.load_state_dict(torch.load(file))
    assert torch.equal(fresh(x), layer(x))
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))
    assert repr(layer)


@pytest.mark.parametrize("name", LAYERS)
def test_channels_last_is_a_valid_input(name) -> None:
    layer, x = settled(name), draw(2, CHANNELS, 6, 8)
    assert_equal(layer(x.to(memory_format=torch.channels_last)), layer(x))


@pytest.mark.parametrize("name", LAYERS)
def test_an_evaluation_in_inference_mode_does_not_stop_training(name) -> None:
    index_map._kept.clear()
    layer, x = settled(name), draw(2, CHANNELS, 6, 8)
    with torch.inference_mode():
        layer(x)
    layer(x).sum().backward()


# Involution's generator holds torch's batch norm, whose sums follow torch's threads.
@pytest.mark.parametrize("name", ["standard", "transposed", "octave", "dynamic_region", "rpdc", "deformable"])
def test_results_are_equal_to_the_bit_on_any_number_of_threads(name) -> None:
    layer, x = settled(name), draw(4, CHANNELS, 24, 24)
    seen = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        seen.append(results(layer, x))
    for other in seen[1:]:
        for one, two in zip(seen[0], other, strict=True):
            assert torch.equal(one, two)


@pytest.mark.parametrize("name", LAYERS)
def test_results_do_not_depend_on_the_default_device(name) -> None:
    """A program may have called ``torch.set_default_device("cuda")``; here, a device that computes nothing."""
    layer, x = settled(name), draw(2, CHANNELS, 12, 8)
    expected = results(layer, x)
    index_map._kept.clear()
    _matrix.cache_clear()
    with torch.device("meta"):
        found = results(layer, x)
    for one, two in zip(expected, found, strict=True):
        assert torch.equal(one, two)


def test_every_function_has_a_name_in_functional() -> None:
    for name in functional.__all__:
        assert callable(getattr(functional, name)), name


def test_maps_are_forgotten_when_newer_ones_need_their_place(monkeypatch) -> None:
    index_map._kept.clear()
    monkeypatch.setattr(index_map, "_BYTES_KEPT", 20_000)
    weight = torch.zeros(1, 1, 3, 3, dtype=F64)
    for size in range(4, 14):
        functional.conv2d(torch.zeros(1, 1, size, size, dtype=F64), weight)
    kept = list(index_map._kept.values())
    assert 1 < len(kept) < 10 and kept[-1].n_in == 13 * 13
    assert sum(map(index_map._bytes, kept)) <= 20_000


def test_a_large_map_drives_no_other_out(monkeypatch) -> None:
    index_map._kept.clear()
    index_map._large.clear()
    monkeypatch.setattr(index_map, "_BYTES_KEPT", 20_000)
    made = []
    build = index_map.batched_map

    def counted(pairs, n_in, *rest, **named):
        made.append(n_in)
        return build(pairs, n_in, *rest, **named)

    monkeypatch.setattr(index_map, "batched_map", counted)
    weight = torch.zeros(1, 1, 3, 3, dtype=F64)
    sizes = (6, 8, 40)
    for size in (*sizes, *sizes, 41):
        functional.conv2d(torch.zeros(1, 1, size, size, dtype=F64), weight)
    assert made == [36, 64, 1600, 1681]
    assert len(index_map._kept) == 2 and [kept.n_in for kept in index_map._large.values()] == [1681]
