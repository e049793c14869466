"""The rulebook against a dictionary, pair for pair:  fine = s * coarse - p + d * t."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle import (
    Pairs,
    coarse_sites,
    conv_output_shape,
    conv_pairs,
    fine_sites,
    swap_pairs,
    transposed_output_shape,
)
from scans import GRID, random_sites, scan_sites
from torch import Tensor

from sparseconv import ConvGeometry, Coordinates, KernelMap, use_backend

LOW, HIGH = -(1 << 31), (1 << 31) - 1
BACKENDS = ("cpu", "reference")

create = ConvGeometry.create
GEOMETRIES = [
    create(1, 1),
    create(1, 3, 1, 1),
    create(1, 2, 2),
    create(1, 4, 3, 2, 2),
    create(1, 70, 1, 35),
    create(1, 130, 2, 64, 3),
    create(1, 3, 65, 1, 64),
    create(2, 3, 1, 1),
    create(2, 3, 2, 1),
    create(2, (2, 3), (2, 1), (0, 1)),
    create(2, (1, 67), (1, 3), (0, 33)),
    create(2, (3, 1), (1, 4), (2, 0), (2, 1)),
    create(2, 1, 2),
    create(3, 3, 1, 1),
    create(3, 3, 2, 1),
    create(3, 2, 2),
    create(3, 3, 2, (0, 1, 1)),
    create(3, (3, 1, 1), (2, 1, 1)),
    create(3, (1, 2, 3), (3, 2, 1), (1, 0, 2), (1, 3, 2)),
    create(3, 3, 1, 0),
    create(3, 3, 1, 2, 2),
    create(4, (2, 1, 2, 3), (2, 1, 1, 2), (0, 0, 1, 1), (1, 1, 2, 1)),
    create(4, 3, 1, 1),
]
SHAPES = {1: (211,), 2: (9, 90), 3: (6, 7, 9), 4: (3, 4, 4, 6)}


def oracle_arguments(geometry: ConvGeometry) -> tuple[tuple[int, ...], ...]:
    return geometry.kernel_size, geometry.stride, geometry.padding, geometry.dilation


def as_pairs(kernel_map: KernelMap) -> Pairs:
    return [list(zip(i.tolist(), o.tolist(), strict=True)) for i, o in kernel_map]


def assert_is(kernel_map: KernelMap, expected: Pairs, n_in: int, n_out: int, what: str) -> None:
    """The map holds exactly these pairs in this order, and all that it says of itself is true."""
    assert as_pairs(kernel_map) == expected, what
    assert (kernel_map.n_in, kernel_map.n_out, kernel_map.volume) == (n_in, n_out, len(expected)), what
    assert kernel_map.counts.tolist() == [len(pairs) for pairs in expected], what
    assert kernel_map.n_pairs == sum(len(pairs) for pairs in expected), what
    assert kernel_map.in_rows.dtype == kernel_map.out_rows.dtype == torch.int32, what
    assert kernel_map.tap_offsets.dtype == torch.int64, what
    for in_rows, out_rows in kernel_map:
        assert bool((out_rows.diff() > 0).all()), f"{what}: outputs of a tap do not ascend"
        assert len(in_rows.unique()) == len(in_rows), f"{what}: an input repeats in a tap"
        if kernel_map.in_rows_ascend:
            assert bool((in_rows.diff() > 0).all()), f"{what}: inputs of a tap do not ascend"


def inputs(ndim: int) -> list[tuple[str, Tensor, tuple[int, ...] | None]]:
    """Sites and their grids: several batches, one of them empty; sorted or not; with and without bounds."""
    shape = SHAPES[ndim]
    count = min(90, int(np.prod(shape)))
    low = [-(n // 2) for n in shape]
    return [
        ("sorted", random_sites(count, shape, (0, 2), 1), shape),
        ("shuffled", random_sites(count, shape, (0, 2), 2, shuffled=True), shape),
        ("negative", random_sites(count, shape, (1, 3), 3, low=low), None),
        ("negative shuffled", random_sites(count, shape, (1, 3), 4, low=low, shuffled=True), None),
        ("one site", random_sites(1, shape, (2,), 5), shape),
        ("no site", random_sites(0, shape), shape),
    ]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_against_the_oracle(backend: str, geometry: ConvGeometry) -> None:
    arguments, no_padding = oracle_arguments(geometry), (0,) * geometry.ndim
    for what, sites, shape in inputs(geometry.ndim):
        fine = Coordinates(sites, shape, 4)
        rows = sites.numpy()
        if shape is None or min(conv_output_shape(shape, *arguments)) >= 1:
            coarse, down = fine.downsample(geometry)
            bounds = None if shape is None else geometry.output_shape(shape)
            expected = coarse_sites(rows, *arguments, bounds)
            assert coarse.indices.tolist() == expected.tolist(), f"{what}: coarse sites"
            pairs = conv_pairs(rows, expected, *arguments)
            assert_is(down, pairs, len(rows), len(expected), what)
            assert_is(down.transposed(), swap_pairs(pairs), len(expected), len(rows), f"{what}, transposed")
            assert as_pairs(down.transposed().transposed()) == pairs, f"{what}: transposing twice"
        if shape is None or min(transposed_output_shape(shape, *arguments, no_padding)) >= 1:
            reached, up = fine.upsample(geometry, no_padding)
            bounds = None if shape is None else geometry.transposed_output_shape(shape)
            expected = fine_sites(rows, *arguments, bounds)
            assert reached.indices.tolist() == expected.tolist(), f"{what}: fine sites"
            pairs = swap_pairs(conv_pairs(expected, rows, *arguments))
            assert_is(up, pairs, len(rows), len(expected), f"{what}, up")
            assert_is(up.transposed(), swap_pairs(pairs), len(expected), len(rows), f"{what}, up, transposed")


@pytest.mark.parametrize("longest_stretch", [0, 1, 100, 4096])
@pytest.mark.parametrize("members_a_chunk", [1, 1 << 20])
@pytest.mark.parametrize(
    "geometry",
    [create(2, 3, 2, 1), create(2, 3, 1, 1), create(2, 3, 1, 2, 2), create(2, (2, 5), 3, 2, 3)],
    ids=str,
)
def test_coarse_map_of_long_sparse_lines(
    monkeypatch: pytest.MonkeyPatch, geometry: ConvGeometry, members_a_chunk: int, longest_stretch: int
) -> None:
    monkeypatch.setattr("sparseconv.backends.cpu.coarse._MEMBERS_A_CHUNK", members_a_chunk)
    monkeypatch.setattr("sparseconv.backends.cpu.coarse.LONGEST_STRETCH", longest_stretch)
    arguments = oracle_arguments(geometry)
    for length in (300, 500_000):
        sites = random_sites(300, (7, length), (0, 2), 1, low=(-3, -length // 2))
        coarse, kernel_map = Coordinates(sites, None, 3).downsample(geometry)
        assert coarse.indices.tolist() == coarse_sites(sites.numpy(), *arguments, None).tolist()
        assert as_pairs(kernel_map) == conv_pairs(sites.numpy(), coarse.indices.numpy(), *arguments)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_coarse_map_on_several_threads(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    monkeypatch.setattr("sparseconv.backends.cpu.coarse._WORTH_A_THREAD", 1)
    monkeypatch.setattr("sparseconv.backends.cpu.coarse._SMALLEST_TASK", 3)
    monkeypatch.setattr("sparseconv.backends.cpu.coarse._MEMBERS_A_CHUNK", 16)
    monkeypatch.setattr("sparseconv.backends.cpu.helper_threads._cores", lambda: 8)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for geometry in (create(3, 3, 2, 1), create(3, 2, 2), create(3, (3, 1, 1), (2, 1, 1))):
            sites = random_sites(900, (9, 20, 30), (0, 2), 4, shuffled=True)
            coarse, kernel_map = Coordinates(sites, (9, 20, 30), 3).downsample(geometry)
            bounds = geometry.output_shape((9, 20, 30))
            arguments = oracle_arguments(geometry)
            assert coarse.indices.tolist() == coarse_sites(sites.numpy(), *arguments, bounds).tolist()
            assert as_pairs(kernel_map) == conv_pairs(sites.numpy(), coarse.indices.numpy(), *arguments)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("shuffled", [False, True])
def test_index_that_comes_with_coarse_sites(backend: str, shuffled: bool) -> None:
    """Look-ups and further maps on new sites are those on the same sites from outside."""
    fine = Coordinates(random_sites(400, (9, 20, 70), (0, 2), 6, shuffled=shuffled), (9, 20, 70), 3)
    coarse, _ = fine.downsample(create(3, 3, 2, 1))
    fresh = Coordinates(coarse.indices.clone(), coarse.spatial_shape, 3)
    assert coarse.is_sorted()
    queries = torch.cat([fine.indices, coarse.indices, coarse.indices + 100])
    assert coarse.lookup(queries).tolist() == fresh.lookup(queries).tolist()
    assert as_pairs(coarse.submanifold_map(ConvGeometry.submanifold(3, 3))) == as_pairs(
        fresh.submanifold_map(ConvGeometry.submanifold(3, 3))
    )
    assert as_pairs(coarse.downsample(create(3, 2, 2))[1]) == as_pairs(fresh.downsample(create(3, 2, 2))[1])
    assert as_pairs(fine.map_onto(coarse, create(3, 3, 2, 1))) == as_pairs(fine.downsample(create(3, 3, 2, 1))[1])


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_lines_too_long_for_a_table_of_ranks(monkeypatch: pytest.MonkeyPatch, geometry: ConvGeometry) -> None:
    monkeypatch.setattr("sparseconv.backends.cpu.walk._LONGEST_LINE", 0)
    test_against_the_oracle("cpu", geometry)


@pytest.mark.parametrize("geometry", GEOMETRIES[::2], ids=str)
def test_onto_other_sites(backend: str, geometry: ConvGeometry) -> None:
    arguments, ndim = oracle_arguments(geometry), geometry.ndim
    for what, sites, _ in inputs(ndim):
        target = random_sites(70, SHAPES[ndim], (0, 1, 2), 8, low=[-2] * ndim, shuffled=len(sites) % 2 == 0)
        kernel_map = Coordinates(sites, None, 4).map_onto(Coordinates(target, None, 4), geometry)
        assert_is(kernel_map, conv_pairs(sites.numpy(), target.numpy(), *arguments), len(sites), 70, what)


@pytest.mark.parametrize("kernel", [1, 3, 5, (1, 3), (67, 1), (1, 67)], ids=str)
def test_submanifold_map_and_its_mirror(backend: str, kernel: int | tuple[int, int]) -> None:
    geometry = ConvGeometry.submanifold(2, kernel, 2)
    for what, sites, shape in inputs(2):
        kernel_map = Coordinates(sites, shape, 4).submanifold_map(geometry)
        expected = conv_pairs(sites.numpy(), sites.numpy(), *oracle_arguments(geometry))
        assert_is(kernel_map, expected, len(sites), len(sites), what)
        pairs = as_pairs(kernel_map)
        mirrored = [sorted(((o, i) for i, o in tap), key=lambda pair: pair[1]) for tap in pairs]
        assert mirrored[::-1] == pairs, f"{what}: R[-t] is not R[t] swapped"
        assert pairs[len(pairs) // 2] == [(row, row) for row in range(len(sites))], f"{what}: the centre"


def test_tables_counts_and_macs() -> None:
    geometry = create(2, 3, 2, 1)
    sites = random_sites(50, (9, 12), shuffled=True)
    coarse, kernel_map = Coordinates(sites, (9, 12)).downsample(geometry)
    expected = conv_pairs(sites.numpy(), coarse.indices.numpy(), *oracle_arguments(geometry))
    table = np.full((len(coarse), 9), -1)
    for tap, pairs in enumerate(expected):
        for i, o in pairs:
            table[o, tap] = i
    assert kernel_map.neighbor_table().tolist() == table.tolist()
    assert kernel_map.in_counts().tolist() == (table >= 0).sum(1).tolist()
    n_pairs = int((table >= 0).sum())
    assert (kernel_map.macs(3, 5), kernel_map.macs(4, 6, 2)) == (n_pairs * 15, n_pairs * 12)
    for tap in (-1, 9):
        with pytest.raises(IndexError, match=rf"tap must lie in 0 \.\. 8, got {tap}"):
            kernel_map.pairs(tap)


def test_blocks_of_64_cells_at_their_borders(backend: str) -> None:
    """Lines that end, begin or break at a multiple of 64, under kernels that look across it."""
    for length in (1, 63, 64, 65, 127, 128, 129, 192):
        for low in (0, 1, -1, -64, 63):
            columns = [c for c in range(length) if c in (0, length - 1) or c % 64 in (0, 1, 62, 63) or c % 7 == 3]
            sites = torch.tensor([[0, line, low + c] for line in (0, 1, 5) for c in columns], dtype=torch.int32)
            for geometry in (create(2, 3, 1, 1), create(2, (1, 2), (1, 64), (0, 1), (1, 63))):
                coarse, kernel_map = Coordinates(sites).downsample(geometry)
                arguments = oracle_arguments(geometry)
                assert coarse.indices.tolist() == coarse_sites(sites.numpy(), *arguments, None).tolist()
                expected = conv_pairs(sites.numpy(), coarse.indices.numpy(), *arguments)
                assert as_pairs(kernel_map) == expected, f"length {length} from {low}, {geometry}"


def by_sorting(fine: Tensor, coarse: Tensor, geometry: ConvGeometry) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs of each tap through one sorted array of wide keys: fast enough for thousands of sites."""
    base = np.array([1 << 50, 1 << 36, 1 << 18, 1][-fine.shape[1] :], np.int64)
    keys = (fine.numpy().astype(np.int64) + 4096) @ base
    order = np.argsort(keys)
    pairs = []
    for offset in geometry.offsets():
        wanted = coarse.numpy().astype(np.int64) * np.array([1, *geometry.stride]) + np.array([0, *offset]) + 4096
        place = np.minimum(np.searchsorted(keys[order], wanted @ base), len(keys) - 1)
        hit = np.flatnonzero(keys[order[place]] == wanted @ base)
        pairs.append((order[place[hit]], hit))
    return pairs


