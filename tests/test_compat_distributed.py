"""Training around the drop-in: two processes, replicas, averaged copies, threads, and memory given back."""

from __future__ import annotations

import concurrent.futures
import copy
import gc
import subprocess
import sys
import textwrap
import weakref
from pathlib import Path

import torch
from scans import random_sites
from torch import nn

import sparseconv.compat.spconv.pytorch as spconv

SHAPE = [6, 7, 8]


def tensor(seed: int = 0, count: int = 40) -> spconv.SparseConvTensor:
    generator = torch.Generator().manual_seed(seed)
    indices = random_sites(count, SHAPE, (0, 1), seed=seed, shuffled=True)
    return spconv.SparseConvTensor(torch.randn(count, 4, generator=generator), indices, SHAPE, 2)


def network() -> spconv.SparseSequential:
    torch.manual_seed(3)
    return spconv.SparseSequential(
        spconv.SubMConv3d(4, 8, 3, indice_key="subm"),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        spconv.SparseConv3d(8, 8, 3, 2, 1, indice_key="down"),
        spconv.SparseInverseConv3d(8, 4, 3, indice_key="down"),
        spconv.SparseGlobalMaxPool(),
    )


WORKER = """
    import sys
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel
    sys.path.insert(0, {tests!r})
    from test_compat_distributed import network, tensor
    rank = int(sys.argv[1])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method="file://{store}", rank=rank, world_size=2)
    model = DistributedDataParallel(network())
    # The second process has an empty cloud in its last step.
    for step in range(3):
        model.zero_grad()
        x = tensor(10 * rank + step, 0 if (rank, step) == (1, 2) else 40)
        model(x).square().mean().backward()
        gradients = {{name: p.grad.clone() for name, p in model.module.named_parameters()}}
        torch.save(gradients, f"{out}/{{rank}}.{{step}}.pt")
    dist.destroy_process_group()
"""


def test_two_processes_average_their_gradients(tmp_path: Path) -> None:
    tests = str(Path(__file__).parent)
    script = textwrap.dedent(WORKER).format(tests=tests, store=tmp_path / "store", out=tmp_path)
    running = [
        subprocess.Popen([sys.executable, "-c", script, str(rank)], stderr=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    errors = [process.communicate(timeout=300)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], "\n".join(errors)
    for step in range(3):
        left, right = (torch.load(tmp_path / f"{rank}.{step}.pt", weights_only=True) for rank in (0, 1))
        assert left.keys() == right.keys()
        for name in left:
            assert torch.equal(left[name], right[name]), f"step {step}: {name}"
    # What one process computes alone for the first step, averaged by hand.
    alone = []
    for rank in (0, 1):
        model = network()
        model(tensor(10 * rank)).square().mean().backward()
        alone.append({name: p.grad for name, p in model.named_parameters()})
    found = torch.load(tmp_path / "0.0.pt", weights_only=True)
    for name, gradient in found.items():
        assert torch.allclose(gradient, (alone[0][name] + alone[1][name]) / 2, rtol=1e-4, atol=1e-6), name


def test_data_parallel_falls_back_to_the_cpu() -> None:
    model = network().eval()
    assert torch.equal(nn.DataParallel(model)(tensor()), model(tensor()))
    inside = spconv.SparseSequential(nn.DataParallel(spconv.SubMConv3d(4, 8, 3)), nn.ReLU())
    assert inside(tensor()).features.shape == (40, 8)


def test_an_averaged_copy_follows_its_model() -> None:
    model = network()
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5)
    )
    other = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model(tensor()).square().mean().backward()
    optimizer.step()
    average.update_parameters(model)
    average.update_parameters(model)
    assert average(tensor()).shape == (2, 4)
    weights = [m.state_dict()["0.weight"] for m in (model, average.module, other)]
    assert not torch.equal(weights[0], weights[2]) and torch.allclose(weights[0], weights[1])


def test_threads_share_a_model_and_a_tensor() -> None:
    model, x = network().eval(), tensor()
    expected = model(x)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: model(tensor()), range(40)):
            assert torch.equal(found, expected)


def test_a_second_pass_on_one_tensor_gives_the_same() -> None:
    model, x = network().eval(), tensor()
    assert torch.equal(model(x), model(x))
    with torch.inference_mode():
        first = model(x)
    assert torch.equal(first, model(x))
    # Maps kept from inference serve training.
    model.train()(x).sum().backward()
    y = tensor()
    with torch.inference_mode():
        model.eval()(y)
    model.train()(y).sum().backward()


def test_nothing_outlives_its_tensor() -> None:
    model = network()
    gc.collect()
    gc.disable()
    try:
        x = tensor()
        model(x).sum().backward()
        seen = [weakref.ref(x._sites), weakref.ref(x.indices), weakref.ref(x.resolve().coordinates)]
        entry = x.find_indice_pair("down")
        assert entry is not None
        seen += [weakref.ref(entry.outputs), weakref.ref(entry.record.kernel_map)]
        del x, entry
        assert [reference() for reference in seen] == [None] * 5
    finally:
        gc.enable()
