"""The second oracle: dense torch convolutions, read off at the active sites.

Absent sites are zeros, so a dense convolution (or transposed convolution) equals the sparse one
at the sparse output's sites, bias included. One to three axes are torch's own operators; four
axes are torch's three-axis operator once for each tap of the first axis.
Everything is differentiable by autograd.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .sites import Coords


def to_dense(features: Tensor, coords: Coords | Tensor, shape: Sequence[int], batch: int) -> Tensor:
    """Features `[N, C]` at coords `[N, 1 + D]`, zeros elsewhere: `[batch, C, *shape]`."""
    dense = features.new_zeros((batch, *shape, features.shape[1]))
    dense = dense.index_put(_index(coords), features)
    return dense.movedim(-1, 1)


def at_sites(dense: Tensor, coords: Coords | Tensor) -> Tensor:
    """Values `[N, C]` of `[B, C, *shape]` at coords `[N, 1 + D]`."""
    return dense.movedim(1, -1)[_index(coords)]


def dense_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int = 1,
) -> Tensor:
    """Convolution of every site.

    Args:
        x: `[B, C_in, *shape]`, one to four axes.
        weight: `[C_out, *kernel, C_in / groups]`.
        bias: `[C_out]` or None.
        stride: s per axis.
        padding: p per axis, zeros.
        dilation: d per axis.
        groups: number of consecutive channel blocks.

    Returns:
        `[B, C_out, *conv_output_shape]`.
    """
    w = weight.movedim(-1, 1)  # [C_out, C_in / groups, *kernel]
    s, p, d = tuple(stride), tuple(padding), tuple(dilation)
    if x.dim() < 6:
        conv: Callable[..., Tensor] = (F.conv1d, F.conv2d, F.conv3d)[x.dim() - 3]
        return conv(x, w, bias, s, p, d, groups)

    batch, _, n, *_ = x.shape
    n_taps = w.shape[2]
    n_out = (n + 2 * p[0] - d[0] * (n_taps - 1) - 1) // s[0] + 1
    x = F.pad(x, (0, 0, 0, 0, 0, 0, p[0], p[0]))
    terms: list[Tensor] = []
    for tap in range(n_taps):
        first = d[0] * tap
        slabs = x[:, :, first : first + s[0] * (n_out - 1) + 1 : s[0]]
        y = F.conv3d(_fold(slabs), w[:, :, tap], None, s[1:], p[1:], d[1:], groups)
        terms.append(_unfold(y, batch))
    return _add_bias(torch.stack(terms).sum(0), bias)


def dense_conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    output_padding: Sequence[int],
    groups: int = 1,
) -> Tensor:
    """Transposed convolution of every site.

    Args:
        x: `[B, C_in, *shape]`, one to four axes.
        weight: `[C_out, *kernel, C_in / groups]`, the layout of `dense_conv`: C_out are the
            channels of the result here too.
        bias: `[C_out]` or None.
        stride: s per axis.
        padding: p per axis, cut from both ends of the result.
        dilation: d per axis.
        output_padding: sites added at the far end of each axis.
        groups: number of consecutive channel blocks.

    Returns:
        `[B, C_out, *transposed_output_shape]`.
    """
    w = _transposed_weight(weight, groups)  # [C_in, C_out / groups, *kernel]
    s, p, d, extra = tuple(stride), tuple(padding), tuple(dilation), tuple(output_padding)
    if x.dim() < 6:
        functions = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
        conv: Callable[..., Tensor] = functions[x.dim() - 3]
        return conv(x, w, bias, s, p, extra, groups, d)

    batch, _, n, *_ = x.shape
    n_taps = w.shape[2]
    n_out = (n - 1) * s[0] - 2 * p[0] + d[0] * (n_taps - 1) + extra[0] + 1
    terms: list[Tensor] = []
    for tap in range(n_taps):
        y = F.conv_transpose3d(_fold(x), w[:, :, tap], None, s[1:], p[1:], extra[1:], groups, d[1:])
        y = _unfold(y, batch)
        term = y.new_zeros((batch, y.shape[1], n_out + 2 * p[0], *y.shape[3:]))
        first = d[0] * tap
        term[:, :, first : first + s[0] * (n - 1) + 1 : s[0]] = y
        terms.append(term)
    return _add_bias(torch.stack(terms).sum(0)[:, :, p[0] : p[0] + n_out], bias)


def _index(coords: Coords | Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.as_tensor(coords).long().unbind(1))


def _transposed_weight(weight: Tensor, groups: int) -> Tensor:
    """`[C_out, *kernel, C_in / groups]` -> torch's `[C_in, C_out / groups, *kernel]`."""
    c_out, *kernel, ins = weight.shape
    outs = c_out // groups
    by_group = weight.reshape(groups, outs, *kernel, ins)  # [G, C_out / G, *kernel, C_in / G]
    by_group = by_group.movedim(-1, 1)  # [G, C_in / G, C_out / G, *kernel]
    return by_group.reshape(groups * ins, outs, *kernel)


def _fold(x: Tensor) -> Tensor:
    """`[B, C, T, *rest]` -> `[B T, C, *rest]`."""
    return x.movedim(2, 1).flatten(0, 1)


def _unfold(x: Tensor, batch: int) -> Tensor:
    """`[B T, C, *rest]` -> `[B, C, T, *rest]`."""
    return x.unflatten(0, (batch, -1)).movedim(1, 2)


def _add_bias(x: Tensor, bias: Tensor | None) -> Tensor:
    return x if bias is None else x + bias.reshape(-1, *[1] * (x.dim() - 2))
