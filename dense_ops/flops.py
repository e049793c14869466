"""Multiply-adds and parameters of dense layers, by formula; taps in the padding are counted, biases are not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from sparseconv.dense_ops.window import Pair


class Flops(NamedTuple):
    """Cost of one forward pass of a layer.

    Attributes:
        macs: multiply-adds of the whole batch; one multiply-add is two FLOPs.
        parameters: numbers that are trained.
    """

    macs: int
    parameters: int


def count_parameters(module: nn.Module) -> int:
    """Numbers that are trained."""
    return sum(parameter.numel() for parameter in module.parameters())


def split_shape(input_shape: Sequence[int], channels: int) -> tuple[int, Pair]:
    """Batch size and image size of ``[N, C, H, W]`` or ``[C, H, W]`` (one image).

    Raises:
        ValueError: another number of axes or of channels.
    """
    shape = tuple(input_shape)
    if len(shape) == 3:
        shape = (1, *shape)
    if len(shape) != 4 or shape[1] != channels:
        raise ValueError(
            f"input_shape must be [N, {channels}, H, W] or [{channels}, H, W], got {list(input_shape)}"
        )
    return shape[0], (shape[2], shape[3])
