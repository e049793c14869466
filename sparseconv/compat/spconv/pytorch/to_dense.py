"""The modules that spconv keeps at the top of ``spconv.pytorch``."""

from __future__ import annotations

from torch import Tensor

from sparseconv.compat.spconv.pytorch.core import SparseConvTensor
from sparseconv.compat.spconv.pytorch.modules import SparseModule


class ToDense(SparseModule):
    """Dense grid ``[B, C, *shape]``."""

    def forward(self, x: SparseConvTensor) -> Tensor:
        """See :meth:`SparseConvTensor.dense`."""
        return x.dense()


class RemoveGrid(SparseModule):
    """Drop the tensor's ``grid``."""

    def forward(self, x: SparseConvTensor) -> SparseConvTensor:
        """The tensor itself, its ``grid`` None."""
        x.grid = None  # type: ignore[assignment]
        return x
