"""``python -m sparseconv.compat.spconv script.py arguments..``: run a script whose ``import spconv`` finds us."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from sparseconv.compat import install_spconv

_USAGE = "usage: python -m sparseconv.compat.spconv (script.py | -m module) [arguments ..]\n"


def main() -> None:
    """Run the script or module that the command line names."""
    arguments = sys.argv[1:]
    is_module = arguments[:1] == ["-m"]
    target = arguments[1:] if is_module else arguments
    if not target:
        sys.stderr.write(_USAGE)
        raise SystemExit(2)
    install_spconv()
    sys.argv = target
    if is_module:
        runpy.run_module(target[0], run_name="__main__", alter_sys=True)
        return
    script = Path(target[0])
    if not script.exists():
        sys.stderr.write(f"sparseconv: {script}: no such file\n")
        raise SystemExit(2)
    # As python itself does: the script's folder first, in place of the working directory.
    sys.path[0] = str(script.resolve().parent)
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
