"""Every convolution against torch's dense one at the active sites: values and all gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from oracle import at_sites, dense_conv, dense_conv_transpose, to_dense
from scans import random_sites
from tolerance import assert_close, assert_same_zeros
from torch import Tensor, nn

import sparseconv as sc
import sparseconv.functional as F
from sparseconv import ConvGeometry, SparseTensor
from sparseconv.functional.conv import convolve_features
from sparseconv.kernel_map import KernelMap

SHAPES = {1: (40,), 2: (9, 14), 3: (5, 6, 7), 4: (3, 4, 4, 5)}
BATCHES = (0, 2)  # sample 1 of 3 is empty
create = ConvGeometry.create
GEOMETRIES = [
    create(1, 3, 2, 1),
    create(1, 20, 3, 8, 2),
    create(2, (3, 2), (2, 1), (1, 0)),
    create(2, (1, 5), (1, 3), (0, 2), (1, 2)),
    create(3, 3, 1, 1),
    create(3, 3, 2, 1),
    create(3, 2, 2),
    create(3, (3, 1, 2), (2, 1, 1), (2, 0, 1), (2, 1, 3)),
    create(4, (2, 1, 3, 2), (2, 1, 1, 2), (0, 0, 1, 1)),
]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
DenseForm = Callable[[Tensor, Tensor, Tensor], Tensor]


class Problem:
    """Sparse input and parameters, and the same numbers in float64 for the dense form."""

    def __init__(
        self,
        sites: Tensor,
        shape: Sequence[int],
        kernel: Sequence[int],
        channels: tuple[int, int] = (3, 5),
        groups: int = 1,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        c_in, c_out = channels
        self.sites, self.shape, self.groups = sites, list(shape), groups
        self.values = [
            torch.randn(len(sites), c_in).to(dtype).requires_grad_(),
            torch.randn(c_out, *kernel, c_in // groups).to(dtype).requires_grad_(),
            torch.randn(c_out).to(dtype).requires_grad_(),
        ]
        self.exact = [value.detach().double().requires_grad_() for value in self.values]
        self.terms = math.prod(kernel) * (c_in // groups) + 1

    @property
    def input(self) -> SparseTensor:
        return SparseTensor(self.values[0], self.sites, self.shape, 3)

    def check(self, output: SparseTensor, dense: DenseForm, what: str) -> None:
        """The output and the gradients of all three inputs are those of the dense form."""
        grid = to_dense(self.exact[0], self.sites, self.shape, 3)
        full = dense(grid, self.exact[1], self.exact[2])
        if output.spatial_shape is not None:
            assert output.spatial_shape == list(full.shape[2:]), what
        expected = at_sites(full, output.indices)
        assert output.dtype == self.values[0].dtype, what
        assert_close(output.features, expected, self.terms, what)
        cotangent = torch.randn(expected.shape).to(output.dtype)
        grads = torch.autograd.grad(output.features, self.values, cotangent)
        exact = torch.autograd.grad(expected, self.exact, cotangent.double())
        terms = (self.terms * len(output), len(output), len(output))
        for name, grad, target, n in zip(("features", "weight", "bias"), grads, exact, terms, strict=True):
            assert grad.dtype == output.dtype, f"{what}: gradient of {name}"
            assert_close(grad, target, n, f"{what}: gradient of {name}")
            if grad.dtype in (torch.float32, torch.float64):
                assert_same_zeros(grad, target, f"{what}: gradient of {name}")


def all_reached(output: SparseTensor, full: Tensor) -> Tensor:
    """Values of the dense result away from the output's sites."""
    away = torch.ones(full.shape[0], *full.shape[2:], dtype=torch.bool)
    away[tuple(output.indices.long().T)] = False
    return full.movedim(1, -1)[away]


def sites_of(ndim: int, shuffled: bool, count: int = 60) -> Tensor:
    return random_sites(count, SHAPES[ndim], BATCHES, seed=ndim, shuffled=shuffled)[:count]


