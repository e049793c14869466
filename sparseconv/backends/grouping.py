"""Grouping points by voxel in torch, over a backend's own distinct sites and ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sparseconv.backends import PointBlocks, PointGroups


def sample_of_points(sizes: Sequence[int], device: torch.device) -> Tensor:
    """The sample of each point of a batch: int64 ``[N]``."""
    counts = torch.tensor(list(sizes), device="cpu")
    return torch.arange(len(sizes), device="cpu").repeat_interleave(counts).to(device)


def group_cells(
    cells: Tensor,
    inside: Tensor,
    finite: Tensor,
    sizes: Sequence[int],
    max_voxels: int | None,
    in_order: bool,
    unique_sites: Callable[[Tensor], tuple[Tensor, Tensor]],
    rank_in_voxel: Callable[[Tensor, int], Tensor],
) -> PointGroups:
    """Voxels of placed points; see :meth:`sparseconv.backends.Backend.group_points`.

    Args:
        cells: int32 ``[N, D]`` cell of each point.
        inside: bool ``[N]``, whether a point takes part.
        finite: bool ``[N]``, whether its coordinates are numbers.
        sizes: points in each sample.
        max_voxels: voxels of a sample that are kept, or None.
        in_order: sort the voxels, or leave them in the order of their first points.
        unique_sites: the backend's function.
        rank_in_voxel: for each of the rows int64 ``[K]`` below a number, how many earlier ones equal it: int64.
    """
    device = cells.device
    batch = sample_of_points(sizes, device)
    sites = torch.cat([batch[:, None].int(), cells.flip(1)], 1)
    kept = torch.nonzero(inside)[:, 0]
    indices, kept_rows = unique_sites(sites[kept])
    kept_ranks = rank_in_voxel(kept_rows, len(indices))
    # Voxels in the order in which points meet them; samples stand behind each other.
    order = kept_rows[kept_ranks == 0]
    if max_voxels is not None:
        voxel_batch = indices[order, 0].long()
        counts = torch.bincount(voxel_batch, minlength=len(sizes))
        starts = counts.cumsum(0) - counts
        order = order[torch.arange(len(order), device=device) - starts[voxel_batch] < max_voxels]
    if in_order:
        order = order.sort().values
    new_rows = torch.full((len(indices),), -1, dtype=torch.int64, device=device)
    new_rows[order] = torch.arange(len(order), device=device)
    rows = torch.full((len(sites),), -1, dtype=torch.int64, device=device)
    ranks = torch.full((len(sites),), -1, dtype=torch.int32, device=device)
    rows[kept] = new_rows[kept_rows]
    ranks[kept] = kept_ranks.int()
    counts = torch.bincount(rows[rows >= 0], minlength=len(order)).int()
    num_nonfinite = len(sites) - int(finite.sum())
    num_outside = len(sites) - len(kept) - num_nonfinite
    return PointGroups(indices[order], counts, rows, ranks, num_outside, num_nonfinite)


def pad_points(values: Tensor, groups: PointGroups, max_points: int) -> PointBlocks:
    """Blocks of the rows ``values [N, C]`` of each voxel's first points; they have a gradient."""
    if groups.ranks is None:
        raise ValueError("the points were grouped into blocks: group them without to pad them here")
    kept = (groups.rows >= 0) & (groups.ranks < max_points)
    padded = values.new_zeros((len(groups.counts), max_points, values.shape[1]))
    padded = padded.index_put((groups.rows[kept], groups.ranks[kept].long()), values[kept])
    return PointBlocks(padded, groups.counts.clamp(max=max_points), int(kept.sum()))
