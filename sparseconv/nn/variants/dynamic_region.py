"""Dynamic region-aware convolution: a guide picks a kernel for each output site."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sparseconv import functional as F
from sparseconv.geometry import per_axis
from sparseconv.nn.conv import SparseConvolution
from sparseconv.nn.variants.base import Size, VariantConvolution, new_parameter, uniform_by_fan_
from sparseconv.tensor import SparseTensor


class DRConvolution(VariantConvolution):
    """Dynamic region-aware convolution: :func:`sparseconv.functional.dr_conv`.

    The kernels of each sample and region are ``sum over w of r[n, j, w] W_w`` with ``r = 2 sigmoid(FC(mean(x))) /
    num_kernels``, the ``"mix"`` generator of the dense layer: the paper's, which pools the image to the kernel's
    size, has no natural form on voxels. The guide is a convolution of the layer's geometry.

    Args:
        in_channels: ``C``.
        out_channels: ``O``.
        kernel_size: of the kernels.
        region_num: ``m``.
        stride: as in :class:`SparseConvolution`; 1 in the submanifold classes.
        padding: as in :class:`SparseConvolution`; without effect in the submanifold classes.
        dilation: spacing of the taps.
        bias: whether there is a bias, the same for all regions.
        num_kernels: kernels that are mixed.
        indice_key: a name for the map.
        **factory: device and dtype.

    Attributes:
        guide: the convolution from C to m channels.
        routing: linear layer from C to ``m num_kernels``.
        weight: ``[num_kernels, O, *kernel, C]``.
        bias: ``[O]`` or None.
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 3,
        region_num: int = 8,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        bias: bool = False,
        num_kernels: int = 8,
        indice_key: str | None = None,
        **factory: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, 1, indice_key)
        per_axis(num_kernels, 1, "num_kernels", minimum=1, maximum=1 << 16)
        self.region_num = region_num
        self.guide = SparseConvolution(
            self._ndim,
            in_channels,
            region_num,
            kernel_size,
            stride,
            padding,
            dilation,
            subm=self._subm,
            **factory,
        )
        self.routing = nn.Linear(in_channels, region_num * num_kernels, **factory)
        self.weight = new_parameter(num_kernels, out_channels, *self.kernel_size, in_channels, **factory)
        self.register_parameter("bias", new_parameter(out_channels, **factory) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Kernels and guide as layers of their own, and the routing as a linear layer."""
        uniform_by_fan_(self.weight, self.bias, leading=2)
        self.guide.reset_parameters()
        self.routing.reset_parameters()

    def kernels(self, input: SparseTensor) -> Tensor:
        """Kernels of each sample and region: ``[B, m, O, *kernel, C]``."""
        scores = self.routing(F.global_avg_pool(input)).unflatten(1, (self.region_num, -1))
        # Autocast would round the kernels before they are mixed.
        with torch.autocast(self.weight.device.type, enabled=False):
            shares = 2 * torch.sigmoid(scores.to(self.weight)) / len(self.weight)
            mixed = torch.einsum("bjw,wok->bjok", shares, self.weight.flatten(2))
        return mixed.unflatten(3, self.weight.shape[2:])

    def forward(self, input: SparseTensor) -> SparseTensor:
        """See :func:`sparseconv.functional.dr_conv`."""
        return F.dr_conv(
            input,
            self.guide(input),
            self.kernels(input),
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            subm=self.subm,
            indice_key=self.indice_key,
        )

    def extra_repr(self) -> str:
        """Its arguments."""
        return f"{super().extra_repr()}, region_num={self.region_num}"


class SubMDRConv1d(DRConvolution, ndim=1, subm=True):
    """In 1D, on the input's sites; see :class:`DRConvolution`."""


class SubMDRConv2d(DRConvolution, ndim=2, subm=True):
    """In 2D, on the input's sites; see :class:`DRConvolution`."""


class SubMDRConv3d(DRConvolution, ndim=3, subm=True):
    """In 3D, on the input's sites; see :class:`DRConvolution`."""


class SubMDRConv4d(DRConvolution, ndim=4, subm=True):
    """In 4D, on the input's sites; see :class:`DRConvolution`."""


class SparseDRConv1d(DRConvolution, ndim=1):
    """In 1D, on every site in reach; see :class:`DRConvolution`."""


class SparseDRConv2d(DRConvolution, ndim=2):
    """In 2D, on every site in reach; see :class:`DRConvolution`."""


class SparseDRConv3d(DRConvolution, ndim=3):
    """In 3D, on every site in reach; see :class:`DRConvolution`."""


class SparseDRConv4d(DRConvolution, ndim=4):
    """In 4D, on every site in reach; see :class:`DRConvolution`."""
