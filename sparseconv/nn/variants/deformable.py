"""Deformable convolution on voxels."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import nn

from sparseconv import functional as F
from sparseconv.functional.variants.deformable import count_samples
from sparseconv.functional.variants.differences import check_missing
from sparseconv.geometry import MAX_STEP, per_axis
from sparseconv.nn.conv import SparseConvolution
from sparseconv.nn.variants.base import Size, VariantConvolution, new_parameter, uniform_by_fan_
from sparseconv.tensor import SparseTensor


class DeformConvolution(VariantConvolution):
    """Deformable submanifold convolution: ``[N, C]`` to ``[N, O]`` on the same sites, read between voxels.

    Each site moves its taps by offsets of its own and reads there linearly between the ``2^D`` voxels round the
    place, its own sample's only. Dai et al., "Deformable Convolutional Networks", arXiv 1703.06211; with a mask
    Zhu et al., "Deformable ConvNets v2", arXiv 1811.11168; both on images. The function is
    :func:`sparseconv.functional.deform_conv`.

    Called with a tensor alone, the layer predicts its offsets (and mask) by a submanifold convolution of the same
    kernel that starts at zero: a plain convolution at first, with modulation half of one. The papers train that
    convolution at a tenth of the learning rate. Called with offsets ``[N, G taps D]`` (and a mask ``[N, G taps]``)
    on the input's sites, it uses those. Offsets are in sites, axes in the order of the indices. Features and
    parameters have one type (float32, float64, float16 or bfloat16), or are brought to that of autocast; places
    are computed in float32 or wider.

    Args:
        in_channels: ``C``.
        out_channels: ``O``.
        kernel_size: one odd side, or one for each axis.
        stride: 1; here so that the arguments stand as in the dense layer.
        padding: without effect; likewise.
        dilation: spacing of the taps before they move, in sites.
        groups: channel groups of the weight; must divide both channel numbers.
        bias: whether to add a learned ``[O]``.
        offset_groups: ``G``, channel groups with offsets of their own; must divide C.
        modulated: predict a mask as well (version 2).
        missing: ``"zero"`` (an absent voxel is 0) or ``"ignore"`` (the shares of those that exist sum to 1).
        **factory: device and dtype of the parameters.

    Attributes:
        weight: ``[O, *kernel, C / groups]``.
        bias: ``[O]`` or None.
        offset_conv: from C to ``D G taps`` channels, or ``(D + 1) G taps`` with the mask last.

    Raises:
        TypeError: a size that is no integer; in the call, no sparse tensor, or features of another type.
        ValueError: an even side, another stride, channels that do not divide, or an unknown ``missing``; in the
            call, features of other channels or axes, offsets or a mask of another shape or on other sites, or a
            mask without offsets.
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 3,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        offset_groups: int = 1,
        modulated: bool = False,
        missing: str = "zero",
        **factory: Any,
    ) -> None:
        if any(step != 1 for step in per_axis(stride, self._ndim, "stride", minimum=1, maximum=MAX_STEP)):
            raise ValueError(
                f"a deformable layer keeps the input's sites: stride must be 1, got {stride}. Put a SparseConv "
                "layer with the stride before or behind it"
            )
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups)
        per_axis(offset_groups, 1, "offset_groups", minimum=1, maximum=1 << 16)
        check_missing(missing)
        if in_channels % offset_groups:
            raise ValueError(f"in_channels must divide by offset_groups = {offset_groups}, got {in_channels}")
        self.offset_groups, self.modulated, self.missing = offset_groups, modulated, missing
        self.weight = new_parameter(out_channels, *self.kernel_size, in_channels // groups, **factory)
        self.register_parameter("bias", new_parameter(out_channels, **factory) if bias else None)
        outputs = (self._ndim + int(modulated)) * offset_groups * self.geometry.volume
        self.offset_conv = SparseConvolution(
            self._ndim, in_channels, outputs, kernel_size, dilation=dilation, subm=True, **factory
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The weight as a convolution's; the offsets start at zero."""
        uniform_by_fan_(self.weight, self.bias)
        nn.init.zeros_(self.offset_conv.weight)
        if self.offset_conv.bias is not None:
            nn.init.zeros_(self.offset_conv.bias)

    def predict(self, input: SparseTensor) -> tuple[SparseTensor, SparseTensor | None]:
        """Offsets ``[N, G taps D]``, and the mask ``[N, G taps]`` or None."""
        out: SparseTensor = self.offset_conv(input)
        if not self.modulated:
            return out, None
        split = out.features.shape[1] // (self._ndim + 1) * self._ndim
        offset, mask = out.features[:, :split], torch.sigmoid(out.features[:, split:])
        return out.replace_feature(offset), out.replace_feature(mask)

    def forward(
        self, input: SparseTensor, offset: SparseTensor | None = None, mask: SparseTensor | None = None
    ) -> SparseTensor:
        """See :func:`sparseconv.functional.deform_conv`.

        Raises:
            ValueError: a mask without offsets.
        """
        if offset is None:
            if mask is not None:
                raise ValueError("a mask needs its offsets: pass offset and mask, or neither to predict them")
            offset, mask = self.predict(input)
        return F.deform_conv(
            input,
            offset,
            self.weight,
            self.bias,
            self.dilation,
            self.groups,
            mask=mask,
            missing=self.missing,
        )

    def macs(self, input: SparseTensor) -> int:
        """Exact multiply-adds on ``input``: of the samples from each voxel found, and of the convolution of them.

        The convolution of the offsets, which this runs to know them, counts its own.
        """
        with torch.no_grad():
            offset, _ = self.predict(input)
        patches, voxels = count_samples(input, offset, self.kernel_size, self.dilation)
        convolution = patches * (self.in_channels // self.groups) * self.out_channels
        return convolution + voxels * (self.in_channels // self.offset_groups)

    def to_conv(self) -> NoReturn:
        """Not possible: where it samples depends on the input.

        Raises:
            TypeError: always.
        """
        raise TypeError("a DeformConv layer is no plain convolution: its sampling places depend on the input")

    def extra_repr(self) -> str:
        """Its arguments."""
        parts = [super().extra_repr()]
        if self.offset_groups != 1:
            parts.append(f"offset_groups={self.offset_groups}")
        parts.append(f"modulated={self.modulated}, missing={self.missing!r}")
        return ", ".join(parts)


class SubMDeformConv1d(DeformConvolution, ndim=1, subm=True):
    """Deformable convolution in 1D on the input's sites: ``[N, C]`` to ``[N, O]``.

    See :class:`DeformConvolution`.
    """


class SubMDeformConv2d(DeformConvolution, ndim=2, subm=True):
    """Deformable convolution in 2D on the input's sites: ``[N, C]`` to ``[N, O]``.

    See :class:`DeformConvolution`.
    """


class SubMDeformConv3d(DeformConvolution, ndim=3, subm=True):
    """Deformable convolution in 3D on the input's sites: ``[N, C]`` to ``[N, O]``.

    See :class:`DeformConvolution`.
    """


class SubMDeformConv4d(DeformConvolution, ndim=4, subm=True):
    """Deformable convolution in 4D on the input's sites: ``[N, C]`` to ``[N, O]``.

    See :class:`DeformConvolution`.
    """
