"""Spatially separable convolution: one stage along each axis."""

from __future__ import annotations

from typing import Any

import torch

from sparseconv.functional.variants.placement import check_stride
from sparseconv.functional.variants.separable import Order, stage_axes
from sparseconv.nn.conv import SparseConvolution
from sparseconv.nn.module import DimensionedModule
from sparseconv.nn.variants.base import Size, plain_convolution
from sparseconv.nn.variants.stages import refuse_submanifold, same_padding, stage_along
from sparseconv.tensor import SparseTensor

_STAGES = ("first", "second", "third", "fourth")


class SpatiallySeparableConvolution(DimensionedModule):
    """One-dimensional convolutions along each axis, one after the other: ``[N, C]`` to ``[n_out, O]``.

    The Sparse classes make the sites of each stage, sorted, and so are one convolution with the product kernel
    (:meth:`to_conv`). **The submanifold classes are another operator** than a submanifold convolution: they keep
    the N sites, row for row, and a path over an absent voxel is lost. Szegedy et al., "Rethinking the Inception
    Architecture for Computer Vision", arXiv 1512.00567 (which has a norm and a ReLU between the stages). The
    function is :func:`sparseconv.functional.spatially_separable_conv`.

    Features and parameters have one type (float32, float64, float16 or bfloat16), or are brought to that of
    autocast.

    Args:
        in_channels: ``C``.
        out_channels: ``O``.
        kernel_size: one side, or one for each axis; odd in the submanifold classes.
        mid_channels: ``M`` between the stages; ``out_channels`` by default. It bounds the rank of the product.
        stride: step of the window, in sites, each axis in its own stage; 1 in the submanifold classes.
        padding: likewise; ``dilation * (kernel_size // 2)`` by default; without effect in the submanifold classes.
        dilation: spacing of the taps, in sites.
        depthwise: each channel on its own; needs ``in_channels == mid_channels == out_channels``.
        bias: whether to add a learned ``[O]`` at the end.
        order: axis of each stage, such as ``(2, 0, 1)``, in 2D also ``"hw"`` or ``"wh"``; the first axis first by
            default.
        **factory: device and dtype of the parameters.

    Attributes:
        first: the first stage, without bias; then ``second``, ``third`` and ``fourth``, one for each axis.

    Raises:
        TypeError: a size that is no integer; in the call, no sparse tensor, or features of another type.
        ValueError: an unknown order, depthwise with unequal channels, or a size that cannot work; in the call,
            features of other channels or axes.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 3,
        mid_channels: int | None = None,
        stride: Size = 1,
        padding: Size | None = None,
        dilation: Size = 1,
        depthwise: bool = False,
        bias: bool = True,
        order: Order = None,
        **factory: Any,
    ) -> None:
        super().__init__()
        ndim = self._ndim
        if self._subm:
            check_stride(stride, ndim)
        mid_channels = out_channels if mid_channels is None else mid_channels
        if depthwise and not in_channels == mid_channels == out_channels:
            raise ValueError(
                f"depthwise needs as many input as middle and output channels, got {in_channels}, "
                f"{mid_channels} and {out_channels}"
            )
        self.ndim, self.subm = ndim, self._subm
        self.axes = stage_axes(ndim, order)
        self.groups = in_channels if depthwise else 1
        pads = same_padding(kernel_size, dilation, ndim) if padding is None else padding
        widths = [in_channels, *[mid_channels] * (ndim - 1), out_channels]
        for number, axis in enumerate(self.axes):
            stage = stage_along(
                axis,
                ndim,
                (widths[number], widths[number + 1]),
                (kernel_size, stride, pads, dilation),
                self.groups,
                bias and number == ndim - 1,
                self.subm,
                **factory,
            )
            self.add_module(_STAGES[number], stage)
        self.window = (stride, pads, dilation)

    def stages(self) -> list[SparseConvolution]:
        """The one-dimensional convolutions in order."""
        return [stage for stage in self.children() if isinstance(stage, SparseConvolution)]

    def reset_parameters(self) -> None:
        """Each stage as a layer of its own."""
        for stage in self.stages():
            stage.reset_parameters()

    def forward(self, input: SparseTensor) -> SparseTensor:
        """See :func:`sparseconv.functional.spatially_separable_conv`."""
        for stage in self.stages():
            input = stage(input)
        return input

    def to_conv(self) -> SparseConvolution:
        """The one convolution that gives the same output on the same sites.

        Raises:
            TypeError: of a submanifold class.
        """
        refuse_submanifold(self.subm)
        stages = self.stages()
        with torch.no_grad():
            # Taps as axes in the order of the stages, behind the channels.
            total = stages[0].weight.flatten(1, -2).transpose(1, 2)  # [M, C / g, k]
            for stage in stages[1:]:
                taps = stage.weight.flatten(1, -2)  # [M', k, M / g]
                if self.groups > 1:
                    total = torch.einsum("mc...,mk->mc...k", total, taps[..., 0])
                else:
                    total = torch.einsum("mc...,okm->oc...k", total, taps)
            places = [2 + self.axes.index(axis) for axis in range(self.ndim)]
            weight = total.permute(0, *places, 1)
        stride, padding, dilation = self.window
        return plain_convolution(
            weight, stages[-1].bias, stages[-1], stride=stride, padding=padding, dilation=dilation
        )

    def extra_repr(self) -> str:
        """The order of the stages."""
        return f"order={list(self.axes)}"


class SubMSpatiallySeparableConv1d(SpatiallySeparableConvolution, ndim=1, subm=True):
    """Spatially separable convolution in 1D on the input's sites: ``[N, C]`` to ``[N, O]``.

    See :class:`SpatiallySeparableConvolution`.
    """


class SubMSpatiallySeparableConv2d(SpatiallySeparableConvolution, ndim=2, subm=True):
    """Spatially separable convolution in 2D on the input's sites: ``[N, C]`` to ``[N, O]``.

    See :class:`SpatiallySeparableConvolution`.
    """


class SubMSpatiallySeparableConv3d(SpatiallySeparableConvolution, ndim=3, subm=True):
    """Spatially separable convolution in 3D on the input's sites: ``[N, C]`` to ``[N, O]``.

    See :class:`SpatiallySeparableConvolution`.
    """


class SubMSpatiallySeparableConv4d(SpatiallySeparableConvolution, ndim=4, subm=True):
    """Spatially separable convolution in 4D on the input's sites: ``[N, C]`` to ``[N, O]``.

    See :class:`SpatiallySeparableConvolution`.
    """


class SparseSpatiallySeparableConv1d(SpatiallySeparableConvolution, ndim=1):
    """Spatially separable convolution in 1D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`SpatiallySeparableConvolution`.
    """


class SparseSpatiallySeparableConv2d(SpatiallySeparableConvolution, ndim=2):
    """Spatially separable convolution in 2D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`SpatiallySeparableConvolution`.
    """


class SparseSpatiallySeparableConv3d(SpatiallySeparableConvolution, ndim=3):
    """Spatially separable convolution in 3D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`SpatiallySeparableConvolution`.
    """


class SparseSpatiallySeparableConv4d(SpatiallySeparableConvolution, ndim=4):
    """Spatially separable convolution in 4D on every site in reach: ``[N, C]`` to ``[n_out, O]``.

    See :class:`SpatiallySeparableConvolution`.
    """
