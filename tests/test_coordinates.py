"""CoordinateHash and Coordinates: exactness at the limits, checks, memo, copies."""

from __future__ import annotations

import copy
import gc
import pickle
import re
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scans import random_sites
from torch import Tensor

import sparseconv.functional as F
from sparseconv import ConvGeometry, CoordinateHash, Coordinates, DuplicateSiteError, SparseTensor, use_backend

LOW, HIGH = -(1 << 31), (1 << 31) - 1
SUBM = ConvGeometry.submanifold(2, 3)


def rows(*sites: tuple[int, ...], dtype: torch.dtype = torch.int32) -> Tensor:
    return torch.tensor(sites, dtype=dtype)


def by_dictionary(sites: Tensor, queries: Tensor) -> list[int]:
    row_of = {tuple(site): row for row, site in enumerate(sites.tolist())}
    return [row_of.get(tuple(query), -1) for query in queries.tolist()]


# CoordinateHash


@pytest.mark.parametrize("ndim", [1, 2, 3, 4])
def test_hash_finds_what_a_dictionary_finds(backend: str, ndim: int) -> None:
    shape = (3, 4, 5, 70)[-ndim:]
    for shuffled in (False, True):
        count = int(np.prod(shape)) // 2
        sites = random_sites(count, shape, (0, 2), seed=ndim, low=(-40,) * ndim, shuffled=shuffled)
        index = CoordinateHash(sites)
        around = random_sites(2 * count, [n + 4 for n in shape], (0, 1, 2, 3), seed=9, low=(-42,) * ndim)
        queries = torch.cat([sites.flip(0), around])
        found = index.query(queries)
        assert found.dtype == torch.int64
        assert found.tolist() == by_dictionary(sites, queries), f"shuffled={shuffled}"
        assert len(index) == count


def test_hash_of_nothing_and_of_one_site(backend: str) -> None:
    empty = CoordinateHash(torch.empty((0, 4), dtype=torch.int32))
    assert len(empty) == 0
    assert empty.query(rows((0, 0, 0, 0), (5, LOW, HIGH, -1))).tolist() == [-1, -1]
    assert empty.query(torch.empty((0, 4), dtype=torch.int32)).shape == (0,)
    for site in [(0, 0), (7, LOW), (HIGH, HIGH)]:
        one = CoordinateHash(rows(site))
        queries = rows(site, (site[0], 3), (3, site[1]), (LOW, LOW), (HIGH, HIGH))
        assert one.query(queries).tolist() == by_dictionary(rows(site), queries)


def test_hash_at_the_ends_of_int32(backend: str) -> None:
    sites = rows((0, HIGH), (0, LOW), (0, 0), (0, -1), (0, HIGH - 64), (0, LOW + 63), (0, LOW + 64))
    queries = torch.cat([sites, rows((0, HIGH - 1), (0, LOW + 1), (1, LOW), (-1, HIGH))])
    assert CoordinateHash(sites).query(queries).tolist() == by_dictionary(sites, queries)


def test_hash_is_exact_in_a_box_of_nearly_63_bits(backend: str) -> None:
    sites = rows((0, 0, LOW), (0, HIGH - 1, HIGH), (0, HIGH - 1, LOW), (0, 0, HIGH), (0, 1, LOW), (0, 12345, -1))
    around = [(0, 0, LOW + 1), (0, HIGH, HIGH), (0, HIGH - 2, HIGH), (0, 1, HIGH), (1, 0, LOW), (0, -1, HIGH)]
    queries = torch.cat([sites, rows(*around)])
    assert CoordinateHash(sites).query(queries).tolist() == by_dictionary(sites, queries)


def test_hash_refuses_a_box_of_63_bits(backend: str) -> None:
    for corners in (
        rows((0, 0, LOW), (0, HIGH, HIGH)),
        rows((0, LOW, LOW), (0, HIGH, HIGH)),
        rows((0, 0, 0, LOW, LOW), (1, 1, 1, HIGH, HIGH)),
        rows((0, LOW, LOW, LOW, LOW), (HIGH, HIGH, HIGH, HIGH, HIGH)),
    ):
        with pytest.raises(ValueError, match=r"span a box of .* a site's key has 63 bits.*below 2\^63 cells"):
            CoordinateHash(corners)


def test_box_below_63_bits_is_taken_whatever_its_last_axis(backend: str) -> None:
    """2**32 x (2**31 - 1) cells are fewer than 2**63, as the limit is documented."""
    sites = rows((0, LOW, 0), (0, HIGH, HIGH - 1))
    assert CoordinateHash(sites).query(sites).tolist() == [0, 1]


