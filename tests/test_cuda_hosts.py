"""What the CUDA backend's host code does, without a GPU.

Tensors on the ``meta`` device stand in for those on a GPU: nothing can be read back from them, so code that would
wait for the device raises, and so does code that mixes them with tensors on the CPU.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import sparseconv
from sparseconv import SparseTensor, backends
from sparseconv import functional as F

needs_numba_cuda = pytest.mark.skipif(
    importlib.util.find_spec("numba_cuda") is None,
    reason='numba-cuda is not installed: pip install "sparseconv[cuda]"',
)
GPU = torch.device("meta")


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the kernels that were launched; each launch checks where its tensors live and how they lie."""
    launch = importlib.import_module("sparseconv.backends.cuda.launch")
    names: list[str] = []

    def check(self: object, threads: int, *args: object) -> None:
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        assert tensors and all(tensor.device == GPU for tensor in tensors), self.name  # type: ignore[attr-defined]
        assert all(tensor.is_contiguous() and tensor.dtype in launch._TYPE_STRINGS for tensor in tensors)
        assert all(isinstance(arg, Tensor | int | tuple) for arg in args)
        names.append(self.name)  # type: ignore[attr-defined]

    monkeypatch.setattr(launch.Kernel, "launch", check)
    yield names


def gpu(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=GPU)


OFFSETS = torch.tensor([0, 3, 3, 7, 12])


def rows() -> tuple[Tensor, Tensor, Tensor]:
    return gpu(12, dtype=torch.int32), gpu(12, dtype=torch.int32), OFFSETS


@needs_numba_cuda
def test_nothing_waits_for_the_device_while_a_network_runs(launched: list[str]) -> None:
    cuda = importlib.import_module("sparseconv.backends.cuda")
    conv = importlib.import_module("sparseconv.backends.cuda.conv")
    with pytest.raises(RuntimeError):
        gpu(1).item()
    for executor, groups in (("mm", 1), ("mm", 2), ("direct", 4)):
        run = conv.EXECUTORS[executor]
        weight = gpu(8, 4, 4 // groups)
        out = run.convolve(gpu(9, 4), weight, gpu(8), *rows(), 5, groups, gpu(5, 8), True)
        assert out.shape == (5, 8) and out.device == GPU
        gradient = run.weight_gradient(gpu(9, 4), gpu(5, 8), *rows(), groups)
        assert gradient.shape == weight.shape and gradient.device == GPU
    pooled, argmax = cuda.max_pool(gpu(9, 4), *rows(), 5)
    assert pooled.shape == argmax.shape == (5, 4)
    assert cuda.max_pool_gradient(gpu(5, 4), gpu(5, 4, dtype=torch.int32), 9).shape == (9, 4)
    assert cuda.sum_pool(gpu(9, 4), *rows(), 5).shape == (5, 4)
    assert cuda.column_moments(gpu(600, 4))[1].shape == (4,)
    assert cuda.column_dots(gpu(9, 4), gpu(9, 4))[0].shape == (4,)
    assert cuda.scale_shift(gpu(9, 4), gpu(4), gpu(4)).shape == (9, 4)
    assert {
        "conv._sum_products",
        "pool._max_pool",
        "pool._sum_runs",
        "depthwise._convolve",
        "columns._chunk_dots",
    } <= set(launched)


@needs_numba_cuda
def test_backend_has_every_function_of_the_protocol() -> None:
    cuda = importlib.import_module("sparseconv.backends.cuda")
    wanted = {name for name, value in vars(backends.Backend).items() if callable(value) and name[0] != "_"}
    assert len(wanted) > 15
    assert all(callable(getattr(cuda, name, None)) for name in wanted)


@needs_numba_cuda
def test_memory_is_described_by_the_third_array_interface() -> None:
    launch = importlib.import_module("sparseconv.backends.cuda.launch")
    tensor = torch.arange(6, dtype=torch.int32).reshape(2, 3)
    interface = launch._DeviceArray(tensor, 0).__cuda_array_interface__
    assert interface["version"] == 3 and interface["strides"] is None and interface["stream"] is None
    assert interface["shape"] == (2, 3) and np.dtype(interface["typestr"]) == np.int32
    assert interface["data"] == (tensor.data_ptr(), False)
    # An empty array gets an address too: some drivers' look-ups refuse 0.
    assert launch._DeviceArray(torch.empty(0, 4), 123).__cuda_array_interface__["data"] == (123, False)
    for dtype, text in launch._TYPE_STRINGS.items():
        assert torch.empty(1, dtype=dtype).numpy().dtype == np.dtype(text)


@needs_numba_cuda
def test_a_launch_goes_to_the_stream_and_the_device_of_its_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    launch = importlib.import_module("sparseconv.backends.cuda.launch")
    entered: list[torch.device] = []
    calls: list[tuple[Any, ...]] = []

    @contextlib.contextmanager
    def enter(device: torch.device) -> Iterator[None]:
        entered.append(device)
        yield
        entered.pop()

    class Dispatcher:
        def __getitem__(self, configuration: tuple[Any, ...]) -> Callable[..., None]:
            return lambda *args: calls.append((configuration, args, list(entered)))

    monkeypatch.setattr(torch.cuda, "device", enter)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=77))
    monkeypatch.setattr(launch.cuda, "external_stream", lambda pointer: ("stream", pointer))
    kernel = importlib.import_module("sparseconv.backends.cuda.voxelize")._rank
    monkeypatch.setattr(kernel, "_dispatcher", Dispatcher())
    values = torch.arange(5.0, requires_grad=True)
    for threads, blocks in ((1, 128), (256 * 128 + 1, 129), (1 << 40, 1 << 16)):
        kernel.launch(threads, values, torch.empty(0, 2), 9, (1, 2))
        configuration, (first, empty, *rest), devices = calls.pop()
        assert configuration == (blocks, 256, ("stream", 77)) and devices == [values.device]
        assert first.__cuda_array_interface__["data"][0] == values.data_ptr()
        # An empty array gets the address of another: it is never read.
        assert empty.__cuda_array_interface__["data"][0] == values.data_ptr()
        assert rest == [9, (1, 2)]
    kernel.launch(0, values)
    assert not calls


