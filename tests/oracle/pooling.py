"""Pooling over given pairs, in float64, channel by channel.

    max[o] = max of x[i],  sum[o] = sum of x[i],  avg[o] = sum[o] / number of pairs of o

over the pairs (i, o) of all taps: absent inputs are not zeros, they do not take part.
An output row without any pair is 0 in all three and passes no gradient.

Ties of the maximum go to the first maximal pair in tap order. A NaN is greater than every
number, so the output is NaN and the first NaN in tap order receives the gradient.
"""

import numpy as np
import numpy.typing as npt

from .convolution import Array, Float64
from .pairs import Pairs


def max_pool(features: Array, pairs: Pairs, n_out: int) -> Float64:
    """Maximum over the active inputs: `[N_in, C]` -> `[n_out, C]`."""
    x = np.asarray(features, dtype=np.float64)
    source = _max_rows(x, pairs, n_out)
    out = np.zeros((n_out, x.shape[1]))
    for out_row, channel in np.ndindex(n_out, x.shape[1]):
        if source[out_row, channel] >= 0:
            out[out_row, channel] = x[source[out_row, channel], channel]
    return out


def max_pool_grad(grad_output: Array, features: Array, pairs: Pairs) -> Float64:
    """Gradient `[N_in, C]` of `max_pool`, from grad_output `[n_out, C]`."""
    x = np.asarray(features, dtype=np.float64)
    n_out = grad_output.shape[0]
    source = _max_rows(x, pairs, n_out)
    grad = np.zeros_like(x)
    for out_row, channel in np.ndindex(n_out, x.shape[1]):
        if source[out_row, channel] >= 0:
            grad[source[out_row, channel], channel] += grad_output[out_row, channel]
    return grad


def sum_pool(features: Array, pairs: Pairs, n_out: int) -> Float64:
    """Sum over the active inputs: `[N_in, C]` -> `[n_out, C]`."""
    out = np.zeros((n_out, features.shape[1]))
    for of_tap in pairs:
        for in_row, out_row in of_tap:
            out[out_row] += features[in_row]
    return out


def sum_pool_grad(grad_output: Array, pairs: Pairs, n_in: int) -> Float64:
    """Gradient `[n_in, C]` of `sum_pool`, from grad_output `[n_out, C]`."""
    grad = np.zeros((n_in, grad_output.shape[1]))
    for of_tap in pairs:
        for in_row, out_row in of_tap:
            grad[in_row] += grad_output[out_row]
    return grad


def avg_pool(features: Array, pairs: Pairs, n_out: int) -> Float64:
    """Average over the active inputs that exist: `[N_in, C]` -> `[n_out, C]`."""
    counts = _pair_counts(pairs, n_out)
    return sum_pool(features, pairs, n_out) / np.maximum(counts, 1)[:, None]


def avg_pool_grad(grad_output: Array, pairs: Pairs, n_in: int) -> Float64:
    """Gradient `[n_in, C]` of `avg_pool`, from grad_output `[n_out, C]`."""
    counts = _pair_counts(pairs, grad_output.shape[0])
    grad = np.zeros((n_in, grad_output.shape[1]))
    for of_tap in pairs:
        for in_row, out_row in of_tap:
            grad[in_row] += np.asarray(grad_output[out_row], dtype=np.float64) / counts[out_row]
    return grad


def _pair_counts(pairs: Pairs, n_out: int) -> npt.NDArray[np.int64]:
    counts = np.zeros(n_out, dtype=np.int64)
    for of_tap in pairs:
        for _, out_row in of_tap:
            counts[out_row] += 1
    return counts


def _max_rows(x: Float64, pairs: Pairs, n_out: int) -> npt.NDArray[np.int64]:
    """The input row that each output element takes, `[n_out, C]`; -1 where there is none."""
    source = np.full((n_out, x.shape[1]), -1, dtype=np.int64)
    for of_tap in pairs:
        for in_row, out_row in of_tap:
            for channel in range(x.shape[1]):
                best = source[out_row, channel]
                if best < 0 or _exceeds(x[in_row, channel], x[best, channel]):
                    source[out_row, channel] = in_row
    return source


def _exceeds(value: float, best: float) -> bool:
    """Strictly greater, with NaN above every number and equal to itself."""
    return not np.isnan(best) and bool(np.isnan(value) or value > best)