def few_sites(ndim: int, shuffled: bool = True) -> Tensor:
    return sites_of(ndim, shuffled, 30 if ndim == 1 else 60)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_sparse_convolution(backend: str, geometry: ConvGeometry) -> None:
    s, p, d = geometry.stride, geometry.padding, geometry.dilation
    for shuffled in (False, True):
        problem = Problem(few_sites(geometry.ndim, shuffled), SHAPES[geometry.ndim], geometry.kernel_size)
        output = F.sparse_conv(problem.input, *problem.values[1:], s, p, d)
        problem.check(output, lambda x, w, b: dense_conv(x, w, b, s, p, d), f"shuffled={shuffled}")
        grid = to_dense(problem.exact[0], problem.sites, problem.shape, 3)
        elsewhere = all_reached(output, dense_conv(grid, problem.exact[1], None, s, p, d))
        assert bool((elsewhere == 0).all()), "an output that an input reaches is missing"


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_transposed_convolution(backend: str, geometry: ConvGeometry) -> None:
    s, p, d = geometry.stride, geometry.padding, geometry.dilation
    for extra in {(0,) * geometry.ndim, tuple(max(a, b) - 1 for a, b in zip(s, d, strict=True))}:
        problem = Problem(few_sites(geometry.ndim), SHAPES[geometry.ndim], geometry.kernel_size)
        output = F.sparse_conv_transpose(problem.input, *problem.values[1:], s, p, extra, d)
        problem.check(output, lambda x, w, b, e=extra: dense_conv_transpose(x, w, b, s, p, d, e), f"extra {extra}")
        grid = to_dense(problem.exact[0], problem.sites, problem.shape, 3)
        full = dense_conv_transpose(grid, problem.exact[1], None, s, p, d, extra)
        assert bool((all_reached(output, full) == 0).all()), "an output that an input reaches is missing"


@pytest.mark.parametrize(
    ("kernel", "dilation"),
    [((3,), 1), ((67,), 1), ((3, 3), 1), ((1, 5), (1, 3)), ((3, 3, 3), 1), ((3, 1, 5), 2), ((1, 1, 1), 1),
     ((3, 1, 3, 3), 1)],
    ids=str,
)  # fmt: skip
def test_submanifold_convolution(backend: str, kernel: tuple[int, ...], dilation: int | tuple[int, ...]) -> None:
    ndim = len(kernel)
    geometry = ConvGeometry.submanifold(ndim, kernel, dilation)
    for shuffled in (False, True):
        problem = Problem(few_sites(ndim, shuffled), SHAPES[ndim], kernel)
        output = F.subm_conv(problem.input, *problem.values[1:], dilation)
        assert output.coordinates is not None and torch.equal(output.indices, problem.sites)
        problem.check(
            output,
            lambda x, w, b: dense_conv(x, w, b, geometry.stride, geometry.padding, geometry.dilation),
            f"shuffled={shuffled}",
        )


@pytest.mark.parametrize("geometry", [GEOMETRIES[0], GEOMETRIES[2], GEOMETRIES[5], GEOMETRIES[8]], ids=str)
def test_inverse_convolution(backend: str, geometry: ConvGeometry) -> None:
    """It is the transposed convolution on the paired layer's grid, read off at that layer's input sites."""
    ndim = geometry.ndim
    s, p, d = geometry.stride, geometry.padding, geometry.dilation
    for shuffled in (False, True):
        original = SparseTensor(torch.randn(30, 2), sites_of(ndim, shuffled, 30), SHAPES[ndim], 3)
        down = F.sparse_conv(original, torch.randn(4, *geometry.kernel_size, 2), None, s, p, d, 1, "down")
        problem = Problem(down.indices, down.spatial_shape or (), geometry.kernel_size, (4, 3))
        output = F.inverse_conv(down.replace_feature(problem.values[0]), *problem.values[1:], "down")
        assert output.coordinates is original.coordinates
        extra = [a - b for a, b in zip(SHAPES[ndim], geometry.transposed_output_shape(problem.shape), strict=True)]
        problem.check(output, lambda x, w, b, e=extra: dense_conv_transpose(x, w, b, s, p, d, e), f"{shuffled}")


