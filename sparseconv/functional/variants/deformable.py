"""Deformable convolution on voxels, with and without modulation."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sparseconv import ops
from sparseconv.compilation import eager
from sparseconv.coordinates import Coordinates
from sparseconv.functional.kernel_axes import check_kernel_axes
from sparseconv.functional.variants.differences import check_missing
from sparseconv.functional.variants.placement import Size, kept_with
from sparseconv.geometry import MAX_CELLS, ConvGeometry
from sparseconv.kernel_map import KernelMap
from sparseconv.ops.mapped import convolve_features
from sparseconv.tensor import SparseTensor, check_sparse

# Bytes of the look-ups and samples of one chunk of rows; with gradients a few times that are alive at once.
CHUNK_BYTES = 64 << 20
# A place is a few int64 for each axis; a corner of it a row, a share and what they are made of.
_BYTES_PER_PLACE = 256
_BYTES_PER_CORNER = 32
_HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class _Samples:
    """Where some rows sample: one patch row for each (tap, row) that finds a voxel, in that order.

    Attributes:
        in_rows: int32 ``[P]``, row of the features times the offset groups, plus the group; -1 for an absent
            voxel.
        patch_rows: int32 ``[P]``, ascending: patch times the offset groups, plus the group.
        shares: ``[P, 1]``, differentiable.
        kernel_map: from the M patches onto the rows.
    """

    in_rows: Tensor
    patch_rows: Tensor
    shares: Tensor
    kernel_map: KernelMap


def _corners(sites: Coordinates) -> tuple[Coordinates, Tensor]:
    """Every cell with a voxel at a corner, shifted by one, and the rows of its corners: int32 ``[M, 2^D]``.

    A window of two sites a side: so one look-up finds all corners of a place; an absent one is -1.
    """
    cells, kernel_map = sites.downsample(ConvGeometry.create(sites.ndim, 2, 1, 1))
    return cells, kept_with(kernel_map, "corners", kernel_map.neighbor_table)


def _find_cells(sites: Tensor, offsets: Tensor, low: Tensor, cells: Coordinates) -> Tensor:
    """Row among the cells of each sampling place, -1 where it has no voxel: int64 ``[K, R, G]``.

    Args:
        sites: int32 ``[R, 1 + D]``.
        offsets: int64 ``[K, D]`` of the taps.
        low: ``[K, R, G, D]``, whole steps of the places from there.
        cells: of :func:`_corners`.
    """
    # Far outside is as good as outside, and cannot overflow.
    limit = float(1 << 33)
    steps = low.double().nan_to_num(0.0, limit, -limit).clamp(-limit, limit).long()
    places = sites[:, None, 1:].long() + (offsets[:, None, None] + 1) + steps
    inside = ((places >= -MAX_CELLS - 1) & (places <= MAX_CELLS)).all(-1)
    batch = sites[:, 0, None].expand(inside.shape)
    query = torch.cat([batch[..., None], torch.where(inside[..., None], places, 0).int()], -1)
    found = cells.lookup(query.reshape(-1, query.shape[-1])).reshape(inside.shape)
    return torch.where(inside, found, -1)


def _find(
    coordinates: Coordinates, rows: slice, offsets: Tensor, shifts: Tensor, mask: Tensor | None, missing: str
) -> _Samples:
    """Look up the corners of some rows' samples: shifts ``[R, G, K, D]``, mask ``[R, G, K]``."""
    ndim = offsets.shape[1]
    shifts = shifts.permute(2, 0, 1, 3)
    n_rows, groups = shifts.shape[1:3]
    # The cell is a constant of the gradient.
    low = shifts.detach().floor()
    cells, table = _corners(coordinates)
    found = _find_cells(coordinates.indices[rows], offsets, low, cells)
    has_voxel = found >= 0
    place = tap, row, group = has_voxel.nonzero(as_tuple=True)
    voxels = table[found[place]]  # [H, 2^D]
    exists = voxels >= 0
    part = shifts[place] - low[place]
    shares = part.new_ones(voxels.shape)
    bits = torch.tensor(list(itertools.product((False, True), repeat=ndim)), device=part.device)
    for axis in range(ndim):
        along = part[:, axis, None]
        shares = shares * torch.where(bits[:, axis], along, 1 - along)
    if missing == "ignore":
        total = (shares * exists).sum(-1, keepdim=True)
        shares = shares / torch.where(total > 0, total, 1)
    if mask is not None:
        shares = shares * mask[row, group, tap][:, None]
    hit = has_voxel.any(2)  # [K, R]
    patch = hit.flatten().cumsum(0).reshape(hit.shape) - 1
    counts = hit.sum(1).cpu()
    n_patches = int(counts.sum())
    kernel_map = KernelMap(
        torch.arange(n_patches, dtype=torch.int32, device=part.device),
        hit.nonzero()[:, 1].int(),
        torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
        n_patches,
        n_rows,
        True,
        trusted=True,
    )
    patch_rows = patch[tap, row] * groups + group
    return _Samples(
        torch.where(exists, voxels.long() * groups + group[:, None], -1).flatten().int(),
        patch_rows[:, None].expand(voxels.shape).flatten().int(),
        shares.reshape(-1, 1),
        kernel_map,
    )


