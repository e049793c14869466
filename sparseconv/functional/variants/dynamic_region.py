"""Dynamic region-aware convolution: a guide picks a kernel for each output site."""

from __future__ import annotations

import torch
from torch import Tensor

from sparseconv.compilation import eager
from sparseconv.functional.kernel_axes import check_kernel_axes
from sparseconv.functional.variants.placement import (
    Size,
    batch_of,
    finish,
    per_sample,
    placed,
    regrouped,
)
from sparseconv.ops.mapped import convolve_features
from sparseconv.ops.region_choice import region_taps, straight_through
from sparseconv.tensor import SparseTensor, check_sparse


@eager
def dr_conv(
    input: SparseTensor,
    guide: SparseTensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    *,
    subm: bool = False,
    indice_key: str | None = None,
) -> SparseTensor:
    """Convolve each output site with the kernel that the guide picks.

    ``y[q] = sum over t of W[n, argmax over j of guide[q, j], t] x_t``: the multiply-adds of one convolution. Of
    equal guides the lowest region wins. Backward, the choice counts as the softmax ``S`` of the guide: with ``g``
    the output's gradient, ``Y_j`` the output of kernel j and ``v_j = <g, Y_j>``, the guide gets
    ``S_j (v_j - sum over l of S_l v_l)``; the kernels get the gradient of the choice that was made. Chen et
    al., "Dynamic Region-Aware Convolution", arXiv 2003.12243.

    Args:
        input: ``[N, C]`` of B samples.
        guide: ``[n_out, m]`` on the output's sites: the input's with ``subm``, else those of :func:`sparse_conv`
            with the same geometry.
        weight: ``[B, m, O, *kernel, C]``.
        bias: ``[O]`` or None.
        stride: as in :func:`sparse_conv`; 1 with ``subm``.
        padding: as in :func:`sparse_conv`; without effect with ``subm``.
        dilation: as in :func:`sparse_conv`.
        subm: keep the input's sites.
        indice_key: a name for the map.

    Returns:
        ``[n_out, O]`` on every site in reach, sorted; with ``subm`` ``[N, O]`` on the input's sites.

    Raises:
        TypeError: no sparse tensor, or types differ.
        ValueError: the guide lies on other sites, or shapes do not fit.
    """
    check_sparse(input, "dr_conv")
    check_sparse(guide, "the guide of dr_conv")
    kernel_size = check_kernel_axes(weight, input.ndim, "B, m, C_out")
    n_regions = guide.features.shape[1]
    if weight.shape[:2] != (input.batch_size, n_regions) or n_regions == 0:
        raise ValueError(
            f"the weight must have shape [B, m, O, *kernel, C] with B = {input.batch_size} samples and m = "
            f"{n_regions} regions (at least one), got {list(weight.shape)}"
        )
    record = placed(input, kernel_size, stride, padding, dilation, subm=subm)
    if not guide.coordinates.same_sites(record.outputs):
        raise ValueError(f"the guide must lie on the output's sites, {record.outputs}, got {guide.coordinates}")
    region = guide.features.argmax(1)
    group = batch_of(record.outputs) * n_regions + region
    kernel_map = regrouped(record.kernel_map, group, input.batch_size * n_regions)
    taps = weight.flatten(3, -2)  # [B, m, O, K, C]
    features = convolve_features(input.features, region_taps(taps), None, kernel_map)
    if torch.is_grad_enabled() and guide.features.requires_grad:
        scores = torch.softmax(guide.features, dim=1)
        features = straight_through(features, scores, input.features, taps, lambda: per_sample(record))
    if bias is not None:
        features = features + bias.to(features.dtype)
    return finish(input, features, record, indice_key)