@needs_numba_cuda
def test_a_kernel_refuses_what_it_would_misread() -> None:
    voxelize = importlib.import_module("sparseconv.backends.cuda.voxelize")
    with pytest.raises(TypeError, match=r"voxelize\._rank was given a tensor of torch\.int64 with strides"):
        voxelize._rank.launch(3, torch.arange(6)[::2])
    with pytest.raises(TypeError, match=r"torch\.bfloat16"):
        voxelize._rank.launch(3, torch.empty(3, dtype=torch.bfloat16))


@needs_numba_cuda
def test_the_cuda_backend_refuses_tensors_that_it_cannot_reach() -> None:
    sites = torch.zeros(1, 4, dtype=torch.int32)
    with sparseconv.use_backend("cuda"), pytest.raises(ValueError, match=r"cuda here, got one on cpu.*CUDASIM"):
        sparseconv.Coordinates(sites)


def test_a_gpu_falls_back_to_plain_torch_with_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda")
    find = importlib.util.find_spec

    def forget() -> None:
        for kept in (backends.cuda_problem, backends._backend_of_gpu, backends._devices_of_cuda):
            kept.cache_clear()

    forget()
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None if name == "numba_cuda" else find(name))
        with pytest.warns(
            UserWarning, match=r'plain torch.*numba-cuda is not installed: pip install "sparseconv\[cuda'
        ):
            assert backends.backend_name(device) == "reference"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert backends.backend_name(device) == "reference"
        with sparseconv.use_backend("cuda"), pytest.raises(ValueError, match="needs numba-cuda"):
            backends.backend_for(device)
    forget()
    with monkeypatch.context() as patch:
        patch.setattr(torch.version, "hip", "7.0")
        assert "ROCm" in str(backends.cuda_problem())
    forget()
    with monkeypatch.context() as patch:
        patch.setattr(backends, "cuda_problem", lambda: None)
        assert backends.backend_name(device) == "cuda"
    forget()


