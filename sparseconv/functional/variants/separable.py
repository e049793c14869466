"""Convolutions in factors: spatially separable, flattened and depthwise separable."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sparseconv.compilation import eager
from sparseconv.functional.conv import sparse_conv, subm_conv
from sparseconv.functional.kernel_axes import check_kernel_axes
from sparseconv.functional.variants.placement import Size, check_stride
from sparseconv.geometry import MAX_PADDING, MAX_STEP, per_axis
from sparseconv.tensor import SparseTensor, check_sparse

Axes = tuple[int, ...]
Order = str | Sequence[int] | None

_NAMED_ORDERS = {"hw": (0, 1), "wh": (1, 0)}


def stage_axes(ndim: int, order: Order) -> tuple[int, ...]:
    """Axis of each one-dimensional stage: first axis first by default.

    Args:
        ndim: number of axes.
        order: every axis once; in 2D also ``"hw"`` (first axis first) or ``"wh"``; or None.

    Raises:
        ValueError: another order.
    """
    axes = range(ndim) if order is None else _NAMED_ORDERS.get(order, ()) if isinstance(order, str) else order
    if sorted(axes) != list(range(ndim)):
        names = ", or 'hw' or 'wh'" if ndim == 2 else ""
        raise ValueError(f"order must name each of the axes {list(range(ndim))} once{names}, got {order!r}")
    return tuple(axes)


def along_axis(
    axis: int, ndim: int, stride: Size, padding: Size, dilation: Size
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Stride, padding and dilation of a one-dimensional kernel along ``axis``: 1, 0 and 1 on the other axes."""
    steps = per_axis(stride, ndim, "stride", minimum=1, maximum=MAX_STEP)
    pads = per_axis(padding, ndim, "padding", minimum=0, maximum=MAX_PADDING)
    spread = per_axis(dilation, ndim, "dilation", minimum=1, maximum=MAX_STEP)

    def only(values: tuple[int, ...], other: int) -> tuple[int, ...]:
        return tuple(value if place == axis else other for place, value in enumerate(values))

    return only(steps, 1), only(pads, 0), only(spread, 1)


def _check_along(weight: Tensor, axis: int, ndim: int) -> None:
    kernel_size = check_kernel_axes(weight, ndim)
    if any(side != 1 for place, side in enumerate(kernel_size) if place != axis):
        wanted = ", ".join("k" if place == axis else "1" for place in range(ndim))
        raise ValueError(
            f"the weight of the stage along axis {axis} must have shape [C_out, {wanted}, C_in / groups], got "
            f"{list(weight.shape)}"
        )


def _stage(
    input: SparseTensor,
    weight: Tensor,
    bias: Tensor | None,
    axis: int,
    window: tuple[Size, Size, Size],
    groups: int,
    subm: bool,
) -> SparseTensor:
    _check_along(weight, axis, input.ndim)
    stride, padding, dilation = along_axis(axis, input.ndim, *window)
    if subm:
        check_stride(stride, input.ndim)
        return subm_conv(input, weight, bias, dilation, groups)
    return sparse_conv(input, weight, bias, stride, padding, dilation, groups)


@eager
def spatially_separable_conv(
    input: SparseTensor,
    weights: Sequence[Tensor],
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    order: Order = None,
    subm: bool = False,
) -> SparseTensor:
    """One-dimensional convolutions, one along each axis, and one bias at the end.

    Each stage makes the sites that it reaches, so that the whole equals the convolution with the product kernel,
    its sites included. With ``subm`` every stage keeps the input's sites: that is **another operator** than the
    submanifold convolution with the product kernel, since a path over an absent voxel is lost; it reads only what
    it can walk to along the axes over active voxels. Szegedy et al., "Rethinking the Inception Architecture for
    Computer Vision", arXiv 1512.00567 (which has a norm and a ReLU between the stages).

    Args:
        input: ``[N, C]``.
        weights: one for each axis, in the order of the stages: ``[M, .., k, .., C / groups]`` with k on its axis.
        bias: of the last stage, or None.
        stride: as in :func:`sparse_conv`; each stage strides along its own axis. 1 with ``subm``.
        padding: likewise; without effect with ``subm``.
        dilation: likewise.
        groups: channel groups of every stage.
        order: axis of each stage; the first axis first by default.
        subm: keep the input's sites.

    Returns:
        ``[n_out, O]`` on the sites of the last stage, sorted; with ``subm`` ``[N, O]`` on the input's sites.

    Raises:
        TypeError: no sparse tensor, or types differ.
        ValueError: another number of weights, a kernel that does not lie along its axis, or shapes that do not
            fit.
    """
    check_sparse(input, "spatially_separable_conv")
    axes = stage_axes(input.ndim, order)
    if len(weights) != input.ndim:
        raise ValueError(f"one weight is needed for each of the {input.ndim} axes, got {len(weights)}")
    for number, (weight, axis) in enumerate(zip(weights, axes, strict=True)):
        offset = bias if number == input.ndim - 1 else None
        input = _stage(input, weight, offset, axis, (stride, padding, dilation), groups, subm)
    return input


