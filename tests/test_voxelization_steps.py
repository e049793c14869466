"""Voxelization in steps: equal to the reference however points are cut, and safe when a thread fails."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from failing_steps import failing_step
from hypothesis import given, settings
from hypothesis import strategies as st

import sparseconv as sc
from sparseconv.backends import PointGroups, cpu, reference
from sparseconv.backends.cpu import helper_threads, voxelize
from sparseconv.backends.cpu import threads as pool_threads
from sparseconv.backends.cpu.voxel_runs import sites_of_keys

SIZES = [700, 0, 1, 400, 0]
LOW, SIZE, GRID = (-2.0, -2.1, -1.8), (0.5, 0.7, 0.9), (8, 6, 4)


@pytest.fixture(autouse=True)
def _threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(helper_threads, "_cores", lambda: 8)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def scan(columns: int = 4, spread: float = 2.6) -> torch.Tensor:
    """Points in short runs, as a scanner gives them, some outside and some not finite."""
    generator = torch.Generator().manual_seed(3)
    points = (torch.rand(sum(SIZES), columns, generator=generator) - 0.5) * 2 * spread
    points[1:] = torch.where(torch.rand(sum(SIZES) - 1, 1, generator=generator) < 0.4, points[:-1], points[1:])
    points[17, 1] = torch.nan
    points[900, 2] = torch.inf
    return points


def check(found: PointGroups, expected: PointGroups) -> None:
    for name in ("indices", "counts", "rows"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    kept = expected.rows >= 0
    assert (found.ranks is None) <= (expected.blocks is not None)
    if found.ranks is not None and expected.ranks is not None:
        assert torch.equal(found.ranks[kept], expected.ranks[kept])
    assert (found.num_outside, found.num_nonfinite) == (expected.num_outside, expected.num_nonfinite)
    assert (found.blocks is None) == (expected.blocks is None)
    if found.blocks is not None and expected.blocks is not None:
        assert torch.equal(found.blocks.points, expected.blocks.points)
        assert torch.equal(found.blocks.counts, expected.blocks.counts)
        assert found.blocks.num_points == expected.blocks.num_points
        assert found.blocks.counts.dtype == found.counts.dtype == torch.int32


@pytest.mark.parametrize("max_points", [None, 1, 3])
@pytest.mark.parametrize("in_order", [False, True])
@pytest.mark.parametrize("max_voxels", [None, 0, 1, 40])
@pytest.mark.parametrize(("threads", "smallest"), [(1, 16384), (2, 16384), (2, 1), (4, 100), (3, 7)])
def test_equal_to_the_reference_however_points_are_cut(
    threads: int,
    smallest: int,
    max_voxels: int | None,
    in_order: bool,
    max_points: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(voxelize, "_SMALLEST_TASK", smallest)
    torch.set_num_threads(threads)
    arguments: tuple[Any, ...] = (scan(), SIZES, LOW, SIZE, GRID, max_voxels, in_order, max_points)
    check(cpu.group_points(*arguments), reference.group_points(*arguments))


@pytest.mark.parametrize("largest", [1, 5, 300])
def test_tasks_are_no_longer_than_their_limit(largest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voxelize, "_LARGEST_TASK", largest)
    torch.set_num_threads(1)
    assert np.diff(voxelize._Pieces([sum(SIZES)], sum(SIZES)).starts).max() <= largest
    arguments: tuple[Any, ...] = (scan(), SIZES, LOW, SIZE, GRID, None, False, 2)
    check(cpu.group_points(*arguments), reference.group_points(*arguments))


@pytest.mark.parametrize("columns", [3, 4, 5, 8, 9, 17])
@pytest.mark.parametrize("bounded", [True, False])
def test_columns_of_a_point(columns: int, bounded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voxelize, "_SMALLEST_TASK", 50)
    torch.set_num_threads(2)
    arguments: tuple[Any, ...] = (scan(columns), SIZES, LOW, SIZE, GRID if bounded else None, None, False, 2)
    check(cpu.group_points(*arguments), reference.group_points(*arguments))


def test_no_points() -> None:
    for sizes in ([0], [0, 0, 0]):
        arguments: tuple[Any, ...] = (torch.zeros(0, 4), sizes, LOW, SIZE, GRID, 5, False, 2)
        check(cpu.group_points(*arguments), reference.group_points(*arguments))


def test_a_box_too_large_for_exact_doubles() -> None:
    points = scan(spread=3e5)
    arguments: tuple[Any, ...] = (points, SIZES, LOW, (1.0, 1.0, 1.0), None, None, False, None)
    found = cpu.group_points(*arguments)
    check(found, reference.group_points(*arguments))
    extent = found.indices.long().amax(0) - found.indices.long().amin(0) + 1
    assert int(extent.prod()) > 1 << 53, "meant to need more bits than a double has"


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_sites_of_keys_are_exact_up_to_the_limit(data: st.DataObject) -> None:
    extents = [data.draw(st.integers(1, limit)) for limit in (7, 1 << 17, 1 << 16)]
    extents.append(max(1, data.draw(st.integers(1, (1 << 52) // (extents[0] * extents[1] * extents[2])))))
    # The axes in any order of length; a coordinate itself must fit into int32.
    extents = data.draw(st.permutations([min(extent, (1 << 31) - 1) for extent in extents]))
    strides = [1]
    for extent in extents[:0:-1]:
        strides.insert(0, strides[0] * extent)
    cells = strides[0] * extents[0]
    near_lines = [
        number * stride + step
        for stride in strides
        for number in (1, cells // stride, data.draw(st.integers(0, cells // stride)))
        for step in (-1, 0, 1)
    ]
    keys = [key for key in [0, cells - 1, *near_lines] if 0 <= key < cells]
    sites = np.full((len(keys), 4), -7, np.int32)
    low = np.array([0, -5, 3, -1], np.int64)
    for is_exact in (True, False):
        sites_of_keys(np.array(keys), is_exact, low, np.array(strides), 0, len(keys), sites)
        for key, site in zip(keys, sites.tolist(), strict=True):
            numbers = []
            for stride in strides:
                numbers.append(key // stride)
                key %= stride
            assert site == [number + int(corner) for number, corner in zip(numbers, low, strict=True)]


def _hard(points: torch.Tensor) -> sc.HardVoxels:
    return sc.hard_voxelize(points, 0.5, (-2, -2, -2, 2, 2, 2), max_points=2, max_voxels=500, nonfinite="drop")


@pytest.mark.parametrize(
    ("failing", "step"),
    [
        *itertools.product(["caller"], ["_group", "_make_outputs", "_spread"]),
        *itertools.product(["helper"], ["_group", "_spread"]),
    ],
)
@pytest.mark.parametrize("error", [ArithmeticError, KeyboardInterrupt])
def test_an_error_in_a_step_ends_the_call_and_leaves_the_pool_usable(
    failing: str, step: str, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(voxelize, "_SMALLEST_TASK", 100)
    torch.set_num_threads(2)
    expected = _hard(scan())
    take = getattr(voxelize._Grouping, step)
    with monkeypatch.context() as patch:
        patch.setattr(voxelize._Grouping, step, failing_step(take, failing == "caller", error(step)))
        with pytest.raises(error, match=step):
            _hard(scan())
    again = _hard(scan())
    assert torch.equal(again.points, expected.points) and torch.equal(again.point_rows, expected.point_rows)


def test_a_call_inside_another_one_of_the_same_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """As from a signal handler or a finalizer: both have working memory of their own."""
    outer: tuple[Any, ...] = (scan(), SIZES, LOW, SIZE, GRID, None, False, 2)
    inner: tuple[Any, ...] = (scan(spread=2.0).flip(0), SIZES, LOW, SIZE, GRID, None, True, None)
    make_outputs = voxelize._Grouping._make_outputs
    found: list[Any] = []

    def interrupted(grouping: Any) -> None:
        if not found:
            found.append(None)
            found.append(cpu.group_points(*inner))
        make_outputs(grouping)

    cpu.group_points(*outer)
    monkeypatch.setattr(voxelize._Grouping, "_make_outputs", interrupted)
    check(cpu.group_points(*outer), reference.group_points(*outer))
    check(found[1], reference.group_points(*inner))


def test_a_helper_that_comes_too_late_is_not_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voxelize, "_SMALLEST_TASK", 100)
    # A helper of this call could still be on its way.
    torch.set_num_threads(1)
    expected = _hard(scan())
    torch.set_num_threads(4)
    late: list[Callable[[], None]] = []
    pool = pool_threads._Pool()
    monkeypatch.setattr(pool, "submit", lambda call, count: late.extend([call] * count))
    monkeypatch.setattr(pool_threads, "_pool", pool)
    let_in: list[bool] = []
    group = voxelize._Grouping._group

    def note(grouping: Any, is_helper: bool) -> object:
        let_in.append(is_helper)
        result: object = group(grouping, is_helper)
        return result

    monkeypatch.setattr(voxelize._Grouping, "_group", note)
    found = _hard(scan())
    assert len(late) == 3
    for work in late:
        work()
    assert let_in == [False]
    assert torch.equal(found.points, expected.points)


def test_an_interrupt_while_helpers_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voxelize, "_SMALLEST_TASK", 100)
    torch.set_num_threads(2)
    expected = _hard(scan())
    before = threading.active_count()
    call = helper_threads.Helpers.call

    def interrupted(own: Any, count: int) -> None:
        call(own, count)
        time.sleep(0.05)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(helper_threads.Helpers, "call", interrupted)
        with pytest.raises(KeyboardInterrupt):
            _hard(scan())
    assert torch.equal(_hard(scan()).points, expected.points)
    assert threading.active_count() <= before + 1


@pytest.mark.parametrize("max_points", [None, 2])
@pytest.mark.parametrize("threads", [2, 4])
def test_helpers_take_part(threads: int, max_points: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voxelize, "_SMALLEST_TASK", 10)
    torch.set_num_threads(threads)
    arguments: tuple[Any, ...] = (scan(), SIZES, LOW, SIZE, GRID, None, False, max_points)
    expected = reference.group_points(*arguments)
    caller = threading.current_thread()
    grouped = threading.Event()
    group, spread = voxelize._Grouping._group, voxelize._Grouping._spread

    def group_as_helper(grouping: Any, is_helper: bool) -> object:
        # The helpers alone: the caller comes when they have found and numbered all.
        if not is_helper:
            grouped.wait(60)
        else:
            threading.Timer(0.05, grouped.set).start()
        result: object = group(grouping, is_helper)
        return result

    def spread_as_helper(grouping: Any, is_helper: bool, leaves_last: bool = False) -> object:
        if threading.current_thread() is caller:
            time.sleep(0.05)
        result: object = spread(grouping, is_helper, leaves_last)
        return result

    monkeypatch.setattr(voxelize._Grouping, "_group", group_as_helper)
    monkeypatch.setattr(voxelize._Grouping, "_spread", spread_as_helper)
    for _ in range(5):
        grouped.clear()
        check(cpu.group_points(*arguments), expected)


def test_no_helper_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voxelize, "_SMALLEST_TASK", 100)
    torch.set_num_threads(4)
    expected = _hard(scan())
    monkeypatch.setattr(helper_threads.Helpers, "call", lambda own, count: None)
    assert torch.equal(_hard(scan()).points, expected.points)


def test_many_calls_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voxelize, "_SMALLEST_TASK", 10)
    torch.set_num_threads(4)
    scans = [scan()[: 100 + 80 * number] for number in range(10)]
    expected = [_hard(points) for points in scans]
    failures: list[str] = []

    def call(number: int) -> None:
        for _ in range(30):
            found = _hard(scans[number])
            if not torch.equal(found.points, expected[number].points):
                failures.append(f"scan {number}")

    callers = [threading.Thread(target=call, args=(number,), daemon=True) for number in range(len(scans))]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(120)
    assert not any(caller.is_alive() for caller in callers) and not failures
