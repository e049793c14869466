"""Convolutions whose kernel is a fixed linear map of their weight: one base class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparseconv.dense_ops.conv import Conv2d, plain_conv2d
from sparseconv.dense_ops.executor import convolve_window
from sparseconv.dense_ops.window import Padding, Window


def fold_taps(weight: Tensor, matrix: Tensor) -> Tensor:
    """Map the taps of a weight: ``[O, C / groups, .., ..]`` with T taps and ``[T, K]``."""
    return weight.flatten(2) @ matrix.to(weight)


def convolve_folded(
    input: Tensor,
    weight: Tensor,
    matrix: Tensor,
    bias: Tensor | None,
    window: Window,
    groups: int,
    padding_mode: str,
) -> Tensor:
    """Convolve with the weight folded by ``matrix [T, K]``, over the taps that some weight reaches.

    Args:
        input: ``[N, C, H, W]``.
        weight: ``[O, C / groups, .., ..]`` with T taps.
        matrix: ``[T, K]``; K is the number of taps of the window.
        bias: ``[O]`` or None.
        window: of the folded kernel.
        groups: channel groups.
        padding_mode: as in :func:`conv2d`.
    """
    used = used_taps(matrix)
    taps = fold_taps(weight, matrix[:, used]).transpose(1, 2)
    return convolve_window(input, taps, bias, window.keep(used), groups, padding_mode)


def used_taps(matrix: Tensor) -> list[int]:
    """Taps of the folded kernel that some weight reaches."""
    return matrix.any(0).nonzero().flatten().tolist()


class ReparameterisedConv2d(Conv2d):
    """Base of the layers that fold to one plain kernel."""

    def folding(self) -> Tensor:
        """Matrix ``[T, K]`` from the weight's taps to the kernel's."""
        raise NotImplementedError

    def folded_size(self) -> tuple[int, int]:
        """Height and width of the folded kernel."""
        return self.kernel_size[0], self.kernel_size[1]

    def folded_padding(self) -> Padding:
        """Padding of the folded kernel."""
        return self.padding

    def window(self, in_shape: Sequence[int]) -> Window:
        """The window of the taps that the layer runs."""
        window = Window.create(in_shape, self.folded_size(), self.stride, self.folded_padding(), self.dilation)
        return window.keep(used_taps(self.folding()))

    def to_conv2d(self) -> Conv2d:
        """The plain convolution that gives the same output."""
        with torch.no_grad():
            weight = fold_taps(self.weight, self.folding()).unflatten(2, self.folded_size())
        return plain_conv2d(weight, self.bias, self, padding=self.folded_padding())
