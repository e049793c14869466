"""Convolution of bfloat16 on the processor's matrix tiles: gathered 32 pairs at a time, summed in float32."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparseconv.backends.cpu.amx import (
    TILE_BYTES,
    TILE_ROWS,
    add_rows,
    configuration,
    gather_rows,
    load_configuration,
    multiply_tiles,
    release_tiles,
)
from sparseconv.backends.cpu.bisect import block_stops, copy_into, tap_starts
from sparseconv.backends.cpu.epilogue import BLOCK, finish_rows, start_rows
from sparseconv.backends.cpu.jit import kernel
from sparseconv.backends.cpu.packed_weights import packed_weight
from sparseconv.backends.cpu.threads import run_ranges

# Pairs gathered at once: two tiles of rows, which with two tiles of columns share each load.
_PAIRS = 2 * TILE_ROWS
# Channel pairs that are worth a thread of their own: about 50 us of packing.
_PACKED_PER_RANGE = 50_000
# Channels of one tile.
_CHANNELS = TILE_BYTES // 2
_COLUMNS = TILE_BYTES // 4


def aligned(shape: tuple[int, ...], dtype: np.dtype) -> NDArray:
    """Zeros that begin on a cache line: a tile row that crosses one is read twice."""
    size = int(np.prod(shape)) * dtype.itemsize
    memory = np.zeros(size + TILE_BYTES, np.uint8)
    start = -memory.ctypes.data % TILE_BYTES
    return memory[start : start + size].view(dtype).reshape(shape)


@kernel
def pack_pairs(weight, groups, start, stop, packed):
    """``[C_out, K, C_in / groups]`` bits to ``[K, groups, pairs, columns]`` for taps ``start .. stop``.

    Channels go in pairs, the first in the low half of an int32; pairs and columns beyond the weight's are zero.
    """
    depth = weight.shape[2]
    width = weight.shape[0] // groups
    for tap in range(start, stop):
        for g in range(groups):
            packed[tap, g] = 0
            for o in range(width):
                source = weight[g * width + o, tap]
                target = packed[tap, g, :, o]
                for c in range(depth // 2):
                    low, high = np.int32(source[2 * c]), np.int32(source[2 * c + 1])
                    target[c] = (low & np.int32(0xFFFF)) | (high << np.int32(16))
                if depth % 2:
                    target[depth // 2] = np.int32(source[depth - 1]) & np.int32(0xFFFF)


@kernel
def _convolve(
    x,
    packed,
    config,
    bias,
    residual,
    relu,
    in_rows,
    out_rows,
    tap_offsets,
    start,
    stop,
    gathered,
    product,
    sums,
    out,
):
    """Blocks ``start .. stop`` of output rows, as the float32 kernel takes them.

    ``gathered [32, channels]`` int16, ``product [32, 32]`` and ``sums [BLOCK, columns]`` float32 are scratch that
    begins on a cache line. ``gathered`` is zero at first, so that its padding multiplies nothing; rows that a tile
    does not need hold what was there before, and their products are never added.
    """
    taps, groups, pairs, columns = packed.shape
    n_out, c_out = out.shape
    width = c_out // groups
    depth = x.shape[1] // groups
    steps = pairs // 16
    flat_sums, added, flat = sums.reshape(-1), residual.reshape(-1), out.reshape(-1)
    position = tap_starts(out_rows, tap_offsets, start * BLOCK)
    stops = np.empty(taps, np.int64)
    load_configuration(config.ctypes.data)
    for block in range(start, stop):
        row0 = block * BLOCK
        row1 = min(n_out, row0 + BLOCK)
        block_stops(out_rows, tap_offsets, position, row0, row1, stops)
        for g in range(groups):
            own, at = g * width, row0 * c_out + g * width
            start_rows(flat_sums, 0, columns, row1 - row0, width, bias[own : own + width], added, at, c_out)
            for tap in range(taps):
                for p in range(position[tap], stops[tap], _PAIRS):
                    count = min(stops[tap] - p, _PAIRS)
                    gather_rows(
                        x.ctypes.data + g * depth * 2,
                        x.strides[0],
                        in_rows.ctypes.data + 4 * p,
                        count,
                        depth,
                        gathered.ctypes.data,
                        gathered.strides[0],
                    )
                    for first in range(0, columns, 2 * _COLUMNS):
                        tiles = min(2, (columns - first) // _COLUMNS)
                        multiply_tiles(
                            1 if count <= TILE_ROWS else 2,
                            tiles,
                            gathered.ctypes.data,
                            gathered.strides[0],
                            packed.ctypes.data + ((tap * groups + g) * pairs * columns + first) * 4,
                            columns * 4,
                            steps,
                            product.ctypes.data,
                            product.strides[0],
                        )
                        add_rows(
                            tiles,
                            product.ctypes.data,
                            product.strides[0],
                            out_rows.ctypes.data + 4 * p,
                            row0,
                            count,
                            sums.ctypes.data + 4 * first,
                            sums.strides[0],
                        )
            finish_rows(flat_sums, 0, columns, row1 - row0, width, relu, flat, at, c_out)
        copy_into(position, stops)
    release_tiles()


def convolve(
    x: NDArray[np.int16],
    weight: NDArray[np.int16],
    bias: NDArray[np.float32],
    residual: NDArray[np.float32],
    relu: bool,
    in_rows: NDArray[np.int32],
    out_rows: NDArray[np.int32],
    tap_offsets: NDArray[np.int64],
    groups: int,
    out: NDArray[np.float32],
    smallest: int,
) -> None:
    """The convolution of :meth:`sparseconv.backends.Backend.convolve` on bfloat16 bits, into ``out``.

    A range of fewer than ``smallest`` blocks is not worth a thread.
    """
    c_out, taps, depth = weight.shape
    channels = -(-depth // _CHANNELS) * _CHANNELS
    columns = -(-(c_out // groups) // _COLUMNS) * _COLUMNS

    def pack() -> NDArray[np.int32]:
        made: NDArray[np.int32] = aligned((taps, groups, channels // 2, columns), np.dtype(np.int32))
        run_ranges(
            lambda start, stop: pack_pairs(weight, groups, start, stop, made),
            taps,
            1 + _PACKED_PER_RANGE * taps // max(1, made.size),
        )
        return made

    packed = packed_weight(weight, ("tiles", groups), pack)

    def work(start: int, stop: int) -> None:
        _convolve(
            x,
            packed,
            configuration(),
            bias,
            residual,
            relu,
            in_rows,
            out_rows,
            tap_offsets,
            start,
            stop,
            aligned((_PAIRS, channels), np.dtype(np.int16)),
            aligned((_PAIRS, 2 * _COLUMNS), np.dtype(np.float32)),
            aligned((BLOCK, columns), np.dtype(np.float32)),
            out,
        )

    run_ranges(work, -(-len(out) // BLOCK), smallest)
