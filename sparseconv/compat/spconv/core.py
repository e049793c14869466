"""``spconv.core``: the names of spconv's algorithms. The engine has one, so the choice changes nothing."""

from __future__ import annotations

import enum


class ConvAlgo(enum.Enum):
    """Accepted wherever spconv takes it."""

    Native = 0
    """Gather, GEMM, scatter."""
    MaskImplicitGemm = 1
    """Fused, all taps in one kernel."""
    MaskSplitImplicitGemm = 2
    """Fused, taps in two halves."""


class AlgoHint(enum.Enum):
    """Accepted wherever spconv takes it."""

    NoHint = 0
    """None."""
    Fowrard = 1
    """spconv's spelling."""
    BackwardInput = 2
    """Input gradient."""
    BackwardWeight = 4
    """Weight gradient."""
