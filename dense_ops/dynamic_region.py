"""Dynamic region-aware convolution: a guide picks a kernel for each output pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparseconv.compilation import eager
from sparseconv.dense_ops.conv import Conv2d
from sparseconv.dense_ops.executor import as_image, as_rows, image_shape
from sparseconv.dense_ops.flops import Flops, count_parameters, split_shape
from sparseconv.dense_ops.index_map import window_map
from sparseconv.dense_ops.mixture import global_average
from sparseconv.dense_ops.window import Padding, Pair, Size, Window
from sparseconv.kernel_map import KernelMap
from sparseconv.ops.mapped import convolve_features
from sparseconv.ops.region_choice import region_taps, straight_through

GENERATORS = ("paper", "mix")


def region_map(window: Window, batch_size: int, regions: Tensor, n_regions: int) -> KernelMap:
    """A window's map with taps of its own for each sample and region: ``N m K`` taps in the order ``(n, j, t)``.

    Each pair goes to the tap of its output pixel's region, so the map has the pairs of the plain one, no more.

    Args:
        window: the resolved convolution.
        batch_size: number of images.
        regions: int64 ``[N Ho Wo]``, region of each output pixel.
        n_regions: ``m``.
    """
    base = window_map(window, batch_size, regions.device)
    taps = base.volume
    tap = torch.arange(taps, device="cpu").repeat_interleave(base.counts).to(regions.device)
    out_rows = base.out_rows.long()
    key = (out_rows // window.n_out * n_regions + regions[out_rows]) * taps + tap
    # Stable: within a tap the pairs keep their order of output rows, and with it that of input rows.
    order = key.argsort(stable=True)
    counts = torch.bincount(key, minlength=batch_size * n_regions * taps).cpu()
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return KernelMap(base.in_rows[order], base.out_rows[order], offsets, base.n_in, base.n_out, True, trusted=True)


def _by_tap(weight: Tensor) -> Tensor:
    """``[N, m, O, C, kh, kw]`` to ``[N, m, O, K, C]``."""
    return weight.flatten(4).transpose(3, 4)


@eager
def dr_conv2d(
    input: Tensor,
    guide: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
) -> Tensor:
    """Convolve each output pixel with the kernel that the guide picks.

    ``y[q] = W[n, argmax over j of guide[j, q]] . patch(q)``.
    Of equal guides the lowest region wins. Backward, the choice counts as the softmax ``S`` of the guide: with
    ``g`` the output's gradient, ``Y_j`` the output of kernel j and ``v_j = <g, Y_j>``, the guide gets
    ``S_j (v_j - sum over l of S_l v_l)``; the kernels get the gradient of the choice that was made. Chen
    et al., "Dynamic Region-Aware Convolution", arXiv 2003.12243.

    Args:
        input: ``[N, C, H, W]``.
        guide: ``[N, m, Ho, Wo]``.
        weight: ``[N, m, O, C, kh, kw]``.
        bias: ``[O]`` or None.
        stride: as in :func:`conv2d`.
        padding: as in :func:`conv2d`.
        dilation: as in :func:`conv2d`.

    Returns:
        ``[N, O, Ho, Wo]``.

    Raises:
        ValueError: shapes do not fit.
    """
    shape = image_shape(input)
    batch_size = input.shape[0]
    if weight.dim() != 6 or weight.shape[0] != batch_size:
        raise ValueError(f"the weight must have shape [{batch_size}, m, O, C, kh, kw], got {list(weight.shape)}")
    window = Window.create(shape, weight.shape[4:], stride, padding, dilation)
    n_regions = weight.shape[1]
    wanted = [batch_size, n_regions, *window.out_shape]
    if list(guide.shape) != wanted:
        raise ValueError(f"the guide must have shape {wanted}, got {list(guide.shape)}")
    rows, guides = as_rows(input), as_rows(guide)
    kernel_map = region_map(window, batch_size, guides.argmax(1), n_regions)
    weight = _by_tap(weight)
    output = convolve_features(rows, region_taps(weight), None, kernel_map)
    if torch.is_grad_enabled() and guide.requires_grad:
        scores = torch.softmax(guides, dim=1)
        device = rows.device
        output = straight_through(
            output, scores, rows, weight, lambda: window_map(window, batch_size, device, per_sample=True)
        )
    image = as_image(output, batch_size, window.out_shape)
    return image if bias is None else image + bias[:, None, None].to(image.dtype)


def _nearest(rows: Tensor, batch_size: int, shape: Pair, out_shape: Pair) -> Tensor:
    """Rows of the nearest pixels of a resized image: pixel ``floor(o * size / out_size)`` of each axis."""
    y, x = (
        torch.arange(out, device=rows.device) * size // out for size, out in zip(shape, out_shape, strict=True)
    )
    pixels = (y[:, None] * shape[1] + x).reshape(-1)
    images = torch.arange(batch_size, device=rows.device)[:, None] * (shape[0] * shape[1])
    return rows.index_select(0, (images + pixels).reshape(-1))


class DRConv2d(nn.Module):
    """Dynamic region-aware convolution: :func:`dr_conv2d`.

    Generator ``"paper"``: kernels from the image pooled to the kernel's size, by 1x1 convolutions with a sigmoid
    between, the second one grouped by region; the guide is a convolution of the layer's own geometry. Generator
    ``"mix"`` (the authors' code): kernels ``sum over w of r[n, j, w] W_w`` with
    ``r = 2 sigmoid(FC(mean(x))) / num_kernels``; the guide is a 1x1 convolution, resized to the output by
    nearest neighbours.

    Args:
        in_channels: ``C``.
        out_channels: ``O``.
        kernel_size: side of the kernels.
        region_num: ``m``.
        stride: as in :class:`Conv2d`.
        padding: as in :class:`Conv2d`.
        dilation: as in :class:`Conv2d`.
        bias: whether there is a bias, the same for all regions.
        generator: ``"paper"`` or ``"mix"``.
        num_kernels: kernels that ``"mix"`` mixes.
        **factory: device and dtype.

    Raises:
        ValueError: an unknown generator.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 3,
        region_num: int = 8,
        stride: Size = 1,
        padding: Padding = 0,
        dilation: Size = 1,
        bias: bool = False,
        generator: str = "paper",
        num_kernels: int = 8,
        **factory: Any,
    ) -> None:
        super().__init__()
        if generator not in GENERATORS:
            raise ValueError(f"generator must be 'paper' or 'mix', got {generator!r}")
        self.in_channels, self.out_channels, self.region_num = in_channels, out_channels, region_num
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.generator = generator
        like = Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, bias=bias, **factory)
        self.kernel_size: Pair = (like.kernel_size[0], like.kernel_size[1])
        self.bias = like.bias
        if generator == "paper":
            self.guide = Conv2d(in_channels, region_num, kernel_size, stride, padding, dilation, **factory)
            self.reduce = Conv2d(in_channels, region_num**2, 1, **factory)
            outputs = region_num * in_channels * out_channels
            self.expand = Conv2d(region_num**2, outputs, 1, groups=region_num, **factory)
        else:
            self.guide = Conv2d(in_channels, region_num, 1, **factory)
            self.routing = nn.Linear(in_channels, region_num * num_kernels, **factory)
            bases = [Conv2d(in_channels, out_channels, kernel_size, **factory) for _ in range(num_kernels)]
            self.weight = nn.Parameter(torch.stack([base.weight.detach() for base in bases]))

    def kernels(self, input: Tensor) -> Tensor:
        """Kernels of each sample and region: ``[N, m, O, C, kh, kw]``."""
        if self.generator == "paper":
            pooled = F.adaptive_avg_pool2d(input, self.kernel_size)
            flat = self.expand(torch.sigmoid(self.reduce(pooled)))
            return flat.unflatten(1, (self.region_num, self.out_channels, self.in_channels))
        scores = self.routing(global_average(input)).unflatten(1, (self.region_num, -1))
        shares = 2 * torch.sigmoid(scores) / len(self.weight)
        return torch.einsum("njw,wocuv->njocuv", shares.to(self.weight), self.weight)

    def guides(self, input: Tensor) -> Tensor:
        """Guide of each output pixel: ``[N, m, Ho, Wo]``."""
        guide = self.guide(input)
        shape = image_shape(input)
        out_shape = Window.create(shape, self.kernel_size, self.stride, self.padding, self.dilation).out_shape
        if self.generator == "paper" or shape == out_shape:
            return guide
        return as_image(_nearest(as_rows(guide), len(input), shape, out_shape), len(input), out_shape)

    def forward(self, input: Tensor) -> Tensor:
        """See :func:`dr_conv2d`."""
        return dr_conv2d(
            input,
            self.guides(input),
            self.kernels(input),
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
        )

    def flops(self, input_shape: Sequence[int]) -> Flops:
        """The convolution once, the guide, and what generates the kernels."""
        batch_size, shape = split_shape(input_shape, self.in_channels)
        window = Window.create(shape, self.kernel_size, self.stride, self.padding, self.dilation)
        macs = window.macs(self.in_channels, self.out_channels)
        macs += self.guide.flops((1, self.in_channels, *shape)).macs
        if self.generator == "paper":
            for layer in (self.reduce, self.expand):
                macs += layer.flops((1, layer.in_channels, *self.kernel_size)).macs
        else:
            macs += self.routing.weight.numel() + self.region_num * self.weight.numel()
        return Flops(batch_size * macs, count_parameters(self))

    def extra_repr(self) -> str:
        """Its arguments."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding!r}, dilation={self.dilation}, region_num={self.region_num}, "
            f"generator={self.generator!r}"
        )
