"""Sum and concatenation of sparse tensors, on the same sites or on the union of different ones."""

from __future__ import annotations

import functools
from types import MappingProxyType

import torch
from torch import Tensor

from sparseconv.backends import backend_for
from sparseconv.compilation import eager
from sparseconv.coordinates import Coordinates
from sparseconv.tensor import NamedMap, SparseTensor, check_sparse


def _check(tensors: tuple[SparseTensor, ...], name: str) -> None:
    if not tensors:
        raise ValueError(f"{name} needs at least one tensor")
    for tensor in tensors:
        if isinstance(tensor, list | tuple):
            raise TypeError(
                f"{name} takes SparseTensors one by one, {name}(first, second, ..), got a {type(tensor).__name__}"
            )
        check_sparse(tensor, name)
    first = tensors[0]
    for other in tensors[1:]:
        if (
            other.spatial_shape != first.spatial_shape
            or other.batch_size != first.batch_size
            or other.ndim != first.ndim
        ):
            raise ValueError(
                f"{name} needs tensors of one grid and batch, got {first.spatial_shape} x {first.batch_size} and "
                f"{other.spatial_shape} x {other.batch_size}"
            )
        if other.device != first.device:
            raise ValueError(f"{name} needs tensors on one device, got {first.device} and {other.device}")


def _with_all_names(output: SparseTensor, tensors: tuple[SparseTensor, ...]) -> SparseTensor:
    names: dict[str, NamedMap] = {}
    for tensor in tensors:
        names.update(tensor.named_maps)
    return SparseTensor.from_coordinates(output.features, output.coordinates, MappingProxyType(names))


def _on_union(tensors: tuple[SparseTensor, ...]) -> tuple[Coordinates, list[Tensor]]:
    """All sites of all tensors, sorted, and the row of each tensor's rows among them."""
    first = tensors[0]
    backend = backend_for(first.device)
    sites, rows = backend.unique_sites(torch.cat([tensor.indices for tensor in tensors]))
    union = Coordinates._trusted(sites, first.coordinates.spatial_shape, first.batch_size)
    return union, list(rows.split([len(tensor) for tensor in tensors]))


@eager
def add(*tensors: SparseTensor) -> SparseTensor:
    """Sum of tensors of equal channels; an absent site counts as zero.

    Args:
        *tensors: sparse tensors ``[N_i, C]`` of one grid and batch; types are promoted as torch does.

    Returns:
        ``[N, C]`` on the first tensor's sites where all have the same sites in the same order, else on the union
        of them, sorted. It carries the named maps of all.

    Raises:
        TypeError: what is no sparse tensor.
        ValueError: no tensor, or different grids, batches, channels or devices.
    """
    _check(tensors, "add")
    first = tensors[0]
    widths = {tensor.features.shape[1] for tensor in tensors}
    if len(widths) > 1:
        raise ValueError(f"add needs tensors of equal channels, got {sorted(widths)}")
    if all(tensor.coordinates.same_sites(first.coordinates) for tensor in tensors[1:]):
        total = first.features
        for tensor in tensors[1:]:
            total = total + tensor.features
        return _with_all_names(first.replace_feature(total), tensors)
    union, rows = _on_union(tensors)
    dtype = functools.reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
    total = first.features.new_zeros((len(union), first.features.shape[1]), dtype=dtype)
    for tensor, places in zip(tensors, rows, strict=True):
        total = total.index_add(0, places, tensor.features.to(dtype))
    return _with_all_names(SparseTensor.from_coordinates(total, union), tensors)


@eager
def cat(*tensors: SparseTensor) -> SparseTensor:
    """Concatenate channels; an absent site counts as zeros.

    Args:
        *tensors: sparse tensors ``[N_i, C_i]`` of one grid and batch; types are promoted as torch does.

    Returns:
        ``[N, C_1 + C_2 + ..]`` on the sites of :func:`add`.

    Raises:
        TypeError: what is no sparse tensor.
        ValueError: no tensor, or different grids, batches or devices.
    """
    _check(tensors, "cat")
    first = tensors[0]
    if all(tensor.coordinates.same_sites(first.coordinates) for tensor in tensors[1:]):
        joined = torch.cat([tensor.features for tensor in tensors], 1)
        return _with_all_names(first.replace_feature(joined), tensors)
    union, rows = _on_union(tensors)
    spread = [
        tensor.features.new_zeros((len(union), tensor.features.shape[1])).index_copy(0, places, tensor.features)
        for tensor, places in zip(tensors, rows, strict=True)
    ]
    return _with_all_names(SparseTensor.from_coordinates(torch.cat(spread, 1), union), tensors)
