"""The loop oracle against hand-computed cases, and against dense torch in one to four axes."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import torch

from . import (
    Pairs,
    at_sites,
    coarse_sites,
    conv_output_shape,
    conv_pairs,
    convolve,
    convolve_grads,
    dense_conv,
    dense_conv_transpose,
    fine_sites,
    kernel_taps,
    swap_pairs,
    to_dense,
    transposed_output_shape,
)

Coords = npt.NDArray[np.int32]
Float64 = npt.NDArray[np.float64]
Ints = tuple[int, ...]
Geometry = tuple[Ints, Ints, Ints, Ints]  # kernel, stride, padding, dilation
BATCH = 2


class Case(NamedTuple):
    """One geometry on one grid; the channels split into `groups`."""

    shape: Ints
    kernel: Ints
    stride: Ints
    padding: Ints
    dilation: Ints
    c_in: int = 3
    c_out: int = 2
    groups: int = 1

    @property
    def geometry(self) -> Geometry:
        return self.kernel, self.stride, self.padding, self.dilation


CASES = {
    "1d": Case((13,), (3,), (1,), (1,), (1,)),
    "1d-even-stride3": Case((17,), (4,), (3,), (2,), (1,)),
    "1d-dilated": Case((15,), (5,), (2,), (3,), (2,)),
    "1d-point": Case((9,), (1,), (1,), (0,), (1,)),
    "1d-skipping": Case((11,), (1,), (3,), (0,), (1,)),
    "1d-depthwise": Case((12,), (3,), (2,), (1,), (1,), c_in=4, c_out=4, groups=4),
    "2d": Case((7, 9), (3, 3), (2, 2), (1, 1), (1, 1)),
    "2d-mixed": Case((8, 7), (2, 3), (3, 1), (0, 2), (1, 2)),
    "2d-groups": Case((7, 6), (3, 2), (1, 2), (1, 1), (1, 1), c_in=4, c_out=6, groups=2),
    "2d-depthwise-multiplier": Case((6, 7), (3, 3), (1, 1), (1, 1), (2, 2), 3, 6, 3),
    "3d": Case((5, 6, 7), (3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
    "3d-down": Case((5, 6, 7), (3, 3, 3), (2, 2, 2), (1, 1, 1), (1, 1, 1)),
    "3d-tall": Case((9, 4, 5), (3, 1, 1), (2, 1, 1), (0, 0, 0), (1, 1, 1)),
    "3d-even": Case((6, 5, 4), (2, 2, 2), (2, 2, 2), (0, 0, 0), (1, 1, 1)),
    "3d-mixed": Case((6, 7, 5), (2, 3, 1), (1, 2, 3), (1, 2, 0), (3, 1, 2), 4, 4, 2),
    "3d-depthwise": Case((4, 5, 5), (3, 3, 3), (1, 2, 1), (1, 1, 1), (1, 1, 1), 3, 3, 3),
    "4d": Case((3, 4, 5, 4), (3, 3, 3, 3), (1, 1, 1, 1), (1, 1, 1, 1), (1, 1, 1, 1)),
    "4d-down": Case((4, 5, 4, 5), (3, 2, 3, 2), (2, 2, 1, 3), (1, 0, 1, 1), (1, 1, 1, 1)),
    "4d-mixed": Case((5, 3, 4, 3), (2, 3, 1, 2), (2, 1, 2, 1), (2, 1, 0, 1), (3, 1, 1, 2), 4, 4, 2),
    "4d-depthwise": Case((4, 3, 3, 4), (2, 2, 1, 3), (1, 1, 1, 2), (0, 1, 0, 1), (1,) * 4, 3, 3, 3),
}
EACH_CASE = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def rows(*sites: Ints) -> Coords:
    return np.array(sites, dtype=np.int32)


def random_sites(shape: Ints, rng: np.random.Generator) -> Coords:
    """About a fifth of the sites of a batch of grids, in random order."""
    every = np.argwhere(np.ones((BATCH, *shape), dtype=bool)).astype(np.int32)
    return rng.permutation(every)[: max(4, len(every) // 5)]


def random_weight(case: Case, rng: np.random.Generator) -> Float64:
    return rng.standard_normal((case.c_out, *case.kernel, case.c_in // case.groups))


def leaf(array: Float64) -> torch.Tensor:
    return torch.from_numpy(array.copy()).requires_grad_()


def assert_equals_dense(
    x: Float64,
    weight: Float64,
    bias: Float64,
    pairs: Pairs,
    groups: int,
    dense: torch.Tensor,
    sites: Coords,
    leaves: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    rng: np.random.Generator,
) -> None:
    """Forward at the sites, and the three gradients of a random weighting of it."""
    y = convolve(x, weight, bias, pairs, len(sites), groups)
    expected = at_sites(dense, sites)
    np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-11, atol=1e-11)

    grad_y = rng.standard_normal(y.shape)
    grads = torch.autograd.grad((expected * torch.from_numpy(grad_y)).sum(), leaves)
    for ours, theirs in zip(convolve_grads(grad_y, x, weight, pairs, groups), grads, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-11, atol=1e-11)


# By hand.


def test_taps_run_with_the_last_axis_fastest() -> None:
    assert list(kernel_taps((2, 3))) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]


def test_shapes_by_hand() -> None:
    assert conv_output_shape((41, 7), (3, 2), (2, 3), (1, 0), (1, 2)) == (21, 2)
    assert transposed_output_shape((21, 2), (3, 2), (2, 3), (1, 0), (1, 2), (0, 1)) == (41, 7)


def test_sites_and_pairs_by_hand() -> None:
    # fine = 2 coarse - 1 + tap: site 4 is tap 1 of coarse 2; site 1 is tap 0 of coarse 1 and
    # tap 2 of coarse 0.
    fine = rows((0, 4), (0, 1))
    geometry = ((3,), (2,), (1,), (1,))
    coarse = coarse_sites(fine, *geometry, (3,))
    assert coarse.dtype == np.int32
    assert coarse.tolist() == [[0, 0], [0, 1], [0, 2]]
    assert conv_pairs(fine, coarse, *geometry) == [[(1, 1)], [(0, 2)], [(1, 0)]]
    # Upwards, coarse 1 reaches fine 1, 2, 3.
    assert fine_sites(rows((7, 1)), *geometry, None).tolist() == [[7, 1], [7, 2], [7, 3]]


def test_swapped_pairs_are_ordered_by_their_output() -> None:
    assert swap_pairs([[(4, 0), (2, 1), (3, 2)], []]) == [[(1, 2), (2, 3), (0, 4)], []]


def test_bounds_clip_and_an_open_grid_does_not() -> None:
    fine = rows((0, 0), (1, 4))
    geometry = ((3,), (1,), (1,), (1,))
    reached = [[0, -1], [0, 0], [0, 1], [1, 3], [1, 4], [1, 5]]
    assert coarse_sites(fine, *geometry, None).tolist() == reached
    assert fine_sites(fine, *geometry, None).tolist() == reached
    assert coarse_sites(fine, *geometry, (5,)).tolist() == reached[1:5]
    assert fine_sites(fine, *geometry, (5,)).tolist() == reached[1:5]


def test_negative_sites_divide_downwards() -> None:
    # fine = 2 coarse + tap: -3 = 2 (-2) + 1.
    assert coarse_sites(rows((0, -3)), (2,), (2,), (0,), (1,), None).tolist() == [[0, -2]]


def test_no_sites() -> None:
    empty = np.zeros((0, 3), dtype=np.int32)
    geometry = ((2, 2), (1, 1), (0, 0), (1, 1))
    assert coarse_sites(empty, *geometry, None).shape == (0, 3)
    assert fine_sites(empty, *geometry, (4, 4)).shape == (0, 3)
    pairs = conv_pairs(empty, empty, *geometry)
    assert pairs == [[], [], [], []]
    weight = np.ones((2, 2, 2, 3))
    assert convolve(np.zeros((0, 3)), weight, None, pairs, 0).shape == (0, 2)


def test_duplicate_sites_are_refused() -> None:
    twice, once = rows((0, 1), (0, 1)), rows((0, 1))
    for fine, coarse in ((twice, once), (once, twice)):
        with pytest.raises(ValueError, match="2 rows hold only 1 distinct"):
            conv_pairs(fine, coarse, (1,), (1,), (0,), (1,))


def test_the_kernel_is_not_flipped() -> None:
    # out[c] = 1 x[c - 1] + 10 x[c] + 100 x[c + 1], plus the bias.
    fine = rows((0, 0), (0, 1), (0, 2), (1, 1))
    pairs = conv_pairs(fine, fine, (3,), (1,), (1,), (1,))
    x = np.array([[2.0], [3.0], [5.0], [7.0]])
    weight = np.array([1.0, 10.0, 100.0]).reshape(1, 3, 1)
    y = convolve(x, weight, np.array([0.5]), pairs, 4)
    assert y.ravel().tolist() == [320.5, 532.5, 53.5, 70.5]
    # Transposed, out[f] = 1 x[f + 1] + 10 x[f] + 100 x[f - 1].
    up = convolve(x, weight, None, swap_pairs(pairs), 4)
    assert up.ravel().tolist() == [23.0, 235.0, 350.0, 70.0]


def test_groups_by_hand() -> None:
    # Two groups of one input and two output channels.
    weight = np.array([1.0, 10.0, 100.0, 1000.0]).reshape(4, 1, 1)
    y = convolve(np.array([[2.0, 3.0]]), weight, None, [[(0, 0)]], 1, groups=2)
    assert y.tolist() == [[2.0, 20.0, 300.0, 3000.0]]
    with pytest.raises(ValueError, match="do not split"):
        convolve(np.ones((1, 3)), weight, None, [[(0, 0)]], 1, groups=2)


def test_gradients_by_hand() -> None:
    # y0 = 3 x0 + 5 x1, y1 = 3 x1 with upstream gradients 7 and 11.
    pairs: Pairs = [[(0, 0), (1, 1)], [(1, 0)]]
    weight = np.array([[[3.0], [5.0]]])
    x, g = np.array([[2.0], [4.0]]), np.array([[7.0], [11.0]])
    grad_x, grad_w, grad_b = convolve_grads(g, x, weight, pairs)
    assert grad_x.tolist() == [[21.0], [68.0]]
    assert grad_w.tolist() == [[[58.0], [28.0]]]
    assert grad_b.tolist() == [18.0]


# Against dense torch.


@EACH_CASE
def test_convolution_equals_dense(case: Case) -> None:
    rng = np.random.default_rng(0)
    fine = random_sites(case.shape, rng)
    out_shape = conv_output_shape(case.shape, *case.geometry)
    coarse = coarse_sites(fine, *case.geometry, out_shape)
    pairs = conv_pairs(fine, coarse, *case.geometry)
    x = rng.standard_normal((len(fine), case.c_in))
    weight, bias = random_weight(case, rng), rng.standard_normal(case.c_out)

    leaves = leaf(x), leaf(weight), leaf(bias)
    dense = to_dense(leaves[0], fine, case.shape, BATCH)
    options = case.stride, case.padding, case.dilation
    y = dense_conv(dense, leaves[1], leaves[2], *options, case.groups)
    assert y.shape == (BATCH, case.c_out, *out_shape)
    assert_equals_dense(x, weight, bias, pairs, case.groups, y, coarse, leaves, rng)

    # The sites that exist are exactly those that an all-ones convolution of the mask reaches.
    mask = to_dense(torch.ones(len(fine), 1), fine, case.shape, BATCH)
    reached = dense_conv(mask, torch.ones(1, *case.kernel, 1), None, *options)
    np.testing.assert_array_equal(coarse, torch.argwhere(reached[:, 0] > 0.5).numpy())


@EACH_CASE
def test_transposed_convolution_equals_dense(case: Case) -> None:
    rng = np.random.default_rng(1)
    coarse = random_sites(case.shape, rng)
    # torch wants output_padding below the stride or the dilation.
    extra = tuple(max(s, d) - 1 for s, d in zip(case.stride, case.dilation, strict=True))
    out_shape = transposed_output_shape(case.shape, *case.geometry, extra)
    fine = fine_sites(coarse, *case.geometry, out_shape)
    pairs = swap_pairs(conv_pairs(fine, coarse, *case.geometry))
    x = rng.standard_normal((len(coarse), case.c_in))
    weight, bias = random_weight(case, rng), rng.standard_normal(case.c_out)

    leaves = leaf(x), leaf(weight), leaf(bias)
    dense = to_dense(leaves[0], coarse, case.shape, BATCH)
    options = case.stride, case.padding, case.dilation, extra
    y = dense_conv_transpose(dense, leaves[1], leaves[2], *options, case.groups)
    assert y.shape == (BATCH, case.c_out, *out_shape)
    assert_equals_dense(x, weight, bias, pairs, case.groups, y, fine, leaves, rng)

    mask = to_dense(torch.ones(len(coarse), 1), coarse, case.shape, BATCH)
    reached = dense_conv_transpose(mask, torch.ones(1, *case.kernel, 1), None, *options)
    np.testing.assert_array_equal(fine, torch.argwhere(reached[:, 0] > 0.5).numpy())


@pytest.mark.parametrize("ndim", [1, 2, 3, 4])
@pytest.mark.parametrize("dilation", [1, 2])
def test_submanifold_equals_dense(ndim: int, dilation: int) -> None:
    rng = np.random.default_rng(2)
    case = Case((6, 5, 4, 5)[:ndim], (3,) * ndim, (1,) * ndim, (dilation,) * ndim, (dilation,) * ndim)
    sites = random_sites(case.shape, rng)
    pairs = conv_pairs(sites, sites, *case.geometry)
    assert pairs[3**ndim // 2] == [(row, row) for row in range(len(sites))]
    x = rng.standard_normal((len(sites), case.c_in))
    weight, bias = random_weight(case, rng), rng.standard_normal(case.c_out)
    leaves = leaf(x), leaf(weight), leaf(bias)
    dense = to_dense(leaves[0], sites, case.shape, BATCH)
    y = dense_conv(dense, leaves[1], leaves[2], case.stride, case.padding, case.dilation)
    assert_equals_dense(x, weight, bias, pairs, 1, y, sites, leaves, rng)


@EACH_CASE
def test_pairs_obey_the_equation(case: Case) -> None:
    rng = np.random.default_rng(3)
    fine = random_sites(case.shape, rng)
    coarse = coarse_sites(fine, *case.geometry, conv_output_shape(case.shape, *case.geometry))
    pairs = conv_pairs(fine, coarse, *case.geometry)
    s, p, d = (np.array(v) for v in (case.stride, case.padding, case.dilation))
    for tap, of_tap in zip(kernel_taps(case.kernel), pairs, strict=True):
        ins, outs = np.array(of_tap, dtype=np.int64).reshape(-1, 2).T
        np.testing.assert_array_equal(fine[ins, 1:], s * coarse[outs, 1:] - p + d * np.array(tap))
        np.testing.assert_array_equal(fine[ins, 0], coarse[outs, 0])
        assert (np.diff(outs) > 0).all()
        assert len(set(ins.tolist())) == len(ins)
    assert {row for of_tap in pairs for _, row in of_tap} == set(range(len(coarse)))