@pytest.mark.parametrize("geometry", [GEOMETRIES[1], GEOMETRIES[3], GEOMETRIES[7]], ids=str)
def test_convolution_onto_given_sites(backend: str, geometry: ConvGeometry) -> None:
    s, p, d = geometry.stride, geometry.padding, geometry.dilation
    none = (0,) * geometry.ndim
    for transposed in (False, True):
        shape = SHAPES[geometry.ndim]
        out_shape = geometry.transposed_output_shape(shape) if transposed else geometry.output_shape(shape)
        problem = Problem(few_sites(geometry.ndim), shape, geometry.kernel_size)
        target = SparseTensor(
            torch.zeros(10, 1), random_sites(10, out_shape, (0, 1, 2), 7, None, True), out_shape, 3
        )
        output = F.conv_onto(problem.input, target, *problem.values[1:], s, p, d, transposed=transposed)
        assert output.coordinates is target.coordinates

        def dense(x: Tensor, w: Tensor, b: Tensor, transposed: bool = transposed) -> Tensor:
            return dense_conv_transpose(x, w, b, s, p, d, none) if transposed else dense_conv(x, w, b, s, p, d)

        problem.check(output, dense, f"transposed={transposed}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_channels(dtype: torch.dtype) -> None:
    """Widths around the vector tiles, in all pairs that matter."""
    sites = random_sites(50, (9, 14), BATCHES, shuffled=True)
    widths = [(1, 1), (1, 64), (3, 16), (4, 17), (5, 33), (16, 5), (17, 3), (33, 100), (64, 1), (100, 64), (3, 4)]
    for c_in, c_out in widths:
        problem = Problem(sites, (9, 14), (3, 3), (c_in, c_out), dtype=dtype)
        output = F.subm_conv(problem.input, *problem.values[1:])
        problem.check(output, lambda x, w, b: dense_conv(x, w, b, (1, 1), (1, 1), (1, 1)), f"{c_in} to {c_out}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_groups(backend: str, dtype: torch.dtype) -> None:
    """Grouped, odd widths, and depthwise with several outputs for an input or the reverse; strided, transposed."""
    sites = random_sites(50, (9, 14), BATCHES, shuffled=True)
    s, p, d = (2, 1), (1, 1), (1, 2)
    for c_in, c_out, groups in (
        (4, 6, 2),
        (9, 3, 3),
        (10, 15, 5),
        (34, 38, 2),
        (5, 5, 5),
        (7, 14, 7),
        (16, 16, 16),
        (51, 17, 17),
        (18, 36, 18),
        (2, 34, 2),
    ):
        problem = Problem(sites, (9, 14), (3, 3), (c_in, c_out), groups, dtype)
        what = f"{c_in} to {c_out} in {groups}"
        output = F.sparse_conv(problem.input, *problem.values[1:], s, p, d, groups)
        problem.check(output, lambda x, w, b, g=groups: dense_conv(x, w, b, s, p, d, g), what)
        output = F.sparse_conv_transpose(problem.input, *problem.values[1:], s, p, 0, d, groups)
        problem.check(output, lambda x, w, b, g=groups: dense_conv_transpose(x, w, b, s, p, d, (0, 0), g), what)


@pytest.mark.parametrize("count", [511, 512, 513, 1025, 4097, 9001])
def test_output_rows_that_end_at_a_block(count: int) -> None:
    """Blocks of 512 output rows, chunks of 4096 sites, and weight-gradient tasks of 8192 pairs."""
    sites = random_sites(count, (60, 120), BATCHES, shuffled=count % 2 == 0)
    for groups, channels in ((1, (4, 17)), (6, (6, 6)), (16, (16, 32)), (16, (48, 16)), (2, (6, 10))):
        problem = Problem(sites, (60, 120), (3, 3), channels, groups)
        output = F.subm_conv(problem.input, *problem.values[1:], 1, groups)
        problem.check(
            output, lambda x, w, b, g=groups: dense_conv(x, w, b, (1, 1), (1, 1), (1, 1), g), f"groups {groups}"
        )


def test_empty_and_single_inputs(backend: str) -> None:
    for count in (0, 1):
        sites = random_sites(count, (9, 14), (2,))
        problem = Problem(sites, (9, 14), (3, 3))
        problem.check(
            F.subm_conv(problem.input, *problem.values[1:]),
            lambda x, w, b: dense_conv(x, w, b, (1, 1), (1, 1), (1, 1)),
            f"{count} sites, submanifold",
        )
        problem.check(
            F.sparse_conv(problem.input, *problem.values[1:], 2, 1),
            lambda x, w, b: dense_conv(x, w, b, (2, 2), (1, 1), (1, 1)),
            f"{count} sites, strided",
        )
        problem.check(
            F.sparse_conv_transpose(problem.input, *problem.values[1:], 2, 1),
            lambda x, w, b: dense_conv_transpose(x, w, b, (2, 2), (1, 1), (1, 1), (0, 0)),
            f"{count} sites, transposed",
        )


def test_every_output_outside_the_grid(backend: str) -> None:
    problem = Problem(torch.tensor([[0, 4]], dtype=torch.int32), (5,), (2,))
    output = F.sparse_conv(problem.input, *problem.values[1:], 2)
    assert (len(output), output.spatial_shape) == (0, [2])
    grads = torch.autograd.grad(output.features.sum(), problem.values)
    assert [grad.shape for grad in grads] == [value.shape for value in problem.values]
    assert all(bool((grad == 0).all()) for grad in grads)
    further = sc.SparseConv1d(5, 2, 2)(output)
    assert (len(further), further.spatial_shape) == (0, [1])


def test_zero_channels(backend: str) -> None:
    """A sum over nothing is the bias, and its gradients are empty or zero."""
    sites = random_sites(20, (9, 14), BATCHES)
    for channels in ((0, 4), (3, 0)):
        problem = Problem(sites, (9, 14), (3, 3), channels)
        output = F.subm_conv(problem.input, *problem.values[1:])
        if channels[0] == 0:
            assert torch.equal(output.features, problem.values[2].expand(20, 4)), f"{channels}"
        grads = torch.autograd.grad(output.features.sum(), problem.values)
        assert [grad.shape for grad in grads] == [value.shape for value in problem.values], f"{channels}"
        assert bool((grads[0] == 0).all()), f"{channels}: gradient of the features"


def test_views_of_features_weight_and_gradient(backend: str) -> None:
    sites = random_sites(50, (9, 14), BATCHES, shuffled=True)
    x, w, b = torch.randn(50, 3), torch.randn(5, 3, 3, 3), torch.randn(5)
    expected = F.subm_conv(SparseTensor(x, sites, (9, 14), 3), w, b).features
    wide_x, wide_w, wide_b = torch.randn(3, 100), torch.randn(3, 3, 3, 10), torch.randn(10)
    wide_x[:, ::2], wide_w[..., ::2], wide_b[::2] = x.T, w.permute(3, 1, 2, 0), b
    views = (wide_x[:, ::2].T, wide_w[..., ::2].permute(3, 1, 2, 0), wide_b[::2])
    assert not any(view.is_contiguous() for view in views)
    assert torch.equal(F.subm_conv(SparseTensor(views[0], sites, (9, 14), 3), *views[1:]).features, expected)
    row = torch.randn(1, 3, requires_grad=True)
    same = F.subm_conv(SparseTensor(row.expand(50, 3), sites, (9, 14), 3), w, b).features
    full = row.detach().repeat(50, 1).requires_grad_()
    other = F.subm_conv(SparseTensor(full, sites, (9, 14), 3), w, b).features
    assert torch.equal(same, other)
    cotangent = torch.randn(1, 5).expand(50, 5)
    (grad,) = torch.autograd.grad(same, row, cotangent)
    (grad_of_copy,) = torch.autograd.grad(other, full, cotangent.contiguous())
    assert_close(grad, grad_of_copy.double().sum(0, keepdim=True), 50 * 27)


def test_a_network_of_layers_is_the_network_of_dense_layers(backend: str) -> None:
    """Layers hand their parameters on unchanged, groups and a missing bias included."""
    sites = random_sites(200, (5, 6, 7), (0,), shuffled=True)  # of 210 cells
    unit, both = (1, 1, 1), (2, 2, 2)
    model = sc.Sequential(
        sc.SubMConv3d(3, 8, 3),
        nn.ReLU(),
        sc.SparseConv3d(8, 6, 3, 2, 1, groups=2, bias=False, indice_key="down"),
        sc.SparseInverseConv3d(6, 4, 3, "down"),
    )
    first, second, third = model[0], model[2], model[3]
    x = SparseTensor(torch.randn(200, 3), sites, (5, 6, 7))
    output = model(x)
    assert torch.equal(output.indices, sites)
    active = to_dense(torch.ones(200, 1), sites, (5, 6, 7), 1)
    z = dense_conv(x.dense(), first.weight, first.bias, unit, unit, unit).relu() * active
    z = dense_conv(z, second.weight, None, both, unit, unit, 2)
    z = dense_conv_transpose(z, third.weight, third.bias, both, unit, unit, (0, 1, 0))
    assert_close(output.features, at_sites(z, sites), 27 * 8)
    transposed = sc.SparseConvTranspose3d(3, 4, 3, 2, 1, output_padding=1, groups=1)(x)
    assert transposed.spatial_shape == [10, 12, 14]


def small(count: int = 20, channels: int = 3, shape: Sequence[int] = (9, 14)) -> SparseTensor:
    return SparseTensor(torch.randn(count, channels), random_sites(count, shape, BATCHES), shape, 3)


def test_features_and_weights_that_do_not_fit_are_named(backend: str) -> None:
    x, w = small(), torch.randn(4, 3, 3, 3)
    with pytest.raises(ValueError, match=r"features have 3 channels, and the weight \[4, 3, 3, 5\] .* takes 5"):
        F.subm_conv(x, torch.randn(4, 3, 3, 5))
    with pytest.raises(ValueError, match=r"features have 3 channels.*groups 3 takes 9"):
        F.sparse_conv(x, torch.randn(3, 3, 3, 3), groups=3)
    with pytest.raises(ValueError, match="4 output channels cannot be cut into 3 groups"):
        F.subm_conv(x, torch.randn(4, 3, 3, 1), groups=3)
    with pytest.raises(ValueError, match=r"with 2 kernel axes, got \[4, 3, 3, 3, 3\]"):
        F.subm_conv(x, torch.randn(4, 3, 3, 3, 3))
    with pytest.raises(
        TypeError, match=r"features are torch.float32 and the weight is torch.float64: convert one"
    ):
        F.subm_conv(x, w.double())
    with pytest.raises(TypeError, match=r"features are torch.float16 and the weight is torch.float32"):
        F.subm_conv(x.half(), w)
    with pytest.raises(ValueError, match=r"3-dimensional layer was given sites with 2 spatial axes|kernel axes"):
        sc.SubMConv3d(3, 4, 3)(x)
    with pytest.raises(ValueError, match="needs an odd kernel_size"):
        F.subm_conv(x, torch.randn(4, 2, 2, 3))
    with pytest.raises(ValueError, match="larger than the grid"):
        F.sparse_conv(x, torch.randn(4, 10, 1, 3))
    with pytest.raises(ValueError, match="output_padding must be smaller than the larger of stride"):
        F.sparse_conv_transpose(x, w, stride=2, output_padding=2)


@pytest.mark.parametrize("shape", [(1,), (3,), (7,), (1, 4), (4, 1), ()], ids=str)
def test_a_bias_of_another_shape_is_refused(backend: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="bias"):
        F.subm_conv(small(), torch.randn(4, 3, 3, 3), torch.randn(shape))


def test_a_bias_of_another_type_is_refused(backend: str) -> None:
    with pytest.raises(TypeError, match="bias"):
        F.subm_conv(small(), torch.randn(4, 3, 3, 3), torch.randn(4).double())


@pytest.mark.parametrize("groups", [1, 3])
def test_a_map_without_taps_gives_the_bias(backend: str, groups: int) -> None:
    """Kernels of their own for each sample of an empty batch are such a map."""
    none = torch.empty(0, dtype=torch.int32)
    kernel_map = KernelMap(none, none, torch.zeros(1, dtype=torch.int64), 4, 2, True)
    features = torch.randn(4, 3, requires_grad=True)
    weight = torch.randn(6, 0, 3 // groups, requires_grad=True)
    bias = torch.randn(6, requires_grad=True)
    out = convolve_features(features, weight, bias, kernel_map, groups)
    assert torch.equal(out, bias.detach().expand(2, 6))
    wanted = (torch.zeros(4, 3), torch.zeros(6, 0, 3 // groups), torch.full((6,), 2.0))
    for found, zeros in zip(torch.autograd.grad(out.sum(), (features, weight, bias)), wanted, strict=True):
        assert torch.equal(found, zeros)


def test_features_of_another_number_of_rows_are_refused(backend: str) -> None:
    kernel_map = small().coordinates.submanifold_map(ConvGeometry.submanifold(2, 3))
    for rows in (0, 19, 21):
        with pytest.raises(ValueError, match="rows"):
            convolve_features(torch.randn(rows, 3), torch.randn(4, 3, 3, 3), None, kernel_map)
    with pytest.raises(ValueError, match="has 15 taps and the kernel map 9"):
        convolve_features(torch.randn(20, 3), torch.randn(4, 5, 3, 3), None, kernel_map)


def test_indice_keys(backend: str) -> None:
    x, w, back = small(), torch.randn(4, 3, 3, 3), torch.randn(3, 3, 3, 4)
    y = F.sparse_conv(x, w, stride=2, padding=1, indice_key="down")
    with pytest.raises(
        ValueError, match=r"no layer that led to this tensor has indice_key 'up' \(known: 'down'\)"
    ):
        F.inverse_conv(y, back, None, "up")
    with pytest.raises(ValueError, match=r"needs its kernel_size \(3, 3\), got \(1, 3\)"):
        F.inverse_conv(y, torch.randn(3, 1, 3, 4), None, "down")
    with pytest.raises(ValueError, match=r"ends on .* but the input lies on"):
        F.inverse_conv(F.sparse_conv(y, torch.randn(4, 2, 2, 4), stride=2), back, None, "down")
    same = F.subm_conv(F.subm_conv(x, w[:3], indice_key="s"), w[:3], indice_key="s")
    with pytest.raises(ValueError, match="names a submanifold layer"):
        F.inverse_conv(same, torch.randn(3, 3, 3, 3), None, "s")
    with pytest.raises(ValueError, match="indice_key 's' already names the map of a submanifold"):
        F.subm_conv(same, torch.randn(3, 5, 5, 3), indice_key="s")
    with pytest.raises(ValueError, match="indice_key 'down' already names the map of a convolution"):
        F.sparse_conv(y, torch.randn(4, 3, 3, 4), stride=2, padding=1, indice_key="down")
    with pytest.raises(ValueError, match="no layer"):
        F.inverse_conv(SparseTensor(y.features, y.indices, y.spatial_shape, 3), back, None, "down")
    with pytest.raises(ValueError, match="batches of the same size, got 3 and 1"):
        F.conv_onto(x, sc.Coordinates(x.indices[:1], x.spatial_shape, 1), w)


def test_an_inverse_after_a_change_in_place_is_right_or_refused(backend: str) -> None:
    x, back = small(), torch.randn(3, 3, 3, 4)
    y = F.sparse_conv(x, torch.randn(4, 3, 3, 3), stride=2, padding=1, indice_key="down")
    x.indices[:, 1] = 8 - x.indices[:, 1]
    try:
        found = F.inverse_conv(y, back, None, "down")
    except ValueError:
        return
    expected = F.conv_onto(y, x.coordinates, back, None, 2, 1, transposed=True)
    assert torch.equal(found.features, expected.features)
