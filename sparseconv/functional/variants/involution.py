"""Involution: a kernel for each output site, shared by the channels of a group."""

from __future__ import annotations

from sparseconv import ops
from sparseconv.compilation import eager
from sparseconv.functional.pool import mean_over
from sparseconv.functional.variants.placement import Size, by_output, cells
from sparseconv.geometry import ConvGeometry
from sparseconv.kernel_map import KernelMap
from sparseconv.tensor import SparseTensor, check_sparse


def pool_cells(input: SparseTensor, factor: Size) -> SparseTensor:
    """Mean of the voxels that exist in each cell of ``factor`` sites, on the occupied cells, sorted.

    Args:
        input: sparse tensor ``[N, C]``.
        factor: side of the cells: one integer, or one for each axis.

    Returns:
        ``[n_out, C]`` at ``floor(site / factor)``, on a grid of ``ceil(shape / factor)``.

    Raises:
        TypeError: the input is no sparse tensor, or the factor no integers.
        ValueError: a factor out of bounds.
    """
    check_sparse(input, "pool_cells")
    sites, kernel_map = cells(input.coordinates, factor)
    return SparseTensor.from_coordinates(mean_over(input.features, kernel_map), sites, input.named_maps)


def involution_map(input: SparseTensor, kernel: SparseTensor, geometry: ConvGeometry) -> KernelMap:
    """The pairs of an involution: from the input's sites onto the kernel's."""
    if kernel.batch_size != input.batch_size:
        raise ValueError(
            f"input and kernel must be batches of the same size, got {input.batch_size} and {kernel.batch_size}"
        )
    return input.coordinates.map_onto(kernel.coordinates, geometry)


def involution_geometry(ndim: int, kernel_size: Size, stride: Size = 1, dilation: Size = 1) -> ConvGeometry:
    """The centred window.

    Raises:
        ValueError: an even side.
    """
    centred = ConvGeometry.submanifold(ndim, kernel_size, dilation)
    return ConvGeometry.create(ndim, centred.kernel_size, stride, centred.padding, centred.dilation)


@eager
def involution(
    input: SparseTensor, kernel: SparseTensor, kernel_size: Size, stride: Size = 1, dilation: Size = 1
) -> SparseTensor:
    """Sum the neighbours of each output site with that site's own kernel.

    ``y[q, c] = sum over t of k[q, c // (C/G), t] x[s q + d (t - (K-1)/2), c]`` over the voxels that exist. Li et
    al., "Involution: Inverting the Inherence of Convolution for Visual Recognition", arXiv 2103.06255.

    Args:
        input: ``[N, C]``.
        kernel: ``[n_out, G * taps]`` on the output's sites, channels in the order ``(group, tap)``, taps
            row-major; G divides C. At stride 1 these are the input's sites, at a stride its :func:`pool_cells`.
        kernel_size: odd sides.
        stride: step of the window.
        dilation: spacing of the taps.

    Returns:
        ``[n_out, C]`` on the kernel's sites.

    Raises:
        ValueError: an even side, or shapes that do not fit.
    """
    check_sparse(input, "involution")
    check_sparse(kernel, "the kernel of involution")
    geometry = involution_geometry(input.ndim, kernel_size, stride, dilation)
    taps, channels = geometry.volume, input.features.shape[1]
    groups = kernel.features.shape[1] // taps
    if groups == 0 or kernel.features.shape[1] % taps or channels % groups:
        raise ValueError(
            f"the kernel must have G x {taps} channels (groups x taps) with G a divisor of the {channels} "
            f"channels, got {kernel.features.shape[1]}"
        )
    pairs = by_output(involution_map(input, kernel, geometry))
    by_tap = kernel.features.to(input.dtype).unflatten(1, (groups, taps)).transpose(1, 2)  # [n_out, taps, G]
    chosen = pairs.out_rows.long() * taps + pairs.taps
    coefficients = by_tap.reshape(-1, groups).index_select(0, chosen)
    features = ops.weighted_sum(
        input.features, coefficients, pairs.in_rows, pairs.out_rows, len(kernel), pairs.by_in_rows
    )
    return SparseTensor.from_coordinates(features, kernel.coordinates, input.named_maps)
