"""Dense 2D convolutions as functions; weights in torch's layouts."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sparseconv.compilation import eager
from sparseconv.dense_ops.index_map import dense_kernel_map
from sparseconv.geometry import ConvGeometry, per_axis
from sparseconv.kernel_map import KernelMap
from sparseconv.ops import convolve

Size = int | Sequence[int]


def _as_rows(input: Tensor) -> Tensor:
    """``[N, C, H, W]`` to one row a pixel: ``[N H W, C]``."""
    if input.dim() != 4:
        raise ValueError(f"the input must have shape [N, C, H, W], got {list(input.shape)}")
    return input.permute(0, 2, 3, 1).reshape(-1, input.shape[1])


def _as_image(rows: Tensor, batch_size: int, height: int, width: int) -> Tensor:
    return rows.reshape(batch_size, height, width, rows.shape[1]).permute(0, 3, 1, 2)


def _execute(rows: Tensor, weight: Tensor, bias: Tensor | None, kernel_map: KernelMap, groups: int) -> Tensor:
    """Run ``weight [C_out, K, C_in / groups]`` over the map."""
    if rows.shape[1] != weight.shape[2] * groups:
        raise ValueError(
            f"the input has {rows.shape[1]} channels, and the weight with groups {groups} takes "
            f"{weight.shape[2] * groups}"
        )
    back = kernel_map.transposed()
    return convolve(
        rows,
        weight,
        bias,
        kernel_map.in_rows,
        kernel_map.out_rows,
        kernel_map.tap_offsets,
        back.in_rows,
        back.out_rows,
        kernel_map.n_out,
        groups,
    )


@eager
def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """Convolution of ``[N, C, H, W]`` with ``[O, C / groups, kh, kw]``; as ``torch.nn.functional.conv2d``.

    Raises:
        ValueError: the kernel is larger than the padded image, or shapes do not fit.
    """
    geometry = ConvGeometry.create(2, tuple(weight.shape[2:]), stride, padding, dilation)
    pixels = _as_rows(input)
    batch_size, _, height, width = input.shape
    out_height, out_width = geometry.output_shape((height, width))
    kernel_map = dense_kernel_map(batch_size, height, width, geometry, out_height, out_width)
    taps = weight.flatten(2).transpose(1, 2)
    rows = _execute(pixels, taps, bias, kernel_map, groups)
    return _as_image(rows, batch_size, out_height, out_width)


@eager
def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Tensor:
    """Transposed convolution of ``[N, C, H, W]`` with ``[C, O / groups, kh, kw]``; as torch's.

    It runs the map of the convolution that it transposes, with its columns swapped.

    Raises:
        ValueError: output_padding is not below the larger of stride and dilation, or shapes do not fit.
    """
    geometry = ConvGeometry.create(2, tuple(weight.shape[2:]), stride, padding, dilation)
    extra = per_axis(output_padding, 2, "output_padding", minimum=0, maximum=1 << 16)
    if any(e >= max(s, d) for e, s, d in zip(extra, geometry.stride, geometry.dilation, strict=True)):
        raise ValueError(
            f"output_padding must be smaller than the larger of stride {geometry.stride} and dilation "
            f"{geometry.dilation}, got {extra}"
        )
    pixels = _as_rows(input)
    batch_size, channels, height, width = input.shape
    out_height, out_width = geometry.transposed_output_shape((height, width), extra)
    kernel_map = dense_kernel_map(batch_size, out_height, out_width, geometry, height, width).transposed()
    # [C, O/g, kh, kw] with input groups first, to [O, K, C/g].
    grouped = weight.flatten(2).reshape(groups, channels // groups, weight.shape[1], -1)
    taps = grouped.permute(0, 2, 3, 1).reshape(groups * weight.shape[1], -1, channels // groups)
    rows = _execute(pixels, taps, bias, kernel_map, groups)
    return _as_image(rows, batch_size, out_height, out_width)
