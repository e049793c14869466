from __future__ import annotations

import builtins
from typing import Any

import pytest

from sparseconv.datasets.open3d_import import (
    describe_load_failure,
    open3d_or_none,
    open3d_problem,
)


def _fail_with(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **named: Any) -> Any:
        if name == "open3d":
            raise error
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)


REMEDIES = {
    'Open3D is not installed: pip install "sparseconv[open3d]"': ModuleNotFoundError(
        "No module named 'open3d'", name="open3d"
    ),
    "Open3D is installed but cannot load (libusb-1.0.so.0 is missing): apt-get install libusb-1.0-0": OSError(
        "libusb-1.0.so.0: cannot open shared object file: No such file or directory"
    ),
    "Open3D is installed but cannot load (libGL.so.1 is missing): apt-get install libgl1": ImportError(
        "libGL.so.1: cannot open shared object file"
    ),
    "Open3D is installed but cannot load (no module dash): reinstall it": ModuleNotFoundError(
        "no module dash", name="dash"
    ),
    "Open3D is installed but cannot load (bad ELF header): reinstall it": OSError("bad\nELF header"),
}


@pytest.mark.parametrize("remedy", REMEDIES)
def test_every_failure_has_a_remedy(remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _fail_with(monkeypatch, REMEDIES[remedy])
    assert open3d_or_none() is None
    assert open3d_problem() == remedy


def test_module_and_problem_exclude_each_other() -> None:
    assert (open3d_or_none() is None) == (open3d_problem() is not None)
    assert "\n" not in describe_load_failure(OSError("a\nb"))
