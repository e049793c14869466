"""Kernels of their own for each sample: mixtures (CondConv, dynamic convolution, DyNet) and ODConv."""

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
)
from sparseconv.ops.mapped import convolve_features
from sparseconv.tensor import NamedMap, SparseTensor, check_sparse

FUSIONS = ("kernel", "output")


def check_fusion(fusion: str) -> None:
    """Refuse an unknown plan.

    Raises:
        ValueError: it is neither ``"kernel"`` nor ``"output"``.
    """
    if fusion not in FUSIONS:
        raise ValueError(f"fusion must be 'kernel' or 'output', got {fusion!r}")


def convolve_per_sample(
    features: Tensor, kernels: Tensor, bias: Tensor | None, record: NamedMap, groups: int
) -> Tensor:
    """Convolve each sample with a kernel of its own, over exactly the pairs of one convolution.

    Args:
        features: ``[n_in, C]``.
        kernels: ``[O, B, K, C / groups]``.
        bias: ``[B, O]`` or None.
        record: sites and map of the plain convolution.
        groups: channel groups.
    """
    out = convolve_features(features, kernels.flatten(1, 2), None, per_sample(record), groups)
    return out if bias is None else out + bias.to(out.dtype).index_select(0, batch_of(record.outputs))


def _check_mixture(mixture: Tensor, bias: Tensor | None, batch_size: int, experts: int, c_out: int) -> None:
    if not isinstance(mixture, Tensor):
        raise TypeError(f"the mixture must be a tensor [{batch_size}, {experts}], got {type(mixture).__name__}")
    wanted = ([batch_size, experts], [batch_size, c_out, experts])
    if list(mixture.shape) not in wanted:
        raise ValueError(f"the mixture must have shape {wanted[0]} or {wanted[1]}, got {list(mixture.shape)}")
    if bias is not None and list(bias.shape) not in ([experts, c_out], [c_out]):
        raise ValueError(f"the bias must have shape [{experts}, {c_out}] or [{c_out}], got {list(bias.shape)}")
    if bias is not None and bias.dim() == 2 and mixture.dim() == 3:
        raise ValueError("with a mixture for each output channel the bias must have shape [O]")


@eager
def mixture_conv(
    input: SparseTensor,
    weight: Tensor,
    mixture: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    fusion: str = "kernel",
    subm: bool = False,
    indice_key: str | None = None,
) -> SparseTensor:
    """Convolution with a mixture of kernels for each sample.

    ``W[n] = sum over e of m[n, e] W_e`` and ``b[n] = sum over e of m[n, e] b_e``. By linearity mixing the kernels
    and mixing their outputs are equal; kernels are cheaper wherever a sample has more sites than a kernel has
    taps.

    Args:
        input: ``[N, C]`` of B samples.
        weight: ``[E, O, *kernel, C / groups]``.
        mixture: ``[B, E]``, or ``[B, O, E]`` with a mixture for each output channel; the bias is then ``[O]``.
        bias: ``[E, O]``, mixed like the weight, or ``[O]``, the same for all; or None.
        stride: as in :func:`sparse_conv`; 1 with ``subm``.
        padding: as in :func:`sparse_conv`; without effect with ``subm``.
        dilation: as in :func:`sparse_conv`.
        groups: channel groups.
        fusion: ``"kernel"`` mixes kernels (the multiply-adds of one convolution), ``"output"`` the outputs of all
            kernels, one kernel at a time.
        subm: keep the input's sites.
        indice_key: a name for the map.

    Returns:
        ``[n_out, O]`` on every site in reach, sorted; with ``subm`` ``[N, O]`` on the input's sites.

    Raises:
        TypeError: no sparse tensor, or types differ.
        ValueError: an unknown fusion, or shapes that do not fit.
    """
    check_sparse(input, "mixture_conv")
    check_fusion(fusion)
    kernel_size = check_kernel_axes(weight, input.ndim, "E, C_out")
    experts, c_out = weight.shape[:2]
    if experts == 0:
        raise ValueError(f"the weight must hold at least one kernel, got {list(weight.shape)}")
    _check_mixture(mixture, bias, input.batch_size, experts, c_out)
    record = placed(input, kernel_size, stride, padding, dilation, subm=subm)
    mixed_bias = bias is not None and bias.dim() == 2
    # Autocast would round the kernels before they are mixed.
    with torch.autocast(weight.device.type, enabled=False):
        shares = mixture.to(weight)
        if fusion == "kernel":
            each = "be" if shares.dim() == 2 else "boe"
            kernels = torch.einsum(f"{each},eokc->obkc", shares, weight.flatten(2, -2))
            offsets = shares @ bias if bias is not None and mixed_bias else bias
    if fusion == "kernel":
        if offsets is not None and not mixed_bias:
            offsets = offsets.expand(input.batch_size, -1)
        features = convolve_per_sample(input.features, kernels, offsets, record, groups)
    else:
        features = _mix_outputs(input.features, weight, shares, bias, record, groups)
    return finish(input, features, record, indice_key)


