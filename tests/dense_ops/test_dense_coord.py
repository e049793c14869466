"""CoordConv: what it appends, and that it then knows where it is."""

from __future__ import annotations

import pytest
import torch
from dense_checks import F64, assert_equal, counted_macs, draw, gradcheck

from sparseconv.dense_ops import AddCoords2d, CoordConv2d, add_coords2d, conv2d, coord_conv2d


def test_coordinates_by_hand() -> None:
    x = draw(2, 1, 3, 5)
    out = add_coords2d(x, with_r=True)
    assert out.shape == (2, 4, 3, 5)
    assert_equal(out[:, :1], x)
    column = torch.tensor([-1, -0.5, 0, 0.5, 1], dtype=F64).expand(2, 3, 5)
    row = torch.tensor([-1.0, 0, 1], dtype=F64)[:, None].expand(2, 3, 5)
    assert_equal(out[:, 1], column)
    assert_equal(out[:, 2], row)
    assert_equal(out[:, 3], (column**2 + row**2).sqrt())
    assert out[0, 3, 1, 2] == 0
    assert_equal(AddCoords2d(order="yx")(x)[:, 1:], out[:, [2, 1]])
    assert (add_coords2d(draw(1, 1, 1, 1), True)[0, 1:] == 0).all()


@pytest.mark.parametrize("with_r", [False, True])
@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_it_is_the_sum_of_two_convolutions(with_r, mode) -> None:
    layer = CoordConv2d(3, 5, 3, 2, 1, padding_mode=mode, with_r=with_r).double()
    x = draw(2, 3, 7, 6)
    coordinates = add_coords2d(x, with_r)[:, 3:]
    image = conv2d(x, layer.weight[:, :3], layer.bias, 2, 1, padding_mode=mode)
    place = conv2d(coordinates, layer.weight[:, 3:], None, 2, 1, padding_mode=mode)
    assert_equal(layer(x), image + place)
    # The part of the coordinates is the same for every image.
    assert_equal(place[0], place[1])


def test_translation_equivariance_holds_only_without_coordinate_weights() -> None:
    layer = CoordConv2d(2, 3, 3, padding=1, padding_mode="circular").double()
    x = draw(1, 2, 6, 6)

    def moves() -> float:
        return (layer(x.roll(2, 3)) - layer(x).roll(2, 3)).abs().max().item()

    assert moves() > 1e-3
    with torch.no_grad():
        layer.weight[:, 2:] = 0
    assert moves() < 1e-12
    assert_equal(layer(x), conv2d(x, layer.weight[:, :2], layer.bias, padding=1, padding_mode="circular"))


def test_derivatives_type_and_cost(monkeypatch) -> None:
    gradcheck(lambda *t: coord_conv2d(*t, 1, 1, with_r=True), draw(1, 1, 3, 4), draw(2, 4, 3, 3), draw(2))
    assert add_coords2d(torch.zeros(1, 1, 2, 2, dtype=torch.bfloat16)).dtype == torch.bfloat16
    layer = CoordConv2d(3, 5, 3, with_r=True)
    with counted_macs(monkeypatch) as calls:
        layer(torch.zeros(2, 3, 7, 6))
    assert layer.flops((2, 3, 7, 6)) == (sum(calls), 5 * 6 * 9 + 5)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="order must be 'xy'"):
        CoordConv2d(1, 1, 3, order="rc")
    with pytest.raises(ValueError, match=r"\[N, C, H, W\]"):
        add_coords2d(torch.zeros(2, 2))
    with pytest.raises(TypeError, match="AddCoords2d"):
        CoordConv2d(1, 1, 3).to_conv2d()
