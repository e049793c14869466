"""Tile shapes of the implicit GEMM, by arithmetic and by what the compiler says. None has been timed on a device.

The reasons, with the registers and the shared memory that each shape takes, stand in ``docs/cuda_gemm.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

Precision = Literal["ieee", "tf32"]
HALF = (torch.float16, torch.bfloat16)

# At least four tiles of 128 rows for each of the 132 multiprocessors of an H100; with fewer, tiles of 64 rows
# spread the work better and are filled with fewer absent neighbours.
_ROWS_FOR_TALL_TILES = 4 * 132 * 128
# With fewer programs than two for each multiprocessor, narrower ones are better, though they gather rows again.
_FEWEST_PROGRAMS = 2 * 132
# Taps that one order of rows serves. Their bits fit an int32, which sorts in half the passes of an int64.
MOST_TAPS = 31
_FEW_TAPS = 16
# A second order of rows saves about 4 steps a row on scans (docs/cuda_gemm.md), and costs one more reading and
# writing of the output. The two are equal at about these numbers of input channels.
_DEPTH_FOR_FEW_TAPS = {"vector": 32, "tensor": 128}
# Bytes of one stage up to which features are fetched three stages ahead and not two: 48 KiB in flight, which
# leaves room for two tiles in the 100 KiB of the smallest devices.
_SMALL_STAGE = 16 * 1024
# Tiles of the weight gradient in flight: eight for each of the 132 multiprocessors of an H100, twice over.
_GRADIENT_TILES = 2048
# Workspace for partial sums of the weight gradient, beyond one copy of the gradient itself.
WORKSPACE_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class Problem:
    """What the choice of a tile depends on.

    Attributes:
        rows: output rows of a convolution, pairs of a weight gradient.
        depth: input channels of a group.
        width: output channels of a group.
        groups: number of groups.
        dtype: type of the features.
        precision: how float32 is multiplied.
    """

    rows: int
    depth: int
    width: int
    groups: int
    dtype: torch.dtype
    precision: Precision

    @property
    def on_tensor_cores(self) -> bool:
        """Half precisions always, float32 as TF32."""
        return self.dtype in HALF or self.precision == "tf32"


def _check(first: int, second: int, inner: int, warps: int, ahead: int) -> None:
    for extent in (first, second, inner):
        if extent not in (16, 32, 64, 128, 256):
            raise ValueError(f"a tile's sides are powers of two from 16 to 256, got {extent}")
    if warps not in (1, 2, 4, 8, 16) or not 1 <= ahead <= 8:
        raise ValueError(f"a tile has 1 to 16 warps and fetches 1 to 8 ahead, got {warps} warps, {ahead} ahead")


@dataclass(frozen=True)
class ConvolutionTile:
    """Shape of one program of the convolution.

    Attributes:
        rows: output rows, a power of two.
        columns: output channels, a power of two.
        channels: input channels of one iteration, a power of two.
        warps: warps of a program.
        ahead: iterations that a row number is fetched before its features, and features before their use.
        taps: most taps that one order of the rows serves, at most 31.
    """

    rows: int
    columns: int
    channels: int
    warps: int
    ahead: int
    taps: int

    def __post_init__(self) -> None:
        """Refuse what no kernel can be compiled for."""
        _check(self.rows, self.columns, self.channels, self.warps, self.ahead)
        if not 1 <= self.taps <= MOST_TAPS:
            raise ValueError(f"a table serves 1 to {MOST_TAPS} taps, got {self.taps}")

    @property
    def stages(self) -> int:
        """Triton's ``num_stages``: it divides the stages between the two loads that depend on each other."""
        return 2 * self.ahead + 1


@dataclass(frozen=True)
class GradientTile:
    """Shape of one program of the weight gradient.

    Attributes:
        outputs: output channels, a power of two.
        inputs: input channels, a power of two.
        pairs: pairs of one iteration, a power of two.
        warps: warps of a program.
        ahead: as in :class:`ConvolutionTile`.
    """

    outputs: int
    inputs: int
    pairs: int
    warps: int
    ahead: int

    def __post_init__(self) -> None:
        """Refuse what no kernel can be compiled for."""
        _check(self.outputs, self.inputs, self.pairs, self.warps, self.ahead)

    @property
    def stages(self) -> int:
        """Triton's ``num_stages``."""
        return 2 * self.ahead + 1


def _covering(count: int, most: int) -> int:
    """The power of two from 16 on that covers ``count``, at most ``most``."""
    return min(most, max(16, 1 << (count - 1).bit_length())) if count > 0 else 16


def _ahead(stage_bytes: int) -> int:
    return 3 if stage_bytes <= _SMALL_STAGE else 2


def convolution_tile(problem: Problem) -> ConvolutionTile:
    """The tile of a convolution that has not been tuned."""
    tall = problem.rows >= _ROWS_FOR_TALL_TILES
    rows = 128 if tall else 64
    columns = _covering(problem.width, 128 if problem.on_tensor_cores else 64)
    while (
        columns > 32
        and -(-problem.rows // rows) * -(-problem.width // columns) * problem.groups < _FEWEST_PROGRAMS
    ):
        columns //= 2
    if problem.on_tensor_cores:
        # Two of the widest stages of a 64-channel step would spill on sm_80.
        channels = _covering(problem.depth, 64 if problem.dtype in HALF and columns < 128 else 32)
        warps = 8 if tall and columns >= 64 else 4
    else:
        channels = 16
        warps = 8 if tall and columns == 64 else 4
    few = problem.depth >= _DEPTH_FOR_FEW_TAPS["tensor" if problem.on_tensor_cores else "vector"]
    ahead = _ahead((rows + columns) * channels * problem.dtype.itemsize)
    return ConvolutionTile(rows, columns, channels, warps, ahead, _FEW_TAPS if few else MOST_TAPS)


def gradient_tile(problem: Problem) -> GradientTile:
    """The tile of a weight gradient that has not been tuned."""
    large = problem.on_tensor_cores and min(problem.width, problem.depth) > 64
    most = 128 if large else 64
    outputs, inputs = _covering(problem.width, most), _covering(problem.depth, most)
    pairs = 16
    if problem.on_tensor_cores:
        pairs = 64 if problem.dtype in HALF and not large else 32
    ahead = _ahead((outputs + inputs) * pairs * problem.dtype.itemsize)
    return GradientTile(outputs, inputs, pairs, 8 if large else 4, ahead)


def pairs_per_task(problem: Problem) -> int:
    """Pairs that one partial sum of the weight gradient covers: a power of two, the same for every tile shape.

    Long enough that a partial sum, written and read once, is a quarter of the features that went into it, and that
    all of them fit the workspace; else as short as fills the device.
    """
    depth, width = max(1, problem.depth), max(1, problem.width)
    tiles = problem.groups * -(-width // 64) * -(-depth // 64)
    weight_bytes = 4 * problem.groups * width * depth
    shortest = 4 * 2 * 4 * width * depth // ((width + depth) * problem.dtype.itemsize)
    filling = problem.rows * tiles // _GRADIENT_TILES
    fitting = problem.rows * weight_bytes // WORKSPACE_BYTES
    return 1 << (max(256, shortest, filling, fitting) - 1).bit_length()
