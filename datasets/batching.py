"""From samples to one batch: a sparse tensor, a class for every voxel, boxes for every sample."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from sparseconv.tensor import SparseTensor
from sparseconv.voxelization import HardVoxels, Reduce, Voxels, voxelize

from .sample import Sample

Voxelizer = Callable[[list[np.ndarray]], Voxels | HardVoxels]


@dataclass(frozen=True, eq=False, repr=False)
class Batch:
    """Several samples together. M voxels, N points over the whole batch.

    Attributes:
        voxels: what `voxelize` (or `hard_voxelize`) gave: features, sites, and the voxel of every point.
        labels: `[M]` int64 class of each voxel, or None where the samples have none.
        point_labels: `[N]` int64 class of each point, or None.
        boxes: one float32 `[B, 7 or 9]` a sample, or None.
        box_labels: one int64 `[B]` a sample, or None.
        class_ids: `[S]` int64, or None.
        names: the samples' names.
    """

    voxels: Voxels | HardVoxels
    labels: Tensor | None
    point_labels: Tensor | None
    boxes: tuple[Tensor, ...] | None
    box_labels: tuple[Tensor, ...] | None
    class_ids: Tensor | None
    names: tuple[str, ...]

    @property
    def sparse(self) -> SparseTensor:
        """The voxels' features as a sparse tensor, for a network.

        Raises:
            TypeError: the voxels are hard ones, whose points need an encoder first.
        """
        if isinstance(self.voxels, HardVoxels):
            raise TypeError("hard voxels hold padded points, not features: encode batch.voxels.points first")
        return self.voxels.to_sparse()

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """The same batch with all of its tensors on a device."""

        def moved(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value.to(device, non_blocking=non_blocking)
            if isinstance(value, tuple):
                return tuple(moved(item) for item in value)
            if isinstance(value, Batch | Voxels | HardVoxels):
                parts = {part.name: moved(getattr(value, part.name)) for part in dataclasses.fields(value)}
                return dataclasses.replace(value, **parts)
            return value

        return cast(Batch, moved(self))

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.names)

    def __repr__(self) -> str:
        """Sizes only."""
        return (
            f"Batch(samples={len(self)}, voxels={len(self.voxels.indices)}, points={len(self.voxels.point_rows)})"
        )


def collate(
    samples: Sequence[Sample],
    voxel_size: float | Sequence[float] | None = None,
    point_cloud_range: Sequence[float] | None = None,
    *,
    voxelizer: Voxelizer | None = None,
    fields: Sequence[str] | None = None,
    reduce: Reduce = "mean",
    voxel_labels: Literal["majority", "first"] = "majority",
    ignore_label: int = -1,
) -> Batch:
    """Put samples into one batch; with `functools.partial` it is a `DataLoader`'s `collate_fn`.

    Args:
        samples: at least one; all with the same fields, and all with labels (boxes, class ids) or none.
        voxel_size: see `sparseconv.voxelize`.
        point_cloud_range: see `sparseconv.voxelize`.
        voxelizer: a function from the list of points `[N, C]` to `Voxels` or `HardVoxels`, in place of
            `voxel_size`.
        fields: the columns that become features, `x y z` first; all by default.
        reduce: how the points of a voxel become its features.
        voxel_labels: a voxel's class is that of most of its points (the smallest number among equals), or of its
            first one. Points of `ignore_label` have a say only where a voxel has no others.
        ignore_label: the data set's class that means none: `dataset.IGNORE_LABEL`.

    Returns:
        The batch, on the CPU.

    Raises:
        TypeError, ValueError: what came, what was expected, what to do.

    Example:
        >>> to_batch = partial(collate, voxel_size=0.1)  # doctest: +SKIP
        >>> loader = DataLoader(dataset, batch_size=4, collate_fn=to_batch)  # doctest: +SKIP
        >>> batch = next(iter(loader))  # doctest: +SKIP
        >>> loss = cross_entropy(network(batch.sparse).features, batch.labels)  # doctest: +SKIP
    """
    samples = list(samples)
    if not samples or not all(isinstance(sample, Sample) for sample in samples):
        kinds = sorted({type(sample).__name__ for sample in samples}) or ["none"]
        raise TypeError(
            f"samples must be at least one Sample, got {', '.join(kinds)}: let the transform return one"
        )
    if voxel_size is not None and voxelizer is not None:
        raise ValueError("pass either voxel_size or voxelizer, not both")
    if voxel_labels not in ("majority", "first"):
        raise ValueError(f"voxel_labels must be 'majority' or 'first', got {voxel_labels!r}")
    clouds = _clouds(samples, fields)
    voxels: Voxels | HardVoxels
    if voxel_size is not None:
        voxels = voxelize(clouds, voxel_size, point_cloud_range, reduce)
    elif voxelizer is not None:
        voxels = voxelizer(clouds)
    else:
        raise ValueError("pass voxel_size, or a voxelizer")
    point_labels = labels = None
    if _all_or_none(samples, "labels"):
        point_labels = torch.from_numpy(
            np.concatenate([sample.labels for sample in samples if sample.labels is not None])
        )
        point_labels = point_labels.long()
        labels = label_voxels(
            point_labels, voxels.point_rows, len(voxels.indices), voxel_labels, ignore_label=ignore_label
        )
    boxes = box_labels = class_ids = None
    if _all_or_none(samples, "boxes"):
        boxes = tuple(torch.from_numpy(np.array(sample.boxes)) for sample in samples)
    if _all_or_none(samples, "box_labels"):
        box_labels = tuple(torch.from_numpy(np.array(sample.box_labels, np.int64)) for sample in samples)
    if _all_or_none(samples, "class_id"):
        class_ids = torch.tensor([sample.class_id for sample in samples], device="cpu")
    names = tuple(sample.name for sample in samples)
    return Batch(voxels, labels, point_labels, boxes, box_labels, class_ids, names)


def _all_or_none(samples: list[Sample], name: str) -> bool:
    present = [getattr(sample, name) is not None for sample in samples]
    if any(present) and not all(present):
        without = samples[present.index(False)].name
        raise ValueError(f"some samples of the batch have {name} and {without!r} has none: batch them apart")
    return all(present)


def _clouds(samples: list[Sample], fields: Sequence[str] | None) -> list[np.ndarray]:
    wanted = tuple(samples[0].fields if fields is None else fields)
    if wanted[:3] != ("x", "y", "z"):
        raise ValueError(f"fields must begin with 'x', 'y', 'z', got {wanted}")
    clouds = []
    for sample in samples:
        if fields is None and sample.fields != wanted:
            raise ValueError(
                f"the samples of a batch must have the same fields, got {wanted} and {sample.fields}: pass "
                "fields=..."
            )
        missing = [name for name in wanted if name not in sample.fields]
        if missing:
            raise ValueError(
                f"sample {sample.name!r} has no field {missing[0]!r}: it has {', '.join(sample.fields)}"
            )
        clouds.append(sample.points[:, [sample.fields.index(name) for name in wanted]])
    return clouds


def label_voxels(
    point_labels: Tensor,
    point_rows: Tensor,
    n_voxels: int,
    rule: Literal["majority", "first"] = "majority",
    *,
    ignore_label: int = -1,
) -> Tensor:
    """A class for every voxel, from those of its points.

    Args:
        point_labels: int64 `[N]`.
        point_rows: int64 `[N]` voxel of each point, -1 where it has none.
        n_voxels: number of voxels.
        rule: `"majority"` (the smallest number among equals) or `"first"`, in the order of points.
        ignore_label: the class that means none; it is a voxel's only where all of its points have it, or where it
            has no points.

    Returns:
        int64 `[n_voxels]`, on the device of `point_rows`.
    """
    result = torch.full((n_voxels,), ignore_label, dtype=torch.int64, device=point_rows.device)
    voting = torch.nonzero((point_rows >= 0) & (point_labels != ignore_label))[:, 0]
    if not len(voting):
        return result
    rows, votes = point_rows[voting], point_labels[voting]
    if rule == "first":
        # Of several writes to one place the last one need not win, so each voxel's first point is found by a sort.
        order = torch.sort(rows, stable=True).indices
        ordered = rows[order]
        is_first = torch.ones_like(ordered, dtype=torch.bool)
        is_first[1:] = ordered[1:] != ordered[:-1]
        result[ordered[is_first]] = votes[order[is_first]]
        return result
    pairs, counts = torch.unique(torch.stack([rows, votes], 1), dim=0, return_counts=True)
    # Pairs ascend by voxel, then class. Sorted by falling count and, stably, by voxel, the winner stands first.
    order = torch.sort(counts, descending=True, stable=True).indices
    order = order[torch.sort(pairs[order, 0], stable=True).indices]
    ordered = pairs[order]
    is_first = torch.ones(len(ordered), dtype=torch.bool, device=ordered.device)
    is_first[1:] = ordered[1:, 0] != ordered[:-1, 0]
    result[ordered[is_first, 0]] = ordered[is_first, 1]
    return result