def test_import_needs_no_driver_and_no_numba_cuda(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('numba_cuda', 'triton', 'cuda'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Missing())\n"
    )
    script = (
        "import torch, sparseconv as sc\n"
        "x = sc.SparseTensor(torch.ones(1, 2), torch.zeros(1, 4).int(), [3, 3, 3], 1)\n"
        "print(sc.functional.subm_conv(x, torch.ones(2, 3, 3, 3, 2)).features.tolist())\n"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[[2.0, 2.0]]"


def _default_device_cases() -> dict[str, Callable[[SparseTensor], Tensor]]:
    cpu = torch.device("cpu")
    weight = torch.ones(4, 3, 3, 3, 3, device=cpu, requires_grad=True)
    bias = torch.ones(4, device=cpu, requires_grad=True)
    return {
        "submanifold": lambda x: F.subm_conv(x, weight, bias).features,
        "strided": lambda x: F.sparse_conv(x, weight, stride=2, padding=1).features,
        "transposed": lambda x: F.sparse_conv_transpose(x, weight, stride=2).features,
        "max pool": lambda x: F.max_pool(x, 2).features,
        "average pool": lambda x: F.avg_pool(x, 2).features,
        "global pool": lambda x: F.global_max_pool(x),
        "upsample": lambda x: F.upsample(F.sum_pool(x, 2), 2).features,
    }


@contextlib.contextmanager
def _default_device(device: torch.device) -> Iterator[None]:
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@pytest.mark.parametrize("case", _default_device_cases())
@pytest.mark.parametrize("is_sorted", [True, False])
def test_results_do_not_depend_on_the_default_device(case: str, is_sorted: bool, backend: str) -> None:
    """``torch.set_default_device("cuda")`` is common in programs: no tensor of ours may follow it."""
    run = _default_device_cases()[case]
    cells = torch.randperm(64)[:20]
    cells = cells.sort().values if is_sorted else cells
    indices = torch.stack([cells // 32, cells // 16 % 2, cells // 4 % 4, cells % 4], 1).int()

    def result() -> list[Tensor]:
        features = torch.ones(20, 3, device="cpu", requires_grad=True)
        out = run(SparseTensor(features, indices, [2, 4, 4], 2))
        out.sum().backward()
        assert features.grad is not None
        return [out.detach(), features.grad]

    expected = result()
    with _default_device(GPU):
        found = result()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here: the option is taken")
def test_the_suite_says_that_there_is_no_gpu_to_run_on() -> None:
    command = [sys.executable, "-m", "pytest", "--device", "cuda", "-p", "no:cacheprovider", "--collect-only"]
    folder = Path(__file__).parent
    result = subprocess.run(command, cwd=folder.parent, capture_output=True, text=True, check=False, timeout=100)
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert "torch finds no NVIDIA GPU here" in result.stderr


@pytest.mark.parametrize(
    ("module", "name", "argument"),
    [
        ("sparseconv.backends", "use_backend", "reference"),
        pytest.param("sparseconv.backends.cuda.conv", "use_executor", "mm", marks=needs_numba_cuda),
        ("sparseconv.backends.cuda.implicit_gemm_tuning", "searching", None),
    ],
)
def test_a_choice_holds_for_the_backward_pass_too(module: str, name: str, argument: str | None) -> None:
    """Autograd's device threads have contexts of their own: inside the block it must stay in this thread."""

    def block() -> contextlib.AbstractContextManager[None]:
        return getattr(importlib.import_module(module), name)(argument)  # type: ignore[no-any-return]

    assert torch._C._is_multithreading_enabled()
    with pytest.raises(KeyError), block():
        assert not torch._C._is_multithreading_enabled()
        with block():
            pass
        assert not torch._C._is_multithreading_enabled()
        raise KeyError
    assert torch._C._is_multithreading_enabled()
