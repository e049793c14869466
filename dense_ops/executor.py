"""From images to rows, over a kernel map, and back: the one place where dense variants enter the engine."""

from __future__ import annotations

import torch
from torch import Tensor

from sparseconv.dense_ops.index_map import window_map
from sparseconv.dense_ops.padding import padded_map
from sparseconv.dense_ops.window import Pair, Window
from sparseconv.kernel_map import KernelMap
from sparseconv.ops import convolve, sum_pool


def as_rows(input: Tensor) -> Tensor:
    """``[N, C, H, W]`` to one row a pixel: ``[N H W, C]``.

    Raises:
        ValueError: the input is not a batch of images.
    """
    if input.dim() != 4:
        raise ValueError(f"the input must have shape [N, C, H, W], got {list(input.shape)}")
    return input.permute(0, 2, 3, 1).reshape(-1, input.shape[1])


def as_image(rows: Tensor, batch_size: int, shape: Pair) -> Tensor:
    """``[N H W, C]`` to ``[N, C, H, W]``, a view in channels-last order."""
    return rows.reshape(batch_size, *shape, rows.shape[1]).permute(0, 3, 1, 2)


def as_taps(weight: Tensor) -> Tensor:
    """``[O, C / groups, kh, kw]`` to the engine's ``[O, K, C / groups]``."""
    return weight.flatten(2).transpose(1, 2)


def image_shape(input: Tensor) -> Pair:
    """Height and width of ``[N, C, H, W]``.

    Raises:
        ValueError: the input is not a batch of images.
    """
    if input.dim() != 4:
        raise ValueError(f"the input must have shape [N, C, H, W], got {list(input.shape)}")
    return input.shape[2], input.shape[3]


def _check(rows: Tensor, taps: Tensor, bias: Tensor | None, groups: int) -> None:
    c_out, _, depth = taps.shape
    if rows.shape[1] != depth * groups:
        raise ValueError(
            f"the input has {rows.shape[1]} channels, and the weight with groups {groups} takes {depth * groups}"
        )
    if c_out % groups:
        raise ValueError(f"the {c_out} output channels cannot be cut into {groups} groups")
    if bias is not None and bias.shape != (c_out,):
        raise ValueError(
            f"the bias must have shape [{c_out}], one value for each output channel, got {list(bias.shape)}"
        )
    for name, parameter in (("weight", taps), ("bias", bias)):
        if parameter is not None and (parameter.dtype, parameter.device) != (rows.dtype, rows.device):
            raise TypeError(
                f"the input is {rows.dtype} on {rows.device} and the {name} is {parameter.dtype} on "
                f"{parameter.device}: convert one of them with .to(), or use torch.autocast"
            )


def convolve_rows(
    rows: Tensor, taps: Tensor, bias: Tensor | None, kernel_map: KernelMap, groups: int = 1
) -> Tensor:
    """Run ``taps [O, K, C / groups]`` over a map: ``[n_in, C]`` to ``[n_out, O]``.

    Raises:
        TypeError: input and weight differ in type or device.
        ValueError: shapes do not fit.
    """
    device = rows.device.type
    if torch.is_autocast_enabled(device) and rows.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
        rows, taps = rows.to(dtype), taps.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    _check(rows, taps, bias, groups)
    back = kernel_map.transposed()
    return convolve(
        rows,
        taps,
        bias,
        kernel_map.in_rows,
        kernel_map.out_rows,
        kernel_map.tap_offsets,
        back.in_rows,
        back.out_rows,
        kernel_map.n_out,
        groups,
    )


def sum_over(rows: Tensor, kernel_map: KernelMap) -> Tensor:
    """Sum the input rows of each output row: ``[n_in, C]`` to ``[n_out, C]``."""
    back = kernel_map.transposed()
    return sum_pool(
        rows,
        kernel_map.in_rows,
        kernel_map.out_rows,
        kernel_map.tap_offsets,
        back.in_rows,
        back.out_rows,
        kernel_map.n_out,
    )


def convolve_window(
    input: Tensor,
    taps: Tensor,
    bias: Tensor | None,
    window: Window,
    groups: int = 1,
    padding_mode: str = "zeros",
) -> Tensor:
    """Convolve ``[N, C, H, W]`` with ``taps [O, K, C / groups]``, one for each offset of the window."""
    rows, batch_size = as_rows(input), input.shape[0]
    if padding_mode != "zeros" and window.padding != ((0, 0), (0, 0)):
        rows = sum_over(rows, padded_map(window, batch_size, padding_mode, rows.device))
        window = window.on_padded_image()
    rows = convolve_rows(rows, taps, bias, window_map(window, batch_size, rows.device), groups)
    return as_image(rows, batch_size, window.out_shape)


def convolve_per_sample(
    input: Tensor, weight: Tensor, bias: Tensor | None, window: Window, groups: int = 1
) -> Tensor:
    """Convolve each sample of ``[N, C, H, W]`` with a kernel of its own.

    A kernel map with taps of its own for each sample, so it is one pass over the batch and every multiply-add is
    one that is needed.

    Args:
        input: ``[N, C, H, W]``.
        weight: ``[N, O, C / groups, kh, kw]``.
        bias: ``[N, O]`` or None.
        window: the resolved convolution.
        groups: channel groups.
    """
    batch_size, c_out = weight.shape[:2]
    if batch_size == 0:
        return input.new_zeros((0, c_out, *window.out_shape))
    # [N, O, C/g, K] to [O, N K, C/g]
    taps = weight.flatten(3).permute(1, 0, 3, 2).reshape(c_out, batch_size * len(window.offsets), weight.shape[2])
    rows = as_rows(input)
    rows = convolve_rows(rows, taps, None, window_map(window, batch_size, rows.device, per_sample=True), groups)
    image = as_image(rows, batch_size, window.out_shape)
    return image if bias is None else image + bias[:, :, None, None].to(image.dtype)
