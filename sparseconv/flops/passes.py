"""One pass of a model, counted: forward alone, or forward and backward."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from sparseconv.flops.counts import ForwardCount
from sparseconv.flops.grids import first_grid, is_sparse, leaves
from sparseconv.flops.recorder import Recorder
from sparseconv.nn.conv import SparseConvolution


def count_forward(model: nn.Module, input: Any, on_layer: Callable[[], None] | None = None) -> ForwardCount:
    """Run ``model(input)`` without gradients and count every convolution, linear layer and pooling in it.

    The counts are those of the ops that run, so that any module counts: this library's layers, its functions, a
    program written for spconv, torch's own layers. Batch norms in training mode keep their running statistics.

    Args:
        model: any module.
        input: its input: a :class:`~sparseconv.SparseTensor`, or what the model takes. A tensor whose maps are not
            built yet shows their cost where they are first needed.
        on_layer: called after each :class:`sparseconv.nn.SparseConvolution`, for a progress display.
    """
    with _same_buffers(model), Recorder(model, _only_convolutions(on_layer)) as recorder, torch.no_grad():
        start = time.perf_counter()
        output = model(input)
        seconds = time.perf_counter() - start
    return _finish(recorder, model, input, output, seconds)


def count_training(model: nn.Module, input: Any, on_layer: Callable[[], None] | None = None) -> ForwardCount:
    """:func:`count_forward` with gradients, and a backward pass from every output to every parameter.

    The gradient to the network's input is not taken, as in training, unless the input requires one. ``.grad``
    of the parameters stays as it is.

    Args:
        model: any module with parameters that require gradients.
        input: as in :func:`count_forward`.
        on_layer: as in :func:`count_forward`.

    Raises:
        ValueError: no parameter requires gradients, or no output depends on one.
    """
    wanted: list[Tensor] = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not wanted:
        raise ValueError("the model has no parameter that requires gradients: there is no backward pass to count")
    grid = first_grid(input)
    if grid is not None and grid.features.requires_grad:
        wanted.append(grid.features)
    with _same_buffers(model), Recorder(model, _only_convolutions(on_layer)) as recorder, torch.enable_grad():
        start = time.perf_counter()
        output = model(input)
        seconds = time.perf_counter() - start
        ends = list(_differentiable(output))
        if not ends:
            raise ValueError("no output depends on the model's parameters: there is no backward pass to count")
        recorder.backward = True
        torch.autograd.grad(ends, wanted, [torch.ones_like(end) for end in ends], allow_unused=True)
    return _finish(recorder, model, input, output, seconds)


def _only_convolutions(on_layer: Callable[[], None] | None) -> Callable[[nn.Module], None] | None:
    if on_layer is None:
        return None
    return lambda module: on_layer() if isinstance(module, SparseConvolution) else None


def _differentiable(output: Any) -> Iterator[Tensor]:
    seen: set[int] = set()
    for leaf in leaves(output):
        tensor: Tensor = leaf.features if is_sparse(leaf) else leaf
        if tensor.requires_grad and id(tensor) not in seen:
            seen.add(id(tensor))
            yield tensor


@contextlib.contextmanager
def _same_buffers(model: nn.Module) -> Iterator[None]:
    """Running statistics as they were: counting is no training."""
    kept = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)


def _finish(recorder: Recorder, model: nn.Module, input: Any, output: Any, seconds: float) -> ForwardCount:
    grid = first_grid(input)
    sizes = (0, 0)
    if grid is not None:
        features = grid.features
        item = features.element_size()
        sizes = (
            features.numel() * item + grid.indices.numel() * grid.indices.element_size(),
            grid.cells * features.shape[1] * item,
        )
    return ForwardCount(
        layers=recorder.layers(),
        output=output,
        milliseconds=1000 * seconds,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        input_bytes=sizes[0],
        dense_input_bytes=sizes[1],
    )
