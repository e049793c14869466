"""Interrupts while something runs that must not be cut in two: kernels compiled, backends imported."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import numpy as np
import pytest

from sparseconv.backends.cpu import jit
from sparseconv.uninterrupted import uninterrupted

_PATIENCE = 120


@pytest.fixture
def press() -> Iterator[Callable[[], None]]:
    """Ctrl-C, whose handler raises KeyboardInterrupt; it is called before this returns."""
    heard = []

    def hear(number: int, frame: FrameType | None) -> None:
        heard.append(number)
        raise KeyboardInterrupt

    def press_once() -> None:
        heard.clear()
        signal.raise_signal(signal.SIGINT)
        assert heard == [signal.SIGINT]

    before = signal.signal(signal.SIGINT, hear)
    yield press_once
    assert signal.signal(signal.SIGINT, before) is hear


def test_interrupts_are_raised_when_the_work_has_ended(press: Callable[[], None]) -> None:
    ended = []

    def work() -> None:
        press()
        press()
        ended.append(True)

    with pytest.raises(KeyboardInterrupt):
        uninterrupted(work)
    assert ended == [True]
    # Afterwards they are raised at once.
    with pytest.raises(KeyboardInterrupt):
        press()


def test_results_and_errors_come_through() -> None:
    assert uninterrupted(lambda: 3) == 3
    assert uninterrupted(lambda: None) is None
    with pytest.raises(ZeroDivisionError):
        uninterrupted(lambda: 1 // 0)


def test_an_interrupt_goes_before_an_error(press: Callable[[], None]) -> None:
    def work() -> None:
        press()
        raise ArithmeticError("of the work")

    with pytest.raises(KeyboardInterrupt) as raised:
        uninterrupted(work)
    assert isinstance(raised.value.__context__, ArithmeticError)


def test_the_first_of_several_signals_is_raised(press: Callable[[], None]) -> None:
    def time_out(number: int, frame: FrameType | None) -> None:
        raise TimeoutError

    def work() -> None:
        signal.raise_signal(signal.SIGTERM)
        press()

    before = signal.signal(signal.SIGTERM, time_out)
    try:
        with pytest.raises(TimeoutError):
            uninterrupted(work)
        assert signal.getsignal(signal.SIGTERM) is time_out
    finally:
        signal.signal(signal.SIGTERM, before)


def test_work_inside_work_is_not_cut_either(press: Callable[[], None]) -> None:
    ended = []

    def work() -> None:
        uninterrupted(press)
        ended.append(True)

    with pytest.raises(KeyboardInterrupt):
        uninterrupted(work)
    assert ended == [True]


def test_a_handler_that_the_work_sets_stays(press: Callable[[], None]) -> None:
    def replace(number: int, frame: FrameType | None) -> None:
        raise AssertionError("never called")

    before = signal.getsignal(signal.SIGINT)
    try:
        uninterrupted(lambda: signal.signal(signal.SIGINT, replace))
        assert signal.getsignal(signal.SIGINT) is replace
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_do_the_work() -> None:
    found: list[int] = []
    caller = threading.Thread(target=lambda: found.append(uninterrupted(threading.get_ident)))
    caller.start()
    caller.join(_PATIENCE)
    assert found == [caller.ident]


def test_what_was_raised_keeps_no_caller_alive(press: Callable[[], None]) -> None:
    class Large:
        pass

    references = []

    def call() -> None:
        large = Large()
        references.append(weakref.ref(large))
        uninterrupted(press)

    gc.disable()
    try:
        with pytest.raises(KeyboardInterrupt) as raised:
            call()
        del raised
        assert references[0]() is None
    finally:
        gc.enable()


def _add_three(values: np.ndarray) -> float:
    return values.sum() + 3.0


def test_an_interrupted_compilation_is_ended(press: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = jit.kernel(_add_three)
    presses = []

    def load_overload(self: object, sig: object, target_context: object) -> None:
        if not presses:
            presses.append(True)
            press()

    monkeypatch.setattr(jit._KernelCache, "load_overload", load_overload)
    monkeypatch.setattr(jit._KernelCache, "save_overload", lambda self, sig, data: None)
    with pytest.raises(KeyboardInterrupt):
        compiled(np.ones(2))
    assert len(compiled.signatures) == 1
    assert compiled(np.ones(2)) == 5.0


# In the middle of each of these an interrupt leaves Numba unusable for the process.
@pytest.mark.parametrize("module", ["numba.core.typing.templates", "numba.stencils.stencil"])
def test_an_interrupted_import_is_ended(module: str, tmp_path: Path) -> None:
    """In a process of its own, whose first import of Numba is interrupted half-way."""
    code = f"""
import signal, sys
import torch
import sparseconv as sc
heard = []
def hear(*_):
    heard.append(True)
    raise KeyboardInterrupt
signal.signal(signal.SIGINT, hear)
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "{module}" and not heard:
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Finder())
def voxels():
    return sc.voxelize(torch.ones(3, 4), 0.5, (0, 0, 0, 2, 2, 2)).num_points.tolist()
assert "numba" not in sys.modules
try:
    voxels()
except KeyboardInterrupt:
    print(heard, voxels())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=_PATIENCE, check=False, cwd=tmp_path
    )
    assert done.stdout.strip() == "[True] [3]", done.stderr
