"""How other libraries store a convolution's weight, and the way from there to ``[C_out, *kernel, C_in / groups]``.

Here taps are row-major, the last axis fastest, not flipped, axes in the order of the index columns. All of these
libraries compute a cross-correlation too, so a conversion only moves numbers: it is exact.

| source            | stored as                          | taps                                               |
|-------------------|------------------------------------|----------------------------------------------------|
| spconv2           | [C_out, *kernel, C_in]             | as here                                            |
| spconv2_native    | [*kernel, C_out, C_in]             | as here (spconv 2.0 and 2.1)                       |
| spconv1, mmcv     | [*kernel, C_in, C_out]             | as here                                            |
| torchsparse       | [K, C_in, C_out], [C_in, C_out]    | K odd: first axis fastest; K even: last axis       |
| minkowski         | [K, C_in, C_out], [C_in, C_out]    | first axis fastest                                 |
| sparseconvnet     | [K, groups, C_in / g, C_out / g]   | last axis fastest                                  |
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

from torch import Tensor

Source = Literal["spconv1", "spconv2", "spconv2_native", "mmcv", "torchsparse", "minkowski", "sparseconvnet"]
SOURCES: tuple[str, ...] = get_args(Source)

# Sources whose tensors hold the kernel's shape.
_WITH_AXES = ("spconv1", "mmcv", "spconv2", "spconv2_native")


def convert_weight(
    weight: Tensor, source: str, kernel_size: Sequence[int] | None = None, reverse_axes: bool = False
) -> Tensor:
    """One weight to ``[C_out, *kernel, C_in / groups]``, contiguous.

    Args:
        weight: as ``source`` stores it.
        source: one of :data:`SOURCES`.
        kernel_size: kernel in the source's axis order; None where the tensor's shape tells.
        reverse_axes: read the source's axes in reverse order: x, y, z to z, y, x.

    Raises:
        ValueError: no such source, or a shape that it does not have.
    """
    if source not in SOURCES:
        raise ValueError(f"source must be one of {', '.join(SOURCES)}, got {source!r}")
    if source in _WITH_AXES:
        converted = _with_axes(weight, source)
    else:
        if kernel_size is None:
            raise ValueError(f"a weight of {source} does not tell its kernel_size: give it")
        converted = _from_taps(weight, source, tuple(kernel_size))
    if reverse_axes:
        axes = range(1, converted.dim() - 1)
        converted = converted.permute(0, *reversed(axes), converted.dim() - 1)
    return converted.contiguous()


def _with_axes(weight: Tensor, source: str) -> Tensor:
    if weight.dim() < 3:
        raise ValueError(f"a weight of {source} has kernel axes and two channel axes, got {list(weight.shape)}")
    if source in ("spconv1", "mmcv"):
        return weight.movedim(-1, 0)
    return weight.movedim(-2, 0) if source == "spconv2_native" else weight


def _from_taps(weight: Tensor, source: str, kernel: tuple[int, ...]) -> Tensor:
    taps = math.prod(kernel)
    if source == "sparseconvnet":
        if weight.dim() == 3:  # written before groups came
            weight = weight[:, None]
        if weight.dim() != 4 or len(weight) != taps:
            raise ValueError(
                f"a weight of sparseconvnet with kernel_size {kernel} has shape [{taps}, groups, C_in / groups, "
                f"C_out / groups], got {list(weight.shape)}"
            )
        groups, depth, width = weight.shape[1:]
        return weight.permute(1, 3, 0, 2).reshape(groups * width, *kernel, depth)
    if weight.dim() == 2 and taps > 1 and len(weight) == taps:
        weight = weight[:, None]  # channel by channel: [K, C] is [K, 1, C]
    elif weight.dim() == 2:
        weight = weight[None]
    if weight.dim() != 3 or len(weight) != taps:
        raise ValueError(
            f"a weight of {source} with kernel_size {kernel} has shape [{taps}, C_in, C_out], got "
            f"{list(weight.shape)}"
        )
    first_axis_fastest = source == "minkowski" or taps % 2 == 1
    by_tap = weight.permute(2, 0, 1)  # [C_out, K, C_in]
    if not first_axis_fastest:
        return by_tap.unflatten(1, kernel)
    return by_tap.unflatten(1, kernel[::-1]).permute(0, *range(len(kernel), 0, -1), len(kernel) + 1)


def guess_cube(taps: int, ndim: int) -> tuple[int, ...] | None:
    """The kernel of equal sides with so many taps; None where there is none."""
    side = round(taps ** (1 / ndim))
    return (side,) * ndim if side**ndim == taps else None


def describe_foreign(name: str, found: Sequence[int], expected: Sequence[int]) -> str | None:
    """What to do about a weight of another shape, where it is another library's layout of the expected one.

    Args:
        name: ``"weight"`` or ``"kernel"``: the last part of its key.
        found: its shape.
        expected: ``[C_out, *kernel, C_in / groups]``.
    """
    found, expected = tuple(found), tuple(expected)
    c_out, *kernel, depth = expected
    taps = math.prod(kernel)
    likely: tuple[str, ...] = ()
    if name == "kernel" and (found[-2:] == (depth, c_out) or found == (taps, c_out)):
        likely = ("minkowski", "torchsparse")
    elif found == expected:
        return None
    elif found == (*kernel, depth, c_out):
        likely = ("spconv1", "mmcv")
    elif found == (*kernel, c_out, depth):
        likely = ("spconv2_native",)
    elif len(found) == 4 and found[0] == taps and found[1] * found[3] == c_out and found[2] == depth:
        likely = ("sparseconvnet",)
    elif found == (taps, depth, c_out):
        likely = ("minkowski", "torchsparse", "sparseconvnet")
    if not likely:
        return None
    calls = " or ".join(f'source="{source}"' for source in likely)
    return (
        f"the {name} of shape {list(found)} is the layout of {' / '.join(likely)}, and this layer has "
        f"{list(expected)} [C_out, *kernel, C_in / groups]: convert the state dict first, "
        f"sparseconv.checkpoints.convert(state_dict, {calls}, model=model), or the file with sparseconv convert"
    )