def assert_is_by_sorting(kernel_map: KernelMap, fine: Tensor, coarse: Tensor, geometry: ConvGeometry) -> None:
    for tap, (expected, found) in enumerate(zip(by_sorting(fine, coarse, geometry), kernel_map, strict=True)):
        assert np.array_equal(found[0].numpy(), expected[0]), f"{geometry}, tap {tap}: inputs"
        assert np.array_equal(found[1].numpy(), expected[1]), f"{geometry}, tap {tap}: outputs"


@pytest.mark.parametrize("count", [511, 512, 513, 4095, 4096, 4097, 8193])
def test_sets_that_end_at_a_chunk(count: int) -> None:
    for shuffled in (False, True):
        sites = random_sites(count, (30, 40, 80), (0, 2), count, shuffled=shuffled)
        coordinates = Coordinates(sites, (30, 40, 80))
        for geometry in (create(3, 3, 1, 1), create(3, 3, 2, 1), create(3, 2, 2)):
            coarse, down = coordinates.downsample(geometry)
            assert_is_by_sorting(down, sites, coarse.indices, geometry)
            onto = coordinates.map_onto(coordinates, create(3, 3, 1, 1))
            assert_is_by_sorting(onto, sites, sites, create(3, 3, 1, 1))


def test_a_scan_in_a_detectors_grid_on_any_number_of_threads() -> None:
    sites = scan_sites()
    assert len(sites) > 10_000
    shuffled = sites[torch.randperm(len(sites))]
    for geometry in (ConvGeometry.submanifold(3, 3), create(3, 3, 2, 1), create(3, (3, 1, 1), (2, 1, 1))):
        for rows in (sites, shuffled):
            known = None
            for threads in (1, 2, 4):
                torch.set_num_threads(threads)
                coordinates = Coordinates(rows, GRID)
                if geometry.is_submanifold:
                    coarse, kernel_map = coordinates, coordinates.submanifold_map(geometry)
                else:
                    coarse, kernel_map = coordinates.downsample(geometry)
                found = [coarse.indices, kernel_map.in_rows, kernel_map.out_rows, kernel_map.transposed().in_rows]
                if known is None:
                    assert_is_by_sorting(kernel_map, rows, coarse.indices, geometry)
                    known = found
                assert all(map(torch.equal, found, known)), f"{geometry} on {threads} threads"


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_backends_agree_to_the_bit(geometry: ConvGeometry) -> None:
    for what, sites, _ in inputs(geometry.ndim):
        made = []
        for name in BACKENDS:
            with use_backend(name):
                coarse, down = Coordinates(sites).downsample(geometry)
                fine, up = Coordinates(sites).upsample(geometry, (0,) * geometry.ndim)
                swapped = down.transposed()
                made.append([coarse.indices, fine.indices, down.in_rows, down.out_rows, down.tap_offsets])
                made[-1] += [up.in_rows, up.out_rows, up.tap_offsets, swapped.in_rows, swapped.out_rows]
        for number, (a, b) in enumerate(zip(*made, strict=True)):
            assert a.dtype == b.dtype and torch.equal(a, b), f"{what}: tensor {number}"


