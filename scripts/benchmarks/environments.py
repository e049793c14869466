"""The peers' virtual environments: made once, in a cache folder, each from one line of packages."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

# The one torch that every program runs on, so that its version never explains a difference.
TORCH = "torch==2.13.0"

REQUIREMENTS = {
    "spconv": ("spconv==2.3.8",),
    "ocnn": ("ocnn==2.3.3",),
    "open3d": ("open3d-cpu==0.20.0",),
}


class PeerMissingError(Exception):
    """A peer cannot be installed or does not run; the message is the reason."""


def cache_folder() -> Path:
    """``$SPARSECONV_BENCH_ENVS``, or a folder beside the kernels' cache."""
    named = os.environ.get("SPARSECONV_BENCH_ENVS")
    return Path(named) if named else Path.home() / ".cache" / "sparseconv" / "bench-environments"


def python_of(peer: str) -> Path:
    """Interpreter of a peer's environment, which is made where it is not there yet.

    Raises:
        PeerMissingError: it cannot be made.
    """
    wanted = " ".join([*REQUIREMENTS[peer], TORCH])
    folder = cache_folder() / peer
    python, stamp = folder / "bin" / "python", folder / "installed.txt"
    if stamp.is_file() and stamp.read_text() == wanted and python.exists():
        return python
    try:
        venv.create(folder, clear=True, with_pip=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise PeerMissingError(f"no virtual environment: {error}") from None
    command = [
        str(python),
        "-m",
        "pip",
        "install",
        "-q",
        "--disable-pip-version-check",
        *REQUIREMENTS[peer],
        TORCH,
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        errors = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
        reason = errors[0] if errors else (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise PeerMissingError(f"pip install {wanted} failed on Python {sys.version.split()[0]}: {reason}")
    stamp.write_text(wanted)
    return python
