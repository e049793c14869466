"""Stand-in for ``cumm``: the part that programs for spconv touch."""

from sparseconv.compat.cumm import tensorview

__version__ = "0.7.11"

__all__ = ["tensorview"]
