"""Many Python threads, forked and spawned workers, and a cache folder that others write, damage or forbid."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from scans import GRID, random_sites, scan_sites
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import sparseconv as sc
import sparseconv.functional as F
from sparseconv import SparseTensor
from sparseconv.backends.cpu import placement
from sparseconv.backends.cpu import threads as pool

# A worker that hangs is reported after this many seconds.
_PATIENCE = 120


def work(seed: int, sites: Tensor) -> list[Tensor]:
    """Maps, values and gradients of two layers; the same numbers whenever it is called."""
    generator = torch.Generator().manual_seed(seed)
    sites = sites[torch.randperm(len(sites), generator=generator)]
    x = torch.randn(len(sites), 8, generator=generator).requires_grad_()
    w = torch.randn(8, 3, 3, 3, 8, generator=generator).requires_grad_()
    y = F.subm_conv(SparseTensor(x, sites, GRID), w)
    z = F.sparse_conv(y, w, None, 2, 1)
    grads = torch.autograd.grad(z.features.square().sum(), (x, w))
    return [y.features.detach(), z.indices, z.features.detach(), *grads]


def assert_equal(found: list[Tensor], expected: list[Tensor], what: str) -> None:
    for number, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert torch.equal(a, b), f"{what}: tensor {number}"


def test_many_threads_give_the_bits_of_one() -> None:
    sites = scan_sites()[:6000]
    torch.set_num_threads(2)
    expected = [work(seed, sites) for seed in range(4)]
    start = threading.Barrier(8)

    def one(number: int) -> list[Tensor]:
        start.wait(_PATIENCE)
        return work(number % 4, sites)

    with ThreadPoolExecutor(8) as callers:
        for number, found in enumerate(callers.map(one, range(8), timeout=_PATIENCE)):
            assert_equal(found, expected[number % 4], f"caller {number}")


def test_threads_that_share_coordinates_and_a_layer() -> None:
    """All at once, on one memo that none has filled yet."""
    sites = scan_sites()[:4000]
    layer = sc.SparseConv3d(4, 8, 3, 2, 1)
    x = torch.randn(len(sites), 4)
    expected = layer(SparseTensor(x, sites, GRID)).features
    for attempt in range(5):
        shared = SparseTensor(x, sites, GRID)
        start = threading.Barrier(4)

        def one(_: int, shared: SparseTensor = shared, start: threading.Barrier = start) -> Tensor:
            start.wait(_PATIENCE)
            return layer(shared).features

        with ThreadPoolExecutor(4) as callers:
            for found in callers.map(one, range(4), timeout=_PATIENCE):
                assert torch.equal(found, expected), f"attempt {attempt}"


def test_a_backend_chosen_in_one_thread_is_not_chosen_in_another() -> None:
    from sparseconv.backends import backend_name

    with sc.use_backend("reference"), ThreadPoolExecutor(1) as caller:
        assert backend_name(torch.device("cpu")) == "reference"
        assert caller.submit(backend_name, torch.device("cpu")).result() == "cpu"
    assert backend_name(torch.device("cpu")) == "cpu"


# The pool itself


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_ranges_cover_everything_once(threads: int) -> None:
    torch.set_num_threads(threads)
    for total in (0, 1, 2, 7, 8, 9, 1000, 1001):
        for smallest in (0, 1, 3, 1000, 5000):
            seen = np.zeros(total, np.int64)

            def count(start: int, stop: int, seen: np.ndarray = seen) -> None:
                seen[start:stop] += 1

            pool.run_ranges(count, total, smallest)
            assert bool((seen == 1).all()), f"{total} in ranges of at least {smallest}"


@pytest.mark.parametrize("threads", [2, 3, 16])
def test_ranges_grow_shorter_and_none_is_too_short(threads: int) -> None:
    for total in (1, 5, 64, 1000, 100_003):
        for shortest in (1, 4, 50):
            lengths = np.diff(pool._cut(total, threads, shortest))
            assert lengths.sum() == total
            assert (np.diff(lengths[:-1]) <= 0).all()
            assert lengths.min() >= min(total, shortest)
            # What all wait for at the end: the last range, and a rest that is too short for one of its own.
            assert lengths[-1] < 2 * shortest or len(lengths) == 1


def test_a_caller_waits_for_a_helper_that_takes_longer_than_it_looks() -> None:
    torch.set_num_threads(2)
    caller, done = threading.get_ident(), []
    came = threading.Event()

    def task(start: int, stop: int) -> None:
        if threading.get_ident() == caller:
            assert came.wait(_PATIENCE), "no helper came"
        else:
            came.set()
            time.sleep(0.05)
        done.append(stop - start)

    pool.run_ranges(task, 4, 2)
    assert sum(done) == 4


def test_a_wait_without_compiled_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where Numba is told not to compile (``NUMBA_DISABLE_JIT``): its intrinsics then raise this error."""

    def fail(inside: np.ndarray) -> None:
        raise NotImplementedError("no machine code here")

    monkeypatch.setattr(pool, "_look_until_left", fail)
    test_a_caller_waits_for_a_helper_that_takes_longer_than_it_looks()


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Cores of this process, for a pool of its own."""
    if placement._core_of_caller is None:
        pytest.skip("threads are placed where the C library has sched_getcpu: on Linux")
    found = os.sched_getaffinity(0)
    if len(found) < 2:
        pytest.skip("threads are placed where there is more than one core")
    monkeypatch.setattr(pool, "_pool", pool._Pool())
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    return found


def covered() -> int:
    """Run ranges on the pool and count what they cover."""
    lengths: list[int] = []
    pool.run_ranges(lambda start, stop: lengths.append(stop - start), 1000, 1)
    return sum(lengths)


def test_helpers_are_kept_off_their_callers_core(cores: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    for core in (*sorted(cores)[:2], min(cores)):
        monkeypatch.setattr(placement, "_core_of_caller", lambda core=core: core)
        assert covered() == 1000
        assert pool._pool.size == 2
        for thread in pool._pool._threads:
            assert thread.native_id is not None
            assert os.sched_getaffinity(thread.native_id) == cores - {core}
    assert os.sched_getaffinity(0) == cores, "the caller's own cores stay"


def test_helpers_of_a_caller_that_has_one_core(cores: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def call() -> None:
        os.sched_setaffinity(0, {min(cores)})
        seen.append(covered())

    caller = threading.Thread(target=call)
    caller.start()
    caller.join(_PATIENCE)
    assert seen == [1000]
    started = pool._pool._threads
    assert started and all(os.sched_getaffinity(t.native_id or 0) == {min(cores)} for t in started), "as inherited"
    # The caller's core is the same, and it may use others now.
    monkeypatch.setattr(placement, "_core_of_caller", lambda: min(cores))
    assert covered() == 1000
    assert all(os.sched_getaffinity(t.native_id or 0) == cores - {min(cores)} for t in started)


def test_many_helpers_run_anywhere(cores: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were placed while they were few, too."""
    assert covered() == 1000
    monkeypatch.setattr(torch, "get_num_threads", lambda: 12)
    assert covered() == 1000
    assert pool._pool.size == 11
    assert all(os.sched_getaffinity(t.native_id or 0) == cores for t in pool._pool._threads)


