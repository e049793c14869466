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
    """Dynamic region-aware convolution: ``[N, C]`` to ``[n_out, O]``, one of m kernels for each output site.

    A guide, a convolution of the layer's geometry to m channels, picks each site's kernel: the multiply-adds of
    one convolution. The kernels of each sample and region are ``sum over w of r[n, j, w] W_w`` with
    ``r = 2 sigmoid(FC(mean(x))) / num_kernels``, the ``"mix"`` generator of the dense layer: the paper's, which
    pools the image to the kernel's size, has no natural form on voxels. Chen et al., "Dynamic Region-Aware
    Convolution", arXiv 2003.12243. The function, with its gradient, is :func:`sparseconv.functional.dr_conv`.

    The submanifold classes keep the input's sites, row for row: ``[N, O]``. The Sparse classes make every site in
    reach, sorted: ``[n_out, O]``. Features and parameters have one type (float32, float64, float16 or bfloat16),
    or are brought to that of autocast.

    Args:
        in_channels: ``C``.
        out_channels: ``O``.
        kernel_size: one side, or one for each axis; odd in the submanifold classes.
        region_num: ``m``.
        stride: step of the window, in sites; 1 in the submanifold classes.
        padding: empty sites on both sides of each axis; without effect in the submanifold classes.
        dilation: spacing of the taps, in sites.
        bias: whether to add a learned ``[O]``, the same for all regions.
        num_kernels: kernels that are mixed.
        indice_key: a name for the map, by which an inverse convolution finds it.
        **factory: device and dtype of the parameters.

    Attributes:
        guide: the convolution from C to m channels.
        routing: linear layer from C to ``m num_kernels``.
        weight: ``[num_kernels, O, *kernel, C]``.
        bias: ``[O]`` or None.

    Raises:
        TypeError: a size that is no integer; in the call, no sparse tensor, or features of another type.
        ValueError: a size that cannot work; in the call, features of other channels or axes.
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
        per_axis(region_num, 1, "region_num", minimum=1, maximum=1 << 16)
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
        scores = self.routing(self.sample_means(input)).unflatten(1, (self.region_num, -1))
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
    """Dynamic region-aware convolution in 1D on the input's sites: ``[N, C]`` to ``[N, O]``.

    See :class:`DRConvolution`.
    """


class SubMDRConv2d(DRConvolution, ndim=2, subm=True):
    """Dynamic region-aware convolution in 2D on the input's sites: ``[N, C]`` to ``[N, O]``.

    See :class:`DRConvolution`.
    """


class SubMDRConv3d(DRConvolution, ndim=3, subm=True):
    """Dynamic region-aware convolution in 3D on the input's sites: ``[N, C]`` to ``[N, O]``.

    See :class:`DRConvolution`.
    """


class SubMDRConv4d(DRConvolution, ndim=4, subm=True):
    """Dynamic region-aware convolution in 4D on the input's sites: ``[N, C]`` to ``[N, O]``.

    See :class:`DRConvolution`.
    """


class SparseDRConv1d(DRConvolution, ndim=1):
    """Dynamic region-aware convolution in 1D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`DRConvolution`.
    """


class SparseDRConv2d(DRConvolution, ndim=2):
    """Dynamic region-aware convolution in 2D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`DRConvolution`.
    """


class SparseDRConv3d(DRConvolution, ndim=3):
    """Dynamic region-aware convolution in 3D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`DRConvolution`.
    """


class SparseDRConv4d(DRConvolution, ndim=4):
    """Dynamic region-aware convolution in 4D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`DRConvolution`.
    """
