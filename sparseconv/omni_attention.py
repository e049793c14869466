"""The attentions of omni-dimensional dynamic convolution, from the mean of each sample's features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

# Over kernels [B, K], input channels [B, C], filters [B, O] and taps [B, *kernel]; None where it is 1.
Attentions = tuple[Tensor | None, Tensor, Tensor | None, Tensor | None]


class OmniDimensionalAttention(nn.Module):
    """Four attentions of a sample: over the kernels, their taps, the input channels and the filters.

    ``h = relu(norm(fc(mean(x))))`` with ``A = max(int(C reduction), 16)`` units; sigmoids of ``W h / temperature``
    for channels, filters and taps, a softmax over kernels. What cannot matter is left out: filters of a depthwise
    layer, taps of a kernel of one, kernels where there is one. Li et al., "Omni-Dimensional Dynamic Convolution",
    ICLR 2022.

    Args:
        in_channels: ``C``.
        out_channels: ``O``.
        kernel_size: one side for each axis.
        groups: channel groups of the convolution.
        reduction: hidden units for each input channel.
        kernel_num: ``K``.
        norm: ``"batch"`` as in the paper, which cannot train on one sample; ``"layer"`` can.
        **factory: device and dtype.

    Raises:
        ValueError: an unknown norm.
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

    def linear_layers(self) -> list[nn.Linear]:
        """Those that are there."""
        layers = (self.fc, self.channel_fc, self.filter_fc, self.spatial_fc, self.kernel_fc)
        return [layer for layer in layers if layer is not None]

    def reset_parameters(self) -> None:
        """Kaiming's initial values and zero biases, as the authors' code."""
        self.norm.reset_parameters()
        for layer in self.linear_layers():
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def set_temperature(self, temperature: float) -> None:
        """Set what all scores are divided by. Saved with the state.

        Raises:
            ValueError: it is not positive.
        """
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        self.temperature.fill_(temperature)

    def _hidden(self, means: Tensor, occupied: Tensor) -> Tensor:
        hidden = self.fc(means)
        count = int(occupied.sum())
        if count == 0:
            return torch.relu(hidden)
        if count == 1 and self.training and isinstance(self.norm, nn.BatchNorm1d):
            raise ValueError(
                "norm='batch' cannot train on one sample (its variance is 0; samples without sites do not count): "
                "use larger batches, or norm='layer'"
            )
        if count == len(hidden):
            return torch.relu(self.norm(hidden))
        rows = occupied.nonzero()[:, 0]
        return torch.relu(hidden.index_copy(0, rows, self.norm(hidden[rows]).to(hidden.dtype)))

    def attend(self, means: Tensor, occupied: Tensor) -> Attentions:
        """Attentions over kernels, channels, filters and taps; None where it is 1.

        Args:
            means: ``[B, C]``, mean features of each sample.
            occupied: bool ``[B]``; samples that are not take no part in the norm.

        Raises:
            ValueError: a batch norm in training and one occupied sample.
        """
        hidden = self._hidden(means, occupied)

        def scores(layer: nn.Linear) -> Tensor:
            result: Tensor = layer(hidden) / self.temperature.to(hidden.dtype)
            return result

        kernels = None if self.kernel_fc is None else torch.softmax(scores(self.kernel_fc), dim=1)
        filters = None if self.filter_fc is None else torch.sigmoid(scores(self.filter_fc))
        spatial = None
        if self.spatial_fc is not None:
            spatial = torch.sigmoid(scores(self.spatial_fc)).unflatten(1, self.kernel_size)
        return kernels, torch.sigmoid(scores(self.channel_fc)), filters, spatial
