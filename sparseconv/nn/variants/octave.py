"""Octave convolution: some channels at half the resolution."""

from __future__ import annotations

from typing import Any

from sparseconv.functional.variants.differences import check_missing
from sparseconv.functional.variants.octave import Octaves, octave_paths
from sparseconv.nn.conv import SparseConvolution
from sparseconv.nn.variants.base import DimensionedModule, Size
from sparseconv.octave_channels import low_channels, path_groups
from sparseconv.tensor import SparseTensor, check_sparse


class OctaveConvolution(DimensionedModule):
    """Octave convolution: :func:`sparseconv.functional.octave_conv`.

    ``alpha_in=0`` makes a first layer, which takes one tensor; ``alpha_out=0`` a last one, which returns one. In
    between, input and output are pairs (high, low). Depthwise layers have no paths between the frequencies. Each
    path is a submanifold convolution on the sites of its level.

    Args:
        in_channels: ``C``; ``floor(alpha_in C)`` of them are low.
        out_channels: ``O``; ``floor(alpha_out O)`` of them are low.
        kernel_size: odd sides.
        alpha_in: low share of the input channels.
        alpha_out: low share of the output channels.
        stride: 1 or 2; 2 pools before it convolves.
        padding: without effect; here so that the arguments stand as in the dense layer.
        dilation: of the convolutions.
        groups: channel groups; ``ceil(alpha_in groups)`` in the low path and ``ceil((1 - alpha_in) groups)`` in
            the high one.
        bias: whether each output frequency has a bias.
        missing: ``"ignore"``: pooling takes the mean of the voxels that exist; ``"zero"``: absent ones are zeros.
        **factory: device and dtype.

    Attributes:
        conv_hh: high to high, or None.
        conv_lh: low to high, or None.
        conv_hl: high to low, or None.
        conv_ll: low to low, or None.

    Raises:
        ValueError: a share outside [0, 1], another stride, or an unknown ``missing``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 3,
        alpha_in: float = 0.5,
        alpha_out: float = 0.5,
        stride: int = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = False,
        missing: str = "ignore",
        **factory: Any,
    ) -> None:
        super().__init__()
        del padding
        if not (0 <= alpha_in <= 1 and 0 <= alpha_out <= 1):
            raise ValueError(f"alpha_in and alpha_out must lie in 0 .. 1, got {alpha_in} and {alpha_out}")
        if stride not in (1, 2):
            raise ValueError(f"stride must be 1 or 2, got {stride}")
        check_missing(missing)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.stride, self.missing = stride, missing
        self.alpha_in, self.alpha_out = alpha_in, alpha_out
        in_low, out_low = low_channels(in_channels, alpha_in), low_channels(out_channels, alpha_out)
        in_high, out_high = in_channels - in_low, out_channels - out_low
        crossing = groups == 1 or groups != in_channels
        self.in_high, self.in_low = in_high, in_low
        high_groups, low_groups = path_groups(groups, in_channels, alpha_in)

        def path(
            c_in: int, c_out: int, n_groups: int, with_bias: bool, wanted: bool = True
        ) -> SparseConvolution | None:
            if not (wanted and c_in and c_out):
                return None
            return SparseConvolution(
                self._ndim,
                c_in,
                c_out,
                kernel_size,
                dilation=dilation,
                groups=n_groups,
                bias=with_bias,
                subm=True,
                **factory,
            )

        self.conv_hh = path(in_high, out_high, high_groups, bias)
        self.conv_hl = path(in_high, out_low, groups, bias, crossing)
        self.conv_lh = path(in_low, out_high, groups, bias and self.conv_hh is None, crossing)
        self.conv_ll = path(in_low, out_low, low_groups, bias and self.conv_hl is None)

    def reset_parameters(self) -> None:
        """Each convolution as a layer of its own."""
        for conv in (self.conv_hh, self.conv_lh, self.conv_hl, self.conv_ll):
            if conv is not None:
                conv.reset_parameters()

    def forward(self, input: SparseTensor | Octaves) -> SparseTensor | Octaves:
        """See :func:`sparseconv.functional.octave_conv`.

        Args:
            input: the pair (high, low), or one tensor where only one of them is there.

        Raises:
            ValueError: a frequency is missing or too much.
        """
        if not isinstance(input, tuple):
            check_sparse(input, "an octave layer")
            input = (input, None) if self.in_high else (None, input)
        high, low = input
        for name, tensor, channels in (("high", high, self.in_high), ("low", low, self.in_low)):
            came = 0 if tensor is None else tensor.features.shape[1]
            if came != channels:
                raise ValueError(
                    f"the {name} frequency must have {channels} channels, got {came}: the previous layer's "
                    "alpha_out must be this one's alpha_in"
                )
        paths = (self.conv_hh, self.conv_lh, self.conv_hl, self.conv_ll)
        high, low = octave_paths(high, low, paths, self.stride, self.missing)
        return high if low is None and high is not None else (high, low)

    def extra_repr(self) -> str:
        """Its arguments."""
        return (
            f"{self.in_channels}, {self.out_channels}, alpha_in={self.alpha_in}, alpha_out={self.alpha_out}, "
            f"stride={self.stride}, missing={self.missing!r}"
        )


class SparseOctaveConv1d(OctaveConvolution, ndim=1):
    """In 1D; see :class:`OctaveConvolution`."""


class SparseOctaveConv2d(OctaveConvolution, ndim=2):
    """In 2D; see :class:`OctaveConvolution`."""


class SparseOctaveConv3d(OctaveConvolution, ndim=3):
    """In 3D; see :class:`OctaveConvolution`."""


class SparseOctaveConv4d(OctaveConvolution, ndim=4):
    """In 4D; see :class:`OctaveConvolution`."""