def test_queries_outside_int32_are_refused_not_wrapped(backend: str) -> None:
    index = CoordinateHash(rows((0, 5), (0, 0)))
    for far in (1 << 32, (1 << 32) + 5, -(1 << 63), (1 << 63) - 1):
        with pytest.raises(ValueError, match="int32"):
            index.query(rows((0, far), dtype=torch.int64))


@given(st.lists(st.tuples(*[st.integers(0, 3)] + [st.integers(-70, 70)] * 2), max_size=40, unique=True))
def test_hash_of_any_sites(sites: list[tuple[int, int, int]]) -> None:
    stored = torch.tensor(sites, dtype=torch.int32).reshape(-1, 3)
    queries = torch.cat([stored, stored + 1, stored.flip(0) - 1])
    for name in ("cpu", "reference"):
        with use_backend(name):
            assert CoordinateHash(stored).query(queries).tolist() == by_dictionary(stored, queries), name


def test_hash_errors() -> None:
    index = CoordinateHash(rows((0, 1, 2)))
    with pytest.raises(ValueError, match="must have 3 columns like the set, got 2"):
        index.query(rows((0, 1)))
    with pytest.raises(TypeError, match="must be int32"):
        index.query(torch.zeros((1, 3)))


# Coordinates: what is refused


@pytest.mark.parametrize("shuffled", [False, True])
def test_duplicates_are_named_with_their_rows(backend: str, shuffled: bool) -> None:
    sites = random_sites(60, (9, 30), shuffled=shuffled)
    doubled = torch.cat([sites, sites[17:18]])
    message = (
        rf"hold the site {re.escape(str(sites[17].tolist()))} \(batch first\) more than once, in rows 17 and 60"
    )
    with pytest.raises(DuplicateSiteError, match=message):
        Coordinates(doubled)
    with pytest.raises(ValueError, match="voxelize"):
        CoordinateHash(doubled)


BAD: list[tuple[Any, Any, Any, type[Exception], str]] = [
    ([[0, 1]], None, None, TypeError, "must be a torch.Tensor, got list"),
    (
        np.zeros((1, 3), np.int32),
        None,
        None,
        TypeError,
        "must be a torch.Tensor, got ndarray: use torch.from_numpy",
    ),
    (torch.zeros((2, 3)), None, None, TypeError, "must be int32 .or int64., got torch.float32: floor them"),
    (torch.zeros((2, 3), dtype=torch.int16), None, None, TypeError, "must be int32"),
    (torch.zeros((2, 3), dtype=torch.bool), None, None, TypeError, "must be int32"),
    (rows((0, 1))[0], None, None, ValueError, r"must have shape \[N, 1\+D\] with D = 1 \.\. 4.*got \[2\]"),
    (torch.zeros((2, 1), dtype=torch.int32), None, None, ValueError, r"got \[2, 1\]"),
    (torch.zeros((2, 6), dtype=torch.int32), None, None, ValueError, r"got \[2, 6\]"),
    (rows((0, 1 << 31), dtype=torch.int64), None, None, ValueError, "2147483648, beyond the int32 range"),
    (rows((0, LOW - 1), dtype=torch.int64), None, None, ValueError, "beyond the int32 range"),
    (rows((0, -(1 << 63)), dtype=torch.int64), None, None, ValueError, "beyond the int32 range"),
    (
        rows((0, 0), (0, 5)),
        [5],
        None,
        ValueError,
        r"row 1 is \[0, 5\].*axis 0 must lie in 0 \.\. 4 .spatial_shape",
    ),
    (rows((0, 3, -1), (0, 3, 1)), [5, 5], None, ValueError, r"row 0 is \[0, 3, -1\].*axis 1 must lie in 0 \.\. 4"),
    (
        rows((0, 0), (2, 1)),
        None,
        2,
        ValueError,
        r"row 1 is \[2, 1\].*batch index must lie in 0 \.\. 1 .batch_size",
    ),
    (rows((-1, 0)), None, None, ValueError, "batch"),
    (rows((-1, 0)), None, 2, ValueError, r"batch index must lie in 0 \.\. 1"),
    (rows((0, 0)), [5, 5], None, ValueError, "spatial_shape must be one integer or 1 of them"),
    (rows((0, 0)), [0], None, ValueError, "spatial_shape must lie in 1"),
    (rows((0, 0)), [1 << 31], None, ValueError, "spatial_shape must lie in 1"),
    (rows((0, 0)), [5.0], None, TypeError, "spatial_shape must hold integers"),
    (rows((0, 0)), 5, None, TypeError, "spatial_shape must be 1 integers, or None"),
    (rows((0, 0)), None, 0, ValueError, "batch_size must lie in 1"),
    (rows((0, 0)), None, 1.0, TypeError, "batch_size must hold integers"),
]


