"""Keys, look-ups, output sites and distinct sites."""

from __future__ import annotations

import pytest
import torch
from made_sites import make_sites
from torch import Tensor

from sparseconv import ConvGeometry, DuplicateSiteError
from sparseconv.backends import cuda, reference
from sparseconv.backends.cuda import hash as cuda_hash
from sparseconv.backends.cuda import sites as cuda_sites

create = ConvGeometry.create
GEOMETRIES = [
    create(3, 3, 2, 1),
    create(3, (3, 2, 4), (1, 3, 2), (2, 0, 1), (2, 1, 2)),
    create(3, (1, 5, 3), (4, 2, 6), (0, 1, 3), (1, 2, 4)),
]


def test_index_finds_what_it_holds(n_sites: int, is_sorted: bool) -> None:
    sites = make_sites(n_sites, is_sorted)
    index = cuda.build_index(sites)
    assert cuda.is_sorted(index) == reference.is_sorted(reference.build_index(sites))
    assert torch.equal(cuda.query(index, sites), torch.arange(n_sites))
    step = torch.tensor([0, 1, 0, 0], dtype=torch.int32)
    queries = torch.cat([sites, sites + step, sites - step, make_sites(30, False)])
    assert torch.equal(cuda.query(index, queries), reference.query(reference.build_index(sites), queries))


def test_lines_of_every_length_and_ranks_of_every_bit() -> None:
    lines = [torch.arange(length) + 100 * length for length in (1, 31, 32, 33, 70)]
    sites = torch.stack([torch.zeros(167), torch.cat(lines)], 1).int()
    index = cuda.build_index(sites)
    everything = torch.stack([torch.zeros(1200), torch.arange(-100, 1100) * 7], 1).int()
    for queries in (sites, everything):
        expected = reference.query(reference.build_index(sites), queries)
        assert torch.equal(cuda.query(index, queries), expected)
    assert len(set((index.table[:, 0] >= 0).nonzero()[:, 0].tolist())) == len(set((index.keys >> 5).tolist()))


def test_coordinates_at_the_ends_of_int32() -> None:
    sites = torch.tensor([[0, -(2**31)], [0, 2**31 - 1], [5, 0], [5, -1]], dtype=torch.int32)
    index = cuda.build_index(sites)
    assert torch.equal(cuda.query(index, sites), torch.arange(4))
    absent = torch.tensor([[0, 0], [1, 2**31 - 1], [-(2**31), 7], [2**31 - 1, 2**31 - 1]], dtype=torch.int32)
    assert cuda.query(index, absent).tolist() == [-1, -1, -1, -1]


def test_every_look_up_ends_where_every_block_collides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_hash, "slot_of", lambda name, last_slot: last_slot - 1)
    sites = make_sites(25, True)
    index = cuda.build_index(sites)
    assert torch.equal(cuda.query(index, sites), torch.arange(25))
    assert cuda.query(index, sites + 1000).tolist() == [-1] * 25


def test_repeated_and_unpackable_sites_are_refused() -> None:
    sites = make_sites(20, False)
    with pytest.raises(DuplicateSiteError, match=rf"{sites[7].tolist()[0]}.*in rows 7 and 20"):
        cuda.build_index(torch.cat([sites, sites[7:8]]))
    with pytest.raises(ValueError, match="63 bits"):
        cuda.build_index(torch.tensor([[0, -(2**31), -(2**31)], [9, 2**31 - 1, 2**31 - 1]], dtype=torch.int32))


def test_index_does_not_follow_the_caller() -> None:
    sites = make_sites(9, True)
    index = cuda.build_index(sites)
    kept = sites.clone()
    sites.zero_()
    assert torch.equal(cuda.query(index, kept), torch.arange(9))


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_output_sites(n_sites: int, is_sorted: bool, geometry: ConvGeometry) -> None:
    sites = make_sites(n_sites, is_sorted)
    ours, theirs = cuda.build_index(sites), reference.build_index(sites)
    for shape in (None, (3, 3, 20)):
        for name in ("coarse_sites", "fine_sites"):
            found = getattr(cuda, name)(ours, geometry, shape)
            expected = getattr(reference, name)(theirs, geometry, shape)
            assert found.dtype == torch.int32
            assert torch.equal(found, expected), (name, shape)


@pytest.mark.parametrize("ndim", [1, 4])
def test_one_and_four_axes(ndim: int) -> None:
    sites = make_sites(15, False, (30,) if ndim == 1 else (2, 3, 2, 5))
    ours, theirs = cuda.build_index(sites), reference.build_index(sites)
    assert torch.equal(cuda.query(ours, sites + 1), reference.query(theirs, sites + 1))
    geometry = create(ndim, 2, 2, 1)
    coarse = cuda.coarse_sites(ours, geometry, None)
    assert torch.equal(coarse, reference.coarse_sites(theirs, geometry, None))
    assert torch.equal(cuda.fine_sites(ours, geometry, None), reference.fine_sites(theirs, geometry, None))
    found = cuda.kernel_pairs(ours, cuda.build_index(coarse), geometry)
    expected = reference.kernel_pairs(theirs, reference.build_index(coarse), geometry)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_output_sites_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    sites = make_sites(41, False, (4, 30))
    geometry = create(2, 3, 2, 1)
    expected = reference.coarse_sites(reference.build_index(sites), geometry, None)
    monkeypatch.setattr(cuda_sites, "_EMITTED_AT_ONCE", 50)
    assert torch.equal(cuda.coarse_sites(cuda.build_index(sites), geometry, None), expected)


def test_unique_sites(n_sites: int) -> None:
    sites = make_sites(n_sites, False)
    repeated: Tensor = torch.cat([sites, sites.flip(0), sites[::2]])
    found, rows = cuda.unique_sites(repeated)
    expected, expected_rows = reference.unique_sites(repeated)
    assert torch.equal(found, expected) and torch.equal(rows, expected_rows)
    assert torch.equal(found[rows], repeated)
