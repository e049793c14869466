"""What a program can do to the engine without a crash: hand-made maps, missing homes, exhausted threads."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading

import pytest
import torch

import sparseconv as sc
from sparseconv.backends.cpu import threads
from sparseconv.memoized import memoized


def rows(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


@pytest.mark.parametrize(
    ("in_rows", "out_rows", "offsets", "error", "text"),
    [
        (rows(0, 9), rows(0, 1), [0, 2], ValueError, r"in_rows must lie in 0 \.\. 3, got 0 \.\. 9"),
        (rows(0, 1), rows(-1, 1), [0, 2], ValueError, r"out_rows must lie in 0 \.\. 3, got -1 \.\. 1"),
        (rows(0, 1).long(), rows(0, 1), [0, 2], TypeError, r"in_rows must be int32, got torch\.int64"),
        (rows(0, 1, 2), rows(0, 1), [0, 2], ValueError, "of one length"),
        (rows(0, 0, 1, 1)[::2], rows(0, 1), [0, 2], ValueError, "contiguous"),
        (rows(0, 1), rows(0, 1), [0, 3], ValueError, "from 0 to the number of pairs, 2"),
        (rows(0, 1), rows(0, 1), [0, 2, 1, 2], ValueError, "must ascend"),
        (rows(0, 1, 2), rows(2, 1, 3), [0, 3], ValueError, "out_rows must ascend within each tap"),
        (
            rows(0, 1, 2),
            rows(1, 1, 3),
            [0, 3],
            ValueError,
            "each tap, without repeats",
        ),
        (rows(2, 0, 2), rows(0, 1, 2), [0, 3], ValueError, "in_rows repeat within a tap"),
    ],
)
def test_hand_made_maps_are_checked(
    in_rows: torch.Tensor, out_rows: torch.Tensor, offsets: list[int], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        sc.KernelMap(in_rows, out_rows, torch.tensor(offsets), 4, 4, False)
    assert sc.KernelMap(rows(0, 3), rows(1, 2), torch.tensor([0, 1, 2]), 4, 4, False).n_pairs == 2
    assert sc.KernelMap(rows(3, 0, 3), rows(1, 2, 0), torch.tensor([0, 2, 3]), 4, 4, False).n_pairs == 3
    with pytest.raises(ValueError, match="in_rows do not ascend within each tap"):
        sc.KernelMap(rows(3, 0), rows(1, 2), torch.tensor([0, 2]), 4, 4, True)


def test_untracked_changes_of_indices_never_crash() -> None:
    """A change through numpy is not seen; results may be those of the old sites, but no memory is touched."""
    sites = torch.stack([torch.zeros(300), torch.arange(300) // 20, torch.arange(300) % 20], 1).int()
    memory = sites.numpy()
    x = sc.SparseTensor(torch.ones(300, 2), sites, [15, 20], 1)
    before = sc.functional.subm_conv(x, torch.ones(2, 3, 3, 2)).features
    memory[:, 1:] = 5
    x.clear_maps()
    assert torch.equal(sc.functional.subm_conv(x, torch.ones(2, 3, 3, 2)).features, before)


def test_ranges_are_complete_where_threads_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_pool", threads._Pool())
    started = []
    start = threading.Thread.start

    def limited(self: threading.Thread) -> None:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(self)
        start(self)

    monkeypatch.setattr(threading.Thread, "start", limited)
    before = torch.get_num_threads()
    torch.set_num_threads(8)
    done: list[tuple[int, int]] = []
    try:
        threads.run_ranges(lambda first, stop: done.append((first, stop)), 1000, 1)
    finally:
        torch.set_num_threads(before)
        threads._forget_pool()
    covered = sorted(done)
    assert covered[0][0] == 0 and covered[-1][1] == 1000
    assert all(left[1] == right[0] for left, right in itertools.pairwise(covered))


def test_no_home_folder_costs_a_compilation_only() -> None:
    script = (
        "import os, pathlib\n"
        "def no_home(cls=None):\n"
        "    raise RuntimeError('no home')\n"
        "pathlib.Path.home = classmethod(no_home)\n"
        "import sparseconv, torch\n"
        "print(sparseconv.CoordinateHash(torch.tensor([[0, 1], [0, 3]])).query(torch.tensor([[0, 3]])).item())"
    )
    environment = {key: value for key, value in os.environ.items() if key != "SPARSECONV_CACHE_DIR"}
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False
    )
    assert result.stdout.strip() == "1", result.stderr


def test_memoized_computes_once_and_keeps() -> None:
    class Owner:
        calls = 0

        @memoized
        def value(self) -> int:
            self.calls += 1
            return 7

    owner = Owner()
    assert (owner.value, owner.value, owner.calls) == (7, 7, 1)
    assert Owner().calls == 0


def test_global_pooling_of_shuffled_rows_reuses_its_map() -> None:
    order = torch.randperm(5000)
    sites = torch.stack([order % 3, order, order], 1)
    x = sc.SparseTensor(torch.randn(5000, 2, dtype=torch.float64, requires_grad=True), sites)
    mean = sc.SparseGlobalAvgPool()(x)
    expected = torch.stack([x.features[sites[:, 0] == b].mean(0) for b in range(3)])
    torch.testing.assert_close(mean, expected)
    (gradient,) = torch.autograd.grad(mean.sum(), x.features)
    torch.testing.assert_close(gradient[:, 0], 1 / torch.bincount(sites[:, 0])[sites[:, 0]].double())
    assert x.coordinates.batch_map() is x.coordinates.batch_map()


def test_dense_round_trip_in_both_layouts() -> None:
    dense = torch.rand(2, 3, 4, 5) + 1
    assert torch.equal(sc.SparseTensor.from_dense(dense, channels_first=True).dense(), dense)
    assert torch.equal(sc.SparseTensor.from_dense(dense).dense(channels_first=False), dense)


def test_subpackages_are_attributes() -> None:
    assert sc.models.MODELS and sc.flops.count_forward and sc.datasets.read_points
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        sc.absent  # noqa: B018