@pytest.mark.parametrize(("indices", "shape", "batch_size", "error", "text"), BAD)
def test_bad_input_is_named(indices: Any, shape: Any, batch_size: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        Coordinates(indices, shape, batch_size)


# Coordinates: what is accepted


def test_int64_whose_values_fit_are_those_of_int32() -> None:
    for site in [(0, LOW, HIGH), (0, LOW + 1, -1), (HIGH - 1, 0, 0)]:
        wide = Coordinates(rows(site, dtype=torch.int64))
        assert wide.indices.dtype == torch.int32
        assert torch.equal(wide.indices, Coordinates(rows(site)).indices), f"{site}"


def test_sizes_and_defaults() -> None:
    empty = Coordinates(torch.empty((0, 4), dtype=torch.int32), [4, 5, 6])
    assert (len(empty), empty.batch_size, empty.spatial_shape, empty.ndim) == (0, 1, (4, 5, 6), 3)
    sites = random_sites(30, (6, 7), (0, 3), shuffled=True)
    for shape in ([6, 7], (6, 7), np.array([6, 7]), torch.tensor([6, 7])):
        made = Coordinates(sites, shape)
        assert (made.spatial_shape, made.batch_size, made.is_sorted()) == ((6, 7), 4, False)
    assert Coordinates(random_sites(30, (6, 7), (0, 3))).is_sorted()
    wide = torch.zeros((30, 6), dtype=torch.int32)
    wide[:, ::2] = sites
    strided = Coordinates(wide[:, ::2], [6, 7])
    assert torch.equal(strided.indices, sites)
    assert strided.lookup(sites).tolist() == list(range(30))


def test_equal_geometries_share_a_map_and_others_do_not(backend: str) -> None:
    sites = Coordinates(random_sites(40, (9, 9)), [9, 9])
    made = {padding: sites.downsample(ConvGeometry.create(2, 3, 2, padding)) for padding in (0, 1, (0, 1), (1, 0))}
    assert sites.downsample(ConvGeometry.create(2, (3, 3), [2, 2], 1))[1] is made[1][1]
    assert len({id(kernel_map) for _, kernel_map in made.values()}) == 4
    assert sites.submanifold_map(SUBM) is sites.submanifold_map(ConvGeometry.submanifold(2, (3, 3)))
    first = sites.upsample(ConvGeometry.create(2, 2, 2), (0, 0))
    assert sites.upsample(ConvGeometry.create(2, 2, 2), (0, 0))[1] is first[1]
    assert sites.upsample(ConvGeometry.create(2, 2, 2), (1, 1))[0].spatial_shape == (19, 19)
    known = sites.submanifold_map(SUBM)
    sites.clear_maps()
    assert sites.submanifold_map(SUBM) is not known


def test_axes_must_agree() -> None:
    sites = Coordinates(rows((0, 1, 1)))
    with pytest.raises(
        ValueError, match="a 3-dimensional layer was given sites with 2 spatial axes: use the 2d layer"
    ):
        sites.downsample(ConvGeometry.create(3, 3))
    with pytest.raises(ValueError, match="2 spatial axes and the output sites 1"):
        sites.map_onto(Coordinates(rows((0, 1))), SUBM)


# Changes in place


def test_a_change_in_place_drops_maps_and_index(backend: str) -> None:
    indices = random_sites(40, (9, 9))
    sites = Coordinates(indices, [12, 12])
    geometry = ConvGeometry.create(2, 3, 2, 1)
    sites.downsample(geometry), sites.submanifold_map(SUBM)
    indices[:, 1] += 3
    fresh = Coordinates(indices.clone(), [12, 12])
    assert torch.equal(sites.downsample(geometry)[0].indices, fresh.downsample(geometry)[0].indices)
    assert torch.equal(sites.downsample(geometry)[1].in_rows, fresh.downsample(geometry)[1].in_rows)
    assert sites.lookup(indices).tolist() == list(range(40))


def test_a_bad_change_in_place_is_refused_every_time(backend: str) -> None:
    for site, error in (((0, 9, 9), ValueError), ((0, 1, 1), DuplicateSiteError)):
        sites = Coordinates(rows((0, 1, 1), (0, 2, 2)), [4, 4])
        sites.indices[1] = torch.tensor(site)
        for attempt in range(3):
            with pytest.raises(error):
                sites.submanifold_map(SUBM)
                pytest.fail(f"attempt {attempt} built a map on {site}")


def test_a_change_of_the_output_sites_drops_the_map_onto_them(backend: str) -> None:
    fine, coarse = Coordinates(rows((0, 1, 1), (0, 2, 2))), Coordinates(rows((0, 2, 2), (0, 3, 3)))
    point = ConvGeometry.create(2, 1)
    assert [len(pair[0]) for pair in fine.map_onto(coarse, point)] == [1]
    coarse.indices[:, 1:] += 1
    assert [len(pair[0]) for pair in fine.map_onto(coarse, point)] == [0]


def test_a_change_of_a_result_leaves_the_memo_of_its_input_right(backend: str) -> None:
    geometry = ConvGeometry.create(2, 2, 2)
    sites = Coordinates(random_sites(20, (8, 8)), [8, 8])
    expected = sites.downsample(geometry)[0].indices.clone()
    sites.downsample(geometry)[0].indices[0, 1:] = 3
    assert torch.equal(sites.downsample(geometry)[0].indices, expected)


# Lifetime and copies


def test_maps_onto_other_sites_do_not_keep_them_alive() -> None:
    fine = Coordinates(random_sites(30, (8, 8)), [8, 8])
    coarse = Coordinates(random_sites(10, (8, 8), seed=1), [8, 8])
    fine.map_onto(coarse, SUBM)
    watched = weakref.ref(coarse)
    del coarse
    gc.collect()
    assert watched() is None


def test_the_memo_dies_with_its_owner() -> None:
    fine = Coordinates(random_sites(30, (8, 8)), [8, 8])
    fine.submanifold_map(SUBM)
    coarse, kernel_map = fine.downsample(ConvGeometry.create(2, 3, 2, 1))
    watched = [weakref.ref(fine), weakref.ref(kernel_map)]
    del fine, kernel_map
    gc.collect()
    assert [reference() for reference in watched] == [None, None]
    assert len(coarse) > 0


@pytest.mark.parametrize(
    "duplicate", [lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy], ids=["pickle", "copy"]
)
def test_copies_carry_the_sites(duplicate: Any) -> None:
    sites = Coordinates(random_sites(30, (8, 8), (0, 2), shuffled=True), [8, 9], 5)
    sites.submanifold_map(SUBM)
    twin = duplicate(sites)
    assert twin.same_sites(sites) and sites.same_sites(twin)
    assert (twin.spatial_shape, twin.batch_size) == ((8, 9), 5)
    assert torch.equal(twin.submanifold_map(SUBM).in_rows, sites.submanifold_map(SUBM).in_rows)
    twin.indices[0, 1:] = torch.tensor([0, 8])
    assert not torch.equal(twin.indices, sites.indices)

    tensor = SparseTensor(torch.randn(30, 2), sites.indices, [8, 9], 5)
    tensor = F.sparse_conv(tensor, torch.randn(2, 3, 3, 2), stride=2, padding=1, indice_key="down")
    twin_tensor = duplicate(tensor)
    assert torch.equal(twin_tensor.features, tensor.features)
    assert twin_tensor.coordinates.same_sites(tensor.coordinates)


def test_same_sites_looks_at_rows_grid_and_batch() -> None:
    indices = random_sites(20, (8, 8))
    sites = Coordinates(indices, [8, 8], 1)
    assert sites.same_sites(Coordinates(indices.clone(), [8, 8], 1))
    assert not sites.same_sites(Coordinates(indices.flip(0), [8, 8], 1))
    assert not sites.same_sites(Coordinates(indices, [8, 9], 1))
    assert not sites.same_sites(Coordinates(indices, None, 1))
    assert not sites.same_sites(Coordinates(indices, [8, 8], 2))


def test_inference_mode_and_training_share_coordinates(backend: str) -> None:
    """Sites met first in inference mode, their maps included, serve training afterwards."""
    weight = torch.randn(4, 3, 3, 2, requires_grad=True)
    with torch.inference_mode():
        inside = SparseTensor(torch.randn(20, 2), random_sites(20, (6, 6)), [6, 6])
        assert F.subm_conv(inside, weight).features.shape == (20, 4)
    outside = SparseTensor(torch.randn(20, 2), random_sites(20, (6, 6)), [6, 6])
    with torch.inference_mode():
        F.subm_conv(outside, weight)
        F.sparse_conv(outside, weight, stride=2, padding=1)
    F.subm_conv(outside, weight).features.sum().backward()
    F.sparse_conv(outside, weight, stride=2, padding=1).features.sum().backward()
    assert weight.grad is not None and bool((weight.grad != 0).all())
