"""Convolution over given pairs, in float64: one addition per pair and channel group.

    out[o, group] = bias[group] + sum over taps t, pairs (i, o) of t:  W[group, t, :] x[i, group]

The direction of the convolution lies in the pairs alone: (fine, coarse) rows convolve,
(coarse, fine) rows convolve transposed, and the weight `[C_out, *kernel, C_in / groups]` is
read in the same way in both.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from .pairs import Pairs

Array = npt.NDArray[np.floating]
Float64 = npt.NDArray[np.float64]


def convolve(
    features: Array,
    weight: Array,
    bias: Array | None,
    pairs: Pairs,
    n_out: int,
    groups: int = 1,
) -> Float64:
    """Convolve the features along the pairs.

    Args:
        features: `[N_in, C_in]`.
        weight: `[C_out, *kernel, C_in / groups]`.
        bias: `[C_out]`, added to every output row, or None.
        pairs: per tap, (in_row, out_row).
        n_out: number of output rows.
        groups: number of consecutive channel blocks.

    Returns:
        `[n_out, C_out]`. A row that no pair reaches holds the bias.
    """
    x = np.asarray(features, dtype=np.float64)
    w = _weight_by_tap(weight, pairs)
    out = np.zeros((n_out, w.shape[0]))
    for tap, of_tap in enumerate(pairs):
        for in_row, out_row in of_tap:
            for outs, ins in _blocks(w.shape[0], x.shape[1], groups):
                out[out_row, outs] += w[outs, tap, :] @ x[in_row, ins]
    if bias is not None:
        out += np.asarray(bias, dtype=np.float64)
    return out


def convolve_grads(
    grad_output: Array,
    features: Array,
    weight: Array,
    pairs: Pairs,
    groups: int = 1,
) -> tuple[Float64, Float64, Float64]:
    """Gradients of sum(grad_output * convolve(features, weight, bias, pairs, n_out, groups)).

    Args:
        grad_output: `[n_out, C_out]`.
        features: `[N_in, C_in]`.
        weight: `[C_out, *kernel, C_in / groups]`.
        pairs: per tap, (in_row, out_row).
        groups: number of consecutive channel blocks.

    Returns:
        The gradients of features, weight (in the weight's own shape) and bias.
    """
    g = np.asarray(grad_output, dtype=np.float64)
    x = np.asarray(features, dtype=np.float64)
    w = _weight_by_tap(weight, pairs)
    grad_x = np.zeros_like(x)
    grad_w = np.zeros_like(w)
    for tap, of_tap in enumerate(pairs):
        for in_row, out_row in of_tap:
            for outs, ins in _blocks(w.shape[0], x.shape[1], groups):
                grad_x[in_row, ins] += g[out_row, outs] @ w[outs, tap, :]
                grad_w[outs, tap, :] += np.outer(g[out_row, outs], x[in_row, ins])
    return grad_x, grad_w.reshape(weight.shape), g.sum(axis=0)


def _weight_by_tap(weight: Array, pairs: Pairs) -> Float64:
    """The weight as `[C_out, K, C_in / groups]`: row-major taps are the order of the pairs."""
    return np.asarray(weight, dtype=np.float64).reshape(weight.shape[0], len(pairs), weight.shape[-1])


def _blocks(c_out: int, c_in: int, groups: int) -> Iterator[tuple[slice, slice]]:
    """The output and input channels of each group."""
    if c_out % groups or c_in % groups:
        raise ValueError(f"{c_in} input and {c_out} output channels do not split into {groups}")
    outs, ins = c_out // groups, c_in // groups
    for group in range(groups):
        yield slice(group * outs, (group + 1) * outs), slice(group * ins, (group + 1) * ins)
