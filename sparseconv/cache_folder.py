"""Where the engine keeps what it computes once for a machine."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path | None:
    """``$SPARSECONV_CACHE_DIR``, or ``~/.cache/sparseconv`` where that is not set; None where there is no home."""
    named = os.environ.get("SPARSECONV_CACHE_DIR")
    try:
        return Path(named) if named else Path.home() / ".cache" / "sparseconv"
    except RuntimeError:
        # A container's user without an entry of its own has no home folder.
        return None
