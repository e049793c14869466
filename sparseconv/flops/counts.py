"""What one pass of a model is found to cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LayerCount:
    """One counted operation of one pass: a convolution, a linear layer or a pooling.

    Attributes:
        name: the module's path in the model.
        kind: class name of the layer.
        geometry: kernel, stride, padding, dilation in words; empty where the layer has none.
        c_in: input channels.
        c_out: output channels.
        n_in: input voxels (rows).
        n_out: output voxels (rows).
        pairs: pairs of the kernel map.
        macs: exact multiply-adds; 0 for pooling, which only adds and compares.
        dense_macs: multiply-adds of the dense twin on the whole grid (of the occupied box where the grid is
            unbounded).
        milliseconds: wall time of the forward call, the building of its map included where it was the first to
            need it.
        family: ``"submanifold"``, ``"dilating"`` (a sparse convolution of stride 1), ``"strided"``,
            ``"transposed"``, ``"inverse"``, ``"pointwise"`` (one tap that stays), ``"linear"``, ``"dense"``
            (convolutions of plain tensors), ``"weighted"`` (sums and products over weighted pairs: attention,
            bilinear samples, a kernel for each site), ``"pooling"`` or ``"other"``.
        dilated_macs: multiply-adds of the same kernel on the same input as a sparse convolution that dilates the
            sites; those of the layer itself where it is not submanifold, or leaves out taps of its window.
        dilated_n_out: voxels that it would put out; ``n_out`` where it is not submanifold.
        parameters: numbers that the layer learns, at its first use; 0 at further ones.
        feature_bytes: the output features.
        map_bytes: the kernel map and the output sites, where this layer was the first to need them.
        dense_bytes: the output of the dense twin.
        backward_macs: multiply-adds of the gradients to the input (where one is needed) and to the weight; 0 where
            no backward pass was run.
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
    family: str
    dilated_macs: int
    dilated_n_out: int
    parameters: int
    feature_bytes: int
    map_bytes: int
    dense_bytes: int
    backward_macs: int = 0


@dataclass(frozen=True)
class ForwardCount:
    """One pass of a model.

    Attributes:
        layers: its counted operations in the order of execution.
        output: what the model returned.
        milliseconds: wall time of the whole forward pass.
        parameters: numbers that the model learns, norms included.
        input_bytes: features and sites of the network's input.
        dense_input_bytes: the input on the whole grid.
    """

    layers: tuple[LayerCount, ...]
    output: Any
    milliseconds: float
    parameters: int
    input_bytes: int
    dense_input_bytes: int

    @property
    def macs(self) -> int:
        """Exact multiply-adds of the forward pass."""
        return sum(layer.macs for layer in self.layers)

    @property
    def dense_macs(self) -> int:
        """Multiply-adds of all dense twins."""
        return sum(layer.dense_macs for layer in self.layers)

    @property
    def dilated_macs(self) -> int:
        """Multiply-adds where each submanifold layer, on the input that it has here, dilated its sites."""
        return sum(layer.dilated_macs for layer in self.layers)

    @property
    def backward_macs(self) -> int:
        """Multiply-adds of the backward pass; 0 where none was run."""
        return sum(layer.backward_macs for layer in self.layers)

    @property
    def sparse_bytes(self) -> int:
        """Input, output features of every counted layer, kernel maps and sites, each once: what training keeps."""
        return self.input_bytes + sum(layer.feature_bytes + layer.map_bytes for layer in self.layers)

    @property
    def dense_bytes(self) -> int:
        """Input and outputs of all dense twins."""
        return self.dense_input_bytes + sum(layer.dense_bytes for layer in self.layers)

    def family_macs(self) -> dict[str, int]:
        """Multiply-adds by family, in the order of first appearance."""
        totals: dict[str, int] = {}
        for layer in self.layers:
            totals[layer.family] = totals.get(layer.family, 0) + layer.macs
        return totals