def _grouped_offsets(offset: SparseTensor, taps: int, channels: int) -> Tensor:
    """``[N, G * taps * D]`` to ``[N, G, taps, D]``, wide enough to place samples between voxels."""
    per_group = taps * offset.ndim
    groups = offset.features.shape[1] // per_group
    if groups == 0 or offset.features.shape[1] % per_group or channels % groups:
        raise ValueError(
            f"the offset must have G x {taps} x {offset.ndim} channels (groups x taps x axes) with G a divisor of "
            f"the {channels} channels, got {offset.features.shape[1]}"
        )
    rows = offset.features.float() if offset.dtype in _HALF else offset.features
    return rows.unflatten(1, (groups, taps, offset.ndim))


def _check_sites(input: SparseTensor, other: SparseTensor, name: str) -> None:
    check_sparse(other, f"the {name} of deform_conv")
    if not other.coordinates.same_sites(input.coordinates):
        raise ValueError(f"the {name} must lie on the input's sites, {input.coordinates}, got {other.coordinates}")


def _chunks(n_rows: int, samples: int, channels: int, ndim: int, element_size: int) -> list[slice]:
    """Ranges of rows that find ``samples`` places (taps times offset groups) each."""
    per_row = samples * (_BYTES_PER_PLACE + (_BYTES_PER_CORNER << ndim) + channels * element_size)
    step = max(1, CHUNK_BYTES // max(1, per_row))
    return [slice(start, min(n_rows, start + step)) for start in range(0, max(n_rows, 1), step)]


@eager
def deform_conv(
    input: SparseTensor,
    offset: SparseTensor,
    weight: Tensor,
    bias: Tensor | None = None,
    dilation: Size = 1,
    groups: int = 1,
    *,
    mask: SparseTensor | None = None,
    missing: str = "zero",
) -> SparseTensor:
    """Deformable submanifold convolution: each site moves its taps, and reads between voxels.

    ``y[q, o] = b[o] + sum over t, c of W[o, t, c] m[q, g(c), t] x~(q + d (t - (k-1)/2) + offset[q, g(c), t], c)``,
    with ``x~`` linear between the ``2^D`` voxels round the place. Dai et al., arXiv 1703.06211; with a mask Zhu et
    al., arXiv 1811.11168, both on images. Voxels are looked up in the input's index, in its sample only. Offsets 0
    and mask 1 give :func:`subm_conv`. Rows are worked on in chunks, and with several chunks found again on the way
    back, so memory does not grow with them.

    Args:
        input: ``[N, C]``.
        offset: ``[N, G * taps * D]`` on the input's sites; channel ``(g taps + t) D + axis``, in voxels, axes in
            the order of the indices. G is found from its channels.
        weight: ``[O, *kernel, C / groups]``, odd sides.
        bias: ``[O]`` or None.
        dilation: spacing of the taps.
        groups: channel groups of the weight.
        mask: ``[N, G * taps]`` on the input's sites, or None for ones.
        missing: ``"zero"``: an absent voxel is 0. ``"ignore"``: the shares of those that exist are scaled to sum
            to 1.

    Returns:
        ``[N, O]`` on the input's sites.

    Raises:
        ValueError: an even kernel side, offsets or mask on other sites, or shapes that do not fit.
    """
    check_sparse(input, "deform_conv")
    _check_sites(input, offset, "offset")
    check_missing(missing)
    geometry = ConvGeometry.submanifold(input.ndim, check_kernel_axes(weight, input.ndim), dilation)
    channels = input.features.shape[1]
    shifts = _grouped_offsets(offset, geometry.volume, channels)
    n_groups = shifts.shape[1]
    if len(input) * n_groups > MAX_CELLS:
        raise ValueError(
            f"{len(input)} rows in {n_groups} offset groups are beyond the int32 limit of {MAX_CELLS}: split the "
            "batch"
        )
    tensors = [input.features, shifts, weight] + ([] if bias is None else [bias])
    if mask is not None:
        _check_sites(input, mask, "mask")
        if mask.features.shape[1] != n_groups * geometry.volume:
            raise ValueError(
                f"the mask must have {n_groups} x {geometry.volume} channels (groups x taps), got "
                f"{mask.features.shape[1]}"
            )
        tensors.append(mask.features.unflatten(1, (n_groups, geometry.volume)))
    offsets = torch.tensor(geometry.offsets(), device=input.device)

    def run(rows: slice, features: Tensor, shifts: Tensor, weight: Tensor, *rest: Tensor) -> Tensor:
        offset_mask = rest[-1][rows] if mask is not None else None
        samples = _find(input.coordinates, rows, offsets, shifts[rows], offset_mask, missing)
        # One row for each offset group, which samples at places of its own.
        narrow = features.reshape(-1, channels // n_groups)
        is_half = features.dtype in _HALF
        shares = samples.shares if is_half else samples.shares.to(features.dtype)
        n_patches = samples.kernel_map.n_in
        patches = ops.weighted_sum(narrow, shares, samples.in_rows, samples.patch_rows, n_patches * n_groups)
        own_bias = rest[0] if bias is not None else None
        return convolve_features(
            patches.reshape(n_patches, channels), weight, own_bias, samples.kernel_map, groups
        )

    samples_per_row = geometry.volume * n_groups
    chunks = _chunks(len(input), samples_per_row, channels // n_groups, input.ndim, input.features.element_size())
    again = len(chunks) > 1 and torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    parts = [
        checkpoint(run, rows, *tensors, use_reentrant=False, preserve_rng_state=False)
        if again
        else run(rows, *tensors)
        for rows in chunks
    ]
    return input.replace_feature(torch.cat(parts))


@torch.no_grad()
def count_samples(
    input: SparseTensor, offset: SparseTensor, kernel_size: Size, dilation: Size = 1
) -> tuple[int, int]:
    """What a deformable convolution finds: (tap, site) pairs with at least one voxel, and voxels in all.

    Args:
        input: ``[N, C]``.
        offset: as in :func:`deform_conv`.
        kernel_size: odd sides.
        dilation: spacing of the taps.
    """
    geometry = ConvGeometry.submanifold(input.ndim, kernel_size, dilation)
    shifts = _grouped_offsets(offset, geometry.volume, input.features.shape[1])
    offsets = torch.tensor(geometry.offsets(), device=input.device)
    patches = voxels = 0
    for rows in _chunks(len(input), geometry.volume * shifts.shape[1], 0, input.ndim, 0):
        samples = _find(input.coordinates, rows, offsets, shifts[rows], None, "zero")
        patches += samples.kernel_map.n_pairs
        voxels += int((samples.in_rows >= 0).sum())
    return patches, voxels
