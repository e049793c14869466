"""Sizes against torch, tap order, parsing, limits and messages."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracle import conv_output_shape, kernel_taps, transposed_output_shape
from torch import Tensor

from sparseconv import ConvGeometry
from sparseconv.geometry import MAX_KERNEL_SIZE, MAX_PADDING, MAX_STEP

CONVS: tuple[Callable[..., Tensor], ...] = (F.conv1d, F.conv2d, F.conv3d)
TRANSPOSED: tuple[Callable[..., Tensor], ...] = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


def _meta(*shape: int) -> Tensor:
    return torch.zeros(shape, device="meta")


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_output_shape_is_that_of_torch(ndim: int) -> None:
    for n, k, s, p, d in itertools.product((5, 6, 13), (1, 2, 3, 4), (1, 2, 3), (0, 1, 2), (1, 2)):
        if n + 2 * p - d * (k - 1) < 1:
            continue
        geometry = ConvGeometry.create(ndim, k, s, p, d)
        expected = CONVS[ndim - 1](_meta(1, 1, *[n] * ndim), _meta(1, 1, *[k] * ndim), None, s, p, d).shape[2:]
        assert geometry.output_shape([n] * ndim) == list(expected), f"{geometry} on {n}"


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_transposed_output_shape_is_that_of_torch(ndim: int) -> None:
    for n, k, s, p, d in itertools.product((1, 4, 7), (1, 2, 3, 4), (1, 2, 3), (0, 1), (1, 2)):
        for extra in range(max(s, d)):
            if (n - 1) * s - 2 * p + d * (k - 1) + extra + 1 < 1:
                continue
            geometry = ConvGeometry.create(ndim, k, s, p, d)
            grid, weight = _meta(1, 1, *[n] * ndim), _meta(1, 1, *[k] * ndim)
            expected = TRANSPOSED[ndim - 1](grid, weight, None, s, p, extra, 1, d).shape[2:]
            assert geometry.transposed_output_shape([n] * ndim, (extra,) * ndim) == list(expected), f"{geometry}"


def test_axes_of_four_dimensions_do_not_mix() -> None:
    kernel, stride, padding, dilation = (1, 2, 3, 4), (4, 3, 2, 1), (0, 1, 2, 3), (1, 1, 2, 2)
    geometry = ConvGeometry.create(4, kernel, stride, padding, dilation)
    shape, extra = (9, 10, 11, 12), (3, 2, 1, 1)
    assert geometry.output_shape(shape) == list(conv_output_shape(shape, kernel, stride, padding, dilation))
    expected = transposed_output_shape(shape, kernel, stride, padding, dilation, extra)
    assert geometry.transposed_output_shape(shape, extra) == list(expected)
    assert geometry.transposed_output_shape(shape) == [
        n - e for n, e in zip(geometry.transposed_output_shape(shape, extra), extra, strict=True)
    ]


def test_taps_are_row_major_and_offsets_follow_the_equation() -> None:
    geometry = ConvGeometry.create(3, (2, 1, 3), (1, 2, 3), (1, 0, 2), (3, 5, 2))
    assert geometry.taps() == [(0, 0, 0), (0, 0, 1), (0, 0, 2), (1, 0, 0), (1, 0, 1), (1, 0, 2)]
    assert geometry.taps() == list(kernel_taps(geometry.kernel_size))
    assert geometry.offsets() == [(-1, 0, -2), (-1, 0, 0), (-1, 0, 2), (2, 0, -2), (2, 0, 0), (2, 0, 2)]
    assert (geometry.ndim, geometry.volume) == (3, 6)


def test_submanifold_is_centred_and_its_own_mirror() -> None:
    geometry = ConvGeometry.submanifold(3, (3, 1, 5), (1, 7, 2))
    assert (geometry.stride, geometry.padding) == ((1, 1, 1), (1, 0, 4))
    assert geometry.output_shape((4, 5, 6)) == [4, 5, 6]
    offsets = geometry.offsets()
    assert offsets[len(offsets) // 2] == (0, 0, 0)
    assert [tuple(-x for x in offset) for offset in offsets] == offsets[::-1]
    assert geometry.is_submanifold and not geometry.is_pointwise
    assert ConvGeometry.submanifold(2, 1).is_pointwise


@pytest.mark.parametrize(
    "geometry",
    [
        ConvGeometry.create(1, 3, 1, 0),
        ConvGeometry.create(1, 3, 2, 1),
        ConvGeometry.create(1, 2, 1, 1),
        ConvGeometry.create(2, 3, 1, (1, 2)),
        ConvGeometry.create(1, 1, 1, 1),
    ],
    ids=str,
)
def test_off_centre_or_strided_is_not_submanifold(geometry: ConvGeometry) -> None:
    assert not geometry.is_submanifold
    assert not geometry.is_pointwise


@pytest.mark.parametrize("kernel", [2, (3, 3, 4), (2, 1, 1)])
def test_submanifold_refuses_even_kernels(kernel: int | tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"needs an odd kernel_size on every axis, got .*Use an odd size"):
        ConvGeometry.submanifold(3, kernel)


def test_ints_sequences_and_numpy_spell_the_same_value() -> None:
    spelled = [
        ConvGeometry.create(2, 3, 2, 1, 1),
        ConvGeometry.create(2, (3, 3), [2, 2], (1, 1), [1, 1]),
        ConvGeometry.create(2, np.int64(3), np.array([2, 2]), torch.tensor([1, 1]), np.int32(1)),
    ]
    assert len(set(spelled)) == 1
    assert all(geometry == spelled[0] and hash(geometry) == hash(spelled[0]) for geometry in spelled)
    assert all(type(n) is int for n in spelled[2].stride + spelled[2].padding)


def test_every_field_tells_geometries_apart() -> None:
    varied = {
        ConvGeometry.create(2, 3, 2, 1, 1),
        ConvGeometry.create(2, (3, 2), 2, 1, 1),
        ConvGeometry.create(2, (2, 3), 2, 1, 1),
        ConvGeometry.create(2, 3, (2, 1), 1, 1),
        ConvGeometry.create(2, 3, 2, 0, 1),
        ConvGeometry.create(2, 3, 2, 1, 2),
        ConvGeometry.create(3, 3, 2, 1, 1),
    }
    assert len(varied) == 7


def test_is_immutable() -> None:
    geometry = ConvGeometry.create(1, 3)
    with pytest.raises(AttributeError):
        geometry.stride = (2,)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"kernel_size": 0}, ValueError, r"kernel_size must lie in 1 \.\. 1024, got 0"),
        ({"kernel_size": (3, 3)}, ValueError, r"kernel_size must be one integer or 3 of them.*got \(3, 3\)"),
        ({"kernel_size": ()}, ValueError, r"kernel_size must be one integer or 3 of them"),
        ({"kernel_size": 3.0}, TypeError, r"kernel_size must hold integers, got 3\.0"),
        ({"kernel_size": "333"}, TypeError, r"kernel_size must hold integers, got '333'"),
        ({"kernel_size": None}, TypeError, r"kernel_size must hold integers, got None"),
        ({"kernel_size": [[3], [3], [3]]}, TypeError, r"kernel_size must hold integers"),
        ({"kernel_size": True}, TypeError, r"kernel_size must hold integers, got True"),
        ({"stride": 0}, ValueError, r"stride must lie in 1 \.\. 65536, got 0"),
        ({"stride": (1, -1, 1)}, ValueError, r"stride must lie in"),
        ({"padding": -1}, ValueError, r"padding must lie in 0 \.\. 67108864, got -1"),
        ({"padding": (0, 0.5, 0)}, TypeError, r"padding must hold integers"),
        ({"dilation": 0}, ValueError, r"dilation must lie in 1 \.\. 65536, got 0"),
        ({"kernel_size": MAX_KERNEL_SIZE + 1}, ValueError, "kernel_size must lie"),
        ({"stride": MAX_STEP + 1}, ValueError, "stride must lie"),
        ({"dilation": 2**70}, ValueError, "dilation must lie"),
        ({"padding": MAX_PADDING + 1}, ValueError, "padding must lie"),
    ],
)
def test_bad_values_are_named(arguments: dict[str, object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        ConvGeometry.create(3, **{"kernel_size": 3, **arguments})  # type: ignore[arg-type]


@pytest.mark.parametrize("ndim", [0, 5, -1])
def test_number_of_axes_is_one_to_four(ndim: int) -> None:
    with pytest.raises(ValueError, match=rf"must be 1 \.\. 4, got {ndim}"):
        ConvGeometry.create(ndim, 3)


def test_values_at_the_limits_are_taken() -> None:
    geometry = ConvGeometry.create(1, MAX_KERNEL_SIZE, MAX_STEP, MAX_PADDING, MAX_STEP)
    assert geometry.offsets()[-1] == (MAX_STEP * (MAX_KERNEL_SIZE - 1) - MAX_PADDING,)
    assert geometry.output_shape([1 << 30]) == [
        ((1 << 30) + 2 * MAX_PADDING - MAX_STEP * (MAX_KERNEL_SIZE - 1) - 1) // MAX_STEP + 1
    ]


def test_grids_without_cells_are_refused() -> None:
    with pytest.raises(ValueError, match=r"larger than the grid \[4, 2\].*output shape would be \[2, 0\]"):
        ConvGeometry.create(2, 3).output_shape([4, 2])
    with pytest.raises(ValueError, match=r"removes the whole output.*\[1\].*would be \[-1\]"):
        ConvGeometry.create(1, 1, 1, 1).transposed_output_shape([1])


def test_str_is_compact() -> None:
    assert str(ConvGeometry.create(2, 3, (2, 1), 1)) == "kernel 3 stride (2,1) padding 1 dilation 1"
