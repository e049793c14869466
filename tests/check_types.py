"""Run mypy over the package as it installs: five top-level folders under one import name."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
STAGE = ROOT / "build" / "typecheck"


def main() -> int:
    shutil.rmtree(STAGE, ignore_errors=True)
    package = STAGE / "sparseconv"
    package.mkdir(parents=True)
    for source in (ROOT / "sparseconv").iterdir():
        (package / source.name).symlink_to(source)
    for folder in ("dense_ops", "datasets", "scripts"):
        if (ROOT / folder / "__init__.py").exists():
            (package / folder).symlink_to(ROOT / folder)
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "-p", "sparseconv"]
    return subprocess.run(command, cwd=STAGE, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
