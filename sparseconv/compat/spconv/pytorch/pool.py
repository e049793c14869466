"""``spconv.pytorch.pool``: the engine's pooling on spconv's tensor, with spconv's signatures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from sparseconv import functional as F
from sparseconv.compat.spconv.core import ConvAlgo
from sparseconv.compat.spconv.pytorch.core import SparseConvTensor, through_engine
from sparseconv.compat.spconv.pytorch.modules import SparseModule
from sparseconv.geometry import ConvGeometry
from sparseconv.tensor import SparseTensor

Size = int | Sequence[int]

_is_strict = False


class strict_max_pool:
    """Let max pooling take spconv's implicit zero into account, as a call or as a context manager.

    spconv's output begins at 0, so that a window of negative values gives 0. A model that was trained so gives its
    own numbers only with that zero.

    Args:
        enabled: whether from now on, or inside the ``with`` block.
    """

    def __init__(self, enabled: bool = True) -> None:
        global _is_strict
        self._before = _is_strict
        _is_strict = enabled

    def __enter__(self) -> None:
        """Already in force."""

    def __exit__(self, *error: object) -> None:
        """Back to what was before."""
        global _is_strict
        _is_strict = self._before


class _SparsePool(SparseModule):
    """Window of a pooling layer."""

    def __init__(
        self,
        ndim: int,
        kernel_size: Size = 3,
        stride: Size | None = 1,
        padding: Size = 0,
        dilation: Size = 1,
        indice_key: str | None = None,
        subm: bool = False,
        algo: ConvAlgo | None = None,
        record_voxel_count: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        del record_voxel_count
        if subm:
            geometry = ConvGeometry.submanifold(ndim, kernel_size, dilation)
        else:
            steps = kernel_size if stride is None else stride
            geometry = ConvGeometry.create(ndim, kernel_size, steps, padding, dilation)
        self.ndim = ndim
        self.kernel_size = list(geometry.kernel_size)
        self.stride = list(geometry.stride)
        self.padding = list(geometry.padding)
        self.dilation = list(geometry.dilation)
        self.indice_key = indice_key
        self.subm = subm
        self.algo = ConvAlgo.Native if algo is None else algo

    def forward(self, input: SparseConvTensor) -> SparseConvTensor:
        """Pool over the inputs that exist."""
        return through_engine(input, self._pool, self.indice_key, subm=self.subm)

    def _pool(self, input: SparseTensor) -> SparseTensor:
        raise NotImplementedError

    def _window(self) -> tuple[Any, ...]:
        return self.kernel_size, self.stride, self.padding, self.dilation, self.indice_key, self.subm

    def extra_repr(self) -> str:
        """The window."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class SparseMaxPool(_SparsePool):
    """Maximum over the active inputs in a window; see :class:`strict_max_pool` for spconv's zero."""

    def _pool(self, input: SparseTensor) -> SparseTensor:
        output = F.max_pool(input, *self._window())
        return output.replace_feature(output.features.clamp(min=0)) if _is_strict else output


class SparseAvgPool(_SparsePool):
    """Mean over the active inputs in a window."""

    def _pool(self, input: SparseTensor) -> SparseTensor:
        return F.avg_pool(input, *self._window())


def _by_row(input: SparseConvTensor) -> SparseTensor:
    """A tensor that counts every row, repeated sites included: one site for each."""
    if input.resolve().site_rows is None:
        return input.to_sparse_tensor()
    rows = torch.arange(len(input), device=input.indices.device)
    sites = torch.stack([input.indices[:, 0].long(), rows], 1)
    return SparseTensor(input.features, sites, None, int(input.batch_size))


class SparseGlobalMaxPool(SparseModule):
    """Maximum over each sample: dense ``[B, C]``."""

    def forward(self, input: SparseConvTensor) -> Tensor:
        """``[B, C]``, 0 for an empty sample."""
        return F.global_max_pool(_by_row(input))


class SparseGlobalAvgPool(SparseModule):
    """Mean over each sample: dense ``[B, C]``, every channel of it."""

    def forward(self, input: SparseConvTensor) -> Tensor:
        """``[B, C]``, 0 for an empty sample."""
        return F.global_avg_pool(_by_row(input))


class _Named(_SparsePool):
    _ndim: ClassVar[int]

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        indice_key: str | None = None,
        algo: ConvAlgo | None = None,
        record_voxel_count: bool = False,
        name: str | None = None,
    ) -> None:
        del record_voxel_count
        super().__init__(self._ndim, kernel_size, stride, padding, dilation, indice_key, algo=algo, name=name)


class SparseMaxPool1d(_Named, SparseMaxPool):
    """Maximum over the active inputs in a 1D window; ``stride=None`` takes ``kernel_size``."""

    _ndim = 1


class SparseMaxPool2d(_Named, SparseMaxPool):
    """Maximum over the active inputs in a 2D window; ``stride=None`` takes ``kernel_size``."""

    _ndim = 2


class SparseMaxPool3d(_Named, SparseMaxPool):
    """Maximum over the active inputs in a 3D window; ``stride=None`` takes ``kernel_size``."""

    _ndim = 3


class SparseMaxPool4d(_Named, SparseMaxPool):
    """Maximum over the active inputs in a 4D window; ``stride=None`` takes ``kernel_size``."""

    _ndim = 4


class SparseAvgPool1d(_Named, SparseAvgPool):
    """Mean over the active inputs in a 1D window; ``stride=None`` takes ``kernel_size``."""

    _ndim = 1


class SparseAvgPool2d(_Named, SparseAvgPool):
    """Mean over the active inputs in a 2D window; ``stride=None`` takes ``kernel_size``."""

    _ndim = 2


class SparseAvgPool3d(_Named, SparseAvgPool):
    """Mean over the active inputs in a 3D window; ``stride=None`` takes ``kernel_size``."""

    _ndim = 3


class SparseAvgPool4d(_Named, SparseAvgPool):
    """Mean over the active inputs in a 4D window; ``stride=None`` takes ``kernel_size``."""

    _ndim = 4
