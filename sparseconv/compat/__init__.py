"""Programs written for other libraries, on this engine."""

from __future__ import annotations

import importlib
import sys

_OURS = "sparseconv.compat"

# Where a program looks, and what it finds. spconv 1.x kept at its top what 2.x has in `spconv.pytorch`.
_MODULES = {
    "cumm": "cumm",
    "cumm.tensorview": "cumm.tensorview",
    "spconv": "spconv",
    "spconv.constants": "spconv.constants",
    "spconv.core": "spconv.core",
    "spconv.utils": "spconv.voxel_generators",
    "spconv.conv": "spconv.pytorch.conv",
    "spconv.functional": "spconv.pytorch.functional",
    "spconv.identity": "spconv.pytorch.identity",
    "spconv.modules": "spconv.pytorch.modules",
    "spconv.ops": "spconv.pytorch.ops",
    "spconv.pool": "spconv.pytorch.pool",
    "spconv.tables": "spconv.pytorch.tables",
    "spconv.pytorch": "spconv.pytorch",
    "spconv.pytorch.constants": "spconv.constants",
    "spconv.pytorch.conv": "spconv.pytorch.conv",
    "spconv.pytorch.core": "spconv.pytorch.core",
    "spconv.pytorch.functional": "spconv.pytorch.functional",
    "spconv.pytorch.hash": "spconv.pytorch.hash",
    "spconv.pytorch.identity": "spconv.pytorch.identity",
    "spconv.pytorch.modules": "spconv.pytorch.modules",
    "spconv.pytorch.ops": "spconv.pytorch.ops",
    "spconv.pytorch.pool": "spconv.pytorch.pool",
    "spconv.pytorch.tables": "spconv.pytorch.tables",
    "spconv.pytorch.utils": "spconv.pytorch.point_to_voxel",
}


def install_spconv() -> None:
    """Let ``import spconv`` and ``import cumm`` find this package's modules, in this process.

    Call it before anything imports spconv. A second call does nothing.

    Raises:
        RuntimeError: the real spconv, or the real cumm, is imported already.
    """
    for top in ("spconv", "cumm"):
        present = sys.modules.get(top)
        if present is not None and not present.__name__.startswith(_OURS):
            where = getattr(present, "__file__", None) or "a place unknown"
            raise RuntimeError(
                f"{top} is imported already, from {where}: call sparseconv.compat.install_spconv() before the "
                f"first import of {top}, or run the program with python -m sparseconv.compat.spconv"
            )
    for name, target in _MODULES.items():
        sys.modules[name] = importlib.import_module(f"{_OURS}.{target}")
