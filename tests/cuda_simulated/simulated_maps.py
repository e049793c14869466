"""Kernel maps: pair for pair the reference's, in its order."""

from __future__ import annotations

import gc

import pytest
import torch
from made_sites import make_sites

from sparseconv import ConvGeometry, Coordinates, use_backend
from sparseconv.backends import cuda, reference
from sparseconv.backends.cuda import by_row
from sparseconv.backends.cuda import kernel_map as cuda_map
from sparseconv.backends.cuda.implicit_gemm_table import map_tables

create = ConvGeometry.create


def assert_same(found: tuple[torch.Tensor, ...], expected: tuple[torch.Tensor, ...]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype and ours.device == theirs.device
        assert torch.equal(ours, theirs)


def test_submanifold_map(n_sites: int, is_sorted: bool) -> None:
    sites = make_sites(n_sites, is_sorted, (3, 3, 12))
    ours, theirs = cuda.build_index(sites), reference.build_index(sites)
    geometry = ConvGeometry.submanifold(3, (3, 1, 3), (1, 1, 2))
    pairs = cuda.kernel_pairs(ours, ours, geometry)
    assert_same(pairs, reference.kernel_pairs(theirs, theirs, geometry))
    if n_sites > 1:
        assert len(pairs[0]) > n_sites


@pytest.mark.parametrize(
    "geometry",
    [create(3, 2, 2), create(3, (3, 1, 2), (1, 2, 3), (2, 0, 1), (2, 1, 1))],
    ids=str,
)
def test_strided_map_onto_sites_in_any_order(n_sites: int, is_sorted: bool, geometry: ConvGeometry) -> None:
    sites = make_sites(n_sites, is_sorted, (3, 4, 12))
    ours, theirs = cuda.build_index(sites), reference.build_index(sites)
    coarse = reference.coarse_sites(theirs, geometry, None)
    coarse = coarse[torch.randperm(len(coarse))] if not is_sorted else coarse
    found = cuda.kernel_pairs(ours, cuda.build_index(coarse), geometry)
    assert_same(found, reference.kernel_pairs(theirs, reference.build_index(coarse), geometry))


def test_single_tap_and_no_input(is_sorted: bool) -> None:
    sites = make_sites(11, is_sorted, (3, 12))
    ours, theirs = cuda.build_index(sites), reference.build_index(sites)
    empty, also_empty = cuda.build_index(sites[:0]), reference.build_index(sites[:0])
    for geometry in (ConvGeometry.submanifold(2, 1), create(2, 3, 2, 1)):
        for mine, others in (
            ((ours, ours), (theirs, theirs)),
            ((empty, ours), (also_empty, theirs)),
            ((ours, empty), (theirs, also_empty)),
        ):
            found = cuda.kernel_pairs(*mine, geometry)
            assert_same(found, reference.kernel_pairs(*others, geometry))


@pytest.mark.parametrize("mirrored", [True, False])
def test_taps_in_groups(mirrored: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    sites = make_sites(19, mirrored, (3, 15))
    ours, theirs = cuda.build_index(sites), reference.build_index(sites)
    geometry = ConvGeometry.submanifold(2, 3)
    monkeypatch.setattr(cuda_map, "_HELD_ROWS", 3 * 19)
    assert_same(cuda.kernel_pairs(ours, ours, geometry), reference.kernel_pairs(theirs, theirs, geometry))


def test_order_pairs(is_sorted: bool) -> None:
    sites = make_sites(30, is_sorted, (3, 12))
    index = reference.build_index(sites)
    in_rows, out_rows, offsets = reference.kernel_pairs(index, index, ConvGeometry.submanifold(2, 3))
    # The swapped map of unsorted rows is out of order.
    found = cuda.order_pairs(out_rows, in_rows, offsets)
    assert_same(found, reference.order_pairs(out_rows, in_rows, offsets))


def test_a_map_is_grouped_once_and_forgotten_with_it() -> None:
    with use_backend("cuda"):
        coordinates = Coordinates(make_sites(20, True, (3, 12)))
        kernel_map = coordinates.submanifold_map(ConvGeometry.submanifold(2, 3))
        columns = kernel_map.in_rows, kernel_map.out_rows, kernel_map.tap_offsets
        before = len(map_tables)
        groups = by_row.pairs_by_row(*columns, 20)
        assert by_row.pairs_by_row(*columns, 20) is groups
        assert torch.equal(kernel_map.out_rows[groups.order.long()], kernel_map.out_rows.sort().values)
        assert len(map_tables) == before + 1
        del coordinates, kernel_map, columns
        gc.collect()
        assert len(map_tables) == before
