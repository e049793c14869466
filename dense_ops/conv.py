"""Dense 2D convolution modules; parameters and initial values are those of the torch modules of the same name."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from sparseconv.dense_ops import functional as F


class Conv2d(nn.Conv2d):
    """Convolution on the engine's executor. See :class:`torch.nn.Conv2d` and :func:`.functional.conv2d`.

    Raises:
        ValueError: a padding mode other than zeros, or padding given by name.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.padding_mode != "zeros" or isinstance(self.padding, str):
            raise ValueError(
                f"padding must be integers with padding_mode 'zeros', got {self.padding!r} and "
                f"{self.padding_mode!r}"
            )

    def forward(self, input: Tensor) -> Tensor:
        """See :func:`sparseconv.dense_ops.functional.conv2d`."""
        return F.conv2d(
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,  # type: ignore[arg-type]
            self.dilation,
            self.groups,
        )


class ConvTranspose2d(nn.ConvTranspose2d):
    """Transposed convolution on the engine's executor. See :class:`torch.nn.ConvTranspose2d`."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """See :func:`sparseconv.dense_ops.functional.conv_transpose2d`."""
        output_padding = self._output_padding(
            input,
            output_size,
            list(self.stride),
            list(self.padding),  # type: ignore[arg-type]
            list(self.kernel_size),
            2,
            list(self.dilation),
        )
        return F.conv_transpose2d(
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,  # type: ignore[arg-type]
            output_padding,
            self.groups,
            self.dilation,
        )
