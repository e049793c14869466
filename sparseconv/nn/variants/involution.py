"""Involution: a kernel for each output site, shared by the channels of a group."""

from __future__ import annotations

from typing import Any

from sparseconv import functional as F
from sparseconv.functional.variants.involution import involution_geometry, involution_map
from sparseconv.geometry import MAX_KERNEL_SIZE, per_axis
from sparseconv.nn.conv import SparseConvolution
from sparseconv.nn.module import DimensionedModule
from sparseconv.nn.norm import BatchNorm
from sparseconv.nn.variants.base import Size
from sparseconv.tensor import SparseTensor, check_sparse


class Involution(DimensionedModule):
    """Involution: ``[N, C]`` to ``[n_out, C]``, neighbours summed with a kernel that each site makes.

    Channels of a group share the kernel; sites do not. The generator is a bottleneck across channels,
    ``conv2(relu(norm(conv1(x'))))``, on the site's own features or, with a stride, on the mean of the voxels in
    each cell of ``stride`` sites. Li et al., "Involution: Inverting the Inherence of Convolution for Visual
    Recognition", arXiv 2103.06255. The function is :func:`sparseconv.functional.involution`.

    The submanifold classes have stride 1 and keep the input's sites, row for row: ``[N, C]``. In the Sparse
    classes the occupied cells are the output sites, sorted where the stride is not 1, on a grid of
    ``ceil(shape / stride)``. Features and parameters have one type (float32, float64, float16 or bfloat16);
    autocast brings those of the generator to its own, and the output has that of the features.

    Args:
        channels: ``C``, in and out.
        kernel_size: one odd side, or one for each axis; 7 in the paper's RedNet for images, 3 suits voxels.
        stride: side of the cells, in sites; one integer, or one for each axis.
        reduction: ``r`` of the bottleneck, of ``C // r`` channels.
        group_channels: channels that share a kernel; must divide C into ``G`` groups.
        dilation: spacing of the taps, in sites.
        **factory: device and dtype of the parameters.

    Attributes:
        conv1: from C to ``C // r``, without bias.
        norm: batch norm over sites.
        conv2: from there to ``G taps``, channels in the order ``(group, tap)``.

    Raises:
        TypeError: a size that is no integer; in the call, no sparse tensor, or features of another type.
        ValueError: an even side, channels that do not divide, or a stride of a submanifold class; in the call,
            features of other channels or axes, or one output site in training, of which the norm takes no
            variance.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: Size = 3,
        stride: Size = 1,
        reduction: int = 4,
        group_channels: int = 16,
        dilation: Size = 1,
        **factory: Any,
    ) -> None:
        super().__init__()
        for name, value in (
            ("channels", channels),
            ("reduction", reduction),
            ("group_channels", group_channels),
        ):
            per_axis(value, 1, name, minimum=1, maximum=1 << 24)
        steps = per_axis(stride, self._ndim, "stride", minimum=1, maximum=MAX_KERNEL_SIZE)
        if self._subm and any(step != 1 for step in steps):
            raise ValueError(
                f"a submanifold involution keeps the input's sites: stride must be 1, got {stride}. Use the "
                "Sparse class"
            )
        if channels % group_channels or channels < reduction:
            raise ValueError(
                f"channels must be a multiple of group_channels = {group_channels} and at least reduction = "
                f"{reduction}, got {channels}: choose smaller ones"
            )
        self.geometry = involution_geometry(self._ndim, kernel_size, steps, dilation)
        self.channels, self.stride, self.dilation = channels, list(steps), list(self.geometry.dilation)
        self.kernel_size = list(self.geometry.kernel_size)
        self.n_groups = channels // group_channels
        middle, outputs = channels // reduction, self.geometry.volume * self.n_groups
        self.conv1 = SparseConvolution(self._ndim, channels, middle, 1, bias=False, subm=True, **factory)
        self.norm = BatchNorm(middle, **factory)
        self.conv2 = SparseConvolution(self._ndim, middle, outputs, 1, subm=True, **factory)

    def reset_parameters(self) -> None:
        """The generator's layers as layers of their own."""
        self.conv1.reset_parameters()
        self.norm.reset_parameters()
        self.conv2.reset_parameters()

    def generate(self, input: SparseTensor) -> SparseTensor:
        """Kernels ``[n_out, G * taps]`` on the output's sites."""
        hidden = self.norm(self.conv1(self._pooled(input)))
        kernels: SparseTensor = self.conv2(hidden.replace_feature(hidden.features.relu()))
        return kernels

    def _pooled(self, input: SparseTensor) -> SparseTensor:
        check_sparse(input, type(self).__name__)
        if input.ndim != self._ndim:
            raise ValueError(
                f"{type(self).__name__} takes {self._ndim} spatial axes, got a tensor with {input.ndim}: use a "
                f"layer whose name ends in {input.ndim}d"
            )
        return input if set(self.stride) == {1} else F.pool_cells(input, self.stride)

    def forward(self, input: SparseTensor) -> SparseTensor:
        """See :func:`sparseconv.functional.involution`."""
        return F.involution(input, self.generate(input), self.kernel_size, self.stride, self.dilation)

    def macs(self, input: SparseTensor) -> int:
        """Exact multiply-adds of the weighted sums: pairs times channels; the generator counts its own."""
        return involution_map(input, self._pooled(input), self.geometry).n_pairs * self.channels

    def extra_repr(self) -> str:
        """Its arguments."""
        return f"{self.channels}, kernel_size={self.kernel_size}, stride={self.stride}, groups={self.n_groups}"


class SubMInvolution1d(Involution, ndim=1, subm=True):
    """Involution in 1D on the input's sites: ``[N, C]`` to ``[N, C]``. See :class:`Involution`."""


class SubMInvolution2d(Involution, ndim=2, subm=True):
    """Involution in 2D on the input's sites: ``[N, C]`` to ``[N, C]``. See :class:`Involution`."""


class SubMInvolution3d(Involution, ndim=3, subm=True):
    """Involution in 3D on the input's sites: ``[N, C]`` to ``[N, C]``. See :class:`Involution`."""


class SubMInvolution4d(Involution, ndim=4, subm=True):
    """Involution in 4D on the input's sites: ``[N, C]`` to ``[N, C]``. See :class:`Involution`."""


class SparseInvolution1d(Involution, ndim=1):
    """Involution in 1D on cells of ``stride`` sites: ``[N, C]`` to ``[n_out, C]``. See :class:`Involution`."""


class SparseInvolution2d(Involution, ndim=2):
    """Involution in 2D on cells of ``stride`` sites: ``[N, C]`` to ``[n_out, C]``. See :class:`Involution`."""


class SparseInvolution3d(Involution, ndim=3):
    """Involution in 3D on cells of ``stride`` sites: ``[N, C]`` to ``[n_out, C]``. See :class:`Involution`."""


class SparseInvolution4d(Involution, ndim=4):
    """Involution in 4D on cells of ``stride`` sites: ``[N, C]`` to ``[n_out, C]``. See :class:`Involution`."""
