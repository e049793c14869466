"""Where a variant's output lies and over which pairs it runs: as a plain convolution, or maps derived from one."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from sparseconv.coordinates import Coordinates
from sparseconv.functional.naming import remember
from sparseconv.geometry import MAX_KERNEL_SIZE, ConvGeometry, per_axis
from sparseconv.kernel_map import KernelMap
from sparseconv.tensor import NamedMap, SparseTensor, check_sparse

Size = int | Sequence[int]
T = TypeVar("T")

# What was derived from a map or a set of sites lives as long as that does. Values never hold their key.
_derived: WeakKeyDictionary[Any, dict[Hashable, tuple[object, Any]]] = WeakKeyDictionary()


def kept_with(owner: KernelMap | Coordinates, key: Hashable, build: Callable[[], T]) -> T:
    """What ``build`` made for ``owner`` under ``key``, made anew where the owner's sites were changed in place."""
    state = owner.state if isinstance(owner, Coordinates) else None
    entries = _derived.get(owner)
    if entries is None:
        entries = _derived[owner] = {}
    known = entries.get(key)
    if known is None or known[0] is not state:
        # Kept, so it must serve training after an evaluation in inference mode.
        with torch.inference_mode(False):
            known = entries[key] = (state, build())
    value: T = known[1]
    return value


def placed(
    input: SparseTensor,
    kernel_size: Size,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    *,
    subm: bool,
) -> NamedMap:
    """Output sites and map of a plain (submanifold) convolution.

    Raises:
        TypeError: the input is no sparse tensor.
        ValueError: a stride with ``subm``, or a geometry that cannot work.
    """
    check_sparse(input, "a convolution")
    sites = input.coordinates
    if subm:
        check_stride(stride, input.ndim)
        geometry = ConvGeometry.submanifold(input.ndim, kernel_size, dilation)
        return NamedMap.record("submanifold", geometry, sites, sites, sites.submanifold_map(geometry))
    geometry = ConvGeometry.create(input.ndim, kernel_size, stride, padding, dilation)
    outputs, kernel_map = sites.downsample(geometry)
    return NamedMap.record("convolution", geometry, sites, outputs, kernel_map)


def check_stride(stride: Size, ndim: int) -> None:
    """Refuse a stride of a submanifold layer.

    Raises:
        ValueError: it is not 1.
    """
    if any(s != 1 for s in per_axis(stride, ndim, "stride", minimum=1, maximum=1 << 16)):
        raise ValueError(
            f"a submanifold convolution keeps the input's sites: stride must be 1, got {stride}. Use the layer "
            "whose name begins with Sparse (subm=False)"
        )


def finish(input: SparseTensor, features: Tensor, record: NamedMap, indice_key: str | None) -> SparseTensor:
    """The output tensor, carrying the map under its name."""
    output = SparseTensor.from_coordinates(features, record.outputs, input.named_maps)
    return remember(input, output, indice_key, record)


def batch_of(sites: Coordinates) -> Tensor:
    """Sample of each row: int64 ``[N]``."""
    return sites.indices[:, 0].long()


def keep_taps(kernel_map: KernelMap, taps: tuple[int, ...]) -> KernelMap:
    """The map with only the taps of these numbers, in this order."""
    if taps == tuple(range(kernel_map.volume)):
        return kernel_map

    def build() -> KernelMap:
        pairs = [kernel_map.pairs(tap) for tap in taps]
        return joined(pairs, kernel_map)

    return kept_with(kernel_map, ("taps", taps), build)


def joined(pairs: Sequence[tuple[Tensor, Tensor]], like: KernelMap) -> KernelMap:
    """A map of the given taps between the two sides of ``like``, each tap a part of one of its taps' pairs."""
    counts = torch.tensor([0] + [len(rows) for rows, _ in pairs], device="cpu")
    empty = like.in_rows[:0]
    return KernelMap(
        torch.cat([rows for rows, _ in pairs] or [empty]),
        torch.cat([rows for _, rows in pairs] or [empty]),
        counts.cumsum(0),
        like.n_in,
        like.n_out,
        like.in_rows_ascend,
        trusted=True,
    )


def tap_of_pairs(kernel_map: KernelMap) -> Tensor:
    """Tap of each pair: int64 ``[P]``."""
    taps = torch.arange(kernel_map.volume, device="cpu").repeat_interleave(kernel_map.counts)
    return taps.to(kernel_map.in_rows.device)


def regrouped(kernel_map: KernelMap, group: Tensor, n_groups: int) -> KernelMap:
    """The same pairs with taps of their own for each group of output rows: ``n_groups K`` taps, ``(group, tap)``.

    Args:
        kernel_map: the pairs.
        group: int64 ``[n_out]``, group of each output row.
        n_groups: number of groups.
    """
    taps = kernel_map.volume
    key = group[kernel_map.out_rows.long()] * taps + tap_of_pairs(kernel_map)
    # Stable: within a tap the pairs keep their order of output rows, and with it that of input rows.
    order = key.argsort(stable=True)
    counts = torch.bincount(key, minlength=n_groups * taps).cpu()
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return KernelMap(
        kernel_map.in_rows[order],
        kernel_map.out_rows[order],
        offsets,
        kernel_map.n_in,
        kernel_map.n_out,
        kernel_map.in_rows_ascend,
        trusted=True,
    )


def per_sample(record: NamedMap) -> KernelMap:
    """The map with taps of its own for each sample: ``B K`` taps in the order ``(sample, tap)``; no pair more."""
    outputs = record.outputs

    def build() -> KernelMap:
        return regrouped(record.kernel_map, batch_of(outputs), outputs.batch_size)

    return kept_with(record.kernel_map, "samples", build)


@dataclass(frozen=True)
class OrderedPairs:
    """Pairs in order of their output rows.

    Attributes:
        in_rows: int32 ``[P]``.
        out_rows: int32 ``[P]``, ascending.
        taps: int64 ``[P]``.
        by_in_rows: int64 ``[P]``, the pairs in stable order of their input rows.
    """

    in_rows: Tensor
    out_rows: Tensor
    taps: Tensor
    by_in_rows: Tensor


def by_output(kernel_map: KernelMap) -> OrderedPairs:
    """The pairs of all taps in order of output rows, and of taps within one."""

    def build() -> OrderedPairs:
        order = kernel_map.out_rows.argsort(stable=True)
        in_rows, out_rows = kernel_map.in_rows[order], kernel_map.out_rows[order]
        taps = tap_of_pairs(kernel_map)[order]
        return OrderedPairs(in_rows, out_rows, taps, in_rows.argsort(stable=True))

    return kept_with(kernel_map, "by output", build)


def cells(sites: Coordinates, factor: Size) -> tuple[Coordinates, KernelMap]:
    """The occupied cells of ``factor`` sites, ``floor(site / factor)``, and the map of sites onto them.

    Unlike a pooling window, a cell that the grid's end cuts is there too: the coarse grid is
    ``ceil(shape / factor)``.
    """
    steps = per_axis(factor, sites.ndim, "factor", minimum=1, maximum=MAX_KERNEL_SIZE)
    geometry = ConvGeometry.create(sites.ndim, steps, steps)
    shape = sites.spatial_shape
    if shape is None or all(side % step == 0 for side, step in zip(shape, steps, strict=True)):
        return sites.downsample(geometry)
    whole = [-(-side // step) * step for side, step in zip(shape, steps, strict=True)]
    rounded = kept_with(sites, ("rounded", steps), lambda: Coordinates(sites.indices, whole, sites.batch_size))
    return rounded.downsample(geometry)