def _mix_outputs(
    features: Tensor, weight: Tensor, shares: Tensor, bias: Tensor | None, record: NamedMap, groups: int
) -> Tensor:
    batch = batch_of(record.outputs)
    mixed_bias = bias is not None and bias.dim() == 2
    total: Tensor | None = None
    for expert, kernel in enumerate(weight):
        own = bias[expert] if bias is not None and mixed_bias else None
        part = convolve_features(features, kernel, own, record.kernel_map, groups)
        scale = shares[..., expert].reshape(len(shares), -1).to(part.dtype)
        part = part * scale.index_select(0, batch)
        total = part if total is None else total + part
    assert total is not None  # at least one kernel
    return total if bias is None or mixed_bias else total + bias.to(total.dtype)


@eager
def od_conv(
    input: SparseTensor,
    weight: Tensor,
    kernel_attention: Tensor | None = None,
    channel_attention: Tensor | None = None,
    filter_attention: Tensor | None = None,
    spatial_attention: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    subm: bool = False,
    indice_key: str | None = None,
) -> SparseTensor:
    """Convolution of each sample with ``a_f[o] a_c[c] a_s[t] sum over k of a_w[k] W_k[o, t, c]``.

    The attention over kernels mixes them, that over taps scales the mixture, those over channels scale input and
    output. An attention that is None is 1; without one over kernels there must be one kernel. Li et al.,
    "Omni-Dimensional Dynamic Convolution", ICLR 2022 (in its code, as here, the kernels share the other three).

    Args:
        input: ``[N, C]`` of B samples.
        weight: ``[K, O, *kernel, C / groups]``.
        kernel_attention: ``[B, K]`` or None.
        channel_attention: ``[B, C]`` or None.
        filter_attention: ``[B, O]`` or None.
        spatial_attention: ``[B, *kernel]`` or None.
        stride: as in :func:`sparse_conv`; 1 with ``subm``.
        padding: as in :func:`sparse_conv`; without effect with ``subm``.
        dilation: as in :func:`sparse_conv`.
        groups: channel groups.
        subm: keep the input's sites.
        indice_key: a name for the map.

    Returns:
        ``[n_out, O]`` on every site in reach, sorted; with ``subm`` ``[N, O]`` on the input's sites.

    Raises:
        TypeError: no sparse tensor, or types differ.
        ValueError: several kernels without attention over them, or shapes that do not fit.
    """
    check_sparse(input, "od_conv")
    kernel_size = check_kernel_axes(weight, input.ndim, "K, C_out")
    batch_size, channels = input.batch_size, input.features.shape[1]
    for name, attention, wanted in (
        ("kernel", kernel_attention, (batch_size, len(weight))),
        ("channel", channel_attention, (batch_size, channels)),
        ("filter", filter_attention, (batch_size, weight.shape[1])),
        ("spatial", spatial_attention, (batch_size, *kernel_size)),
    ):
        if attention is not None and attention.shape != wanted:
            raise ValueError(f"the {name}_attention must have shape {list(wanted)}, got {list(attention.shape)}")
    record = placed(input, kernel_size, stride, padding, dilation, subm=subm)
    flat = weight.flatten(2, -2)  # [K, O, taps, C / groups]
    with torch.autocast(weight.device.type, enabled=False):
        if kernel_attention is not None:
            kernels = torch.einsum("bk,kotc->obtc", kernel_attention.to(weight), flat)
        elif len(weight) == 1:
            kernels = flat[0][:, None].expand(-1, batch_size, -1, -1)
        else:
            raise ValueError(f"{len(weight)} kernels need a kernel_attention [B, {len(weight)}], got None")
        if spatial_attention is not None:
            kernels = kernels * spatial_attention.to(weight).flatten(1)[:, :, None]
    features = input.features
    if channel_attention is not None:
        features = features * channel_attention.to(features).index_select(0, batch_of(input.coordinates))
    out = convolve_per_sample(features, kernels, None, record, groups)
    if filter_attention is not None:
        out = out * filter_attention.to(out).index_select(0, batch_of(record.outputs))
    return finish(input, out, record, indice_key)
