"""The tables of the implicit GEMM, built in Triton's interpreter. ``test_implicit_gemm`` starts these."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pair_maps import PairMap, random_map, submanifold_map

from sparseconv.backends.cuda import implicit_gemm_kernels as kernels
from sparseconv.backends.cuda.implicit_gemm_table import StepTable, build_step_table, build_step_tables


def steps_of(table: StepTable, block: int) -> dict[tuple[int, int], int]:
    """``{(output row, tap): input row}`` as a table tells it."""
    found = {}
    for tile in range(table.tiles):
        for step in range(int(table.starts[tile]), int(table.starts[tile + 1])):
            for lane in range(block):
                source, row = int(table.sources[step, lane]), int(table.rows[tile * block + lane])
                if source >= 0:
                    assert row >= 0
                    assert (row, int(table.taps[step])) not in found
                    found[row, int(table.taps[step])] = source
    return found


def pairs_of(pairs: PairMap, first: int, last: int) -> dict[tuple[int, int], int]:
    in_rows, out_rows, offsets = pairs
    return {
        (int(out_rows[p]), tap): int(in_rows[p])
        for tap in range(first, last)
        for p in range(int(offsets[tap]), int(offsets[tap + 1]))
    }


@given(
    n_in=st.integers(0, 40),
    n_out=st.integers(0, 70),
    taps=st.integers(1, 40),
    block=st.sampled_from([16, 32, 64]),
    seed=st.integers(0, 99),
)
def test_a_table_holds_every_pair_once(n_in: int, n_out: int, taps: int, block: int, seed: int) -> None:
    pairs = random_map(n_in, n_out, taps, seed)
    first = seed % taps
    last = min(taps, first + 31)
    table = build_step_table(kernels, *pairs, n_out=n_out, first=first, last=last, block=block)
    assert steps_of(table, block) == pairs_of(pairs, first, last)
    assert sorted(table.rows.tolist()) == [-1] * (table.tiles * block - n_out) + list(range(n_out))
    # No step without a row, taps of a tile in order, long tiles first.
    assert ((table.sources >= 0).any(1)).all()
    per_tile = table.starts.diff()
    assert (per_tile[1:] <= per_tile[:-1]).all()
    for tile in range(table.tiles):
        own = table.taps[table.starts[tile] : table.starts[tile + 1]]
        assert (own[1:] > own[:-1]).all()
        rows = table.rows[tile * block : (tile + 1) * block]
        assert len(rows[rows >= 0]) > 0


@pytest.mark.parametrize(
    ("taps", "most", "parts"), [(27, 31, 1), (81, 31, 3), (125, 31, 5), (27, 16, 2), (1, 1, 1)]
)
def test_many_taps_are_cut_into_tables(taps: int, most: int, parts: int) -> None:
    pairs = random_map(50, 60, taps)
    tables = build_step_tables(kernels, *pairs, n_out=60, block=16, most_taps=most)
    assert len(tables) == parts
    merged: dict[tuple[int, int], int] = {}
    for table in tables:
        assert int(table.taps.max() - table.taps.min()) < -(-taps // parts)
        merged |= steps_of(table, 16)
    assert merged == pairs_of(pairs, 0, taps)


def test_tables_without_steps_are_left_out_but_one_stays() -> None:
    in_rows, out_rows, offsets = random_map(50, 60, 100)
    stop = int(offsets[5])
    tables = build_step_tables(
        kernels, in_rows[:stop], out_rows[:stop], offsets.clamp(max=stop), n_out=60, block=16, most_taps=25
    )
    assert len(tables) == 1 and len(tables[0].taps)
    nothing = torch.empty(0, dtype=torch.int32)
    (table,) = build_step_tables(
        kernels, nothing, nothing, torch.zeros_like(offsets), n_out=60, block=16, most_taps=25
    )
    assert table.tiles == 4 and len(table.taps) == 0


def test_a_table_serves_31_taps() -> None:
    pairs = random_map(3, 4, 32)
    with pytest.raises(ValueError, match="31 taps, got 32"):
        build_step_table(kernels, *pairs, n_out=4, first=0, last=32, block=16)
    full = torch.arange(20, dtype=torch.int32).repeat(31)
    table = build_step_table(kernels, full, full, torch.arange(32) * 20, n_out=20, first=0, last=31, block=16)
    assert table.taps.tolist() == list(range(31)) * 2


def test_rows_with_the_same_taps_share_tiles() -> None:
    """A strided convolution's input gradient: 8 kinds of rows, which the order of rows tells apart."""
    kinds = torch.arange(640) % 8
    in_rows, out_rows, offsets = [], [], [0]
    for tap in range(16):
        rows = torch.nonzero(kinds == tap // 2)[:, 0]
        out_rows.append(rows)
        in_rows.append(rows)
        offsets.append(offsets[-1] + len(rows))
    pairs = torch.cat(in_rows).int(), torch.cat(out_rows).int(), torch.tensor(offsets)
    table = build_step_table(kernels, *pairs, n_out=640, first=0, last=16, block=16)
    assert len(table.taps) == 16 * 80 // 16
    assert (table.sources >= 0).all()


def test_the_order_needs_fewer_steps_than_the_rows_as_they_come() -> None:
    pairs = submanifold_map(1000, (3, 3, 3))
    mask = torch.zeros(1000, 27, dtype=torch.bool)
    mask[pairs[1].long(), torch.arange(27).repeat_interleave(pairs[2].diff())] = True
    padded = torch.nn.functional.pad(mask, (0, 0, 0, -1000 % 64)).view(-1, 64, 27)
    table = build_step_table(kernels, *pairs, n_out=1000, first=0, last=27, block=64)
    assert len(table.taps) < 0.9 * int(padded.any(1).sum())


def test_the_padding_of_a_table_is_all_that_it_adds() -> None:
    """A table takes four bytes for each lane of each step, never more than a dense table of neighbours."""
    pairs = submanifold_map(300, (3, 3, 3))
    table = build_step_table(kernels, *pairs, n_out=300, first=0, last=27, block=64)
    assert len(pairs[0]) <= table.sources.numel() <= -(-300 // 64) * 64 * 27


def test_pairs_of_many_programs() -> None:
    """More pairs and rows than one program takes, taps that end inside of one, and not from the first tap on."""
    pairs = random_map(1300, 1200, 6, seed=5)
    assert int(pairs[2][-1]) > 2 * 512
    table = build_step_table(kernels, *pairs, n_out=1200, first=1, last=6, block=64)
    assert steps_of(table, 64) == pairs_of(pairs, 1, 6)


def test_equal_maps_give_equal_tables() -> None:
    pairs = submanifold_map(150, (3, 3, 3))
    one, other = (build_step_table(kernels, *pairs, n_out=150, first=0, last=27, block=16) for _ in range(2))
    for name in ("sources", "taps", "starts", "rows"):
        assert torch.equal(getattr(one, name), getattr(other, name))


def test_masks_are_ranked_by_the_gray_code() -> None:
    """The code of ``i`` is ``i ^ (i >> 1)``: neighbours in the order differ in one tap."""
    places = torch.randint(0, 2**31 - 1, (600,), dtype=torch.int32)
    ranks = torch.zeros(600, dtype=torch.int32)
    kernels.rank_masks[(2,)](places ^ (places >> 1), ranks, 600, BLOCK=512)
    assert torch.equal(ranks, places)


@pytest.mark.parametrize("counts", [[40, 5, 30], [5, 30, 40], [30, 40, 5]])
def test_rows_with_the_rarest_tap_come_last_and_together(counts: list[int]) -> None:
    """One tile, so that its rows stand in their order: 5 of 64 have the rare tap, and that decides first."""
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randperm(64, generator=generator)[:count].sort().values.int() for count in counts]
    offsets = torch.tensor([0, *counts]).cumsum(0)
    table = build_step_table(
        kernels, torch.cat(rows), torch.cat(rows), offsets, n_out=64, first=0, last=3, block=64
    )
    assert sorted(table.rows[-5:].tolist()) == rows[counts.index(5)].tolist()
