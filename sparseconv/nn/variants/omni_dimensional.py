"""Omni-dimensional dynamic convolution: attention over kernels, taps, input and output channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparseconv import functional as F
from sparseconv.geometry import per_axis
from sparseconv.nn.variants.base import Size, VariantConvolution, new_parameter
from sparseconv.tensor import SparseTensor, check_sparse

Attentions = tuple[Tensor | None, Tensor, Tensor | None, Tensor | None]


class OmniDimensionalAttention(nn.Module):
    """The four attentions of an ODConv layer, from the mean of each sample.

    ``h = relu(norm(fc(mean(x))))`` with ``A = max(int(C reduction), 16)`` units; sigmoids of ``W h / temperature``
    for channels, filters and taps, a softmax over kernels. What cannot matter is left out: filters of a depthwise
    layer, taps of a kernel of one, kernels where there is one. Samples without sites take no part in the norm.
    """

    temperature: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sequence[int],
        groups: int,
        reduction: float,
        kernel_num: int,
        norm: str,
        **factory: Any,
    ) -> None:
        super().__init__()
        if norm not in ("batch", "layer"):
            raise ValueError(f"norm must be 'batch' or 'layer', got {norm!r}")
        units = max(int(in_channels * reduction), 16)
        self.kernel_size = tuple(kernel_size)
        self.register_buffer("temperature", torch.tensor(1.0, device=factory.get("device")))
        self.fc = nn.Linear(in_channels, units, bias=False, **factory)
        self.norm: nn.BatchNorm1d | nn.LayerNorm = (
            nn.BatchNorm1d(units, **factory) if norm == "batch" else nn.LayerNorm(units, **factory)
        )
        depthwise = groups == in_channels == out_channels
        taps = math.prod(self.kernel_size)
        self.channel_fc = nn.Linear(units, in_channels, **factory)
        self.filter_fc = None if depthwise else nn.Linear(units, out_channels, **factory)
        self.spatial_fc = None if taps == 1 else nn.Linear(units, taps, **factory)
        self.kernel_fc = None if kernel_num == 1 else nn.Linear(units, kernel_num, **factory)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Kaiming's initial values and zero biases, as the authors' code."""
        self.norm.reset_parameters()
        for layer in (self.fc, self.channel_fc, self.filter_fc, self.spatial_fc, self.kernel_fc):
            if layer is not None:
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def _hidden(self, means: Tensor, occupied: Tensor) -> Tensor:
        hidden = self.fc(means)
        count = int(occupied.sum())
        if count == 0:
            return torch.relu(hidden)
        if count == 1 and self.training and isinstance(self.norm, nn.BatchNorm1d):
            raise ValueError(
                "norm='batch' cannot train on one sample with sites (its variance is 0): use larger batches, or "
                "norm='layer'"
            )
        if count == len(hidden):
            return torch.relu(self.norm(hidden))
        rows = occupied.nonzero()[:, 0]
        return torch.relu(hidden.index_copy(0, rows, self.norm(hidden[rows]).to(hidden.dtype)))

    def forward(self, input: SparseTensor) -> Attentions:
        """Attentions over kernels, channels, filters and taps; None where it is 1."""
        check_sparse(input, "an ODConv layer")
        occupied = input.coordinates.batch_map().in_counts() > 0
        hidden = self._hidden(F.global_avg_pool(input), occupied)

        def scores(layer: nn.Linear) -> Tensor:
            result: Tensor = layer(hidden) / self.temperature.to(hidden.dtype)
            return result

        kernels = None if self.kernel_fc is None else torch.softmax(scores(self.kernel_fc), dim=1)
        filters = None if self.filter_fc is None else torch.sigmoid(scores(self.filter_fc))
        spatial = None
        if self.spatial_fc is not None:
            spatial = torch.sigmoid(scores(self.spatial_fc)).unflatten(1, self.kernel_size)
        return kernels, torch.sigmoid(scores(self.channel_fc)), filters, spatial


class ODConvolution(VariantConvolution):
    """Omni-dimensional dynamic convolution: :func:`sparseconv.functional.od_conv`.

    Args:
        in_channels: ``C``.
        out_channels: ``O``.
        kernel_size: of the kernels.
        stride: as in :class:`SparseConvolution`; 1 in the submanifold classes.
        padding: as in :class:`SparseConvolution`; without effect in the submanifold classes.
        dilation: spacing of the taps.
        groups: channel groups.
        reduction: hidden units for each input channel; at least 16 units.
        kernel_num: ``K``.
        norm: ``"batch"`` as in the paper, which cannot train on one sample; ``"layer"`` can.
        indice_key: a name for the map.
        **factory: device and dtype.

    Attributes:
        weight: ``[K, O, *kernel, C / groups]``.
        attention: the four attentions.

    Raises:
        ValueError: an unknown norm.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 3,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        reduction: float = 0.0625,
        kernel_num: int = 4,
        norm: str = "batch",
        indice_key: str | None = None,
        **factory: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, indice_key)
        per_axis(kernel_num, 1, "kernel_num", minimum=1, maximum=1 << 16)
        self.attention = OmniDimensionalAttention(
            in_channels, out_channels, self.kernel_size, groups, reduction, kernel_num, norm, **factory
        )
        self.weight = new_parameter(kernel_num, out_channels, *self.kernel_size, in_channels // groups, **factory)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Kaiming's initial values, as the authors' code."""
        self.attention.reset_parameters()
        with torch.no_grad():
            for kernel in self.weight:
                # Kaiming's fan is read off [O, C / groups, taps].
                nn.init.kaiming_normal_(kernel.movedim(-1, 1), mode="fan_out", nonlinearity="relu")

    def update_temperature(self, temperature: float) -> None:
        """Set the temperature of all attentions; training starts high and ends at 1. Saved with the state.

        Raises:
            ValueError: it is not positive.
        """
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        self.attention.temperature.fill_(temperature)

    def forward(self, input: SparseTensor) -> SparseTensor:
        """See :func:`sparseconv.functional.od_conv`."""
        kernels, channels, filters, spatial = self.attention(input)
        return F.od_conv(
            input,
            self.weight,
            kernels,
            channels,
            filters,
            spatial,
            *self._window(),
            subm=self.subm,
            indice_key=self.indice_key,
        )

    def extra_repr(self) -> str:
        """Its arguments."""
        return f"{super().extra_repr()}, kernel_num={len(self.weight)}"


class SubMODConv1d(ODConvolution, ndim=1, subm=True):
    """In 1D, on the input's sites; see :class:`ODConvolution`."""


class SubMODConv2d(ODConvolution, ndim=2, subm=True):
    """In 2D, on the input's sites; see :class:`ODConvolution`."""


class SubMODConv3d(ODConvolution, ndim=3, subm=True):
    """In 3D, on the input's sites; see :class:`ODConvolution`."""


class SubMODConv4d(ODConvolution, ndim=4, subm=True):
    """In 4D, on the input's sites; see :class:`ODConvolution`."""


class SparseODConv1d(ODConvolution, ndim=1):
    """In 1D, on every site in reach; see :class:`ODConvolution`."""


class SparseODConv2d(ODConvolution, ndim=2):
    """In 2D, on every site in reach; see :class:`ODConvolution`."""


class SparseODConv3d(ODConvolution, ndim=3):
    """In 3D, on every site in reach; see :class:`ODConvolution`."""


class SparseODConv4d(ODConvolution, ndim=4):
    """In 4D, on every site in reach; see :class:`ODConvolution`."""