@eager
def flattened_conv(
    input: SparseTensor,
    lateral_weight: Tensor,
    weights: Sequence[Tensor],
    lateral_bias: Tensor | None = None,
    biases: Sequence[Tensor | None] | None = None,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    *,
    subm: bool = False,
) -> SparseTensor:
    """A convolution across channels, then each channel on its own along each axis, with nothing between them.

    Without biases and without ``subm`` the convolution with ``W[f, t, c] = alpha[f, c] prod over axes of
    beta_a[f, t_a]``, its sites included; with ``subm`` another operator, as in :func:`spatially_separable_conv`.
    Jin et al., "Flattened Convolutional Neural Networks for Feedforward Acceleration", arXiv 1412.5474.

    Args:
        input: ``[N, C]``.
        lateral_weight: ``[F, 1, .., 1, C]``.
        weights: one for each axis, the first axis first: ``[F, .., k, .., 1]`` with k on its axis.
        lateral_bias: ``[F]`` or None.
        biases: ``[F]`` or None for each axis; None for none.
        stride: as in :func:`sparse_conv`; each kernel strides along its own axis. 1 with ``subm``.
        padding: likewise; without effect with ``subm``.
        dilation: likewise.
        subm: keep the input's sites.

    Returns:
        ``[n_out, F]`` on the sites of the last stage, sorted; with ``subm`` ``[N, F]`` on the input's sites.

    Raises:
        TypeError: no sparse tensor, or types differ.
        ValueError: another number of weights or biases, or shapes that do not fit.
    """
    check_sparse(input, "flattened_conv")
    offsets = [None] * input.ndim if biases is None else list(biases)
    if len(weights) != input.ndim or len(offsets) != input.ndim:
        raise ValueError(
            f"one weight and one bias (or None) are needed for each of the {input.ndim} axes, got {len(weights)} "
            f"and {len(offsets)}"
        )
    if set(check_kernel_axes(lateral_weight, input.ndim)) != {1}:
        raise ValueError(f"the lateral weight must have one tap, got {list(lateral_weight.shape)}")
    filters = lateral_weight.shape[0]
    input = subm_conv(input, lateral_weight, lateral_bias)
    for axis, (weight, offset) in enumerate(zip(weights, offsets, strict=True)):
        input = _stage(input, weight, offset, axis, (stride, padding, dilation), filters, subm)
    return input


@eager
def depthwise_separable_conv(
    input: SparseTensor,
    depthwise_weight: Tensor,
    pointwise_weight: Tensor,
    depthwise_bias: Tensor | None = None,
    pointwise_bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    *,
    subm: bool = False,
    indice_key: str | None = None,
) -> SparseTensor:
    """A convolution of each channel on its own, then one across channels at each site.

    ``z[c m + j] = D[c m + j] * x[c]`` and ``y = P z``: the convolution with
    ``W[o, c] = sum over j of P[o, c m + j] D[c m + j]`` and the bias ``P b_D + b_P``, on its sites. Howard et al.,
    "MobileNets", arXiv 1704.04861 (which has a norm and a ReLU after each of the two).

    Args:
        input: ``[N, C]``.
        depthwise_weight: ``[C m, *kernel, 1]``; outputs ``c m .. c m + m - 1`` read channel ``c``.
        pointwise_weight: ``[O, 1, .., 1, C m]``.
        depthwise_bias: ``[C m]`` or None.
        pointwise_bias: ``[O]`` or None.
        stride: as in :func:`sparse_conv`, of the depthwise convolution; 1 with ``subm``.
        padding: likewise; without effect with ``subm``.
        dilation: likewise.
        subm: keep the input's sites.
        indice_key: a name for the depthwise convolution's map.

    Returns:
        ``[n_out, O]`` on every site in reach, sorted; with ``subm`` ``[N, O]`` on the input's sites.

    Raises:
        TypeError: no sparse tensor, or types differ.
        ValueError: shapes do not fit.
    """
    check_sparse(input, "depthwise_separable_conv")
    if set(check_kernel_axes(pointwise_weight, input.ndim)) != {1}:
        raise ValueError(f"the pointwise weight must have one tap, got {list(pointwise_weight.shape)}")
    channels = input.features.shape[1]
    if subm:
        check_stride(stride, input.ndim)
        middle = subm_conv(input, depthwise_weight, depthwise_bias, dilation, channels, indice_key)
    else:
        middle = sparse_conv(
            input, depthwise_weight, depthwise_bias, stride, padding, dilation, channels, indice_key
        )
    return subm_conv(middle, pointwise_weight, pointwise_bias)
