"""From images to rows, over a kernel map, and back: the one place where dense variants enter the engine."""

from __future__ import annotations

from torch import Tensor

from sparseconv.dense_ops.index_map import window_map
from sparseconv.dense_ops.padding import padded_map
from sparseconv.dense_ops.window import Pair, Window
from sparseconv.ops.mapped import convolve_features, sum_features


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
        rows = sum_features(rows, padded_map(window, batch_size, padding_mode, rows.device))
        window = window.on_padded_image()
    rows = convolve_features(rows, taps, bias, window_map(window, batch_size, rows.device), groups)
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
    # [N, O, C/g, K] to [O, N K, C/g]
    taps = weight.flatten(3).permute(1, 0, 3, 2).reshape(c_out, batch_size * len(window.offsets), weight.shape[2])
    rows = as_rows(input)
    rows = convolve_features(
        rows, taps, None, window_map(window, batch_size, rows.device, per_sample=True), groups
    )
    image = as_image(rows, batch_size, window.out_shape)
    return image if bias is None else image + bias[:, :, None, None].to(image.dtype)
