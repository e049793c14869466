"""Involution: a kernel for each output site, shared by the channels of a group."""

from __future__ import annotations

from typing import Any

from sparseconv import functional as F
from sparseconv.functional.variants.involution import involution_geometry, involution_map
from sparseconv.geometry import per_axis
from sparseconv.nn.conv import SparseConvolution
from sparseconv.nn.norm import BatchNorm
from sparseconv.nn.variants.base import DimensionedModule, Size
from sparseconv.tensor import SparseTensor


class Involution(DimensionedModule):
    """Involution with kernels generated from each site: :func:`sparseconv.functional.involution`.

    The generator is a bottleneck across channels, ``conv2(relu(norm(conv1(x'))))``, on the site's own features or,
    with a stride, on the mean of the voxels in each cell of ``stride`` sites a side: the occupied cells are then
    the output sites. The submanifold classes have stride 1.

    Args:
        channels: ``C``, in and out.
        kernel_size: odd sides; 7 in the paper's RedNet for images, 3 suits voxels.
        stride: of the window; one integer.
        reduction: of the bottleneck.
        group_channels: channels that share a kernel.
        dilation: spacing of the taps.
        **factory: device and dtype.

    Attributes:
        conv1: from C to C / reduction, without bias.
        norm: batch norm over sites.
        conv2: from there to ``G taps``, channels in the order ``(group, tap)``.

    Raises:
        ValueError: an even side, channels that do not divide, or a stride of a submanifold class.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: Size = 3,
        stride: int = 1,
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
        per_axis(stride, 1, "stride", minimum=1, maximum=1 << 10)
        if self._subm and stride != 1:
            raise ValueError(
                f"a submanifold involution keeps the input's sites: stride must be 1, got {stride}. Use the "
                "Sparse class"
            )
        if channels % group_channels or channels < reduction:
            raise ValueError(
                f"channels must be a multiple of group_channels = {group_channels} and at least reduction = "
                f"{reduction}, got {channels}: choose smaller ones"
            )
        self.geometry = involution_geometry(self._ndim, kernel_size, stride, dilation)
        self.channels, self.stride, self.dilation = channels, stride, dilation
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
        pooled = input if self.stride == 1 else F.pool_cells(input, self.stride)
        hidden = self.norm(self.conv1(pooled))
        kernels: SparseTensor = self.conv2(hidden.replace_feature(hidden.features.relu()))
        return kernels

    def forward(self, input: SparseTensor) -> SparseTensor:
        """See :func:`sparseconv.functional.involution`."""
        return F.involution(input, self.generate(input), self.kernel_size, self.stride, self.dilation)

    def macs(self, input: SparseTensor) -> int:
        """Exact multiply-adds of the weighted sums: pairs times channels; the generator counts its own."""
        target = input if self.stride == 1 else F.pool_cells(input, self.stride)
        return involution_map(input, target, self.geometry).n_pairs * self.channels

    def extra_repr(self) -> str:
        """Its arguments."""
        return f"{self.channels}, kernel_size={self.kernel_size}, stride={self.stride}, groups={self.n_groups}"


class SubMInvolution1d(Involution, ndim=1, subm=True):
    """In 1D, on the input's sites; see :class:`Involution`."""


class SubMInvolution2d(Involution, ndim=2, subm=True):
    """In 2D, on the input's sites; see :class:`Involution`."""


class SubMInvolution3d(Involution, ndim=3, subm=True):
    """In 3D, on the input's sites; see :class:`Involution`."""


class SubMInvolution4d(Involution, ndim=4, subm=True):
    """In 4D, on the input's sites; see :class:`Involution`."""


class SparseInvolution1d(Involution, ndim=1):
    """In 1D, on every site in reach; see :class:`Involution`."""


class SparseInvolution2d(Involution, ndim=2):
    """In 2D, on every site in reach; see :class:`Involution`."""


class SparseInvolution3d(Involution, ndim=3):
    """In 3D, on every site in reach; see :class:`Involution`."""


class SparseInvolution4d(Involution, ndim=4):
    """In 4D, on every site in reach; see :class:`Involution`."""
