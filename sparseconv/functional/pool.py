"""Pooling over the inputs that exist: an absent site is no zero."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sparseconv import ops
from sparseconv.compilation import eager
from sparseconv.functional.naming import recall, remember
from sparseconv.geometry import ConvGeometry, per_axis
from sparseconv.kernel_map import KernelMap
from sparseconv.ops.mapped import sum_features as sum_over
from sparseconv.ops.precision import widen
from sparseconv.tensor import NamedMap, SparseTensor, check_sparse

Size = int | Sequence[int]


def mean_over(features: Tensor, kernel_map: KernelMap) -> Tensor:
    """Mean of the input rows of each output row, 0 where there is none."""
    # A half type holds neither the sum nor the count of many rows.
    wide = widen(features)
    counts = kernel_map.in_counts().clamp(min=1)[:, None].to(wide.dtype)
    return (sum_over(wide, kernel_map) / counts).to(features.dtype)


def _pooled_sites(
    input: SparseTensor,
    kernel_size: Size,
    stride: Size | None,
    padding: Size,
    dilation: Size,
    subm: bool,
) -> NamedMap:
    check_sparse(input, "pooling")
    sites = input.coordinates
    if subm:
        geometry = ConvGeometry.submanifold(input.ndim, kernel_size, dilation)
        return NamedMap.record("submanifold", geometry, sites, sites, sites.submanifold_map(geometry))
    steps = kernel_size if stride is None else stride
    geometry = ConvGeometry.create(input.ndim, kernel_size, steps, padding, dilation)
    outputs, kernel_map = sites.downsample(geometry)
    return NamedMap.record("pooling", geometry, sites, outputs, kernel_map)


def _finish(input: SparseTensor, features: Tensor, record: NamedMap, indice_key: str | None) -> SparseTensor:
    output = SparseTensor.from_coordinates(features, record.outputs, input.named_maps)
    return remember(input, output, indice_key, record)


@eager
def max_pool(
    input: SparseTensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    indice_key: str | None = None,
    subm: bool = False,
) -> SparseTensor:
    """Maximum over the active inputs in reach: true maxima, negative ones included.

    As ``torch.nn.functional.max_pool3d`` on a grid where absent sites are minus infinity. Of equal inputs the one
    at the first tap gets the gradient.

    Args:
        input: sparse tensor ``[N, C]``.
        kernel_size: window, in sites.
        stride: step of the window; None takes ``kernel_size``. Without effect with ``subm``.
        padding: as in a convolution; without effect with ``subm``.
        dilation: as in a convolution.
        indice_key: a name for the map, by which :func:`unpool` and :func:`inverse_conv` find it.
        subm: keep the input's sites (odd window, stride 1).

    Returns:
        ``[n_out, C]`` at every site with an active input in reach, sorted; with ``subm`` ``[N, C]`` on the
        input's sites. The grid is that of :func:`sparse_conv`.

    Raises:
        TypeError: the input is no sparse tensor.
        ValueError: the window is larger than the padded grid, or an even window with ``subm``.
    """
    record = _pooled_sites(input, kernel_size, stride, padding, dilation, subm)
    kernel_map = record.kernel_map
    features, _ = ops.max_pool(
        input.features,
        kernel_map.in_rows,
        kernel_map.out_rows,
        kernel_map.tap_offsets,
        kernel_map.n_out,
    )
    return _finish(input, features, record, indice_key)


@eager
def avg_pool(
    input: SparseTensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    indice_key: str | None = None,
    subm: bool = False,
) -> SparseTensor:
    """Mean over the active inputs in reach, divided by how many there are, not by the size of the window.

    Arguments, sites and errors are those of :func:`max_pool`. Sums are taken in float32 or wider.
    """
    record = _pooled_sites(input, kernel_size, stride, padding, dilation, subm)
    return _finish(input, mean_over(input.features, record.kernel_map), record, indice_key)


@eager
def sum_pool(
    input: SparseTensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    indice_key: str | None = None,
    subm: bool = False,
) -> SparseTensor:
    """Sum over the active inputs in reach; arguments, sites and errors are those of :func:`max_pool`."""
    record = _pooled_sites(input, kernel_size, stride, padding, dilation, subm)
    return _finish(input, sum_over(input.features, record.kernel_map), record, indice_key)


@eager
def unpool(input: SparseTensor, indice_key: str) -> SparseTensor:
    """Back to the sites of the layer named ``indice_key``: each gets the mean of the outputs that it fed.

    Without overlap (stride equal to kernel_size) that is a copy of its parent's features. A site that fed no
    output gets 0.

    Args:
        input: sparse tensor ``[N, C]`` on the sites that the named layer made.
        indice_key: name of the pooling or convolution to undo.

    Returns:
        ``[n_out, C]`` on the sites that the named layer read, in their order.

    Raises:
        TypeError: the input is no sparse tensor.
        ValueError: unknown name, a submanifold layer's, or other sites.
    """
    check_sparse(input, "unpool")
    record = recall(input, indice_key)
    features = mean_over(input.features, record.kernel_map.transposed())
    return SparseTensor.from_coordinates(features, record.inputs, input.named_maps)


@eager
def upsample(input: SparseTensor, scale: Size) -> SparseTensor:
    """Nearest-neighbour upsampling: each site becomes ``scale`` sites on each axis, with its features.

    Args:
        input: sparse tensor ``[N, C]``.
        scale: one integer from 1 to 1024, or one for each axis.

    Returns:
        ``[N * product of scales, C]``, sorted, on a grid ``scale`` times as large.

    Raises:
        TypeError: the input is no sparse tensor, or the scale no integers.
        ValueError: a scale out of bounds, or another number of them than axes.
    """
    check_sparse(input, "upsample")
    steps = per_axis(scale, input.ndim, "scale", minimum=1, maximum=1 << 10)
    geometry = ConvGeometry.create(input.ndim, steps, steps)
    sites, kernel_map = input.coordinates.upsample(geometry, (0,) * input.ndim)
    features = sum_over(input.features, kernel_map)
    return SparseTensor.from_coordinates(features, sites, input.named_maps)


@eager
def global_max_pool(input: SparseTensor) -> Tensor:
    """Maximum over each sample's sites: ``[B, C]``, 0 for an empty sample."""
    check_sparse(input, "global_max_pool")
    kernel_map = input.coordinates.batch_map()
    out, _ = ops.max_pool(
        input.features,
        kernel_map.in_rows,
        kernel_map.out_rows,
        kernel_map.tap_offsets,
        kernel_map.n_out,
    )
    return out


@eager
def global_sum_pool(input: SparseTensor) -> Tensor:
    """Sum over each sample's sites: ``[B, C]``, 0 for an empty sample."""
    check_sparse(input, "global_sum_pool")
    return sum_over(input.features, input.coordinates.batch_map())


@eager
def global_avg_pool(input: SparseTensor) -> Tensor:
    """Mean over each sample's sites: ``[B, C]``, 0 for an empty sample."""
    check_sparse(input, "global_avg_pool")
    return mean_over(input.features, input.coordinates.batch_map())
