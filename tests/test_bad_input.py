"""Bad input over the whole public API: the type of the error, and a message that helps.

Each message says what came and what was expected or what to do. Nothing here may crash or return numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import sparseconv
from sparseconv import SparseTensor

# Untyped on purpose: most calls here are ones that a type checker refuses.
sc: Any = sparseconv
F: Any = sparseconv.functional

NAN, INF = float("nan"), float("inf")
SITES = torch.tensor([[0, 0, 1], [0, 2, 3], [1, 4, 4], [1, 0, 0]], dtype=torch.int32)


def tensor(channels: int = 4, dtype: torch.dtype = torch.float32) -> SparseTensor:
    generator = torch.Generator().manual_seed(0)
    return SparseTensor(torch.randn(4, channels, generator=generator).to(dtype), SITES, [5, 6], 2)


def built(features: Any = None, indices: Any = SITES, shape: Any = (5, 6), batch_size: Any = 2) -> SparseTensor:
    return SparseTensor(torch.ones(4, 1) if features is None else features, indices, shape, batch_size)


def one(*site: int, shape: Any = None, batch_size: int = 1) -> SparseTensor:
    return SparseTensor(torch.ones(1, 1), torch.tensor([[0, *site]]), shape, batch_size)


def changed(row: int, column: int, value: int, dtype: torch.dtype = torch.int32) -> Tensor:
    sites = SITES.to(dtype, copy=True)
    sites[row, column] = value
    return sites


def points(value: float = 0.5) -> Tensor:
    cloud = torch.full((6, 4), 0.5)
    cloud[3, 1] = value
    return cloud


def reused_key() -> SparseTensor:
    model = sc.Sequential(sc.SparseConv2d(4, 4, 2, 2, indice_key="k"), sc.SparseConv2d(4, 4, 2, 1, indice_key="k"))
    return model(tensor())


def reused_submanifold_key() -> SparseTensor:
    return sc.Sequential(sc.SubMConv2d(4, 4, 3, indice_key="k"), sc.SubMConv2d(4, 4, 5, indice_key="k"))(tensor())


def undone_on_other_sites() -> SparseTensor:
    first, second = sc.SparseConv2d(4, 4, 2, 2, indice_key="a"), sc.SparseConv2d(4, 4, 2, 2, indice_key="b")
    return sc.SparseInverseConv2d(4, 4, 2, "a")(second(first(tensor())))


def far_apart(ndim: int) -> SparseTensor:
    far = 1 << 30
    return SparseTensor(torch.ones(2, 1), torch.tensor([[0] + [-far] * ndim, [0] + [far] * ndim]))


Case = tuple[Callable[[], Any], type[Exception], tuple[str, ...]]
POINTS: dict[str, Case] = {
    "nan point": (lambda: sc.voxelize(points(NAN), 1), ValueError, ("1 of 6", "row 3", "nan", "nonfinite='drop'")),
    "inf point": (lambda: sc.voxelize(points(-INF), 1), ValueError, ("1 of 6", "row 3", "-inf", "Remove them")),
    "hard nan point": (
        lambda: sc.hard_voxelize(points(NAN), 1, max_points=2, max_voxels=2),
        ValueError,
        ("row 3", "nonfinite='drop'"),
    ),
    "points of a list": (
        lambda: sc.voxelize([[1.0, 2.0, 3.0]], 1),
        TypeError,
        ("numpy array or a torch tensor", "list"),
    ),
    "no points at all": (lambda: sc.voxelize(None, 1), TypeError, ("points must", "NoneType")),
    "points of strings": (
        lambda: sc.voxelize(np.array([["a", "b", "c"]]), 1),
        TypeError,
        ("must be numbers", "<U1"),
    ),
    "two columns": (lambda: sc.voxelize(torch.zeros(5, 2), 1), ValueError, ("[N, 3+F]", "[5, 2]")),
    "flat points": (lambda: sc.voxelize(torch.zeros(6), 1), ValueError, ("[N, 3+F]", "[6]")),
    "no cloud": (lambda: sc.voxelize([], 1), ValueError, ("holds no cloud", "pass at least one")),
    "unequal clouds": (
        lambda: sc.voxelize([torch.zeros(1, 3), torch.zeros(1, 4)], 1),
        ValueError,
        ("same number of columns", "[3, 4]"),
    ),
    "reduction": (lambda: sc.voxelize(points(), 1, reduce="min"), ValueError, ("mean, sum, max, first", "'min'")),
    "nonfinite": (lambda: sc.voxelize(points(), 1, nonfinite="keep"), ValueError, ("'error' or 'drop'", "'keep'")),
    "size of none": (lambda: sc.voxelize(points(), None), TypeError, ("voxel_size must", "None")),
    "range of two": (lambda: sc.voxelize(points(), 1, [0, 1]), ValueError, ("6 finite numbers", "[0, 1]")),
    "far apart points": (
        lambda: sc.voxelize(torch.tensor([[2e9, 2e9, 2e9], [-2e9, -2e9, -2e9]]), 1),
        ValueError,
        ("63 bits", "Remove stray far-away sites"),
    ),
    "features of other voxels": (
        lambda: sc.voxelize(points(), 1).to_sparse(torch.ones(7, 2)),
        ValueError,
        ("one row for each of the 1 rows", "[7, 2]"),
    ),
}
# Sizes are such that a stray write of an unchecked kernel stays inside its allocation's slack.
ROWS = torch.tensor([0, 1, 1, 0])
REDUCE: dict[str, Case] = {
    "unknown": (
        lambda: sc.reduce_points(torch.ones(4, 1), ROWS, 2, "min"),
        ValueError,
        ("mean, sum, max, first", "'min'"),
    ),
    "unknown with gradient": (
        lambda: sc.reduce_points(torch.ones(4, 1, requires_grad=True), ROWS, 2, "min"),
        ValueError,
        ("mean, sum, max, first", "'min'"),
    ),
    "row too large": (lambda: sc.reduce_points(torch.ones(4, 1), ROWS * 2, 2), ValueError, ("point_rows", "2")),
    "too few values": (lambda: sc.reduce_points(torch.ones(3, 1), ROWS, 2), ValueError, ("point_rows", "3", "4")),
    "float rows": (
        lambda: sc.reduce_points(torch.ones(4, 1), ROWS.float(), 2),
        TypeError,
        ("point_rows", "float32"),
    ),
}
TENSORS: dict[str, Case] = {
    "numpy features": (lambda: built(np.ones((4, 1))), TypeError, ("torch.Tensor", "ndarray", "torch.from_numpy")),
    "integer features": (
        lambda: built(torch.ones(4, 1).long()),
        TypeError,
        ("floating point", "torch.int64", ".float()"),
    ),
    "complex features": (lambda: built(torch.ones(4, 1).cfloat()), TypeError, ("floating point", "complex64")),
    "flat features": (lambda: built(torch.ones(4)), ValueError, ("[N, C]", "[4]")),
    "fewer features": (lambda: built(torch.ones(3, 1)), ValueError, ("one row for each of the 4 rows", "[3, 1]")),
    "numpy indices": (lambda: built(indices=SITES.numpy()), TypeError, ("torch.Tensor", "ndarray")),
    "float indices": (
        lambda: built(indices=SITES.float()),
        TypeError,
        ("int32 (or int64)", "float32", "floor them"),
    ),
    "bool indices": (lambda: built(indices=SITES.bool()), TypeError, ("int32 (or int64)", "torch.bool")),
    "flat indices": (lambda: built(indices=SITES[0]), ValueError, ("[N, 1+D]", "batch index first", "[3]")),
    "no axis": (lambda: built(indices=SITES[:, :1]), ValueError, ("D = 1 .. 4", "[4, 1]")),
    "five axes": (lambda: built(indices=SITES.repeat(1, 2)), ValueError, ("D = 1 .. 4", "[4, 6]")),
    "negative": (
        lambda: built(indices=changed(2, 1, -1)),
        ValueError,
        ("row 2 is [1, -1, 4]", "axis 0", "0 .. 4"),
    ),
    "past the end": (
        lambda: built(indices=changed(1, 2, 6)),
        ValueError,
        ("row 1 is [0, 2, 6]", "axis 1", "0 .. 5", "enlarge spatial_shape", "spatial_shape=None"),
    ),
    "batch beyond": (
        lambda: built(indices=changed(3, 0, 2)),
        ValueError,
        ("row 3 is [2, 0, 0]", "batch index", "0 .. 1 (batch_size)", "enlarge batch_size"),
    ),
    "negative batch": (lambda: built(indices=changed(0, 0, -1)), ValueError, ("row 0", "batch index")),
    "duplicates": (
        lambda: built(indices=SITES[[0, 1, 2, 1]]),
        sc.DuplicateSiteError,
        ("[0, 2, 3]", "rows 1 and 3", "merge duplicate voxels", "voxelize"),
    ),
    "past int32": (
        lambda: built(indices=changed(0, 1, 1 << 31, torch.int64), shape=None),
        ValueError,
        ("2147483648", "int32", "shift"),
    ),
    "smallest int64": (
        lambda: built(indices=changed(0, 1, -(1 << 63), torch.int64), shape=None),
        ValueError,
        ("int32", "shift"),
    ),
    "short shape": (lambda: built(shape=[5]), ValueError, ("spatial_shape", "2 of them", "[5]")),
    "shape of zero": (lambda: built(shape=[0, 6]), ValueError, ("spatial_shape", "1 .. 2147483647", "[0, 6]")),
    "float shape": (lambda: built(shape=[5.0, 6.0]), TypeError, ("spatial_shape", "integers", "5.0")),
    "float array shape": (lambda: built(shape=np.array([5.0, 6.0])), TypeError, ("spatial_shape", "integers")),
    "shape of an integer": (lambda: built(shape=5), TypeError, ("spatial_shape", "2 integers", "5")),
    "shape of a word": (lambda: built(shape="56"), TypeError, ("spatial_shape", "'56'")),
    "batch size 0": (lambda: built(batch_size=0), ValueError, ("batch_size", "1 ..", "0")),
    "batch size 2.0": (lambda: built(batch_size=2.0), TypeError, ("batch_size", "integers", "2.0")),
    "far apart in 2d": (
        lambda: sc.SubMConv2d(1, 1, 3)(
            SparseTensor(
                torch.ones(2, 1),
                torch.tensor([[0, -(1 << 31) + 1, -(1 << 31) + 1], [0, (1 << 31) - 1, (1 << 31) - 1]]),
            )
        ),
        ValueError,
        ("63 bits", "larger voxels"),
    ),
    "far apart in 3d": (lambda: far_apart(3), ValueError, ("63 bits", "larger voxels", "split the batch")),
    "far apart in 4d": (lambda: far_apart(4), ValueError, ("63 bits", "larger voxels")),
    "features of other rows": (
        lambda: tensor().replace_feature(torch.ones(5, 1)),
        ValueError,
        ("each of the 4 rows", "[5, 1]"),
    ),
    "features of numbers": (lambda: tensor().replace_feature([1.0]), TypeError, ("torch.Tensor", "list")),
    "integer conversion": (lambda: tensor().to(torch.int32), TypeError, ("floating point", "int32")),
}
LAYERS: dict[str, Case] = {
    "even submanifold": (
        lambda: sc.SubMConv2d(4, 4, 2),
        ValueError,
        ("odd kernel_size", "(2, 2)", "Use an odd size"),
    ),
    "kernel past the grid": (
        lambda: sc.SparseConv2d(4, 4, (3, 7))(tensor()),
        ValueError,
        ("(3, 7)", "larger than the grid [5, 6]", "would be [3, 0]", "smaller kernel"),
    ),
    "pool past the grid": (
        lambda: sc.SparseMaxPool2d(7)(tensor()),
        ValueError,
        ("(7, 7)", "larger than the grid"),
    ),
    "dilation past the grid": (
        lambda: sc.SparseConv2d(4, 4, 3, dilation=3)(tensor()),
        ValueError,
        ("dilation (3, 3)", "larger than"),
    ),
    "no output": (
        lambda: sc.SparseConvTranspose2d(4, 4, 1, 1, 3)(tensor()),
        ValueError,
        ("padding (3, 3) removes the whole output", "would be [-1, 0]", "Use less padding"),
    ),
    "unknown key": (
        lambda: sc.SparseInverseConv2d(4, 4, 3, "x")(tensor()),
        ValueError,
        ("'x'", "known: none", "give the paired"),
    ),
    "unknown unpool key": (lambda: sc.SparseUnpool("x")(tensor()), ValueError, ("'x'", "known: none")),
    "reused key": (reused_key, ValueError, ("'k' already names", "stride 2", "name of its own")),
    "reused submanifold key": (reused_submanifold_key, ValueError, ("'k' already names", "kernel 3", "kernel 5")),
    "undone out of order": (undone_on_other_sites, ValueError, ("'a'", "ends on", "reverse order")),
    "submanifold undone": (
        lambda: sc.SparseInverseConv2d(4, 4, 3, "k")(sc.SubMConv2d(4, 4, 3, indice_key="k")(tensor())),
        ValueError,
        ("'k' names a submanifold layer", "use SubMConv"),
    ),
    "channels": (lambda: sc.SubMConv2d(3, 5, 3)(tensor()), ValueError, ("features have 4 channels", "takes 3")),
    "channels of groups": (
        lambda: sc.SparseConv2d(6, 6, 3, groups=3)(tensor()),
        ValueError,
        ("4 channels", "groups 3", "takes 6"),
    ),
    "axes": (lambda: sc.SubMConv3d(4, 4, 3)(tensor()), ValueError, ("2",)),
    "axes of a strided layer": (lambda: sc.SparseConv1d(4, 4, 3)(tensor()), ValueError, ("2",)),
    "axes of a pool": (lambda: sc.SparseMaxPool3d(2)(tensor()), ValueError, ("2",)),
    "half features": (
        lambda: sc.SubMConv2d(4, 4, 3)(tensor(dtype=torch.float16)),
        TypeError,
        ("float16", "float32", "autocast"),
    ),
    "half weight": (
        lambda: sc.SparseConv2d(4, 4, 3).half()(tensor()),
        TypeError,
        ("float16", "float32", "convert one"),
    ),
    "layer of a plain tensor": (
        lambda: sc.SubMConv2d(4, 4, 3)(torch.ones(3, 4)),
        TypeError,
        ("SparseTensor", "Tensor"),
    ),
    "pool of a plain tensor": (
        lambda: sc.SparseMaxPool2d(2)(torch.ones(3, 4)),
        TypeError,
        ("SparseTensor", "Tensor"),
    ),
    "sum of plain tensors": (lambda: F.add(tensor(), torch.ones(4, 4)), TypeError, ("SparseTensor", "Tensor")),
    "sum of a list": (lambda: sc.Add()([tensor(), tensor()]), TypeError, ("SparseTensor", "list")),
    "joined list": (lambda: sc.Concatenate()([tensor(), tensor()]), TypeError, ("SparseTensor", "list")),
    "mask of a list": (
        lambda: F.prune(tensor(), [True, False, True, True]),
        TypeError,
        ("keep must be a bool", "list"),
    ),
    "mask of numbers": (lambda: F.prune(tensor(), torch.ones(4)), TypeError, ("bool mask", "float32")),
    "short mask": (lambda: F.prune(tensor(), torch.ones(3, dtype=torch.bool)), ValueError, ("[4]", "[3]")),
    "target of another batch": (
        lambda: F.conv_onto(tensor(), one(1, 1, shape=[5, 6]), torch.ones(1, 3, 3, 4)),
        ValueError,
        ("same size", "2 and 1"),
    ),
    "upsampled past int32": (
        lambda: sc.SparseUpsample(1024)(one((1 << 31) - 1)),
        ValueError,
        ("int32", "larger voxels"),
    ),
    "flat weight": (
        lambda: F.subm_conv(tensor(), torch.ones(4)),
        ValueError,
        ("[C_out, *kernel, C_in / groups]", "[4]"),
    ),
    "weight of other axes": (
        lambda: F.sparse_conv(tensor(), torch.ones(4, 3, 3, 3, 4)),
        ValueError,
        ("2 kernel axes", "[4, 3, 3, 3, 4]"),
    ),
    "output groups": (
        lambda: F.subm_conv(tensor(), torch.ones(5, 3, 3, 2), groups=2),
        ValueError,
        ("5 output channels", "2 groups"),
    ),
    # A bias that is not checked is read past its end.
    "short bias": (
        lambda: F.subm_conv(tensor(), torch.ones(8, 3, 3, 4), torch.ones(3)),
        ValueError,
        ("bias", "[8]", "[3]"),
    ),
    "long bias": (
        lambda: F.sparse_conv(tensor(), torch.ones(2, 3, 3, 4), torch.ones(3)),
        ValueError,
        ("bias", "[2]", "[3]"),
    ),
}
OTHERS: dict[str, Case] = {
    "backend": (
        lambda: sc.use_backend("opencl").__enter__(),
        ValueError,
        ("no backend 'opencl'", "cuda, reference"),
    ),
    "hash of floats": (lambda: sc.CoordinateHash(SITES.float()), TypeError, ("int32", "float32")),
    "hash of duplicates": (
        lambda: sc.CoordinateHash(SITES[[0, 0]]),
        sc.DuplicateSiteError,
        ("rows 0 and 1", "merge"),
    ),
    "query of other columns": (
        lambda: sc.CoordinateHash(SITES).query(SITES[:, :2]),
        ValueError,
        ("3 columns", "got 2"),
    ),
    "axes of a geometry": (lambda: sc.ConvGeometry.create(5, 3), ValueError, ("1 .. 4", "5")),
    "large kernel": (lambda: sc.ConvGeometry.create(1, 1025), ValueError, ("kernel_size", "1 .. 1024", "1025")),
    "large stride": (lambda: sc.ConvGeometry.create(1, 1, 1 << 17), ValueError, ("stride", "65536", "131072")),
    "tap": (
        lambda: tensor().coordinates.submanifold_map(sc.ConvGeometry.submanifold(2, 3)).pairs(9),
        IndexError,
        ("0 .. 8", "9"),
    ),
}
TABLE = {**POINTS, **{f"reduce: {name}": case for name, case in REDUCE.items()}, **TENSORS, **LAYERS, **OTHERS}


@pytest.mark.parametrize("name", TABLE)
def test_bad_input(backend: str, name: str) -> None:
    call, error, fragments = TABLE[name]
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    for fragment in fragments:
        assert fragment in message, f"{message!r} does not say {fragment!r}"


def test_valid_odd_input(backend: str) -> None:
    layer = sc.SubMConv2d(4, 3, 3)
    plain = layer(tensor()).features
    wide = torch.zeros(8, 9, dtype=torch.int64)
    wide[::2, 1:9:3] = SITES
    assert not wide[::2, 1:9:3].is_contiguous()
    features = tensor().features.T.contiguous().T
    for indices in (SITES.long(), wide[::2, 1:9:3], SITES.T.contiguous().T):
        assert torch.equal(layer(SparseTensor(features, indices, [5, 6], 2)).features, plain)


@pytest.mark.parametrize("ndim", [2, 3, 4])
def test_grids_near_the_packing_limit(backend: str, ndim: int) -> None:
    """63 bits hold these boxes; sites at opposite corners stay apart and keep their neighbours."""
    side = {2: (1 << 31) - 1, 3: (1 << 21) - 64, 4: (1 << 15) + (1 << 14)}[ndim]
    last = side - 1
    corners = [[0] * ndim, [0] * (ndim - 1) + [1], [last] * ndim, [last] * (ndim - 1) + [last - 1]]
    indices = torch.tensor([[0, *corner] for corner in corners])
    x = SparseTensor(torch.tensor([[1.0], [2.0], [4.0], [8.0]]), indices, [side] * ndim, 1)
    layer = getattr(sc, f"SubMConv{ndim}d")(1, 1, 3, bias=False)
    torch.nn.init.ones_(layer.weight)
    assert layer(x).features.flatten().tolist() == [3.0, 3.0, 12.0, 12.0]
    pooled = F.sum_pool(x, 2)
    assert pooled.indices[0].tolist() == [0] * (ndim + 1)
    # A window of 2 leaves the last line of an odd side out.
    assert float(pooled.features.sum()) == (15.0 if side % 2 == 0 else 3.0)


def test_a_grid_larger_than_any_key_is_fine_where_little_of_it_is_occupied(backend: str) -> None:
    side = (1 << 31) - 1
    x = SparseTensor(torch.ones(2, 1), torch.tensor([[0] + [side - 2] * 4, [0] + [side - 1] * 4]), [side] * 4, 1)
    layer = sc.SubMConv4d(1, 1, 3, bias=False)
    torch.nn.init.ones_(layer.weight)
    assert layer(x).features.flatten().tolist() == [2.0, 2.0]
