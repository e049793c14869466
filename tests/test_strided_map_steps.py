"""The steps of a strided map on several threads: lines that reach nothing, and threads that fail."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from failing_steps import failing_step

from sparseconv.backends import CoarseMap, cpu, reference
from sparseconv.backends.cpu import coarse, helper_threads
from sparseconv.geometry import ConvGeometry


@pytest.fixture(autouse=True)
def _short_tasks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(coarse, "_WORTH_A_THREAD", 1)
    monkeypatch.setattr(coarse, "_SMALLEST_TASK", 3)
    monkeypatch.setattr(coarse, "_MEMBERS_A_CHUNK", 16)
    monkeypatch.setattr(helper_threads, "_cores", lambda: 8)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def scene(*shape: int, share: float = 0.2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.nonzero(torch.rand(3, *shape, generator=generator) < share).int()


def check(found: CoarseMap, expected: CoarseMap) -> None:
    for name in ("sites", "fine_rows", "coarse_rows", "tap_offsets"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize(
    ("kernel_size", "stride", "padding"),
    [((3, 3, 3), (2, 2, 2), (1, 1, 1)), ((1, 1, 1), (3, 2, 4), (0, 0, 0)), ((2, 1, 1), (2, 3, 5), (0, 1, 2))],
)
def test_equal_to_the_reference_where_lines_reach_nothing(
    kernel_size: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...], threads: int
) -> None:
    torch.set_num_threads(threads)
    geometry = ConvGeometry.create(3, kernel_size, stride, padding)
    for sites in (scene(9, 14, 11), scene(9, 14, 40, share=0.01), scene(3, 3, 3, share=1.0)):
        shape = [14, 20, 50]
        found = cpu.coarse_map(cpu.build_index(sites), geometry, shape)
        check(found, reference.coarse_map(reference.build_index(sites), geometry, shape))


@pytest.mark.parametrize("threads", [1, 3])
def test_nothing_is_reached_at_all(threads: int) -> None:
    torch.set_num_threads(threads)
    sites = scene(9, 14, 11)
    sites = sites[sites[:, 3] % 4 == 1]
    geometry = ConvGeometry.create(3, 1, (1, 1, 4), 0)
    found = cpu.coarse_map(cpu.build_index(sites), geometry, [9, 14, 11])
    assert len(found.sites) == len(found.fine_rows) == 0
    assert len(cpu.coarse_map(cpu.build_index(scene(9, 14, 11)), geometry, [9, 14, 11]).sites) > 0


@pytest.mark.parametrize(
    ("failing", "step"),
    [
        *itertools.product(["caller"], ["_reach", "_find_lines", "_unite", "_place", "_fill"]),
        *itertools.product(["helper"], ["_reach", "_unite", "_fill"]),
    ],
)
@pytest.mark.parametrize("error", [ArithmeticError, KeyboardInterrupt])
def test_an_error_in_a_step_ends_the_call_and_leaves_the_pool_usable(
    failing: str, step: str, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(2)
    geometry = ConvGeometry.create(3, 3, 2, 1)
    index = cpu.build_index(scene(9, 14, 11))
    expected = cpu.coarse_map(index, geometry, [9, 14, 11])
    take = getattr(coarse._Finding, step)
    with monkeypatch.context() as patch:
        patch.setattr(coarse._Finding, step, failing_step(take, failing == "caller", error(step)))
        with pytest.raises(error, match=step):
            cpu.coarse_map(index, geometry, [9, 14, 11])
    check(cpu.coarse_map(index, geometry, [9, 14, 11]), expected)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("step", ["_find_lines", "_place"])
def test_a_call_inside_another_one_of_the_same_thread(
    step: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from a signal handler or a finalizer: both have working memory of their own."""
    torch.set_num_threads(threads)
    geometry = ConvGeometry.create(3, 3, 2, 1)
    index, inner = cpu.build_index(scene(9, 14, 11)), cpu.build_index(scene(20, 14, 11, share=0.5))
    expected, inside = cpu.coarse_map(index, geometry, None), cpu.coarse_map(inner, geometry, None)
    take = getattr(coarse._Finding, step)
    found = []

    def interrupted(finding: coarse._Finding) -> object:
        if not found:
            found.append(None)
            found.append(cpu.coarse_map(inner, geometry, None))
        return take(finding)

    monkeypatch.setattr(coarse._Finding, step, interrupted)
    check(cpu.coarse_map(index, geometry, None), expected)
    check(found[1], inside)
