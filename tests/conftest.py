"""Every test: fixed seeds, no luck with uninitialised memory, one hypothesis profile."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from numba.core.dispatcher import Dispatcher

import sparseconv

# Examples are the same in every run, so that a failure is one for everybody.
settings.register_profile(
    "sparseconv",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("sparseconv")

# Far from 0, from every row number and from every coordinate that a test uses.
_GARBAGE = 0x5A5A5A5A5A5A5A5A


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A job that a shell runs in the background hears no Ctrl-C, nor do the processes that tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="where tensors that tests make are put, and whose backend they try beside the reference",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--device") == "cuda" and not torch.cuda.is_available():
        raise pytest.UsageError(
            "--device cuda: torch finds no NVIDIA GPU here (torch.cuda.is_available() is False). "
            "`sparseconv doctor` names what is missing; without the option the suite runs on the CPU"
        )


@pytest.fixture(autouse=True)
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """The device of ``--device``, on which tensors are made that name none."""
    chosen = torch.device(request.config.getoption("--device"))
    if chosen.type == "cuda":
        torch.set_default_device(chosen)
    yield chosen
    if chosen.type == "cuda":
        torch.set_default_device(None)


@pytest.fixture(autouse=True)
def _seeds() -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - seeds whoever still draws from the global generator


@pytest.fixture(autouse=True)
def _same_threads_afterwards() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=["cpu", "reference"])
def backend(request: pytest.FixtureRequest, device: torch.device) -> Iterator[str]:
    """Run the test once on each backend of the device."""
    name = device.type if request.param == "cpu" else request.param
    with sparseconv.use_backend(name):
        yield name


def _called_by_engine() -> bool:
    """Whether the function that called the patched one stands in the package."""
    name = sys._getframe(2).f_globals.get("__name__", "")
    return name == "sparseconv" or name.startswith("sparseconv.")


def _poison_array(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind in "fc":
        array.fill(np.nan)
    elif array.dtype.kind in "iu":
        array.fill(_GARBAGE & (2 ** (8 * array.dtype.itemsize - 1) - 1))
    elif array.dtype.kind == "b":
        array.fill(True)
    return array


def _poison_tensor(tensor: torch.Tensor) -> torch.Tensor:
    # Subclasses (fake tensors, while an op is traced) have no memory of their own.
    if type(tensor) is not torch.Tensor or tensor.device.type == "meta":
        return tensor
    with torch.no_grad():
        if tensor.is_floating_point():
            return tensor.fill_(float("nan"))
        if tensor.dtype == torch.bool:
            return tensor.fill_(True)
        return tensor.fill_(_GARBAGE & torch.iinfo(tensor.dtype).max)


@pytest.fixture(autouse=True)
def _poison_uninitialised_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that the engine asks for without initialising it holds NaN and garbage.

    A cell that a kernel forgets to write then shows in every result. Numba resolves ``np.empty`` in a kernel
    through the numpy module as well, so the true functions stand there while it compiles.
    """
    empty, empty_like = np.empty, np.empty_like
    torch_empty, new_empty = torch.empty, torch.Tensor.new_empty
    compiling = threading.local()

    def poisoned(function: Callable[..., Any], poison: Callable[[Any], Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            made = function(*args, **kwargs)
            return poison(made) if _called_by_engine() else made

        return call

    patches = (
        (np, "empty", poisoned(empty, _poison_array), empty),
        (np, "empty_like", poisoned(empty_like, _poison_array), empty_like),
    )

    def install(poison: bool) -> None:
        for owner, name, replacement, original in patches:
            setattr(owner, name, replacement if poison else original)

    lock = threading.RLock()
    compile_kernel = Dispatcher.compile

    def compile_unpoisoned(self: Dispatcher, sig: Any) -> Any:
        with lock:
            depth = getattr(compiling, "depth", 0)
            compiling.depth = depth + 1
            install(False)
            try:
                return compile_kernel(self, sig)
            finally:
                compiling.depth = depth
                if depth == 0:
                    install(True)

    monkeypatch.setattr(Dispatcher, "compile", compile_unpoisoned)
    monkeypatch.setattr(np, "empty", patches[0][2])
    monkeypatch.setattr(np, "empty_like", patches[1][2])
    monkeypatch.setattr(torch, "empty", poisoned(torch_empty, _poison_tensor))
    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned(new_empty, _poison_tensor))
