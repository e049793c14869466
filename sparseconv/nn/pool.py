"""Pooling layers, 1d to 4d, and global pooling. Only the inputs that exist count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from sparseconv import functional as F
from sparseconv.geometry import ConvGeometry, per_axis
from sparseconv.nn.module import DimensionedModule, SparseModule
from sparseconv.tensor import SparseTensor

Size = int | Sequence[int]


class _SparsePool(DimensionedModule):
    """Window of the named pooling layers; spconv's signature."""

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        indice_key: str | None = None,
        algo: Any = None,
        record_voxel_count: bool = False,
        name: str | None = None,
        subm: bool = False,
    ) -> None:
        super().__init__()
        del algo, record_voxel_count, name
        if subm:
            geometry = ConvGeometry.submanifold(self._ndim, kernel_size, dilation)
        else:
            steps = kernel_size if stride is None else stride
            geometry = ConvGeometry.create(self._ndim, kernel_size, steps, padding, dilation)
        self.ndim = self._ndim
        self.kernel_size = list(geometry.kernel_size)
        self.stride = list(geometry.stride)
        self.padding = list(geometry.padding)
        self.dilation = list(geometry.dilation)
        self.indice_key = indice_key
        self.subm = subm

    def _window(self) -> tuple[Any, ...]:
        return (
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.indice_key,
            self.subm,
        )

    def extra_repr(self) -> str:
        """The window, leaving out what is at its default."""
        parts = [f"kernel_size={self.kernel_size}"]
        parts.append("subm=True" if self.subm else f"stride={self.stride}, padding={self.padding}")
        if any(d != 1 for d in self.dilation):
            parts.append(f"dilation={self.dilation}")
        if self.indice_key is not None:
            parts.append(f"indice_key={self.indice_key!r}")
        return ", ".join(parts)


class _SparseMaxPool(_SparsePool):
    """Maximum over the active inputs in a window.

    True maxima: an absent site is no zero. Output sites are those with an active input in reach, sorted; the
    output has the type of the features. spconv's constructor. The function is
    :func:`sparseconv.functional.max_pool`.

    Args:
        kernel_size: window, in sites: one side, or one for each axis.
        stride: step of the window, in sites; None takes ``kernel_size``.
        padding: empty sites on both sides of each axis; they never count.
        dilation: spacing of the taps, in sites.
        indice_key: a name for the map, by which an inverse convolution or :class:`SparseUnpool` finds it.
        algo: accepted for spconv's sake and ignored, as are ``record_voxel_count`` and ``name``.
        record_voxel_count: ignored.
        name: ignored.
        subm: keep the input's sites: ``[N, C]``; stride and padding are then without effect.

    Raises:
        TypeError: a size that is no integer; in the call, no sparse tensor.
        ValueError: a size that cannot work, or an even window with ``subm``; in the call, a tensor of other axes,
            a window larger than the padded grid, or a name that stands for another map.
    """

    def forward(self, input: SparseTensor) -> SparseTensor:
        """See :func:`sparseconv.functional.max_pool`."""
        return F.max_pool(input, *self._window())


class _SparseAvgPool(_SparsePool):
    """Mean over the active inputs in a window.

    Divided by how many inputs there are, not by the size of the window. Output sites are those with an active
    input in reach, sorted; the output has the type of the features. spconv's constructor. The function is
    :func:`sparseconv.functional.avg_pool`.

    Args:
        kernel_size: window, in sites: one side, or one for each axis.
        stride: step of the window, in sites; None takes ``kernel_size``.
        padding: empty sites on both sides of each axis; they never count.
        dilation: spacing of the taps, in sites.
        indice_key: a name for the map, by which an inverse convolution or :class:`SparseUnpool` finds it.
        algo: accepted for spconv's sake and ignored, as are ``record_voxel_count`` and ``name``.
        record_voxel_count: ignored.
        name: ignored.
        subm: keep the input's sites: ``[N, C]``; stride and padding are then without effect.

    Raises:
        TypeError: a size that is no integer; in the call, no sparse tensor.
        ValueError: a size that cannot work, or an even window with ``subm``; in the call, a tensor of other axes,
            a window larger than the padded grid, or a name that stands for another map.
    """

    def forward(self, input: SparseTensor) -> SparseTensor:
        """See :func:`sparseconv.functional.avg_pool`."""
        return F.avg_pool(input, *self._window())


