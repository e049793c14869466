"""Kernels mixed for each sample: CondConv, dynamic convolution, DyNet, ODConv; sample by sample in torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from dense_checks import F64, assert_equal, counted_macs, draw, gradcheck

from sparseconv import SubMODConv2d
from sparseconv.dense_ops import CondConv2d, DynamicConv2d, DyNetConv2d, ODConv2d, mixture_conv2d, od_conv2d

GEOMETRY = [{}, {"stride": 2, "padding": 1}, {"padding": (2, 1), "dilation": 2, "groups": 2}]


def each_sample(x, kernels, biases, layer):
    return torch.cat(
        [
            F.conv2d(
                x[n : n + 1], kernels[n], biases[n], layer.stride, layer.padding, layer.dilation, layer.groups
            )
            for n in range(len(x))
        ]
    )


@pytest.mark.parametrize("fusion", ["kernel", "output"])
@pytest.mark.parametrize("geometry", GEOMETRY)
@pytest.mark.parametrize("bias", [False, True])
def test_condconv(geometry, bias, fusion) -> None:
    layer = CondConv2d(4, 6, 3, bias=bias, num_experts=3, **geometry).double()
    x = draw(3, 4, 9, 8)
    routing = torch.sigmoid(x.mean((2, 3)) @ layer.routing.weight.T + layer.routing.bias)
    kernels = torch.einsum("ne,eocuv->nocuv", routing, layer.weight)
    biases = routing @ layer.bias if bias else [None] * 3
    expected = each_sample(x, kernels, biases, layer)
    assert_equal(layer(x, fusion=fusion), expected)
    assert_equal(layer(x, routing, fusion), expected)
    # No sample sees another.
    assert_equal(torch.cat([layer(x[n : n + 1], fusion=fusion) for n in range(3)]), expected)


def test_condconv_special_cases() -> None:
    x = draw(2, 3, 6, 5)
    one = CondConv2d(3, 4, 3, num_experts=1, bias=True).double()
    assert_equal(one(x, torch.ones(2, 1, dtype=F64)), F.conv2d(x, one.weight[0], one.bias[0]))
    layer = CondConv2d(3, 4, 3, num_experts=3).double()
    hot = torch.eye(3, dtype=F64)[[2, 0]]
    picked = torch.cat([F.conv2d(x[:1], layer.weight[2]), F.conv2d(x[1:], layer.weight[0])])
    assert_equal(layer(x, hot), picked)
    # Each expert starts within the bound of a layer of its own.
    assert layer.weight.abs().max() <= (3 * 9) ** -0.5


@pytest.mark.parametrize("geometry", GEOMETRY)
def test_dynamic_convolution(geometry) -> None:
    layer = DynamicConv2d(4, 6, 3, **geometry).double()
    torch.nn.init.normal_(layer.bias)
    x = draw(3, 4, 9, 8)
    hidden = F.relu(x.mean((2, 3)) @ layer.fc1.weight.T)
    shares = torch.softmax((hidden @ layer.fc2.weight.T + layer.fc2.bias) / 34, 1)
    assert_equal(layer.attention(x), shares)
    outputs = [
        F.conv2d(x, layer.weight[k], layer.bias[k], layer.stride, layer.padding, layer.dilation, layer.groups)
        for k in range(4)
    ]
    assert_equal(layer(x), sum(shares[:, k, None, None, None] * outputs[k] for k in range(4)))


def test_dynamic_convolution_temperature() -> None:
    layer = DynamicConv2d(8, 6, 3, K=3).double()
    x = draw(2, 8, 5, 5)
    seen = [layer.temperature.item()]
    for _ in range(13):
        layer.update_temperature()
        seen.append(layer.temperature.item())
    assert seen == [*range(34, 0, -3), 1, 1]
    assert DynamicConv2d(8, 6, 3, K=3, temperature=5).load_state_dict(layer.state_dict())
    layer.temperature.fill_(1e12)
    assert_equal(layer(x), F.conv2d(x, layer.weight.mean(0), layer.bias.mean(0)), 1e2)
    assert DynamicConv2d(3, 6, 3, K=5).fc1.weight.shape == (5, 3)
    assert layer.fc1.weight.shape == (3, 8)


def test_dynamic_convolution_special_cases() -> None:
    x = draw(2, 3, 6, 5)
    one = DynamicConv2d(3, 4, 3, K=1).double()
    assert_equal(one(x), F.conv2d(x, one.weight[0], one.bias[0]))
    same = DynamicConv2d(3, 4, 3).double()
    with torch.no_grad():
        same.weight.copy_(same.weight[:1].expand_as(same.weight))
    assert_equal(same(x), F.conv2d(x, same.weight[0], same.bias[0]))


@pytest.mark.parametrize("fusion", ["kernel", "output"])
@pytest.mark.parametrize("geometry", GEOMETRY)
@pytest.mark.parametrize("hidden", [None, 5])
def test_dynet(geometry, hidden, fusion) -> None:
    layer = DyNetConv2d(4, 6, 3, group_size=2, hidden=hidden, **geometry).double()
    x = draw(3, 4, 9, 8)
    scores = x.mean((2, 3))
    for step in layer.coefficients:
        scores = step(scores)
    eta = torch.sigmoid(scores).reshape(3, 6, 2)
    kernels = torch.stack([eta[:, :, i, None, None, None] * layer.weight[i::2] for i in range(2)]).sum(0)
    assert_equal(layer(x, fusion), each_sample(x, kernels, [layer.bias] * 3, layer))


def test_dynet_special_cases() -> None:
    x = draw(2, 3, 6, 5)
    weight, bias = draw(1, 4, 3, 3, 3), draw(4)
    ones = torch.ones(2, 4, 1, dtype=F64)
    assert_equal(mixture_conv2d(x, weight, ones, bias), F.conv2d(x, weight[0], bias))
    experts, routing = draw(3, 4, 3, 3, 3), draw(2, 3)
    shared = routing[:, None].expand(2, 4, 3)
    assert_equal(mixture_conv2d(x, experts, shared), mixture_conv2d(x, experts, routing))


@pytest.mark.parametrize("geometry", GEOMETRY)
@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_odconv(geometry, norm) -> None:
    layer = ODConv2d(4, 6, 3, kernel_num=3, norm=norm, **geometry).double().eval()
    layer.update_temperature(2.0)
    x = draw(3, 4, 9, 8)
    attention = layer.attention
    hidden = F.relu(attention.norm(x.mean((2, 3)) @ attention.fc.weight.T)) / 2.0

    def scores(fc):
        return hidden @ fc.weight.T + fc.bias / 2.0

    a_c, a_f = torch.sigmoid(scores(attention.channel_fc)), torch.sigmoid(scores(attention.filter_fc))
    a_s = torch.sigmoid(scores(attention.spatial_fc)).reshape(3, 3, 3)
    a_w = torch.softmax(scores(attention.kernel_fc), 1)
    kernels = torch.einsum("nk,kocuv->nocuv", a_w, layer.weight) * a_s[:, None, None] * a_f[:, :, None, None, None]
    # The channel attention counts channels of the whole input, group after group.
    depth = 4 // layer.groups
    group = torch.arange(6) // (6 // layer.groups)
    absolute = group[:, None] * depth + torch.arange(depth)
    kernels = kernels * a_c[:, absolute][..., None, None]
    assert_equal(layer(x), each_sample(x, kernels, [None] * 3, layer))


def test_odconv_special_cases() -> None:
    x, weight = draw(2, 4, 6, 5), draw(1, 6, 4, 3, 3)
    assert_equal(od_conv2d(x, weight), F.conv2d(x, weight[0]))
    point = ODConv2d(4, 6, 1, kernel_num=1)
    assert point.attention.spatial_fc is None and point.attention.kernel_fc is None
    depthwise = ODConv2d(4, 4, 3, groups=4)
    assert depthwise.attention.filter_fc is None
    with pytest.raises(ValueError, match=r"cannot train on one sample .* use larger batches, or norm='layer'"):
        ODConv2d(4, 6, 3)(torch.zeros(1, 4, 5, 5))
    with pytest.raises(ValueError, match=r"spatial_attention must have shape \[2, 3, 3\], got \[2, 9\]"):
        od_conv2d(x, weight, spatial_attention=torch.ones(2, 9, dtype=F64))
    assert ODConv2d(4, 6, 3, norm="layer")(torch.zeros(1, 4, 5, 5)).shape == (1, 6, 3, 3)


def test_derivatives() -> None:
    x = draw(2, 2, 3, 4)
    for fusion in ("kernel", "output"):
        gradcheck(
            lambda *t, f=fusion: mixture_conv2d(*t, 1, 1, fusion=f), x, draw(2, 3, 2, 3, 3), draw(2, 2), draw(2, 3)
        )
        gradcheck(
            lambda *t, f=fusion: mixture_conv2d(*t, 2, 1, 1, 2, fusion=f),
            x,
            draw(2, 2, 1, 3, 3),
            draw(2, 2, 2),
            draw(2),
        )
    gradcheck(
        lambda *t: od_conv2d(*t, 1, 1), x, draw(2, 2, 2, 3, 3), draw(2, 2), draw(2, 2), draw(2, 2), draw(2, 3, 3)
    )


def test_flops_by_formula_and_by_map(monkeypatch) -> None:
    pixels, conv, c, o, k2 = 5 * 4, 5 * 4 * 8 * 6 * 9, 8, 6, 9
    hidden, units = int(8 * 0.25) + 1, 16
    cases = (
        (
            CondConv2d(8, 6, 3, bias=True),
            conv + 4 * o * c * k2 + c * 4,
            4 * (o * c * k2 + o) + (c + 1) * 4,
        ),
        (
            DynamicConv2d(8, 6, 3),
            conv + 4 * o * c * k2 + c * hidden + hidden * 4,
            4 * (o * c * k2 + o) + c * hidden + hidden * 4 + 4,
        ),
        (DyNetConv2d(8, 6, 3, bias=False), conv + 6 * o * c * k2 + c * o * 6, 6 * o * c * k2 + (c + 1) * o * 6),
        (
            ODConv2d(8, 6, 3),
            conv + 4 * o * c * k2 + c * 7 * 6 + o * pixels + units * (2 * c + o + k2 + 4),
            4 * o * c * k2 + c * units + 2 * units + (units + 1) * (c + o + k2 + 4),
        ),
    )
    for layer, macs, parameters in cases:
        assert layer.flops((3, 8, 7, 6)) == (3 * macs, parameters)
        with counted_macs(monkeypatch) as calls:
            layer(torch.randn(3, 8, 7, 6))
        assert sum(calls) == 3 * conv


def test_no_sample() -> None:
    assert CondConv2d(3, 4, 3)(torch.zeros(0, 3, 5, 5)).shape == (0, 4, 3, 3)


def test_the_temperature_of_odconv_is_saved_with_its_state() -> None:
    classes = (lambda: ODConv2d(3, 4, 3), lambda: SubMODConv2d(3, 4, 3))
    for make in classes:
        trained, loaded = make(), make()
        trained.update_temperature(7.5)
        loaded.load_state_dict(trained.state_dict())
        assert float(loaded.attention.temperature) == 7.5


def test_bad_input_is_named() -> None:
    x, weight = draw(2, 3, 5, 5), draw(4, 6, 3, 3, 3)
    with pytest.raises(ValueError, match=r"mixture must have shape \[2, 4\] or \[2, 6, 4\], got \[2, 3\]"):
        mixture_conv2d(x, weight, draw(2, 3))
    with pytest.raises(ValueError, match="fusion must be"):
        mixture_conv2d(x, weight, draw(2, 4), fusion="none")
    with pytest.raises(ValueError, match=r"bias must have shape \[4, 6\] or \[6\]"):
        mixture_conv2d(x, weight, draw(2, 4), draw(4))
    with pytest.raises(ValueError, match="at least one kernel"):
        CondConv2d(3, 4, num_experts=0)
    with pytest.raises(ValueError, match="4 kernels need a kernel_attention"):
        od_conv2d(x, weight)
    with pytest.raises(ValueError, match="temperature must be positive"):
        DynamicConv2d(3, 4, 3, temperature=0)
    with pytest.raises(ValueError, match="norm must be"):
        ODConv2d(3, 4, 3, norm="group")
