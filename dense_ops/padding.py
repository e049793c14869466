"""Padding by copies of the image as a kernel map from the image onto the padded image.

Each padded pixel has one source, but a source may have many padded pixels. Each copy number is a tap of its
own, so that no row repeats within a tap: the gradient, which runs over the swapped map, then adds up all
copies, in a fixed order.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from sparseconv.dense_ops.index_map import batched_map, check_pixels, remembered
from sparseconv.dense_ops.window import Pair, Window
from sparseconv.kernel_map import KernelMap

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


def check_padding_mode(mode: str) -> None:
    """Refuse an unknown padding mode.

    Raises:
        ValueError: it is unknown.
    """
    if mode not in PADDING_MODES:
        raise ValueError(f"padding_mode must be one of {', '.join(PADDING_MODES)}, got {mode!r}")


def source_positions(size: int, pads: Pair, mode: str) -> Tensor:
    """Source in ``0 .. size-1`` of each virtual position ``-before .. size-1+after`` of one axis.

    ``reflect`` does not repeat the edge: ``m = j mod 2(n-1)``, then ``m`` or ``2(n-1) - m``. ``replicate`` clamps;
    ``circular`` takes ``j mod n``.

    Raises:
        ValueError: more padding than the mode can fill from the image.
    """
    limit = {"reflect": size - 1, "circular": size}.get(mode)
    if limit is not None and max(pads) > limit:
        raise ValueError(
            f"padding_mode {mode!r} can pad an axis of {size} pixels by at most {limit}, got {max(pads)}: use "
            "less padding, or padding_mode 'replicate' or 'zeros'"
        )
    position = torch.arange(-pads[0], size + pads[1], device="cpu")
    if mode == "replicate":
        return position.clamp(0, size - 1)
    if mode == "circular":
        return position % size
    period = max(1, 2 * (size - 1))
    folded = position % period
    return torch.minimum(folded, period - folded) if size > 1 else folded.zero_()


def _by_copy_number(source: Tensor) -> list[tuple[Tensor, Tensor]]:
    """(source, padded position) of all first copies, then of all second copies, and so on."""
    copies: dict[int, int] = {}
    number = []
    for position in source.tolist():
        number.append(copies.get(position, 0))
        copies[position] = number[-1] + 1
    numbers = torch.tensor(number, device="cpu")
    padded = torch.arange(len(source), device="cpu")
    return [(source[numbers == n], padded[numbers == n]) for n in range(max(number) + 1)]


def _build(window: Window, batch_size: int, mode: str, device: torch.device) -> KernelMap:
    padded = window.on_padded_image()
    axes = [
        _by_copy_number(source_positions(size, pads, mode))
        for size, pads in zip(window.in_shape, window.padding, strict=True)
    ]
    pairs = [
        (
            (from_y[:, None] * window.in_shape[1] + from_x).reshape(-1).to(device),
            (to_y[:, None] * padded.in_shape[1] + to_x).reshape(-1).to(device),
        )
        for (from_y, to_y), (from_x, to_x) in itertools.product(*axes)
    ]
    return batched_map(pairs, window.n_in, padded.n_in, batch_size, in_rows_ascend=False)


def padded_map(window: Window, batch_size: int, mode: str, device: torch.device) -> KernelMap:
    """Map from a batch of images onto the same images padded by ``reflect``, ``replicate`` or ``circular``.

    Raises:
        ValueError: an unknown mode, or more padding than the mode can fill from the image.
    """
    check_padding_mode(mode)
    check_pixels(batch_size, window.on_padded_image().in_shape)
    # What fills the padding depends on the image and the padding alone.
    key = ("padded", window.in_shape, window.padding, batch_size, mode, device)
    return remembered(key, lambda: _build(window, batch_size, mode, device))