class _SparseSumPool(_SparsePool):
    """Sum over the active inputs in a window.

    Output sites are those with an active input in reach, sorted; the output has the type of the features. spconv's
    constructor. The function is :func:`sparseconv.functional.sum_pool`.

    Args:
        kernel_size: window, in sites: one side, or one for each axis.
        stride: step of the window, in sites; None takes ``kernel_size``.
        padding: empty sites on both sides of each axis; they never count.
        dilation: spacing of the taps, in sites.
        indice_key: a name for the map, by which an inverse convolution or :class:`SparseUnpool` finds it.
        algo: accepted for spconv's sake and ignored, as are ``record_voxel_count`` and ``name``.
        record_voxel_count: ignored.
        name: ignored.
        subm: keep the input's sites: ``[N, C]``; stride and padding are then without effect.

    Raises:
        TypeError: a size that is no integer; in the call, no sparse tensor.
        ValueError: a size that cannot work, or an even window with ``subm``; in the call, a tensor of other axes,
            a window larger than the padded grid, or a name that stands for another map.
    """

    def forward(self, input: SparseTensor) -> SparseTensor:
        """See :func:`sparseconv.functional.sum_pool`."""
        return F.sum_pool(input, *self._window())


class SparseGlobalMaxPool(SparseModule):
    """Maximum over each sample: dense ``[B, C]``. See :func:`sparseconv.functional.global_max_pool`."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__()
        del name

    def forward(self, input: SparseTensor) -> Tensor:
        """See :func:`sparseconv.functional.global_max_pool`."""
        return F.global_max_pool(input)


class SparseGlobalAvgPool(SparseModule):
    """Mean over each sample: dense ``[B, C]``. See :func:`sparseconv.functional.global_avg_pool`."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__()
        del name

    def forward(self, input: SparseTensor) -> Tensor:
        """See :func:`sparseconv.functional.global_avg_pool`."""
        return F.global_avg_pool(input)


class SparseGlobalSumPool(SparseModule):
    """Sum over each sample: dense ``[B, C]``. See :func:`sparseconv.functional.global_sum_pool`."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__()
        del name

    def forward(self, input: SparseTensor) -> Tensor:
        """See :func:`sparseconv.functional.global_sum_pool`."""
        return F.global_sum_pool(input)


class SparseUnpool(SparseModule):
    """Back to the sites before the layer named ``indice_key``. See :func:`sparseconv.functional.unpool`."""

    def __init__(self, indice_key: str) -> None:
        super().__init__()
        self.indice_key = indice_key

    def forward(self, input: SparseTensor) -> SparseTensor:
        """See :func:`sparseconv.functional.unpool`."""
        return F.unpool(input, self.indice_key)

    def extra_repr(self) -> str:
        """The name."""
        return f"indice_key={self.indice_key!r}"


class SparseUpsample(SparseModule):
    """Nearest-neighbour upsampling. See :func:`sparseconv.functional.upsample`."""

    def __init__(self, scale: Size) -> None:
        super().__init__()
        sides = len(scale) if hasattr(scale, "__len__") else 1
        per_axis(scale, sides, "scale", minimum=1, maximum=1 << 10)
        self.scale = scale

    def forward(self, input: SparseTensor) -> SparseTensor:
        """See :func:`sparseconv.functional.upsample`."""
        return F.upsample(input, self.scale)

    def extra_repr(self) -> str:
        """The scale."""
        return f"scale={self.scale}"


class SparseMaxPool1d(_SparseMaxPool, ndim=1):
    """Maximum over the active inputs in a 1D window: ``[N, C]`` to ``[n_out, C]``."""


class SparseMaxPool2d(_SparseMaxPool, ndim=2):
    """Maximum over the active inputs in a 2D window: ``[N, C]`` to ``[n_out, C]``."""


class SparseMaxPool3d(_SparseMaxPool, ndim=3):
    """Maximum over the active inputs in a 3D window: ``[N, C]`` to ``[n_out, C]``."""


class SparseMaxPool4d(_SparseMaxPool, ndim=4):
    """Maximum over the active inputs in a 4D window: ``[N, C]`` to ``[n_out, C]``."""


class SparseAvgPool1d(_SparseAvgPool, ndim=1):
    """Mean over the active inputs in a 1D window: ``[N, C]`` to ``[n_out, C]``."""


class SparseAvgPool2d(_SparseAvgPool, ndim=2):
    """Mean over the active inputs in a 2D window: ``[N, C]`` to ``[n_out, C]``."""


class SparseAvgPool3d(_SparseAvgPool, ndim=3):
    """Mean over the active inputs in a 3D window: ``[N, C]`` to ``[n_out, C]``."""


class SparseAvgPool4d(_SparseAvgPool, ndim=4):
    """Mean over the active inputs in a 4D window: ``[N, C]`` to ``[n_out, C]``."""


class SparseSumPool1d(_SparseSumPool, ndim=1):
    """Sum over the active inputs in a 1D window: ``[N, C]`` to ``[n_out, C]``."""


class SparseSumPool2d(_SparseSumPool, ndim=2):
    """Sum over the active inputs in a 2D window: ``[N, C]`` to ``[n_out, C]``."""


class SparseSumPool3d(_SparseSumPool, ndim=3):
    """Sum over the active inputs in a 3D window: ``[N, C]`` to ``[n_out, C]``."""


class SparseSumPool4d(_SparseSumPool, ndim=4):
    """Sum over the active inputs in a 4D window: ``[N, C]`` to ``[n_out, C]``."""
