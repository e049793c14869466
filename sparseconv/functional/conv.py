"""Convolutions on sparse tensors.

Weights are ``[C_out, *kernel, C_in / groups]``: taps row-major with the last axis fastest, not flipped, axes in
the order of the index columns. Features, weight and bias have one type (float32, float64, float16 or bfloat16),
or are brought to that of autocast; the output has it too. Sums are taken in float32 or wider.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sparseconv.compilation import eager
from sparseconv.coordinates import Coordinates
from sparseconv.functional.kernel_axes import check_kernel_axes
from sparseconv.functional.naming import recall, remember
from sparseconv.geometry import ConvGeometry, per_axis
from sparseconv.ops.mapped import convolve_features
from sparseconv.tensor import NamedMap, SparseTensor, check_sparse

Size = int | Sequence[int]


def _residual_rows(residual: SparseTensor | None, sites: Coordinates) -> Tensor | None:
    """Features of a residual that must lie on the output's sites, row for row."""
    if residual is None:
        return None
    check_sparse(residual, "residual")
    if not residual.coordinates.same_sites(sites):
        raise ValueError(
            f"the residual lies on {residual.coordinates} and the output on {sites}: add tensors on different "
            "sites with sparseconv.functional.add"
        )
    return residual.features


@eager
def subm_conv(
    input: SparseTensor,
    weight: Tensor,
    bias: Tensor | None = None,
    dilation: Size = 1,
    groups: int = 1,
    indice_key: str | None = None,
    *,
    residual: SparseTensor | None = None,
    relu: bool = False,
) -> SparseTensor:
    """Submanifold convolution: the output sites are the input's, row for row.

    Graham et al., "3D Semantic Segmentation with Submanifold Sparse Convolutional Networks", CVPR 2018.

    Args:
        input: sparse tensor ``[N, C_in]``.
        weight: ``[C_out, *kernel, C_in / groups]``, odd sides.
        bias: ``[C_out]`` or None.
        dilation: spacing of the taps, in sites.
        groups: channel groups.
        indice_key: a name for the map.
        residual: tensor ``[N, C_out]`` on the same sites, added to the result.
        relu: whether to set negative values to zero at the end.

    Returns:
        ``[N, C_out]`` on the input's sites.

    Raises:
        TypeError: the input is no sparse tensor, or types differ.
        ValueError: an even kernel side, or shapes that do not fit.
    """
    check_sparse(input, "subm_conv")
    geometry = ConvGeometry.submanifold(input.ndim, check_kernel_axes(weight, input.ndim), dilation)
    sites = input.coordinates
    kernel_map = sites.submanifold_map(geometry)
    added = _residual_rows(residual, sites)
    output = input.replace_feature(
        convolve_features(input.features, weight, bias, kernel_map, groups, added, relu)
    )
    record = NamedMap.record("submanifold", geometry, sites, sites, kernel_map)
    return remember(input, output, indice_key, record)


@eager
def sparse_conv(
    input: SparseTensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
    indice_key: str | None = None,
    *,
    residual: SparseTensor | None = None,
    relu: bool = False,
) -> SparseTensor:
    """Sparse convolution: an output site wherever at least one active input is in reach, sorted.

    Equal to ``torch.nn.functional.conv3d`` (``conv1d``, ``conv2d``) on the dense grid, at the output sites.

    Args:
        input: sparse tensor ``[N, C_in]``.
        weight: ``[C_out, *kernel, C_in / groups]``; sides may be even.
        bias: ``[C_out]`` or None.
        stride: step of the window, in sites.
        padding: empty sites on both sides of each axis of the grid; on an unbounded grid it shifts the output.
        dilation: spacing of the taps, in sites.
        groups: channel groups.
        indice_key: a name for the map, by which :func:`inverse_conv` and :func:`unpool` find it.
        residual: tensor ``[n_out, C_out]`` on the output's sites, added to the result.
        relu: whether to set negative values to zero at the end.

    Returns:
        ``[n_out, C_out]``; the grid is ``(in + 2 padding - dilation (kernel - 1) - 1) // stride + 1`` on each
        axis.

    Raises:
        TypeError: the input is no sparse tensor, or types differ.
        ValueError: the kernel is larger than the padded grid, or shapes do not fit.
    """
    check_sparse(input, "sparse_conv")
    geometry = ConvGeometry.create(input.ndim, check_kernel_axes(weight, input.ndim), stride, padding, dilation)
    sites, kernel_map = input.coordinates.downsample(geometry)
    added = _residual_rows(residual, sites)
    features = convolve_features(input.features, weight, bias, kernel_map, groups, added, relu)
    output = SparseTensor.from_coordinates(features, sites, input.named_maps)
    record = NamedMap.record("convolution", geometry, input.coordinates, sites, kernel_map)
    return remember(input, output, indice_key, record)


