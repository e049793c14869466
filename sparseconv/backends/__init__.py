"""Backends: who executes on which device.

A backend is a module with the functions of :class:`Backend`. ``reference`` is plain torch, short, and runs on
every device; ``cpu`` is Numba, ``cuda`` Numba and Triton. This file is the only place that looks at a device.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import importlib
import importlib.util
import warnings
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor

from sparseconv.geometry import ConvGeometry
from sparseconv.uninterrupted import uninterrupted

BACKENDS = ("cpu", "cuda", "reference")


class Backend(Protocol):
    """What a backend offers. Tensors in and out live on its device; indices are int32 ``[N, 1+D]``.

    Pairs are ``in_rows, out_rows`` int32 ``[P]`` grouped by tap, with ``tap_offsets`` int64 ``[K+1]`` on the
    CPU. Within one tap no row of either column repeats, and the pairs are in order of ``out_rows``. Features
    are float32 or float64; convolutions take some half types too, and give float32.

    Attributes:
        CONVOLVED_HALVES: half types that :meth:`convolve` multiplies as they are.
        GRADIENT_HALVES: half types that :meth:`weight_gradient` multiplies as they are.
    """

    CONVOLVED_HALVES: tuple[torch.dtype, ...]
    GRADIENT_HALVES: tuple[torch.dtype, ...]

    def build_index(self, indices: Tensor) -> Any:
        """Index a set of sites for look-ups.

        Raises:
            DuplicateSiteError: a site occurs twice.
            ValueError: the sites cannot be packed into 63 bits.
        """

    def bounds(self, indices: Tensor) -> tuple[list[int], list[int]]:
        """Smallest and largest value of each column of ``indices [N, 1+D]``, N at least 1."""

    def query(self, index: Any, indices: Tensor) -> Tensor:
        """Row of each site ``[M, 1+D]`` in the indexed set, -1 where absent: int64 ``[M]``."""

    def is_sorted(self, index: Any) -> bool:
        """Whether the indexed rows are in lexicographic order."""

    def kernel_pairs(self, fine: Any, coarse: Any, geometry: ConvGeometry) -> tuple[Tensor, Tensor, Tensor]:
        """All pairs ``fine = s * coarse - p + d * t``: ``fine_rows, coarse_rows, tap_offsets``, by coarse row."""

    def order_pairs(self, in_rows: Tensor, out_rows: Tensor, tap_offsets: Tensor) -> tuple[Tensor, Tensor]:
        """Sort the pairs of each tap by ``out_rows``."""

    def coarse_sites(self, index: Any, geometry: ConvGeometry, shape: Sequence[int] | None) -> Tensor:
        """Every coarse site that at least one of the indexed fine sites reaches, sorted: int32 ``[M, 1+D]``."""

    def coarse_map(self, index: Any, geometry: ConvGeometry, shape: Sequence[int] | None) -> CoarseMap:
        """The coarse sites, as :meth:`coarse_sites` gives them, and all pairs of the fine sites with them."""

    def fine_sites(self, index: Any, geometry: ConvGeometry, shape: Sequence[int] | None) -> Tensor:
        """Every fine site that at least one of the indexed coarse sites reaches, sorted: int32 ``[M, 1+D]``."""

    def unique_sites(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Distinct sites in lexicographic order, and the row of each input among them (int64)."""

    def convolve(
        self,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        in_rows: Tensor,
        out_rows: Tensor,
        tap_offsets: Tensor,
        n_out: int,
        groups: int,
        residual: Tensor | None = None,
        relu: bool = False,
    ) -> Tensor:
        """``out[o] = bias + sum over taps of weight[:, t] @ features[i]``: ``[n_out, C_out]``.

        ``weight`` is ``[C_out, K, C_in / groups]`` with any strides. The epilogue adds ``residual [n_out, C_out]``
        and then sets negative values to zero (``relu``); NaN stays. A backend may begin its sums with bias and
        residual: each addition then rounds at their magnitude. A weight that is not finite may reach rows
        that lack its tap's neighbour: a backend may multiply an absent row as zero.
        """

    def weight_gradient(
        self,
        features: Tensor,
        grad: Tensor,
        in_rows: Tensor,
        out_rows: Tensor,
        tap_offsets: Tensor,
        groups: int,
    ) -> Tensor:
        """``sum over pairs of grad[o] (x) features[i]`` per tap: ``[C_out, K, C_in / groups]``."""

    def max_pool(
        self, features: Tensor, in_rows: Tensor, out_rows: Tensor, tap_offsets: Tensor, n_out: int
    ) -> tuple[Tensor, Tensor]:
        """Maxima over existing inputs ``[n_out, C]`` and the input row of each (int32, -1 where none)."""

    def max_pool_gradient(self, grad: Tensor, argmax: Tensor, n_in: int) -> Tensor:
        """Send each output's gradient to the row that gave the maximum: ``[n_in, C]``."""

    def sum_pool(
        self, features: Tensor, in_rows: Tensor, out_rows: Tensor, tap_offsets: Tensor, n_out: int
    ) -> Tensor:
        """Sums over existing inputs ``[n_out, C]``."""

    def weighted_sum(
        self, features: Tensor, coefficients: Tensor, in_rows: Tensor, out_rows: Tensor, n_out: int
    ) -> Tensor:
        """``out[out_rows[p], c] += coefficients[p, c // (C / G)] * features[in_rows[p], c]``: ``[n_out, C]``.

        Here rows may repeat: ``out_rows`` ascend, and a pair with a row of -1 counts nothing. ``coefficients
        [P, G]`` are in the type of the features.

        Raises:
            ValueError: a row is out of range, or ``out_rows`` do not ascend.
        """

    def pair_dots(self, left: Tensor, right: Tensor, left_rows: Tensor, right_rows: Tensor, groups: int) -> Tensor:
        """Dot product of two rows for each pair and channel group, 0 where a row is -1: ``[P, groups]``.

        Raises:
            ValueError: a row is out of range.
        """

    def column_moments(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance of each column of ``[N, C]``, N at least 1, in a fixed order of summation."""

    def column_dots(self, grad: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Per column the sums of ``grad * values`` and of ``grad``, in a fixed order of summation."""

    def scale_shift(self, values: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """``values [N, C] * scale [C] + shift [C]``."""

    def group_points(
        self,
        points: Tensor,
        sizes: Sequence[int],
        low: Sequence[float],
        size: Sequence[float],
        grid: Sequence[int] | None,
        max_voxels: int | None,
        in_order: bool,
        max_points: int | None = None,
    ) -> PointGroups:
        """Group a batch of points by voxel: cell ``floor((p - low) / size)`` of each axis in float32.

        Args:
            points: float32 ``[N, >= D]``, the samples behind each other.
            sizes: points in each sample.
            low: the corner of cell 0 on each of D axes.
            size: edge lengths.
            grid: cells of each axis; None: as far as int32 goes.
            max_voxels: voxels of a sample that are kept, the first that its points meet; None: all.
            in_order: sort the voxels lexicographically; else they come in the order in which points meet them.
            max_points: room of each voxel's block of points; None: no blocks.
        """

    def reduce_points(self, values: Tensor, rows: Tensor, n_rows: int, reduce: str) -> tuple[Tensor, Tensor]:
        """Reduce ``values [N, C]`` by voxel row (-1: dropped) in point order: ``[n_rows, C]``, counts int32."""


class CoarseMap(NamedTuple):
    """Output sites of a strided convolution, M of them, and its P pairs.

    Attributes:
        sites: int32 ``[M, 1+D]`` in lexicographic order.
        index: the backend's index of the sites.
        fine_rows: int32 ``[P]``, by tap; see :meth:`Backend.kernel_pairs`.
        coarse_rows: int32 ``[P]``.
        tap_offsets: int64 ``[K+1]`` on the CPU.
    """

    sites: Tensor
    index: Any
    fine_rows: Tensor
    coarse_rows: Tensor
    tap_offsets: Tensor


class PointBlocks(NamedTuple):
    """The first points of each of M voxels.

    Attributes:
        points: ``[M, max_points, C]``, zeros behind a voxel's points.
        counts: int32 ``[M]`` points of each block.
        num_points: their sum.
    """

    points: Tensor
    counts: Tensor
    num_points: int


class PointGroups(NamedTuple):
    """Points grouped by voxel: M voxels, N points.

    Attributes:
        indices: int32 ``[M, 1+D]``, batch first, axes in reverse order (z, y, x).
        counts: int32 ``[M]`` points of each voxel.
        rows: int64 ``[N]`` voxel of each point, -1 where it was dropped.
        ranks: int32 ``[N]`` how many earlier points share its voxel, anything where it was dropped; may be None
            where blocks were asked for.
        num_outside: points outside the grid, or beyond int32.
        num_nonfinite: points with a NaN or infinite coordinate.
        blocks: the first points of each voxel, None where not asked for.
    """

    indices: Tensor
    counts: Tensor
    rows: Tensor
    ranks: Tensor | None
    num_outside: int
    num_nonfinite: int
    blocks: PointBlocks | None = None


class DuplicateSiteError(ValueError):
    """A site occurs more than once in ``indices``."""


_forced: contextvars.ContextVar[str | None] = contextvars.ContextVar("sparseconv_backend", default=None)


@contextlib.contextmanager
def chosen(choice: contextvars.ContextVar[Any], value: Any) -> Iterator[None]:
    """Within the block ``choice`` is ``value``, in the backward pass too: autograd stays in the calling thread.

    A context does not reach autograd's own threads.
    """
    token = choice.set(value)
    try:
        with torch.autograd.set_multithreading_enabled(False):
            yield
    finally:
        choice.reset(token)


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Execute everything inside the ``with`` block on the named backend.

    Args:
        name: ``"reference"`` (plain torch, every device), ``"cpu"`` (Numba, CPU tensors only) or ``"cuda"``
            (Numba and Triton; tensors on an NVIDIA GPU, or CPU tensors under Numba's CUDA simulator).

    Raises:
        ValueError: no such backend.
    """
    if name not in BACKENDS:
        raise ValueError(f"no backend {name!r}; the backends are {', '.join(BACKENDS)}")
    with chosen(_forced, name):
        yield


def _import(name: str) -> ModuleType:
    """A module of this package, whole: Numba cannot be imported again where an interrupt has ended its import."""
    return uninterrupted(lambda: importlib.import_module(f"sparseconv.backends.{name}"))


@functools.cache
def cuda_problem() -> str | None:
    """Why the ``cuda`` backend cannot execute on this machine's GPU, with the remedy; None where it can."""
    if torch.version.hip is not None:
        return "this torch is built for ROCm, and the cuda backend is for NVIDIA GPUs"
    if importlib.util.find_spec("numba_cuda") is None:
        return 'numba-cuda is not installed: pip install "sparseconv[cuda]"'
    reason: str | None = _import("cuda.launch").problem()
    return reason


@functools.cache
def _backend_of_gpu() -> str:
    reason = cuda_problem()
    if reason is None:
        return "cuda"
    warnings.warn(
        f"sparseconv executes on the GPU by plain torch (the reference backend), which is slow: {reason}",
        stacklevel=2,
    )
    return "reference"


def backend_name(device: torch.device) -> str:
    """Name of the backend that executes on ``device`` now."""
    forced = _forced.get()
    if forced is not None:
        return forced
    if device.type == "cuda":
        return _backend_of_gpu()
    return "cpu" if device.type == "cpu" else "reference"


def backend_for(device: torch.device) -> Backend:
    """The backend that executes on ``device`` now, imported at its first use.

    Raises:
        ValueError: a backend was asked for by :func:`use_backend` that does not work on this device.
    """
    name = backend_name(device)
    if name == "cpu" and device.type != "cpu":
        raise ValueError(
            f"the cpu backend cannot work on a tensor on {device}; move it with .to('cpu') or leave use_backend"
        )
    if name == "cuda" and _forced.get() is not None:
        _check_cuda(device)
    return _imported(name)


@functools.cache
def _imported(name: str) -> Backend:
    """The backend's module, imported once: asking for it at every call costs as much as a small kernel."""
    return cast(Backend, _import(name))


@functools.cache
def _devices_of_cuda() -> tuple[str, ...]:
    """Types of devices that the cuda backend works on in this process; none where numba-cuda is missing."""
    if importlib.util.find_spec("numba_cuda") is None:
        return ()
    types: tuple[str, ...] = _import("cuda").DEVICE_TYPES
    return types


def _check_cuda(device: torch.device) -> None:
    accepted = _devices_of_cuda()
    if not accepted:
        raise ValueError('the cuda backend needs numba-cuda: pip install "sparseconv[cuda]"')
    if device.type not in accepted:
        raise ValueError(
            f"the cuda backend works on tensors on {' or '.join(accepted)} here, got one on {device}; move it, "
            "leave use_backend, or set NUMBA_ENABLE_CUDASIM=1 before Python starts to simulate a GPU"
        )
