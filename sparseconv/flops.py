"""Exact multiply-adds of sparse layers from their kernel maps, and what dense layers would need.

A sparse convolution does one multiply-add for each pair, input channel of a group and output channel. Its dense
twin does that for every output cell and tap of the whole grid, padding included (the usual count). One
multiply-add is two FLOPs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sparseconv.nn.conv import SparseConvolution
from sparseconv.tensor import SparseTensor


@dataclass(frozen=True)
class LayerCount:
    """One convolution of one forward pass.

    Attributes:
        name: the module's path in the model.
        kind: class name of the layer.
        geometry: kernel, stride, padding, dilation in words.
        c_in: input channels.
        c_out: output channels.
        n_in: input voxels.
        n_out: output voxels.
        pairs: pairs of the kernel map.
        macs: exact multiply-adds.
        dense_macs: multiply-adds of the dense twin on the whole grid (of the occupied box where the grid is
            unbounded).
        milliseconds: wall time of the forward call, the building of its map included where it was the first to
            need it.
    """

    name: str
    kind: str
    geometry: str
    c_in: int
    c_out: int
    n_in: int
    n_out: int
    pairs: int
    macs: int
    dense_macs: int
    milliseconds: float


@dataclass(frozen=True)
class ForwardCount:
    """One forward pass of a model.

    Attributes:
        layers: its convolutions in the order of execution.
        output: what the model returned.
        milliseconds: wall time of the whole pass.
    """

    layers: tuple[LayerCount, ...]
    output: Any
    milliseconds: float

    @property
    def macs(self) -> int:
        """Exact multiply-adds of all convolutions."""
        return sum(layer.macs for layer in self.layers)

    @property
    def dense_macs(self) -> int:
        """Multiply-adds of all dense twins."""
        return sum(layer.dense_macs for layer in self.layers)


def _cells(tensor: SparseTensor) -> int:
    """Cells of the tensor's grids, or of the box that its sites span where the grid is unbounded."""
    if tensor.spatial_shape is not None:
        return tensor.batch_size * math.prod(tensor.spatial_shape)
    if len(tensor) == 0:
        return 0
    low, high = torch.aminmax(tensor.indices[:, 1:], dim=0)
    return tensor.batch_size * math.prod((high.long() - low.long() + 1).tolist())


def count_layer(
    layer: SparseConvolution, input: SparseTensor, output: SparseTensor, name: str = "", seconds: float = 0.0
) -> LayerCount:
    """Counts of one convolution that turned ``input`` into ``output``."""
    kernel_map = layer.kernel_map(input)
    # A transposed or inverse layer visits every input cell with every tap, the others every output cell.
    driving = input if layer.transposed or layer.inverse else output
    per_tap = layer.in_channels // layer.groups * layer.out_channels
    return LayerCount(
        name,
        type(layer).__name__,
        str(layer.geometry),
        layer.in_channels,
        layer.out_channels,
        len(input),
        len(output),
        kernel_map.n_pairs,
        kernel_map.macs(layer.in_channels, layer.out_channels, layer.groups),
        _cells(driving) * kernel_map.volume * per_tap,
        1000 * seconds,
    )


def count_forward(
    model: nn.Module, input: SparseTensor, on_layer: Callable[[], None] | None = None
) -> ForwardCount:
    """Run ``model(input)`` without gradients and count every convolution in it.

    Args:
        model: any module; its :class:`sparseconv.nn.SparseConvolution` layers are counted.
        input: its input; a tensor whose maps are not built yet shows their cost where they are first needed.
        on_layer: called after each convolution, for a progress display.
    """
    counts: list[LayerCount] = []
    starts: dict[nn.Module, float] = {}
    handles = []

    def begin(module: nn.Module, _: Any) -> None:
        starts[module] = time.perf_counter()

    def end(name: str) -> Callable[[nn.Module, Any, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, named: Any, output: Any) -> None:
            seconds = time.perf_counter() - starts.pop(module)
            if isinstance(module, SparseConvolution):
                source = inputs[0] if inputs else named["input"]
                counts.append(count_layer(module, source, output, name, seconds))
            if on_layer is not None:
                on_layer()

        return hook

    for name, module in model.named_modules():
        if isinstance(module, SparseConvolution):
            handles.append(module.register_forward_pre_hook(begin))
            handles.append(module.register_forward_hook(end(name), with_kwargs=True))
    try:
        start = time.perf_counter()
        with torch.no_grad():
            output = model(input)
        seconds = time.perf_counter() - start
    finally:
        for handle in handles:
            handle.remove()
    return ForwardCount(tuple(counts), output, 1000 * seconds)
