"""Interrupts while something runs that must not be cut in two: kernels compiled, backends imported."""

from __future__ import annotations

import _thread
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

from sparseconv.backends.cpu import jit
from sparseconv.uninterrupted import uninterrupted

_PATIENCE = 120

pytestmark = pytest.mark.skipif(
    not hasattr(signal, "pthread_kill"), reason="no signal can be sent to one thread on this system"
)


@pytest.fixture
def press() -> Iterator[Callable[[], None]]:
    """Ctrl-C in the main thread; returns once its handler has raised KeyboardInterrupt there."""
    is_heard = threading.Event()

    def hear(number: int, frame: FrameType | None) -> None:
        is_heard.set()
        raise KeyboardInterrupt

    def press_and_wait() -> None:
        is_heard.clear()
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        assert is_heard.wait(_PATIENCE)

    before = signal.signal(signal.SIGINT, hear)
    yield press_and_wait
    signal.signal(signal.SIGINT, before)


def test_interrupts_are_heard_when_the_work_has_ended(press: Callable[[], None]) -> None:
    ended = []

    def work() -> None:
        press()
        press()
        ended.append(True)

    with pytest.raises(KeyboardInterrupt):
        uninterrupted(work)
    assert ended == [True]


def test_results_and_errors_come_through() -> None:
    assert uninterrupted(lambda: 3) == 3
    assert uninterrupted(lambda: None) is None
    with pytest.raises(ZeroDivisionError):
        uninterrupted(lambda: 1 // 0)


def test_other_threads_do_the_work_themselves() -> None:
    found: list[tuple[int, int]] = []
    caller = threading.Thread(
        target=lambda: found.append((threading.get_ident(), uninterrupted(threading.get_ident)))
    )
    caller.start()
    caller.join(_PATIENCE)
    assert found[0][0] == found[0][1] != threading.get_ident()


def test_without_another_thread_the_work_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(function: Callable[..., Any], arguments: tuple[Any, ...]) -> int:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_thread, "start_new_thread", start)
    assert uninterrupted(threading.get_ident) == threading.get_ident()


def test_an_interrupt_right_after_the_start_has_the_work_done_once(monkeypatch: pytest.MonkeyPatch) -> None:
    start_new_thread = _thread.start_new_thread
    starts = []

    def start(function: Callable[..., Any], arguments: tuple[Any, ...]) -> int:
        starts.append(start_new_thread(function, arguments))
        if len(starts) == 1:
            raise KeyboardInterrupt
        return starts[-1]

    monkeypatch.setattr(_thread, "start_new_thread", start)
    calls = []
    with pytest.raises(KeyboardInterrupt):
        uninterrupted(lambda: calls.append(True))
    assert calls == [True]
    assert len(starts) == 2


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


def test_an_interrupted_import_is_ended(tmp_path: Path) -> None:
    """In a process of its own, whose first import of Numba is interrupted half-way."""
    code = """
import signal, sys, threading
import torch
import sparseconv as sc
is_heard = threading.Event()
def hear(*_):
    is_heard.set()
    raise KeyboardInterrupt
signal.signal(signal.SIGINT, hear)
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "numba.core" and not is_heard.is_set():
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            is_heard.wait(60)
sys.meta_path.insert(0, Finder())
def voxels():
    return sc.voxelize(torch.ones(3, 4), 0.5, (0, 0, 0, 2, 2, 2)).num_points.tolist()
assert "numba" not in sys.modules
try:
    voxels()
except KeyboardInterrupt:
    print(is_heard.is_set(), voxels())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=_PATIENCE, check=False, cwd=tmp_path
    )
    assert done.stdout.strip() == "True [3]", done.stderr
