"""Convolutions on sparse tensors. Weights are ``[C_out, *kernel, C_in / groups]``; taps are not flipped."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sparseconv.compilation import eager
from sparseconv.coordinates import Coordinates
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


def _kernel_size(weight: Tensor, ndim: int) -> tuple[int, ...]:
    if weight.dim() != ndim + 2:
        raise ValueError(
            f"the weight must have shape [C_out, *kernel, C_in / groups] with {ndim} kernel axes, got "
            f"{list(weight.shape)}"
        )
    return tuple(weight.shape[1:-1])


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
        weight: ``[C_out, *kernel, C_in / groups]``, odd kernel.
        bias: ``[C_out]`` or None.
        dilation: spacing of the taps.
        groups: channel groups.
        indice_key: a name for the map.
        residual: tensor on the output's sites to add to the result.
        relu: whether to set negative values to zero at the end.

    Raises:
        ValueError: an even kernel, or shapes that do not fit.
    """
    check_sparse(input, "subm_conv")
    geometry = ConvGeometry.submanifold(input.ndim, _kernel_size(weight, input.ndim), dilation)
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

    Equal to ``torch.nn.functional.conv`` on the dense grid at the output sites.

    Raises:
        ValueError: the kernel is larger than the padded grid, or shapes do not fit.
    """
    check_sparse(input, "sparse_conv")
    geometry = ConvGeometry.create(input.ndim, _kernel_size(weight, input.ndim), stride, padding, dilation)
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

    Equal to ``torch.nn.functional.conv_transpose`` on the dense grid at the output sites, its grid included:
    ``(in-1) stride - 2 padding + dilation (kernel-1) + output_padding + 1``.

    Raises:
        ValueError: output_padding is not below the larger of stride and dilation, or shapes do not fit.
    """
    check_sparse(input, "sparse_conv_transpose")
    geometry = ConvGeometry.create(input.ndim, _kernel_size(weight, input.ndim), stride, padding, dilation)
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

    The rows come out in the order that they had before that layer.

    Raises:
        ValueError: unknown name, a submanifold layer's, another kernel size, or other sites.
    """
    check_sparse(input, "inverse_conv")
    record = recall(input, indice_key)
    kernel = _kernel_size(weight, input.ndim)
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
        target: the sites to compute; a site that no input reaches gets the bias alone.
        weight: ``[C_out, *kernel, C_in / groups]``.
        bias: ``[C_out]`` or None.
        stride: as in the convolution.
        padding: as in the convolution.
        dilation: as in the convolution.
        groups: channel groups.
        transposed: read ``input`` as the coarse side and ``target`` as the fine side.

    Raises:
        ValueError: another batch size or number of axes, or shapes that do not fit.
    """
    check_sparse(input, "conv_onto")
    sites = target.coordinates if isinstance(target, SparseTensor) else target
    if sites.batch_size != input.batch_size:
        raise ValueError(
            f"input and target must be batches of the same size, got {input.batch_size} and {sites.batch_size}"
        )
    geometry = ConvGeometry.create(input.ndim, _kernel_size(weight, input.ndim), stride, padding, dilation)
    if transposed:
        kernel_map = sites.map_onto(input.coordinates, geometry).transposed()
    else:
        kernel_map = input.coordinates.map_onto(sites, geometry)
    features = convolve_features(input.features, weight, bias, kernel_map, groups)
    return SparseTensor.from_coordinates(features, sites, input.named_maps)