# Coordinates at the ends of int32


@pytest.mark.parametrize(
    "geometry", [create(1, 3, 1, 1), create(1, 3, 1, 65536, 65536), create(1, 2, 65536)], ids=str
)
def test_relation_beyond_int32_does_not_wrap(backend: str, geometry: ConvGeometry) -> None:
    ends = [LOW, LOW + 1, LOW + 65536, -65536, -32768, -1, 0, 1, 32767, 65536, HIGH - 65536, HIGH - 1, HIGH]
    sites = torch.tensor([[0, end] for end in ends], dtype=torch.int32)
    for fine, coarse in ((sites, sites), (sites.flip(0), sites), (sites, sites.flip(0))):
        kernel_map = Coordinates(fine).map_onto(Coordinates(coarse), geometry)
        expected = conv_pairs(fine.numpy(), coarse.numpy(), *oracle_arguments(geometry))
        assert_is(kernel_map, expected, len(fine), len(coarse), str(geometry))


def test_outputs_beyond_int32_are_refused(backend: str) -> None:
    edge = Coordinates(torch.tensor([[0, LOW], [0, HIGH]], dtype=torch.int32))
    for geometry in (create(1, 3, 1, 1), create(1, 1, 1, 1)):
        with pytest.raises(ValueError, match=r"beyond the int32 coordinates -2\^31 \.\. 2\^31-1"):
            edge.downsample(geometry)
    for stride in (2, 65536):
        with pytest.raises(ValueError, match="beyond the int32 coordinates"):
            edge.upsample(create(1, 2, stride), (0,))
    halved = edge.downsample(create(1, 2, 2))[0]
    assert halved.indices.tolist() == [[0, LOW // 2], [0, HIGH // 2]]


def test_largest_grid_keeps_its_ends(backend: str) -> None:
    sites = torch.tensor([[0, 0], [0, HIGH - 1]], dtype=torch.int32)
    grid = Coordinates(sites, [HIGH])
    coarse, kernel_map = grid.downsample(create(1, 3, 1, 1))
    assert coarse.spatial_shape == (HIGH,)
    assert coarse.indices.tolist() == [[0, 0], [0, 1], [0, HIGH - 2], [0, HIGH - 1]]
    assert as_pairs(kernel_map) == conv_pairs(sites.numpy(), coarse.indices.numpy(), (3,), (1,), (1,), (1,))


def test_no_result_lies_in_a_grid_that_its_own_constructor_refuses(backend: str) -> None:
    grid = Coordinates(torch.tensor([[0, 1], [0, 2]], dtype=torch.int32), [HIGH])
    for build in (
        lambda: grid.upsample(create(1, 2, 2), (0,)),
        lambda: grid.downsample(create(1, 3, 1, 2)),
    ):
        try:
            sites = build()[0]
        except ValueError:
            continue
        rebuilt = Coordinates(sites.indices, sites.spatial_shape, sites.batch_size)
        assert rebuilt.same_sites(sites)


def test_every_output_outside_the_grid(backend: str) -> None:
    coarse, kernel_map = Coordinates(torch.tensor([[0, 4]], dtype=torch.int32), [5]).downsample(create(1, 2, 2))
    assert (coarse.spatial_shape, len(coarse), kernel_map.n_pairs, kernel_map.n_in) == ((2,), 0, 0, 1)
    assert kernel_map.transposed().n_out == 1
    again, _ = coarse.upsample(create(1, 2, 2), (0,))
    assert (again.spatial_shape, len(again)) == ((4,), 0)


# Properties

SITES = st.lists(st.tuples(st.integers(0, 2), *[st.integers(-9, 80)] * 2), max_size=30, unique=True)
GEOMETRY = st.builds(
    lambda k, s, p, d: create(2, k, s, p, d),
    st.tuples(st.integers(1, 4), st.integers(1, 5)),
    st.tuples(st.integers(1, 3), st.integers(1, 66)),
    st.tuples(st.integers(0, 3), st.integers(0, 70)),
    st.tuples(st.integers(1, 3), st.integers(1, 65)),
)


def by_site(sites: Tensor, coarse: Coordinates, kernel_map: KernelMap) -> list[set[tuple[tuple[int, ...], ...]]]:
    fine_at, coarse_at = sites.tolist(), coarse.indices.tolist()
    return [{(tuple(fine_at[i]), tuple(coarse_at[o])) for i, o in tap} for tap in as_pairs(kernel_map)]


@given(SITES, GEOMETRY, st.randoms(use_true_random=False))
def test_order_of_rows_changes_nothing_but_row_numbers(
    sites: list, geometry: ConvGeometry, random: object
) -> None:
    straight = torch.tensor(sites, dtype=torch.int32).reshape(-1, 3)
    random.shuffle(sites)  # type: ignore[attr-defined]
    mixed = torch.tensor(sites, dtype=torch.int32).reshape(-1, 3)
    one, two = Coordinates(straight).downsample(geometry), Coordinates(mixed).downsample(geometry)
    assert torch.equal(one[0].indices, two[0].indices)
    assert by_site(straight, *one) == by_site(mixed, *two)


@given(SITES, GEOMETRY, st.tuples(st.integers(-5, 5), st.integers(-5, 5)))
def test_a_shift_by_the_stride_shifts_the_result(sites: list, geometry: ConvGeometry, by: tuple[int, int]) -> None:
    fine = torch.tensor(sites, dtype=torch.int32).reshape(-1, 3)
    step = torch.tensor([0, *by], dtype=torch.int32)
    stride = torch.tensor([1, *geometry.stride], dtype=torch.int32)
    here, there = Coordinates(fine).downsample(geometry), Coordinates(fine + step * stride).downsample(geometry)
    assert torch.equal(here[0].indices + step, there[0].indices)
    assert torch.equal(here[1].in_rows, there[1].in_rows) and torch.equal(here[1].out_rows, there[1].out_rows)


@given(SITES, GEOMETRY)
def test_every_pair_obeys_the_equation_and_building_is_idempotent(sites: list, geometry: ConvGeometry) -> None:
    fine = Coordinates(torch.tensor(sites, dtype=torch.int32).reshape(-1, 3), None, 3)
    coarse, kernel_map = fine.downsample(geometry)
    stride = torch.tensor([1, *geometry.stride])
    for offset, (i, o) in zip(geometry.offsets(), kernel_map, strict=True):
        assert torch.equal(fine.indices[i], coarse.indices[o] * stride + torch.tensor([0, *offset]))
    assert sorted(set(kernel_map.out_rows.tolist())) == list(range(len(coarse))), "an output that nothing reaches"
    again = fine.map_onto(Coordinates(coarse.indices.clone(), None, 3), geometry)
    assert torch.equal(again.in_rows, kernel_map.in_rows) and torch.equal(again.out_rows, kernel_map.out_rows)
