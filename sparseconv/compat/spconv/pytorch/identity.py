"""``spconv.pytorch.identity``: the module that does nothing."""

from __future__ import annotations

from typing import Any

from sparseconv.compat.spconv.pytorch.modules import SparseModule


class Identity(SparseModule):
    """Hand the tensor on."""

    def forward(self, input: Any) -> Any:
        """The input itself."""
        return input

    def input_spatial_size(self, out_size: Any) -> Any:
        """The same."""
        return out_size
