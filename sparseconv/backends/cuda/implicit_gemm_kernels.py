"""Triton kernels of the fused implicit GEMM and of its tables.

The only file that imports Triton: import it when it is needed.

A row number times a stride passes 2^31 on large inputs, so row numbers are widened before they are multiplied.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Under TRITON_INTERPRET the kernels run as Python, on CPU tensors.
INTERPRETED: bool = triton.knobs.runtime.interpret


@triton.jit
def convolve_tile(
    x,
    weight,
    bias,
    residual,
    sums,
    out,
    sources,
    step_taps,
    tile_starts,
    rows,
    x_row,
    x_column,
    weight_out,
    weight_tap,
    weight_column,
    depth,
    width,
    channels_out,
    channel_blocks,
    column_tiles,
    tiles_per_group,
    RELU: tl.constexpr,
    EVEN_DEPTH: tl.constexpr,
    EVEN_WIDTH: tl.constexpr,
    WIDEN: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """One tile of ``BLOCK_M`` output rows and ``BLOCK_N`` output channels of one group.

    A step is one tap of one tile; ``sources [steps, BLOCK_M]`` names the input row of each lane, -1 where there
    is none. ``rows [tiles * BLOCK_M]`` names the output row of each lane, -1 beyond the last. One loop runs over
    steps and channel blocks together, so that it is long enough to be pipelined. ``sums`` are those of earlier
    taps, in float32, or None; they may be the memory of ``out``. ``WIDEN`` multiplies in float32,
    for the interpreter, which cannot multiply bfloat16; the products are the same.
    """
    program = tl.program_id(0)
    tile = (program // column_tiles).to(tl.int64)
    column_tile = program % column_tiles
    group = column_tile // tiles_per_group
    lanes = tl.arange(0, BLOCK_M)
    column = (column_tile % tiles_per_group) * BLOCK_N + tl.arange(0, BLOCK_N)
    in_width = column < width
    out_column = (group * width + column).to(tl.int64)
    row = tl.load(rows + tile * BLOCK_M + lanes)
    place = row.to(tl.int64)[:, None] * channels_out + out_column[None, :]
    stored = (row >= 0)[:, None] & in_width[None, :]
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    if sums is not None:
        total = tl.load(sums + place, mask=stored, other=0.0)

    first_step = tl.load(tile_starts + tile)
    steps = (tl.load(tile_starts + tile + 1) - first_step).to(tl.int32)
    weight_columns = weight + out_column[None, :] * weight_out
    first_channel = group * depth
    for iteration in range(steps * channel_blocks):
        step = first_step + iteration // channel_blocks
        channel = (iteration % channel_blocks) * BLOCK_K + tl.arange(0, BLOCK_K)
        tap = tl.load(step_taps + step).to(tl.int64)
        source = tl.load(sources + step * BLOCK_M + lanes)
        a_mask = (source >= 0)[:, None]
        b_mask = in_width[None, :]
        if not EVEN_DEPTH:
            in_depth = channel < depth
            a_mask = a_mask & in_depth[None, :]
            b_mask = b_mask & in_depth[:, None]
        in_column = (first_channel + channel).to(tl.int64)
        a_places = x + source.to(tl.int64)[:, None] * x_row + in_column[None, :] * x_column
        b_places = weight_columns + tap * weight_tap + channel.to(tl.int64)[:, None] * weight_column
        a = tl.load(a_places, mask=a_mask, other=0.0)
        b = tl.load(b_places) if EVEN_DEPTH and EVEN_WIDTH else tl.load(b_places, mask=b_mask, other=0.0)
        if WIDEN:
            a = a.to(tl.float32)
            b = b.to(tl.float32)
        total = tl.dot(a, b, total, input_precision=PRECISION)

    if bias is not None:
        total += tl.load(bias + out_column, mask=in_width, other=0.0).to(tl.float32)[None, :]
    if residual is not None:
        total += tl.load(residual + place, mask=stored, other=0.0).to(tl.float32)
    if RELU:
        # A comparison, not a maximum: NaN stays.
        total = tl.where(total < 0.0, 0.0, total)
    tl.store(out + place, total, mask=stored)


@triton.jit
def outer_tile(
    x,
    grad,
    in_rows,
    out_rows,
    tasks,
    partial,
    x_row,
    x_column,
    grad_row,
    grad_column,
    depth,
    width,
    channels_out,
    tiles,
    tiles_per_group,
    depth_tiles,
    EVEN_DEPTH: tl.constexpr,
    EVEN_WIDTH: tl.constexpr,
    WIDEN: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Sum of ``grad[o] (x) x[i]`` over the pairs of one task, for one tile of the weight of one group.

    ``tasks [tasks, 2]`` are the first pair of each task and the pair behind its last; all lie in one tap.
    ``partial`` is ``[tasks, C_out, C_in / groups]``.
    """
    program = tl.program_id(0)
    task = (program // tiles).to(tl.int64)
    tile = program % tiles
    group = tile // tiles_per_group
    within = tile % tiles_per_group
    o = (within // depth_tiles) * BLOCK_O + tl.arange(0, BLOCK_O)
    c = (within % depth_tiles) * BLOCK_C + tl.arange(0, BLOCK_C)
    in_width = o < width
    in_depth = c < depth
    out_column = (group * width + o).to(tl.int64)
    in_column = (group * depth + c).to(tl.int64)
    first = tl.load(tasks + 2 * task)
    count = (tl.load(tasks + 2 * task + 1) - first).to(tl.int32)
    grad_columns = grad + out_column[:, None] * grad_column
    x_columns = x + in_column[None, :] * x_column
    total = tl.zeros((BLOCK_O, BLOCK_C), tl.float32)
    for start in range(0, count, BLOCK_P):
        place = start + tl.arange(0, BLOCK_P)
        live = place < count
        target = tl.load(out_rows + first + place, mask=live, other=0).to(tl.int64)
        source = tl.load(in_rows + first + place, mask=live, other=0).to(tl.int64)
        g_mask = live[None, :]
        f_mask = live[:, None]
        if not EVEN_WIDTH:
            g_mask = g_mask & in_width[:, None]
        if not EVEN_DEPTH:
            f_mask = f_mask & in_depth[None, :]
        g = tl.load(grad_columns + target[None, :] * grad_row, mask=g_mask, other=0.0)
        f = tl.load(x_columns + source[:, None] * x_row, mask=f_mask, other=0.0)
        if WIDEN:
            g = g.to(tl.float32)
            f = f.to(tl.float32)
        total = tl.dot(g, f, total, input_precision=PRECISION)
    places = partial + (task * channels_out + out_column)[:, None] * depth + c.to(tl.int64)[None, :]
    tl.store(places, total, mask=in_width[:, None] & in_depth[None, :])


@triton.jit
def sum_tasks(partial, first_tasks, out, size, taps, depth, blocks, TASKS: tl.constexpr, BLOCK: tl.constexpr):
    """Add the partial sums of one tap, ``TASKS`` at a time in their order, into ``out [C_out, K, C_in / groups]``.

    ``size`` is the number of values of one tap, and ``blocks`` how many programs share them.
    """
    program = tl.program_id(0)
    tap = program // blocks
    place = (program % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < size
    first = tl.load(first_tasks + tap)
    count = (tl.load(first_tasks + tap + 1) - first).to(tl.int32)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, count, TASKS):
        task = start + tl.arange(0, TASKS)
        places = partial + (first + task)[:, None] * size + place[None, :]
        values = tl.load(places, mask=(task < count)[:, None] & inside[None, :], other=0.0)
        total += tl.sum(values, 0)
    o = place // depth
    tl.store(out + (o * taps + tap) * depth + place % depth, total, mask=inside)


@triton.jit
def _or(a, b):
    return a | b


@triton.jit
def _tap_of(pair, ends, taps):
    """Tap of each pair, counted from the first of ``taps`` taps; ``ends`` are the pairs behind each tap's."""
    tap = tl.zeros_like(pair)
    for t in range(taps - 1):
        tap += (pair >= tl.load(ends + t)).to(tl.int64)
    return tap


@triton.jit
def mark_taps(out_rows, ends, bits, masks, first, count, taps, BLOCK: tl.constexpr):
    """Set the bit of each pair's tap in ``masks [n_out]``; the only atomics, and bits have no order."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = place < count
    pair = first + place
    bit = tl.load(bits + _tap_of(pair, ends, taps), mask=live, other=0).to(tl.int32)
    row = tl.load(out_rows + pair, mask=live, other=0)
    tl.atomic_or(masks + row, 1 << bit, mask=live, sem="relaxed")


@triton.jit
def rank_masks(masks, ranks, count, BLOCK: tl.constexpr):
    """Place of each mask of 31 bits in the order of the Gray code."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = tl.load(masks + place, mask=place < count, other=0)
    mask ^= mask >> 1
    mask ^= mask >> 2
    mask ^= mask >> 4
    mask ^= mask >> 8
    mask ^= mask >> 16
    tl.store(ranks + place, mask, mask=place < count)


@triton.jit
def join_masks(masks, order, tile_masks, steps, count, taps, BLOCK_M: tl.constexpr):
    """Taps of each tile of ``BLOCK_M`` rows in their order, as a mask and as a number."""
    tile = tl.program_id(0).to(tl.int64)
    place = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    row = tl.load(order + place, mask=place < count, other=0)
    joined = tl.reduce(tl.load(masks + row, mask=place < count, other=0), 0, _or)
    tl.store(tile_masks + tile, joined)
    number = joined & 1
    for t in range(1, taps):
        number += (joined >> t) & 1
    tl.store(steps + tile, number)


@triton.jit
def write_tiles(
    order,
    by_steps,
    masks,
    starts,
    bits,
    tile_masks,
    rows,
    lanes,
    step_taps,
    count,
    first_tap,
    taps,
    BLOCK_M: tl.constexpr,
):
    """Rows and taps of each tile in its final place, the lane of each row, and the tile's mask."""
    tile = tl.program_id(0).to(tl.int64)
    before = tl.load(by_steps + tile)
    place = before * BLOCK_M + tl.arange(0, BLOCK_M)
    row = tl.load(order + place, mask=place < count, other=-1)
    lane = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    tl.store(rows + lane, row.to(tl.int32))
    tl.store(lanes + row, lane, mask=place < count)
    mask = tl.load(masks + before)
    tl.store(tile_masks + tile, mask)
    step = tl.load(starts + tile)
    for t in range(taps):
        has = (mask >> tl.load(bits + t).to(tl.int32)) & 1
        tl.store(step_taps + step, first_tap + t, mask=has != 0)
        step += has


@triton.jit
def place_pairs(
    in_rows,
    out_rows,
    ends,
    bits,
    lanes,
    tile_masks,
    starts,
    sources,
    first,
    count,
    taps,
    BLOCK_M: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write the input row of each pair into its lane of its step."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = place < count
    pair = first + place
    tap = _tap_of(pair, ends, taps)
    lane = tl.load(lanes + tl.load(out_rows + pair, mask=live, other=0), mask=live, other=0)
    tile = lane // BLOCK_M
    mask = tl.load(tile_masks + tile, mask=live, other=0)
    step = tl.load(starts + tile, mask=live, other=0)
    for t in range(taps - 1):
        has = (mask >> tl.load(bits + t).to(tl.int32)) & 1
        step += tl.where(t < tap, has, 0)
    source = tl.load(in_rows + pair, mask=live, other=0)
    tl.store(sources + step * BLOCK_M + lane % BLOCK_M, source, mask=live)