@eager
def sparse_conv_transpose(
    input: SparseTensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
    indice_key: str | None = None,
    *,
    residual: SparseTensor | None = None,
    relu: bool = False,
) -> SparseTensor:
    """Transposed convolution: an output site wherever an active input reaches, sorted.

    Equal to ``torch.nn.functional.conv_transpose3d`` on the dense grid at the output sites, its grid included. The
    weight is stored as every other one here: ``[C_out, ..]``, not torch's ``[C_in, C_out / groups, ..]``.

    Args:
        input: sparse tensor ``[N, C_in]``.
        weight: ``[C_out, *kernel, C_in / groups]``; sides may be even.
        bias: ``[C_out]`` or None.
        stride: sites of the output for one of the input.
        padding: sites cut off both sides of each axis of the output.
        output_padding: sites added behind the last one of each axis; below the larger of stride and dilation.
        dilation: spacing of the taps, in sites of the output.
        groups: channel groups.
        indice_key: a name for the map.
        residual: tensor ``[n_out, C_out]`` on the output's sites, added to the result.
        relu: whether to set negative values to zero at the end.

    Returns:
        ``[n_out, C_out]``; the grid is ``(in - 1) stride - 2 padding + dilation (kernel - 1) + output_padding +
        1`` on each axis.

    Raises:
        TypeError: the input is no sparse tensor, or types differ.
        ValueError: output_padding is not below the larger of stride and dilation, the padding removes the whole
            output, or shapes do not fit.
    """
    check_sparse(input, "sparse_conv_transpose")
    geometry = ConvGeometry.create(input.ndim, check_kernel_axes(weight, input.ndim), stride, padding, dilation)
    extra = check_output_padding(output_padding, geometry)
    sites, kernel_map = input.coordinates.upsample(geometry, extra)
    added = _residual_rows(residual, sites)
    features = convolve_features(input.features, weight, bias, kernel_map, groups, added, relu)
    output = SparseTensor.from_coordinates(features, sites, input.named_maps)
    record = NamedMap.record("transposed", geometry, input.coordinates, sites, kernel_map)
    return remember(input, output, indice_key, record)


def check_output_padding(output_padding: Size, geometry: ConvGeometry) -> tuple[int, ...]:
    """One output padding for each axis, below the larger of stride and dilation.

    Raises:
        ValueError: it is not.
    """
    limits = [max(s, d) for s, d in zip(geometry.stride, geometry.dilation, strict=True)]
    extra = per_axis(output_padding, geometry.ndim, "output_padding", minimum=0, maximum=max(limits))
    if any(e >= limit for e, limit in zip(extra, limits, strict=True)):
        raise ValueError(
            f"output_padding must be smaller than the larger of stride {geometry.stride} and dilation "
            f"{geometry.dilation}, got {extra}"
        )
    return extra


@eager
def inverse_conv(
    input: SparseTensor,
    weight: Tensor,
    bias: Tensor | None = None,
    indice_key: str = "",
    groups: int = 1,
    *,
    residual: SparseTensor | None = None,
    relu: bool = False,
) -> SparseTensor:
    """Inverse convolution: back to the sites of the layer named ``indice_key``, over its map swapped.

    The rows come out in the order that they had before that layer. On the same sites it is the transposed
    convolution of that layer's geometry.

    Args:
        input: sparse tensor ``[N, C_in]`` on the sites that the named layer made.
        weight: ``[C_out, *kernel, C_in / groups]``, with the kernel size of the named layer.
        bias: ``[C_out]`` or None.
        indice_key: name of the convolution or pooling to undo.
        groups: channel groups.
        residual: tensor ``[n_out, C_out]`` on the output's sites, added to the result.
        relu: whether to set negative values to zero at the end.

    Returns:
        ``[n_out, C_out]`` on the sites, and the grid, that the named layer read.

    Raises:
        TypeError: the input is no sparse tensor, or types differ.
        ValueError: no or an unknown name, a submanifold layer's, another kernel size, or other sites.
    """
    check_sparse(input, "inverse_conv")
    if not indice_key:
        raise ValueError("inverse_conv needs the indice_key of the layer that it undoes")
    record = recall(input, indice_key)
    kernel = check_kernel_axes(weight, input.ndim)
    if kernel != record.geometry.kernel_size:
        raise ValueError(
            f"the inverse of indice_key {indice_key!r} needs its kernel_size {record.geometry.kernel_size}, got "
            f"{kernel}"
        )
    added = _residual_rows(residual, record.inputs)
    features = convolve_features(input.features, weight, bias, record.kernel_map.transposed(), groups, added, relu)
    return SparseTensor.from_coordinates(features, record.inputs, input.named_maps)


@eager
def conv_onto(
    input: SparseTensor,
    target: SparseTensor | Coordinates,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
    transposed: bool = False,
) -> SparseTensor:
    """Convolution onto given sites: the values of a (transposed) convolution there, whether reached or not.

    Args:
        input: sparse tensor ``[N, C_in]``.
        target: the M sites to compute; a site that no input reaches gets the bias alone.
        weight: ``[C_out, *kernel, C_in / groups]``.
        bias: ``[C_out]`` or None.
        stride: as in the convolution.
        padding: as in the convolution.
        dilation: as in the convolution.
        groups: channel groups.
        transposed: read ``input`` as the coarse side and ``target`` as the fine side.

    Returns:
        ``[M, C_out]`` on the target's sites, row for row.

    Raises:
        TypeError: the input is no sparse tensor, the target neither one nor Coordinates, or types differ.
        ValueError: another batch size or number of axes, or shapes that do not fit.
    """
    check_sparse(input, "conv_onto")
    if not isinstance(target, SparseTensor | Coordinates):
        raise TypeError(
            f"the target must be a SparseTensor or Coordinates, got {type(target).__name__}: make sites of rows "
            "(batch, axes ..) with Coordinates(indices, spatial_shape, batch_size)"
        )
    sites = target.coordinates if isinstance(target, SparseTensor) else target
    if sites.batch_size != input.batch_size:
        raise ValueError(
            f"input and target must be batches of the same size, got {input.batch_size} and {sites.batch_size}"
        )
    geometry = ConvGeometry.create(input.ndim, check_kernel_axes(weight, input.ndim), stride, padding, dilation)
    if transposed:
        kernel_map = sites.map_onto(input.coordinates, geometry).transposed()
    else:
        kernel_map = input.coordinates.map_onto(sites, geometry)
    features = convolve_features(input.features, weight, bias, kernel_map, groups)
    return SparseTensor.from_coordinates(features, sites, input.named_maps)
