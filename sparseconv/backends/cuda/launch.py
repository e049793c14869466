"""The one module that knows ``numba.cuda``: kernels, where they are launched, and with what.

Kernels are compiled at their first launch, so that importing this asks no device anything. A launch goes to the
device of its tensors and to torch's current stream there; memory is torch's alone. Under Numba's simulator
(``NUMBA_ENABLE_CUDASIM=1``) the same kernels run in Python on CPU tensors.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from numba import config, cuda
from torch import Tensor

SIMULATED = bool(config.ENABLE_CUDASIM)  # type: ignore[attr-defined]

# Types of torch devices whose tensors kernels accept here.
DEVICE_TYPES = ("cpu",) if SIMULATED else ("cuda",)

# Threads of a block. 256 fill a multiprocessor of every architecture at up to 128 registers a thread (the table in
# docs/cuda_kernels.md stays far below). The simulator starts a Python thread for each, 0.3 ms, so there few of
# them do the work in turn, in several blocks as on a device.
BLOCK = 8 if SIMULATED else 256

# Blocks of a launch at least: Numba warns below 128, and an idle block costs less than the warning.
_FEWEST_BLOCKS = 3 if SIMULATED else 128
# At most: kernels stride over what lies beyond. 2**16 blocks fill the largest device two hundred times.
_MOST_BLOCKS = 3 if SIMULATED else 1 << 16

_TYPE_STRINGS = {
    torch.uint8: "|u1",
    torch.int32: "<i4",
    torch.int64: "<i8",
    torch.float32: "<f4",
    torch.float64: "<f8",
}

# Every kernel of the backend by ``module.name``, for the checks that must not forget one.
KERNELS: dict[str, Kernel] = {}

_one_at_a_time = threading.Lock()


class _SharedArrays(dict[Any, Any]):
    """The simulator's shared arrays of a block, each made by one thread.

    The simulator looks an array up and, where there is none, makes it: two threads that do so at once would have
    an array each. A look-up that finds nothing keeps the others waiting until its array is there.
    """

    def __init__(self) -> None:
        super().__init__()
        self._making = threading.Lock()

    def get(self, key: Any, default: Any = None) -> Any:
        self._making.acquire()
        found = super().get(key, default)
        if found is not None:
            self._making.release()
        return found

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        self._making.release()


if SIMULATED:
    from numba.cuda.simulator.kernelapi import FakeCUDAShared

    def _prepare_shared(self: Any, dynshared_size: int, _prepare: Any = FakeCUDAShared.__init__) -> None:
        _prepare(self, dynshared_size)
        self._allocations = _SharedArrays()

    FakeCUDAShared.__init__ = _prepare_shared  # type: ignore[method-assign]


class Kernel:
    """A kernel that is launched over a number of threads.

    Kernels take their work in strides of the whole grid, so that every number of blocks gives the same result.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self.function = function
        self.name = f"{function.__module__.rsplit('.', 1)[-1]}.{function.__name__}"
        self._dispatcher: Any = cuda.jit(function)
        KERNELS[self.name] = self

    def launch(self, threads: int, *args: Tensor | int | float | tuple[int, ...]) -> None:
        """Launch with at least one thread for each of ``threads`` items of work; nothing happens for none.

        Args:
            threads: items of work; for kernels whose blocks work together a multiple of ``BLOCK``.
            args: contiguous tensors of one device, numbers, and tuples of integers.
        """
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        for tensor in tensors:
            if tensor.dtype not in _TYPE_STRINGS or not tensor.is_contiguous():
                raise TypeError(f"{self.name} was given a tensor of {tensor.dtype} with strides {tensor.stride()}")
        if threads <= 0:
            return
        blocks = min(max(-(-threads // BLOCK), _FEWEST_BLOCKS), _MOST_BLOCKS)
        if SIMULATED:
            arrays = [arg.detach().numpy() if isinstance(arg, Tensor) else arg for arg in args]
            # The simulator has one grid for the whole process.
            with _one_at_a_time:
                self._dispatcher[blocks, BLOCK](*arrays)
            return
        # What an empty array points to is never read, but must be an address of the device.
        anchor = next((tensor.data_ptr() for tensor in tensors if tensor.numel()), 0)
        arguments = [_DeviceArray(arg, anchor) if isinstance(arg, Tensor) else arg for arg in args]
        with torch.cuda.device(tensors[0].device):
            stream = cuda.external_stream(torch.cuda.current_stream().cuda_stream)
            self._dispatcher[blocks, BLOCK, stream](*arguments)


class _DeviceArray:
    """A tensor's memory in the third version of the CUDA array interface.

    Torch's own is the second version, which Numba hands to DLPack instead, and that refuses the default stream.
    No stream is named, since the launch goes to the one that torch works on: nothing waits.
    """

    __slots__ = ("__cuda_array_interface__",)

    def __init__(self, tensor: Tensor, anchor: int) -> None:
        self.__cuda_array_interface__ = {
            "version": 3,
            "shape": tuple(tensor.shape),
            "typestr": _TYPE_STRINGS[tensor.dtype],
            "data": (tensor.data_ptr() if tensor.numel() else anchor, False),
            "strides": None,
            "stream": None,
        }


def kernel(function: Callable[..., None]) -> Kernel:
    """Make a kernel of a function; its types are those of its first call."""
    return Kernel(function)


def device_function(function: Callable[..., Any]) -> Any:
    """Make a function that kernels call."""
    return cuda.jit(device=True)(function)


def problem() -> str | None:
    """Why kernels cannot run here, or None."""
    if SIMULATED or cuda.is_available():
        return None
    reason = cuda.cuda_error() if hasattr(cuda, "cuda_error") else None
    detail = f" ({' '.join(reason.split())})" if reason else ""
    return f"Numba finds no usable CUDA driver or compiler{detail}"
