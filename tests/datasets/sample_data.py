"""Where the real point clouds are, if this machine has them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_REPOSITORY = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("SPARSECONV_DATA") or _REPOSITORY.parent / "shared" / "data")


def sample(name: str) -> Path:
    """A real file, or a skip with the reason."""
    found = sorted(DATA.glob(name))
    if not found:
        pytest.skip(f"no real sample {name}: set SPARSECONV_DATA to the folder that has it")
    return found[0]