def test_a_sandbox_that_forbids_placement(cores: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(*arguments: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    for name in ("sched_setaffinity", "sched_getaffinity"):
        monkeypatch.setattr(os, name, forbid)
        assert covered() == 1000


def test_an_error_in_any_range_reaches_the_caller_and_the_pool_lives_on() -> None:
    torch.set_num_threads(4)
    for bad in range(0, 1000, 90):

        def fail(start: int, stop: int, bad: int = bad) -> None:
            if start <= bad < stop:
                raise ArithmeticError(f"range with {bad}")

        with pytest.raises(ArithmeticError, match=f"range with {bad}"):
            pool.run_ranges(fail, 1000, 1)
    done = []
    pool.run_ranges(lambda start, stop: done.append(stop - start), 1000, 1)
    assert sum(done) == 1000


def test_ranges_inside_ranges_finish() -> None:
    torch.set_num_threads(4)
    total = []

    def outer(start: int, stop: int) -> None:
        for _ in range(start, stop):
            pool.run_ranges(lambda first, last: total.append(last - first), 10, 1)

    caller = threading.Thread(target=pool.run_ranges, args=(outer, 40, 1), daemon=True)
    caller.start()
    caller.join(_PATIENCE)
    assert not caller.is_alive(), "nested ranges wait for each other"
    assert sum(total) == 400


def test_interrupts_at_any_time_lock_nothing() -> None:
    """In a process of its own: alarms that raise KeyboardInterrupt while ranges are run and voxels are found."""
    code = """
import random, signal, torch
from sparseconv.backends import cpu, reference
from sparseconv.backends.cpu import helper_threads, threads, voxelize
voxelize._SMALLEST_TASK = 500
helper_threads._cores = lambda: 4
torch.set_num_threads(3)
points = (torch.rand(9000, 4, generator=torch.Generator().manual_seed(0)) - 0.5) * 8
arguments = points, [9000], (-4.0, -4.0, -4.0), (0.2, 0.2, 0.2), (40, 40, 40), None, False, 5
expected = reference.group_points(*arguments)
cpu.group_points(*arguments)
threads.run_ranges(lambda start, stop: None, 100, 1)
chance = random.Random(1)
is_heard, raised = False, 0
def interrupt(*_):
    # Python drops what is raised in a destructor, as of the kernels' compiler, and in a callback from C.
    global is_heard
    is_heard = True
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, interrupt)
for _ in range(400):
    is_heard = False
    try:
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.0002, 0.003))
        while not is_heard:
            cpu.group_points(*arguments)
            threads.run_ranges(lambda start, stop: None, 100, 1)
    except KeyboardInterrupt:
        raised += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    found = cpu.group_points(*arguments)
    assert torch.equal(found.rows, expected.rows) and torch.equal(found.blocks.points, expected.blocks.points)
print("most were raised" if raised > 300 else raised)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=_PATIENCE, check=False
    )
    assert done.stdout.strip() == "most were raised", done.stderr


# Worker processes


class Frames(Dataset[dict[str, Tensor]]):
    """Voxelizes a cloud and runs a convolution, as a data loader's worker does, on two pool threads."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(index)
        points = torch.rand(20_000, 4, generator=generator) * 20
        weight = torch.randn(8, 3, 3, 3, 4, generator=generator)
        # Workers run on one torch thread; the engine's pool is to be used all the same.
        torch.get_num_threads = lambda: 2  # type: ignore[assignment]
        voxels = sc.voxelize(points, 0.5, (0, 0, 0, 20, 20, 20))
        output = F.sparse_conv(voxels.to_sparse(), weight, None, 2, 1)
        pid = torch.tensor(os.getpid())
        return {"indices": output.indices, "features": output.features, "pid": pid, "counts": voxels.num_points}


# From Python 3.12 on, forking a process that has threads is warned of; that it works is what is tested.
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_data_loader(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    expected = [Frames()[index] for index in range(4)]
    used = []
    pool.run_ranges(lambda start, stop: used.append(start), 1000, 1)
    assert pool._pool.size and used, "the parent has used its pool before it forks"
    loader = DataLoader(
        Frames(), batch_size=None, num_workers=2, multiprocessing_context=method, timeout=_PATIENCE
    )
    found = list(loader)
    assert len({int(frame["pid"]) for frame in found} - {os.getpid()}) == 2
    for index, (a, b) in enumerate(zip(found, expected, strict=True)):
        for key in ("indices", "features", "counts"):
            assert torch.equal(a[key], b[key]), f"frame {index}: {key}"
    assert_equal(list(Frames()[0].values())[:2], list(expected[0].values())[:2], "the parent afterwards")


class Tensors(Dataset[SparseTensor]):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> SparseTensor:
        return SparseTensor(torch.ones(5, 2) * index, random_sites(5, (4, 4), seed=index), (4, 4))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_workers_hand_over_sparse_tensors() -> None:
    loader = DataLoader(
        Tensors(), batch_size=None, num_workers=1, multiprocessing_context="fork", timeout=_PATIENCE
    )
    for index, found in enumerate(loader):
        assert torch.equal(found.features, torch.ones(5, 2) * index)
        assert found.coordinates.same_sites(Tensors()[index].coordinates)


# The cache of compiled kernels

_SCRIPT = """
import torch, sparseconv
index = sparseconv.CoordinateHash(torch.tensor([[0, 5], [0, 1], [0, 200]], dtype=torch.int32))
print(index.query(torch.tensor([[0, 1], [0, 5], [0, 200], [0, 7], [1, 5]], dtype=torch.int32)).tolist())
"""
_ANSWER = "[1, 0, 2, -1, -1]"


def start(cache: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "SPARSECONV_CACHE_DIR": str(cache)}
    return subprocess.Popen(
        [sys.executable, "-c", _SCRIPT],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def assert_answers(process: subprocess.Popen[str], what: str) -> None:
    out, err = process.communicate(timeout=_PATIENCE)
    assert process.returncode == 0, f"{what}: exit status {process.returncode}\n{err[-2000:]}"
    assert out.strip() == _ANSWER, f"{what}: {out}"


def entries(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.nbc"))


@pytest.fixture(scope="module")
def filled_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder that two processes filled at the same time."""
    cache = tmp_path_factory.mktemp("cache")
    both = [start(cache), start(cache)]
    for number, process in enumerate(both):
        assert_answers(process, f"process {number} of two")
    return cache


def test_two_processes_fill_one_cache(filled_cache: Path) -> None:
    kernels = {path.name.split(".")[1] for path in entries(filled_cache)}
    assert {"_query", "_pack", "_fill_blocks"} <= kernels
    assert not list(filled_cache.rglob("*.tmp"))
    before = {path: path.stat().st_mtime_ns for path in entries(filled_cache)}
    assert_answers(start(filled_cache), "a third process")
    assert {path: path.stat().st_mtime_ns for path in entries(filled_cache)} == before, "it compiled again"


def _halve(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _lose_a_sector(data: bytes) -> bytes:
    """What a power cut leaves: 512 bytes of zeros in the middle of the machine code."""
    middle = len(data) // 2
    return data[:middle] + bytes(512) + data[middle + 512 :]


def _swap_in_text(data: bytes) -> bytes:
    return b"not a kernel" + data[12:]


@pytest.mark.parametrize(
    "damage", [lambda _: b"", _halve, _swap_in_text, _lose_a_sector], ids=["empty", "half", "text", "sector"]
)
def test_damaged_entries_are_compiled_again(
    filled_cache: Path, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    for path in entries(filled_cache):
        copy = tmp_path / path.relative_to(filled_cache)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(damage(path.read_bytes()))
    assert_answers(start(tmp_path), "on a damaged cache")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert_answers(start(tmp_path / "file"), "a file in place of the folder")
    assert (tmp_path / "file").read_text() == "in the way"
