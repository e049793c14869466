"""Deformable convolution, with and without modulation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparseconv.compilation import eager
from sparseconv.dense_ops.conv import Conv2d
from sparseconv.dense_ops.executor import as_image, as_rows, as_taps, image_shape
from sparseconv.dense_ops.flops import Flops, count_parameters
from sparseconv.dense_ops.index_map import batched_map, check_pixels, remembered
from sparseconv.dense_ops.row_chunks import by_row_chunks
from sparseconv.dense_ops.window import Pair, Size, Window
from sparseconv.kernel_map import KernelMap
from sparseconv.ops import weighted_sum
from sparseconv.ops.mapped import convolve_features

# A sample's four pairs: pixel, share and sample of each, and as much again while they are computed.
_PAIR_BYTES = 4 * 28


def _patch_map(n_rows: int, taps: int, device: torch.device) -> KernelMap:
    """Map from ``n_rows x taps`` sampled rows onto ``n_rows`` output rows."""
    rows = torch.arange(n_rows, device=device)
    return batched_map([(rows * taps + tap, rows) for tap in range(taps)], n_rows * taps, n_rows, 1)


def _corners(
    position: Tensor,  # [R, K, G, 2] as (y, x)
    image: Tensor,  # [R]
    shape: Pair,
) -> tuple[Tensor, Tensor]:  # [R, K, G, 4], [R, K, G, 4]
    """Rows of the four pixels round each place (-1 outside the image), and each one's bilinear share.

    The cell is a constant of the gradient. A place that is not a number keeps a pixel, and its sample is not one
    either.
    """
    height, width = shape
    groups = position.shape[2]
    low = position.detach().floor()
    # An infinite place has no part, and inf - inf must not reach the gradient of its other axis.
    part = torch.where(low.isinf(), 0.0, position - low)
    # Far outside is as good as just outside, and cannot overflow.
    cell = low.nan_to_num(0.0)
    top, left = cell[..., 0].clamp(-2, height).int(), cell[..., 1].clamp(-2, width).int()
    y = torch.stack([top, top + 1], -1)[..., :, None]
    x = torch.stack([left, left + 1], -1)[..., None, :]
    first = image[:, None, None] * (height * width * groups) + torch.arange(groups, device=image.device)
    rows = first.int()[..., None, None] + (y * width + x) * groups
    inside = ((y >= 0) & (y < height)) & ((x >= 0) & (x < width))
    beside = torch.stack([1 - part, part], -1)
    shares = beside[..., 0, :, None] * beside[..., 1, None, :]
    return torch.where(inside, rows, -1).flatten(3), shares.flatten(3)


def _check_channels(name: str, tensor: Tensor, channels: int, batch_size: int, shape: Sequence[int]) -> None:
    wanted = [batch_size, channels, *shape]
    if list(tensor.shape) != wanted:
        raise ValueError(f"the {name} must have shape {wanted}, got {list(tensor.shape)}")


@eager
def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = (1, 1),
    padding: Size = (0, 0),
    dilation: Size = (1, 1),
    mask: Tensor | None = None,
) -> Tensor:
    """Deformable convolution; as ``torchvision.ops.deform_conv2d``.

    ``y[o, q] = b[o] + sum over t, c of w[o, c, t] m[g(c), t, q] x~(c, s q - p + d t + (dy, dx)[g(c), t, q])``
    with ``x~`` bilinear and 0 outside the image. Dai et al., arXiv 1703.06211; with a mask Zhu et al., arXiv
    1811.11168. Output rows are worked on in chunks, so memory does not grow with the number of taps.

    Args:
        input: ``[N, C, H, W]``.
        offset: ``[N, 2 G K, Ho, Wo]``; channel ``2 (g K + t)`` is dy, the next one dx. G is found from its
            channels.
        weight: ``[O, C / groups, kh, kw]``.
        bias: ``[O]`` or None.
        stride: as in :func:`conv2d`.
        padding: as in :func:`conv2d`.
        dilation: as in :func:`conv2d`.
        mask: ``[N, G K, Ho, Wo]``, or None for ones.

    Returns:
        ``[N, O, Ho, Wo]``.

    Raises:
        ValueError: shapes that do not fit.
    """
    shape = image_shape(input)
    batch_size, channels = input.shape[:2]
    window = Window.create(shape, weight.shape[2:], stride, padding, dilation)
    taps = len(window.offsets)
    groups = offset.shape[1] // (2 * taps) if offset.dim() == 4 else 0
    if groups == 0 or channels % groups or channels % weight.shape[1]:
        raise ValueError(
            f"the offset must have 2 G K = 2 x G x {taps} channels with G a divisor of the {channels} channels, "
            f"and the weight [O, C / groups, kh, kw], got {list(offset.shape)} and {list(weight.shape)}"
        )
    _check_channels("offset", offset, 2 * groups * taps, batch_size, window.out_shape)
    check_pixels(batch_size * groups, shape)
    rows = as_rows(input).reshape(-1, channels // groups)
    # Half precisions would place samples on a coarse grid.
    sampling = torch.float32 if offset.dtype in (torch.float16, torch.bfloat16) else offset.dtype
    shifts = offset.unflatten(1, (groups, taps, 2)).permute(0, 4, 5, 2, 1, 3).reshape(-1, taps, groups, 2)
    tensors = [rows, shifts.to(sampling), as_taps(weight)]
    if mask is not None:
        _check_channels("mask", mask, groups * taps, batch_size, window.out_shape)
        tensors.append(mask.unflatten(1, (groups, taps)).permute(0, 3, 4, 2, 1).reshape(-1, taps, groups))
    taken = torch.tensor(window.offsets, device=input.device)  # [K, 2]
    stride_yx = torch.tensor(window.stride, device=input.device)

    def chunk(start: int, stop: int, rows: Tensor, shifts: Tensor, weight: Tensor, *masks: Tensor) -> Tensor:
        output = torch.arange(start, stop, device=rows.device)
        image, pixel = output // window.n_out, output % window.n_out
        width = window.out_shape[1]
        corner = torch.stack([pixel // width, pixel % width], 1) * stride_yx
        base = (corner[:, None] + taken).to(shifts.dtype)  # [R, K, 2]
        pixels, shares = _corners(base[:, :, None] + shifts[start:stop], image, shape)
        if masks:
            shares = shares * masks[0][start:stop, :, :, None]
        n_rows = stop - start
        n_samples = n_rows * taps * groups
        samples = torch.arange(n_samples, dtype=torch.int32, device=rows.device).repeat_interleave(4)
        patches = weighted_sum(rows, shares.reshape(-1, 1), pixels.reshape(-1), samples, n_samples)
        patches = patches.reshape(n_rows * taps, channels)
        key = ("patches", n_rows, taps, rows.device)
        kernel_map = remembered(key, lambda: _patch_map(n_rows, taps, rows.device))
        return convolve_features(patches, weight, bias, kernel_map, channels // weight.shape[2])

    bytes_per_row = taps * (channels * rows.element_size() + _PAIR_BYTES * groups)
    output = by_row_chunks(chunk, batch_size * window.n_out, bytes_per_row, tuple(tensors))
    return as_image(output, batch_size, window.out_shape)


class DeformConv2d(Conv2d):
    """Deformable convolution: :func:`deform_conv2d`.

    Called with an image alone, it predicts its offsets (and mask) by a convolution of the same geometry that
    starts at zero: a plain convolution at first, with modulation half of one. The papers train that convolution
    at a tenth of the learning rate. Called with offsets, it is torchvision's layer.

    Args:
        in_channels: ``C``.
        out_channels: ``O``.
        kernel_size: as in :class:`Conv2d`, and so are the others.
        stride: as in :class:`Conv2d`.
        padding: as in :class:`Conv2d`, in integers.
        dilation: as in :class:`Conv2d`.
        groups: as in :class:`Conv2d`.
        bias: as in :class:`Conv2d`.
        offset_groups: ``G``, channel groups with offsets of their own.
        modulated: predict a mask as well (version 2).
        **factory: device and dtype.

    Attributes:
        offset_conv: from C to ``2 G K`` channels, or ``3 G K`` with the mask last.

    Raises:
        ValueError: channels that do not divide.
    """

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
        **factory: Any,
    ) -> None:
        if in_channels % offset_groups:
            raise ValueError(f"in_channels must divide by offset_groups = {offset_groups}, got {in_channels}")
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, **factory
        )
        self.offset_groups, self.modulated = offset_groups, modulated
        taps = self.kernel_size[0] * self.kernel_size[1]
        self.offset_conv = Conv2d(
            in_channels,
            (3 if modulated else 2) * offset_groups * taps,
            kernel_size,
            stride,
            padding,
            dilation,
            **factory,
        )
        nn.init.zeros_(self.offset_conv.weight)
        if self.offset_conv.bias is not None:
            nn.init.zeros_(self.offset_conv.bias)

    def predict(self, input: Tensor) -> tuple[Tensor, Tensor | None]:
        """Offsets ``[N, 2 G K, Ho, Wo]``, and the mask ``[N, G K, Ho, Wo]`` or None."""
        out = self.offset_conv(input)
        if not self.modulated:
            return out, None
        split = out.shape[1] // 3 * 2
        return out[:, :split], torch.sigmoid(out[:, split:])

    def forward(self, input: Tensor, offset: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """See :func:`deform_conv2d`.

        Raises:
            ValueError: a mask without offsets.
        """
        if offset is None:
            if mask is not None:
                raise ValueError("a mask needs its offsets: pass offset and mask, or neither to predict them")
            offset, mask = self.predict(input)
        return deform_conv2d(
            input,
            offset,
            self.weight,
            self.bias,
            self.stride,
            self.padding,  # type: ignore[arg-type]
            self.dilation,
            mask,
        )

    def flops(self, input_shape: Sequence[int]) -> Flops:
        """The convolution, that of the offsets, and ``4 Ho Wo K C`` to sample (and ``Ho Wo K C`` for the mask)."""
        plain = super().flops(input_shape)
        offsets = self.offset_conv.flops(input_shape)
        # The convolution's multiply-adds for one group's output channel are Ho Wo K C / groups.
        samples = plain.macs * self.groups // self.out_channels
        return Flops(plain.macs + offsets.macs + (5 if self.modulated else 4) * samples, count_parameters(self))

    def to_conv2d(self) -> Conv2d:
        """Not possible: where it samples depends on the input.

        Raises:
            TypeError: always.
        """
        raise TypeError("a DeformConv2d is no plain convolution: its sampling places depend on the input")
